/**
 * The simplestreams documents as this page needs them: whatever they hold, what can be used of them comes out, and
 * how much could not. No DOM.
 *
 * Fingerprints are those that LXD and Incus compute (client/simplestreams of either): of a split image the combined
 * hash that stands on its metadata, of a unified one the SHA-256 of its file.
 */

export type Kind = 'container' | 'virtual-machine' | 'unified';

/** What one version of a product is to clients of one kind. */
export interface Image {
  kind: Kind;
  /** 64 hexadecimal digits. */
  fingerprint: string;
  /** Of its files, in bytes. */
  size: number;
}

export interface Version {
  name: string;
  /** None twice of a kind; never empty. */
  images: readonly Image[];
}

export interface Product {
  id: string;
  os: string;
  release: string;
  /** As it is shown. */
  title: string;
  arch: string;
  variant: string;
  aliases: readonly string[];
  /** The newest first; never empty. */
  versions: readonly Version[];
}

export interface Catalogue {
  products: readonly Product[];
  /** How many products have nothing that a client could start, or are no products. */
  leftOut: number;
  /** When the newest content was made, in milliseconds since 1970; 0 where the documents do not tell. */
  updated: number;
}

type Fields = Readonly<Record<string, unknown>>;

/** The paths of the documents with images that `index.json` names; `undefined` where it is no such document. */
export function readIndex(document: unknown): string[] | undefined {
  if (!isObject(document) || document.format !== 'index:1.0') return undefined;
  const paths = members(document.index).flatMap(([, entry]) => {
    if (!isObject(entry) || entry.datatype !== 'image-downloads') return [];
    return typeof entry.path === 'string' && isInside(entry.path) ? [entry.path] : [];
  });
  return [...new Set(paths)];
}

/** The products of a document; `undefined` where it is no `products:1.0`. */
export function readProducts(document: unknown): Catalogue | undefined {
  if (!isObject(document) || document.format !== 'products:1.0') return undefined;
  if (!isObject(document.products)) return undefined;
  const all = members(document.products);
  const products = all.flatMap(([id, value]) => readProduct(id, value) ?? []);
  const updated = Date.parse(text(document.updated));
  return {
    products,
    leftOut: all.length - products.length,
    updated: Number.isNaN(updated) ? 0 : updated,
  };
}

/** Several documents of one server as one. */
export function joinCatalogues(all: readonly Catalogue[]): Catalogue {
  const products = new Map<string, Product>();
  for (const product of all.flatMap((each) => each.products)) {
    if (!products.has(product.id)) products.set(product.id, product);
  }
  return {
    products: [...products.values()],
    leftOut: all.reduce((sum, { leftOut }) => sum + leftOut, 0),
    updated: Math.max(0, ...all.map(({ updated }) => updated)),
  };
}

function readProduct(id: string, value: unknown): Product | undefined {
  if (!isObject(value)) return undefined;
  const versions = members(value.versions)
    .flatMap(([name, version]) => readVersion(name, version) ?? [])
    .sort((a, b) => (a.name < b.name ? 1 : -1));
  if (versions.length === 0) return undefined;
  const release = text(value.release);
  const aliases = text(value.aliases)
    .split(',')
    .map((name) => name.trim());
  return {
    id: text(id),
    os: text(value.os),
    release,
    title: text(value.release_title) || release,
    arch: text(value.arch),
    variant: text(value.variant),
    aliases: [...new Set(aliases.filter((name) => name !== ''))],
    versions,
  };
}

/** Clients go by versions whose names begin with a date. */
function readVersion(name: string, value: unknown): Version | undefined {
  if (!/^\d{8}/.test(name) || !isObject(value)) return undefined;
  const items = members(value.items).flatMap(([, item]) => readItem(item) ?? []);
  const images = imagesOf(items);
  return images.length === 0 ? undefined : { name: text(name), images };
}

interface Item {
  ftype: string;
  sha256: string;
  size: number;
  fields: Fields;
}

function readItem(value: unknown): Item | undefined {
  if (!isObject(value)) return undefined;
  const { ftype, sha256, size } = value;
  if (typeof ftype !== 'string' || !isDigest(sha256) || !isSize(size)) return undefined;
  return { ftype, sha256, size, fields: value };
}

/** Types of root file, in the order in which clients prefer them, and where their combined hash stands. */
const rootTypes: readonly (readonly [string, Kind, readonly string[]])[] = [
  ['squashfs', 'container', ['combined_squashfs_sha256']],
  ['root.tar.xz', 'container', ['combined_rootxz_sha256', 'combined_sha256']],
  ['disk-kvm.img', 'virtual-machine', ['combined_disk-kvm-img_sha256']],
  ['disk1.img', 'virtual-machine', ['combined_disk1-img_sha256']],
  ['uefi1.img', 'virtual-machine', ['combined_uefi1-img_sha256']],
];

function imagesOf(items: readonly Item[]): Image[] {
  const typed = (ftype: string) => items.filter((item) => item.ftype === ftype);
  const split = ['lxd.tar.xz', 'incus.tar.xz'].flatMap(typed).flatMap((metadata) =>
    rootTypes.flatMap(([ftype, kind, fields]): Image[] => {
      const [root] = typed(ftype);
      const fingerprint = fields.map((field) => metadata.fields[field]).find(isDigest);
      if (root === undefined || fingerprint === undefined) return [];
      return [{ kind, fingerprint, size: metadata.size + root.size }];
    }),
  );
  const unified = ['lxd_combined.tar.gz', 'incus_combined.tar.gz']
    .flatMap(typed)
    .map(({ sha256, size }): Image => ({ kind: 'unified', fingerprint: sha256, size }));
  const kinds = new Map<Kind, Image>();
  for (const image of [...split, ...unified]) {
    if (!kinds.has(image.kind)) kinds.set(image.kind, image);
  }
  return [...kinds.values()];
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function members(value: unknown): [string, unknown][] {
  return isObject(value) ? Object.entries(value) : [];
}

/** No name that is worth reading is longer. */
const longestText = 2000;

function text(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, longestText) : '';
}

function isDigest(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

/** Whether a path leads to somewhere below the server's root, read as a URL too. */
function isInside(path: string): boolean {
  return (
    path.split('/').every((part) => /^[A-Za-z0-9][A-Za-z0-9._:+~@-]*$/.test(part)) &&
    !/^[^/]*:/.test(path)
  );
}
