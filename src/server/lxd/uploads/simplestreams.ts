/** Which image of a simplestreams server is meant, and what it consists of. Pure. */
import * as v from 'valibot';
import { ServerError } from '../../../errors.js';

const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
const item = v.looseObject({
  ftype: v.optional(v.string(), ''),
  path: v.optional(v.string(), ''),
  sha256: v.optional(sha256),
  size: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0)), 0),
});
const product = v.looseObject({
  aliases: v.optional(v.string(), ''),
  arch: v.optional(v.string(), ''),
  os: v.optional(v.string(), ''),
  release: v.optional(v.string(), ''),
  release_title: v.optional(v.string(), ''),
  variant: v.optional(v.string(), ''),
  versions: v.optional(
    v.record(v.string(), v.looseObject({ items: v.record(v.string(), item) })),
    {},
  ),
});
const productsSchema = v.looseObject({ products: v.record(v.string(), product) });
const indexSchema = v.looseObject({
  index: v.record(
    v.string(),
    v.looseObject({ datatype: v.optional(v.string(), ''), path: v.string() }),
  ),
});

type Item = v.InferOutput<typeof item>;
type Product = v.InferOutput<typeof product>;

export interface StreamFile {
  path: string;
  size: number;
  sha256: string;
}

/** An image as a simplestreams server offers it. */
export interface StreamImage {
  fingerprint: string;
  type: 'container' | 'virtual-machine';
  arch: string;
  version: string;
  properties: Record<string, string>;
  /** Metadata and root file, or the unified image. */
  files: readonly [StreamFile, StreamFile] | readonly [StreamFile];
}

/** Servers have one list of images, or a few; each is read whole. */
const mostDocuments = 16;

/** Where `index.json` says that images are, as paths below the server. @throws ServerError IMAGE_INVALID */
export function imagePaths(index: unknown): string[] {
  const { index: entries } = read(indexSchema, index, 'index.json');
  const paths = Object.values(entries)
    .filter(({ datatype }) => datatype === 'image-downloads')
    .map(({ path }) => path)
    .filter(isInside);
  if (paths.length <= mostDocuments) return paths;
  throw new ServerError(
    'IMAGE_INVALID',
    `index.json of the source names more than ${mostDocuments} lists of images`,
  );
}

const rootHashes = [
  { ftype: 'squashfs', hash: 'combined_squashfs_sha256', type: 'container' },
  { ftype: 'root.tar.xz', hash: 'combined_rootxz_sha256', type: 'container' },
  { ftype: 'disk-kvm.img', hash: 'combined_disk-kvm-img_sha256', type: 'virtual-machine' },
  { ftype: 'disk1.img', hash: 'combined_disk1-img_sha256', type: 'virtual-machine' },
  { ftype: 'uefi1.img', hash: 'combined_uefi1-img_sha256', type: 'virtual-machine' },
] as const;
const metadataTypes = ['lxd.tar.xz', 'incus.tar.xz'];
const unifiedTypes = ['lxd_combined.tar.gz', 'incus_combined.tar.gz'];

export interface Wish {
  /** An alias, or a fingerprint or the beginning of one. */
  name: string;
  /** '' for either, containers first. */
  type: '' | 'container' | 'virtual-machine';
  /** To choose with where an alias stands for several architectures, as the server's documents name it. */
  arch: string;
}

/**
 * The image that is meant: the newest version of the product with that alias, or the one with that fingerprint.
 *
 * @throws ServerError IMAGE_INVALID for a document that is none, IMAGE_MISSING where it has no such image
 */
export function chooseImage(products: unknown, wish: Wish): StreamImage {
  const all = Object.values(read(productsSchema, products, 'images.json').products);
  const wanted = (image: StreamImage) => wish.type === '' || image.type === wish.type;
  const named = all
    .filter(({ aliases }) => aliases.split(',').some((alias) => alias.trim() === wish.name))
    .sort((a, b) => Number(b.arch === wish.arch) - Number(a.arch === wish.arch));
  const byAlias = named
    .map((one) => imagesOf(one).find(wanted))
    .find((image) => image !== undefined);
  const found =
    byAlias ?? all.flatMap(imagesOf).find((image) => isMeant(image, wish) && wanted(image));
  if (found !== undefined) return found;
  const what = wish.type === '' ? '' : ` of type ${wish.type}`;
  throw new ServerError(
    'IMAGE_MISSING',
    `The source has no image ${JSON.stringify(wish.name)}${what}`,
  );
}

function isMeant({ fingerprint }: StreamImage, { name }: Wish): boolean {
  return /^[0-9a-f]{12,64}$/.test(name) && fingerprint.startsWith(name);
}

/** All images of a product that are whole and whose hashes are told: newest first, containers first. */
function imagesOf(product: Product): StreamImage[] {
  const versions = Object.entries(product.versions).sort(([a], [b]) => (a < b ? 1 : -1));
  return versions.flatMap(([version, { items }]) => {
    const all = Object.values(items);
    const about = { arch: product.arch, version, properties: propertiesOf(product, version) };
    return [...splitImages(all), ...unifiedImages(all)].map((image) => ({ ...image, ...about }));
  });
}

type Files = Pick<StreamImage, 'fingerprint' | 'type' | 'files'>;

function splitImages(items: readonly Item[]): Files[] {
  const metadata = items.find(({ ftype }) => metadataTypes.includes(ftype));
  const first = metadata && fileOf(metadata);
  if (first === undefined) return [];
  return rootHashes.flatMap(({ ftype, hash, type }) => {
    const second = items.filter((one) => one.ftype === ftype).map(fileOf)[0];
    const fingerprint = v.safeParse(sha256, metadata?.[hash]);
    if (second === undefined || !fingerprint.success) return [];
    return [{ fingerprint: fingerprint.output, type, files: [first, second] as const }];
  });
}

function unifiedImages(items: readonly Item[]): Files[] {
  const file = items.filter(({ ftype }) => unifiedTypes.includes(ftype)).map(fileOf)[0];
  if (file === undefined) return [];
  return [{ fingerprint: file.sha256, type: 'container', files: [file] }];
}

function fileOf({ path, size, sha256 }: Item): StreamFile | undefined {
  return sha256 !== undefined && isInside(path) ? { path, size, sha256 } : undefined;
}

/** As LXD and Incus describe an image that comes from such a server. */
function propertiesOf(product: Product, version: string): Record<string, string> {
  const { os, release, release_title: title, arch, variant } = product;
  const serial = version.replace(/[^0-9A-Za-z._:-]/g, '');
  const description = `${os} ${title || release} ${arch} (${serial})`;
  const all = { architecture: arch, description, os, release, serial, variant };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== ''));
}

function isInside(path: string): boolean {
  return path.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}

function read<T extends v.GenericSchema>(
  schema: T,
  value: unknown,
  name: string,
): v.InferOutput<T> {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new ServerError(
    'IMAGE_INVALID',
    `${name} of the source is no simplestreams document: ${v.getDotPath(issue) ?? ''} ${issue.message}`,
  );
}
