/** What the catalogue is made of: products, their versions, and the items of these. */

/** A file of a published version, as simplestreams lists it. */
export interface Item {
  /** Its key among the items of the version. */
  key: string;
  ftype: string;
  /** Relative to the server's root, with `/`. */
  path: string;
  /** Bytes. */
  size: number;
  sha256: string;
  /** On metadata: fingerprints of split images, by the field that simplestreams has for the root's type. */
  combined?: Record<string, string>;
  /** On deltas: the version of the same product that they start from. */
  deltaBase?: string;
}

export interface Version {
  name: string;
  items: Item[];
}

/** What a product is, without its versions. */
export interface ProductHead {
  env: string;
  release: string;
  arch: string;
  type: string;
  os: string;
  releaseTitle: string;
  /** What it would like to be called; {@link resolveAliases} decides. */
  aliases: string[];
  requirements: Record<string, string>;
  /** When the newest published file was modified, in milliseconds since 1970. */
  updated: number;
}

/** A product with at least one version to publish. */
export interface Product {
  head: ProductHead;
  /** Oldest first. */
  versions: Version[];
}
