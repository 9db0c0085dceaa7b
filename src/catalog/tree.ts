/**
 * catalog/ is the pure core: values in, values out, no clock, no disk, no network.
 * This file owns the grammar of the tree: names, file types, and what a scan of it looks like.
 *
 *     images/<env>/<release>/<arch>/<type>/<version>/<file>
 */

/** What may stand for a folder or file. Everything else is reported, never published. */
const namePattern = /^[A-Za-z0-9][A-Za-z0-9._:+~@-]*$/;

/** Names by which rsync, sftp clients, browsers and editors keep what is not finished. */
const temporaryPattern =
  /(?:\.part|\.filepart|\.partial|\.crdownload|\.tmp|~)$|^\.[^.].*\.[A-Za-z0-9]{6}$|^\.~tmp~$|^\.rsync-partial$/;

/** The longest name that Linux file systems take, in bytes; the grammar is ASCII. */
const longestName = 255;

/** Whether `name` may stand for an environment, release, architecture, type, version or file. */
export function isName(name: string): boolean {
  return name.length <= longestName && namePattern.test(name);
}

/** Whether `name` belongs to an upload that has not ended. */
export function isTemporary(name: string): boolean {
  return temporaryPattern.test(name);
}

/** Whether `name` is hidden; hidden entries are no part of the tree. */
export function isHidden(name: string): boolean {
  return name.startsWith('.');
}

/**
 * The hidden file that takes a version out: with it in the folder nothing of it is published any more, as though it
 * were not there. Its files stay for a while, for clients and mirrors that go by older documents.
 */
export const removedMark = '.removed';

/**
 * Whether `name` can name a version: it starts with a date of the Gregorian calendar as YYYYMMDD.
 * LXD and Incus read the first eight characters as that date and skip a version without it.
 */
export function isVersionName(name: string): boolean {
  const date = name.slice(0, 8);
  if (!/^\d{8}$/.test(date) || !isName(name)) return false;
  const [year, month, day] = [date.slice(0, 4), date.slice(4, 6), date.slice(6)].map(Number);
  return day !== 0 && Number(day) <= daysIn(Number(year), Number(month));
}

/** The days of a month; 0 where there is no such month. */
function daysIn(year: number, month: number): number {
  if (month < 1 || month > 12 || year === 0) return 0;
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return [4, 6, 9, 11].includes(month) ? 30 : 31;
}

/** Types of root file, by the `ftype` that simplestreams gives them. */
export type RootType = 'squashfs' | 'root.tar.xz' | 'disk-kvm.img' | 'disk1.img' | 'uefi1.img';

export type DeltaType = 'squashfs.vcdiff' | 'disk-kvm.img.vcdiff';

/** The two programs that read one document, each by item names of its own. */
export type Client = 'lxd' | 'incus';

/** What a file is in a version, told by its name alone. */
export type FileRole =
  | { kind: 'metadata'; client: Client }
  | { kind: 'unified'; client: Client }
  | { kind: 'root'; ftype: RootType }
  /** `stem` is the name without the endings: it ends with the version that the delta starts from. */
  | { kind: 'delta'; ftype: DeltaType; stem: string }
  | { kind: 'sums' }
  | { kind: 'image-yaml' }
  | { kind: 'other' };

const fixedRoles = new Map<string, FileRole>([
  ['lxd.tar.xz', { kind: 'metadata', client: 'lxd' }],
  ['incus.tar.xz', { kind: 'metadata', client: 'incus' }],
  ['lxd_combined.tar.gz', { kind: 'unified', client: 'lxd' }],
  ['incus_combined.tar.gz', { kind: 'unified', client: 'incus' }],
  // Clients go by the type, and any other file has its name for one.
  ['squashfs', { kind: 'root', ftype: 'squashfs' }],
  ['disk-kvm.img.vcdiff', { kind: 'delta', ftype: 'disk-kvm.img.vcdiff', stem: 'disk-kvm.img' }],
  ['root.tar.xz', { kind: 'root', ftype: 'root.tar.xz' }],
  ['rootfs.tar.xz', { kind: 'root', ftype: 'root.tar.xz' }],
  ['disk-kvm.img', { kind: 'root', ftype: 'disk-kvm.img' }],
  ['disk1.img', { kind: 'root', ftype: 'disk1.img' }],
  ['uefi1.img', { kind: 'root', ftype: 'uefi1.img' }],
  ['SHA256SUMS', { kind: 'sums' }],
  ['image.yaml', { kind: 'image-yaml' }],
]);

const endingRoles: readonly (readonly [string, (stem: string) => FileRole])[] = [
  ['.squashfs.vcdiff', (stem) => ({ kind: 'delta', ftype: 'squashfs.vcdiff', stem })],
  ['.qcow2.vcdiff', (stem) => ({ kind: 'delta', ftype: 'disk-kvm.img.vcdiff', stem })],
  ['.vcdiff', (stem) => ({ kind: 'delta', ftype: deltaTypeOf(stem), stem })],
  ['.squashfs', () => ({ kind: 'root', ftype: 'squashfs' })],
  ['.qcow2', () => ({ kind: 'root', ftype: 'disk-kvm.img' })],
];

/** A delta whose name tells of a disk anywhere is one of a disk, any other one of a squashfs. */
function deltaTypeOf(stem: string): DeltaType {
  const ofDisk = /(?:^|\.)(?:qcow2|disk-kvm\.img)(?:\.|$)/.test(stem);
  return ofDisk ? 'disk-kvm.img.vcdiff' : 'squashfs.vcdiff';
}

const other: FileRole = { kind: 'other' };

/** Roles of names seen before: a tree has few different names, and each is looked at many times. */
const knownRoles = new Map<string, FileRole>(fixedRoles);
const mostKnownRoles = 10_000;

/** What the file called `name` is in its version. */
export function roleOf(name: string): FileRole {
  const known = knownRoles.get(name);
  if (known !== undefined) return known;
  if (knownRoles.size >= mostKnownRoles) knownRoles.clear();
  const role = fixedRoles.get(name) ?? roleByEnding(name);
  knownRoles.set(name, role);
  return role;
}

function roleByEnding(name: string): FileRole {
  for (const [ending, role] of endingRoles) {
    if (name.length > ending.length && name.endsWith(ending)) {
      return role(name.slice(0, -ending.length));
    }
  }
  return other;
}

/** Why something is not published; stable words for machines. */
export type ProblemCode =
  | 'name'
  | 'date'
  | 'kind'
  | 'link'
  | 'misplaced'
  | 'unreadable'
  | 'uploading'
  | 'settling'
  | 'changed'
  | 'gone'
  | 'empty'
  | 'damaged'
  | 'metadata-missing'
  | 'metadata-invalid'
  | 'root-missing'
  | 'root-twice'
  | 'sums-invalid'
  | 'sums-missing'
  | 'sums-mismatch'
  | 'yaml-invalid'
  | 'alias';

/** What is wrong with one file: the reason and the cure, each a sentence without its full stop. */
export interface Fault {
  code: ProblemCode;
  reason: string;
  cure: string;
}

/** A fault and where it is: a path below the images folder, fit to be printed. */
export interface Problem extends Fault {
  path: string;
}

/** What YAML files say about a product; see `metadata.ts` for where each comes from. */
export interface Facts {
  os?: string;
  releaseTitle?: string;
  /** Further names of a release, by release. */
  releaseAliases?: Record<string, string[]>;
  /** Aliases to be taken as they stand. */
  aliases?: string[];
  /** What an image asks of its host, for example `{ secureboot: 'false' }`. */
  requirements?: RequirementRule[];
}

/** Requirements, and the releases, architectures and types that they are for; absent: for all. */
export interface RequirementRule {
  values: Record<string, string>;
  releases?: string[];
  architectures?: string[];
  types?: string[];
}

/** What reading one file in full told about it. */
export interface FileDigest {
  /** SHA-256 of the content, lower-case hexadecimal. */
  sha256: string;
  /**
   * For a root file: SHA-256 of a metadata file followed by this one (the fingerprint of the split
   * image), by the SHA-256 of that metadata file.
   */
  combined?: Record<string, string>;
  /** For YAML and for metadata archives: what they say. */
  facts?: Facts;
  /** For SHA256SUMS: the digests it states, by file name. */
  sums?: Record<string, string>;
  /** Why the content cannot be what the name says. */
  fault?: Fault;
}

/** A regular file that the scan found. */
export interface FileEntry {
  name: string;
  /** Bytes. */
  size: number;
  /** Equal stamps mean equal content: size, modification time in nanoseconds and inode. */
  stamp: string;
  /** When the content was last changed, in milliseconds since 1970. */
  modified: number;
  /** When content, name or mode were last changed by this host's clock, in milliseconds since 1970. */
  touched: number;
  /** Present once the file has been read in full under this stamp. */
  digest?: FileDigest;
  /** True where the file was so young when it was read that it could change under the same stamp. */
  fleeting?: boolean;
  /** Why the last attempt to read it did not succeed. */
  failure?: Fault;
}

/** One `<version>` folder. */
export interface VersionFolder {
  name: string;
  /** Sorted by name. */
  files: FileEntry[];
  /** Names of unfinished uploads in it. */
  temporaries: string[];
  /** True where the folder was renamed, or given its times, after all that is in it was last changed. */
  placed?: true;
  /** Tells the folder from others of its name; absent once nothing in it has changed for a day. */
  id?: string;
  /** True where it was read in vain lately: it changed meanwhile, or was not what its SHA256SUMS states. */
  restless?: true;
}

/** One `<env>/<release>/<arch>/<type>` folder, in the order in which products are published. */
export interface ProductFolder {
  env: string;
  release: string;
  arch: string;
  type: string;
  /** `product.yaml`, where it is there. */
  yaml?: FileEntry;
  /** Sorted by name: oldest first. */
  versions: VersionFolder[];
  /** What the scan could not take up below this folder. */
  problems: Problem[];
  /** Other products that symbolic links in this one lead to: what changes there changes here. Sorted. */
  links?: string[];
  /** Names of versions that were taken out: they have {@link removedMark}, and are not among `versions`. */
  removed?: string[];
}

/** Everything that a scan found. */
export interface Tree {
  /** Sorted by product ID. */
  products: ProductFolder[];
  /** What the scan could not take up above the product folders. */
  problems: Problem[];
}

/** `env/release/arch/type`: where a product lies below the images folder. */
export function productPath(
  product: Pick<ProductFolder, 'env' | 'release' | 'arch' | 'type'>,
): string {
  return `${product.env}/${product.release}/${product.arch}/${product.type}`;
}

/** `env:release:arch:type`: how simplestreams names a product. */
export function productId(
  product: Pick<ProductFolder, 'env' | 'release' | 'arch' | 'type'>,
): string {
  return `${product.env}:${product.release}:${product.arch}:${product.type}`;
}

/** The order of names in documents: by code unit, the same on every host and in every locale. */
export function byName(a: { name: string }, b: { name: string }): number {
  return compareNames(a.name, b.name);
}

/** {@link byName} for plain strings. */
export function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Control characters, halves of characters, and what turns the direction of a line or breaks it. */
const unprintable = /[\p{Cc}\p{Cs}\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffd]/gu;

/** Whether `text` can stand in one line of a log or a document as it is. */
export function isPrintable(text: string): boolean {
  return text.search(unprintable) === -1;
}

/** `path` as it can stand in one line of a log: control and broken characters are escaped. */
export function printable(path: string): string {
  return path.replace(
    unprintable,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
