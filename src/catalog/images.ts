/**
 * `images.json` as images, the way LXD and Incus see them: each with a fingerprint, as client/simplestreams of
 * either makes them of a document. Pure.
 */
import { combinedFields } from './items.js';
import { versionTime } from './placement.js';
import {
  type PublishedImages,
  type PublishedItem,
  type PublishedProduct,
  versionsOf,
} from './published.js';
import { compareNames, isName, type RootType } from './tree.js';

export type ImageType = 'container' | 'virtual-machine';

/** What one version of a product is to clients of one kind. */
export interface CatalogueImage {
  /** SHA-256 of metadata and root file, or of the unified image. */
  fingerprint: string;
  type: ImageType;
  /** As the tree names it. */
  arch: string;
  /** Of its product, for the newest version of its type. */
  aliases: readonly string[];
  /** What the document tells of it. */
  properties: Readonly<Record<string, string>>;
  /** Of all files, in bytes. */
  size: number;
  /** By the version's name, in milliseconds since 1970. */
  created: number;
  /** Metadata and root file, or the unified image; paths are relative to the root. */
  files: readonly ImageFile[];
  /** `env/release/arch/type`. */
  product: string;
  version: string;
  /** All versions that have it, `env/release/arch/type/version`; the first is its own. */
  places: readonly string[];
}

export interface ImageFile {
  path: string;
  size: number;
  sha256: string;
}

export interface ImageIndex {
  /** In the order of the document; none twice. Root files that clients prefer others to are no images here. */
  images: readonly CatalogueImage[];
  /** Each name that a product has, with the image that it stands for: the newest, a container before others. */
  aliases: readonly NamedImage[];
  /**
   * By the fingerprint or the beginning of it, in lower case; by that of any root file. `undefined` where none or
   * several begin so.
   */
  find(fingerprint: string): CatalogueImage | undefined;
  /** The versions of a product that are published. */
  versions(product: string): readonly string[];
}

export interface NamedImage {
  name: string;
  /** The product that has the name, `env/release/arch/type`. */
  product: string;
  image: CatalogueImage;
}

export interface IndexOptions {
  /** The images folder as the document names it. */
  prefix: string;
  /** What a unified image is, by its version: the document does not tell. Default: a container. */
  unified?: ReadonlyMap<string, ImageType>;
  /** Remembers what was made of products, for whoever has some of them indexed again with the same prefix. */
  memory?: ImageMemory;
}

export type ImageMemory = WeakMap<PublishedProduct, readonly Found[]>;

/** The images in `document`; what is not in the images folder is passed over. */
export function indexImages(
  document: Pick<PublishedImages, 'products'>,
  options: IndexOptions,
): ImageIndex {
  const found = new Map<string, Found>();
  const aliases: NamedImage[] = [];
  const versions = new Map<string, Set<string>>();
  for (const product of Object.values(document.products)) {
    const newest = new Map<ImageType, CatalogueImage>();
    let path = '';
    for (const { image, listed } of recalled(product, options)) {
      path = image.product;
      const present = versions.get(image.product) ?? new Set();
      versions.set(image.product, present.add(image.version));
      const merged = merge(found, { image, listed });
      if (listed) newest.set(image.type, merged);
    }
    const names = [...new Set(product.aliases.split(',').filter((name) => name !== ''))];
    for (const image of newest.values()) image.aliases = [...new Set([...image.aliases, ...names])];
    const named = newest.get('container') ?? newest.get('virtual-machine');
    if (named !== undefined)
      aliases.push(...names.map((name) => ({ name, product: path, image: named })));
  }
  const images = [...found.values()].filter(({ listed }) => listed).map(({ image }) => image);
  let sorted: string[] | undefined;
  return {
    images,
    aliases,
    find(fingerprint) {
      const exact = found.get(fingerprint);
      if (exact !== undefined || !/^[0-9a-f]{1,63}$/.test(fingerprint)) return exact?.image;
      sorted ??= [...found.keys()].sort(compareNames);
      return found.get(onlyWith(fingerprint, sorted) ?? '')?.image;
    },
    versions: (product) => [...(versions.get(product) ?? [])],
  };
}

/** {@link imagesOf}, of which the caller may change each. */
function recalled(product: PublishedProduct, options: IndexOptions): Found[] {
  const typeOf = ({ places: [place = ''] }: CatalogueImage) =>
    options.unified?.get(place) ?? 'container';
  const isRight = ({ image }: Found) => image.files.length > 1 || image.type === typeOf(image);
  let made = options.memory?.get(product);
  if (!made?.every(isRight)) {
    made = imagesOf(product, options);
    options.memory?.set(product, made);
  }
  return made.map(({ image, listed }) => ({ image: { ...image }, listed }));
}

interface Found {
  image: CatalogueImage;
  /** False for a root file that clients prefer another of the version to. */
  listed: boolean;
}

/** Takes up an image; one that is there under its fingerprint is given a further place. */
function merge(found: Map<string, Found>, { image, listed }: Found): CatalogueImage {
  const known = found.get(image.fingerprint);
  if (known === undefined) {
    found.set(image.fingerprint, { image, listed });
    return image;
  }
  known.listed ||= listed;
  known.image.places = [...new Set([...known.image.places, ...image.places])];
  return known.image;
}

/** The one of `sorted` that begins with `prefix`; `undefined` where none or several do. */
function onlyWith(prefix: string, sorted: readonly string[]): string | undefined {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] ?? '') < prefix) low = middle + 1;
    else high = middle;
  }
  const [first, second] = sorted.slice(low, low + 2);
  return first?.startsWith(prefix) && second?.startsWith(prefix) !== true ? first : undefined;
}

/** All that clients could start of a product, the oldest version first, in it what they prefer first. */
function imagesOf(product: PublishedProduct, options: IndexOptions): Found[] {
  return versionsOf(product).flatMap(({ name, items }) => {
    const place = placeOf(items, options.prefix);
    if (place === undefined) return [];
    const details = { product, place, name };
    const seen = new Set<ImageType>();
    return partsOf(items, options.unified?.get(place) ?? 'container').map((parts): Found => {
      const listed = !seen.has(parts.type);
      seen.add(parts.type);
      return { image: makeImage(parts, details), listed };
    });
  });
}

/** Where a version lies below the images folder, `env/release/arch/type/version`. */
function placeOf(items: readonly PublishedItem[], prefix: string): string | undefined {
  const [path] = items.map((item) => item.path);
  if (path?.startsWith(`${prefix}/`) !== true) return undefined;
  const names = path.slice(prefix.length + 1).split('/');
  return names.length === 6 && names.every(isName) ? names.slice(0, 5).join('/') : undefined;
}

interface Parts {
  fingerprint: string;
  type: ImageType;
  /** As simplestreams calls the type of the root file. */
  root: string;
  files: PublishedItem[];
}

/** Types of root file, in the order in which clients prefer them. */
const rootTypes: readonly (readonly [RootType, ImageType])[] = [
  ['squashfs', 'container'],
  ['root.tar.xz', 'container'],
  ['disk-kvm.img', 'virtual-machine'],
  ['disk1.img', 'virtual-machine'],
  ['uefi1.img', 'virtual-machine'],
];

function partsOf(items: readonly PublishedItem[], ofUnified: ImageType): Parts[] {
  const typed = (ftype: string) => items.filter((item) => item.ftype === ftype);
  const split = ['lxd.tar.xz', 'incus.tar.xz'].flatMap(typed).flatMap((metadata) =>
    rootTypes.flatMap(([ftype, type]): Parts[] => {
      const [root] = typed(ftype);
      const fingerprint = combinedFields[ftype].map((field) => metadata[field]).find(isDigest);
      if (root === undefined || fingerprint === undefined) return [];
      return [{ fingerprint, type, root: ftype, files: [metadata, root] }];
    }),
  );
  const unified = ['lxd_combined.tar.gz', 'incus_combined.tar.gz'].flatMap(typed).map(
    (file): Parts => ({
      fingerprint: file.sha256,
      type: ofUnified,
      root: 'unified',
      files: [file],
    }),
  );
  return distinct([...split, ...unified]);
}

/** One file can stand there for LXD and for Incus. */
function distinct(all: readonly Parts[]): Parts[] {
  const fingerprints = new Set<string>();
  return all.filter(({ fingerprint }) => {
    const isNew = !fingerprints.has(fingerprint);
    fingerprints.add(fingerprint);
    return isNew;
  });
}

function isDigest(value: unknown): value is string {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}

function makeImage(
  { fingerprint, type, root, files }: Parts,
  { product, place, name }: { product: PublishedProduct; place: string; name: string },
): CatalogueImage {
  const title = product.release_title || product.release;
  const described = [product.os, title, product.arch].filter((word) => word !== '').join(' ');
  const properties: Record<string, string> = {
    architecture: product.arch,
    description: `${described} (${name})`,
    os: product.os,
    release: product.release,
    serial: name,
    type: root,
    variant: product.variant,
    ...requirementsOf(product.requirements),
  };
  const slash = place.lastIndexOf('/');
  return {
    fingerprint,
    type,
    arch: product.arch,
    aliases: [],
    properties,
    size: files.reduce((sum, { size }) => sum + size, 0),
    created: versionTime(name),
    files: files.map(({ path, size, sha256 }) => ({ path, size, sha256 })),
    product: place.slice(0, slash),
    version: place.slice(slash + 1),
    places: [place],
  };
}

function requirementsOf(requirements: unknown): Record<string, string> {
  const entries = Object.entries(requirements ?? {}).filter(
    ([, value]) => typeof value === 'string',
  );
  return Object.fromEntries(entries.map(([key, value]) => [`requirements.${key}`, value]));
}
