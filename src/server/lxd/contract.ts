/**
 * What the LXD API needs of the rest of the house: the images, which the daemon keeps, and who is trusted.
 * Everything here may be called at any time, from any number of requests at once.
 */

/** A published image: what one version of a product is to clients of one kind. */
export interface LibraryImage {
  /** 64 lower-case hexadecimal digits: SHA-256 of metadata and root file, or of the unified image. */
  fingerprint: string;
  type: 'container' | 'virtual-machine';
  /** As the tree names it: `amd64`. */
  arch: string;
  /** Of its product, and only for the newest version of its type. */
  aliases: readonly string[];
  /** As clients show and edit them: `os`, `release`, `description`, … */
  properties: Readonly<Record<string, string>>;
  /** Of all files, in bytes. */
  size: number;
  /** When it was made, was published, and expires, in milliseconds since 1970; 0 is never. */
  created: number;
  published: number;
  expires: number;
  /** Metadata and root file, or the unified image. Paths are below the root, as `images.json` names them. */
  files: readonly { path: string; size: number; sha256: string }[];
  /** Where it lies: `env/release/arch/type` and the version's name. */
  product: string;
  version: string;
}

export interface LibraryAlias {
  name: string;
  /** The newest image of the product that has the alias; for an alias of both kinds, the container. */
  image: LibraryImage;
}

/** The images of this server. What is changed is published when a promise resolves. */
export interface Library {
  /** What is published now, in the order of the documents; the same list where nothing has changed. */
  images(): Promise<readonly LibraryImage[]>;
  /** By the fingerprint or the beginning of it. @throws ServerError IMAGE_MISSING where none or several begin so. */
  image(fingerprint: string): Promise<LibraryImage>;
  /** In the order of the documents: products of several architectures may have one name, each with an image of its own. */
  aliases(): Promise<readonly LibraryAlias[]>;

  /** @throws ServerError DISK_FULL, DENIED or IO; UPLOADS_OFF where the configuration takes none. */
  begin(options: { signal: AbortSignal }): Promise<Upload>;

  /**
   * Takes an image out: its documents first, its files after the grace time. Of a version with images of both kinds
   * the whole version goes.
   *
   * @throws ServerError IMAGE_MISSING, DENIED, IO
   */
  remove(fingerprint: string): Promise<void>;
  /** Replaces the properties that clients may edit; without `expires` that stays. @throws ServerError IMAGE_MISSING, IMAGE_INVALID, IO */
  edit(
    fingerprint: string,
    change: { properties: Record<string, string>; expires?: number },
  ): Promise<void>;

  /**
   * Gives the product of an image one more name; where it has that already, nothing is done.
   *
   * @throws ServerError ALIAS_EXISTS where another product of the architecture has it, IMAGE_MISSING, IMAGE_INVALID
   *   for a name that no alias can have, DENIED, IO
   */
  addAlias(name: string, fingerprint: string): Promise<void>;
  /** @throws ServerError ALIAS_MISSING, ALIAS_EXISTS, IMAGE_INVALID; DENIED for one that comes from the tree's names */
  renameAlias(name: string, to: string): Promise<void>;
  /**
   * Takes a name from all products that have it. One that comes from the tree's names stays: clients take away names
   * that they are about to give.
   *
   * @throws ServerError ALIAS_MISSING
   */
  removeAlias(name: string): Promise<void>;
}

/** An image on its way in, in a folder of its own that nobody else sees. */
export interface Upload {
  /**
   * Takes a file: `metadata` and then `rootfs`, or `unified`. Each byte is written and hashed as it comes.
   *
   * @param source its pieces must not change once they were handed over
   * @returns its size in bytes
   * @throws ServerError TOO_LARGE, DISK_FULL, IO; IMAGE_INVALID for a part that does not fit those before; INTERRUPTED after an abort or
   *   {@link Upload.discard}; whatever `source` throws
   */
  write(part: UploadPart, source: AsyncIterable<Uint8Array>): Promise<number>;
  /**
   * Checks the image, gives it its place in the tree, and publishes it.
   *
   * @throws ServerError IMAGE_INVALID with what is wrong, IMAGE_EXISTS, ALIAS_EXISTS, DISK_FULL, IO, INTERRUPTED;
   *   then nothing of it is in the tree
   */
  finish(facts: UploadFacts): Promise<LibraryImage>;
  /** Leaves nothing behind; called after `finish` it does nothing. May be called at any time. */
  discard(): Promise<void>;
}

export type UploadPart = 'metadata' | 'rootfs' | 'unified';

/** What is told of an image beside its files. */
export interface UploadFacts {
  /** What the image must have, where the client said so. */
  fingerprint?: string | undefined;
  /** These win over those in `metadata.yaml`. */
  properties?: Record<string, string> | undefined;
  aliases?: readonly string[] | undefined;
  /** As the client calls the file; tells nothing of its content. */
  filename?: string | undefined;
  /** Milliseconds since 1970; 0 or absent is never. */
  expires?: number | undefined;
}

/** Who may do more than read. */
export interface Callers {
  /**
   * What the certificate of a caller is worth.
   *
   * @param certificate DER
   */
  judge(certificate: Uint8Array): Judgement;
  /**
   * Trusts the certificate of whoever brings a token that was made for it. Called again by one that is trusted it
   * resolves as well.
   *
   * @param token what the client sent, whole
   * @param address the caller's IP address: too many wrong tokens from one are not looked at any more for a while
   * @throws ServerError FORBIDDEN with what is wrong with token or certificate and how to get another
   */
  admit(offer: { token: string; certificate: Uint8Array; address: string }): Promise<TrustedClient>;
}

export interface TrustedClient {
  name: string;
  /** Of its certificate: SHA-256 of the DER, lower-case hexadecimal. */
  fingerprint: string;
}

/** Either who it is, or why not: one sentence for the user, with what to do. */
export type Judgement = { client: TrustedClient } | { refusal: string };
