/**
 * What is remembered of a product from one run to the next: its digests, and what came of them.
 * A record only saves work; it can be made again from the tree at any time. Pure.
 */
import { catalogueProduct } from './catalog.js';
import type { CatalogueOptions } from './completeness.js';
import type { ProductEntry } from './images-document.js';
import type { Product } from './product.js';
import { versionsText } from './streams.js';
import {
  type FileDigest,
  type FileEntry,
  type Problem,
  type ProductFolder,
  productPath,
  type VersionFolder,
} from './tree.js';

/**
 * Raised whenever the same tree and digests would give another record, or records are kept in another way:
 * older ones are then not used.
 */
export const recordFormat = 4;

/** `[name, stamp, digest]` of files, by version; those of the product folder itself under ''. */
export type KnownDigests = Record<string, [name: string, stamp: string, digest: FileDigest][]>;

export interface ProductRecord {
  /** `env/release/arch/type`. */
  path: string;
  /** What the scan saw when this was made. */
  fingerprint: string;
  /** Whether this is all there is to say for as long as the fingerprint is the same. */
  final: boolean;
  /** When there may be more to say though nothing changes, in milliseconds since 1970. */
  again?: number;
  /** Names of versions that were read in vain. */
  restless: string[];
  /** Name and id of versions whose folders were there before all that is in them, as with most uploads. */
  filled: string[];
  /** Other products that symbolic links in this one lead to. */
  links?: string[];
  /** Names of versions that were taken out, of which the files are still there. */
  removed?: string[];
  /** What is published; absent where no version is complete. */
  entry?: ProductEntry;
  totals: Totals;
  problems: Problem[];
  /** {@link KnownDigests} as JSON: it is needed only once something changes. */
  digests: Buffer;
}

export interface Totals {
  versions: number;
  /** Size of the published files in bytes; a file that stands under two names counts once. */
  bytes: number;
}

/** A product folder and the fingerprint of its state. */
export interface Scanned {
  folder: ProductFolder;
  fingerprint: string;
  /** What was known of its files before, also of those that have gone. */
  known?: KnownDigests;
}

/** Judges a product whose files have been read, and makes its record. */
export function makeRecord(
  { folder, fingerprint }: Scanned,
  options: CatalogueOptions,
): ProductRecord {
  const { product, problems, again, restless } = catalogueProduct(folder, options);
  const files = allFiles(folder);
  const record: ProductRecord = {
    ...draftRecord({ folder, fingerprint }),
    // What waits for time to pass, or could not be read, is looked at again.
    final: again === undefined && files.every(isLasting),
    restless,
    totals: totalsOf(product),
    problems,
  };
  const readAgain = files.some((file) => file.fleeting === true)
    ? options.now + longestTick
    : Infinity;
  const next = Math.min(again ?? Infinity, readAgain);
  if (next < Infinity) record.again = next;
  if (product === undefined) return record;
  const versions = Buffer.from(versionsText(product.versions));
  return { ...record, entry: { head: product.head, versions } };
}

/** How long a file can change without a new stamp, on file systems that keep whole seconds; in milliseconds. */
const longestTick = 2100;

/** A record that keeps the digests of `folder`, and leaves everything else to the next run. */
export function draftRecord({ folder, fingerprint }: Scanned): ProductRecord {
  return {
    path: productPath(folder),
    fingerprint,
    final: false,
    restless: [],
    filled: filledIn(folder),
    ...(folder.links && { links: folder.links }),
    ...(folder.removed && { removed: folder.removed }),
    totals: { versions: 0, bytes: 0 },
    problems: [],
    digests: Buffer.from(JSON.stringify(digestsOf(folder))),
  };
}

/** What is left of `record` when all that was read is to be read again. */
export function withoutDigests({ path, filled }: ProductRecord): ProductRecord {
  const totals = { versions: 0, bytes: 0 };
  const nothing = { fingerprint: '', final: false, restless: [], totals, problems: [] };
  return { path, filled, ...nothing, digests: Buffer.from('{}') };
}

/**
 * Gives `folder` what `record` knows of it: digests of files that are as they were, and how versions came.
 *
 * @returns all digests that it knows.
 */
export function recall(folder: ProductFolder, record: ProductRecord): KnownDigests {
  const known = knownDigests(record);
  recallDigests(folder, known);
  recallFilled(folder, record.filled);
  for (const version of folder.versions) {
    if (record.restless.includes(version.name)) version.restless = true;
  }
  return known;
}

/** The digests in `record`. */
export function knownDigests({ digests }: Pick<ProductRecord, 'digests'>): KnownDigests {
  return JSON.parse(digests.toString()) as KnownDigests;
}

/** Versions of `folder` that came in parts, as {@link ProductRecord.filled}. */
export function filledIn({ versions }: ProductFolder): string[] {
  return versions.flatMap((version) =>
    version.id === undefined || version.placed === true ? [] : [folderKey(version)],
  );
}

/** Sees to it that no version in `filled` counts as one that was put in its place whole. */
export function recallFilled(folder: ProductFolder, filled: readonly string[]): void {
  for (const version of folder.versions) {
    if (filled.includes(folderKey(version))) delete version.placed;
  }
}

function folderKey({ name, id }: VersionFolder): string {
  return `${name} ${id}`;
}

/** Gives the files of `folder` the digests in `known` that stand under their names and stamps. */
export function recallDigests(folder: ProductFolder, known: KnownDigests): void {
  if (folder.yaml !== undefined) recallFiles([folder.yaml], known['']);
  for (const { name, files } of folder.versions) {
    if (Object.hasOwn(known, name)) recallFiles(files, known[name]);
  }
}

/** The digests of `folder` that hold for as long as the stamps of their files do. */
export function digestsOf(folder: ProductFolder): KnownDigests {
  const known: KnownDigests = {};
  if (folder.yaml !== undefined) known[''] = lasting([folder.yaml]);
  for (const version of folder.versions) known[version.name] = lasting(version.files);
  return known;
}

function recallFiles(files: readonly FileEntry[], known: KnownDigests[string] = []): void {
  for (const [name, stamp, digest] of known) {
    const file = files.find((candidate) => candidate.name === name && candidate.stamp === stamp);
    if (file !== undefined) file.digest = digest;
  }
}

function lasting(files: readonly FileEntry[]): KnownDigests[string] {
  return files.flatMap(({ name, stamp, digest, fleeting }) =>
    digest === undefined || fleeting === true ? [] : [[name, stamp, digest]],
  );
}

function allFiles({ yaml, versions }: ProductFolder): FileEntry[] {
  const files = versions.flatMap((version) => version.files);
  return yaml === undefined ? files : [...files, yaml];
}

function isLasting(file: FileEntry): boolean {
  return file.failure === undefined && file.fleeting !== true;
}

function totalsOf(product: Product | undefined): Totals {
  const versions = product?.versions ?? [];
  const sizes = versions.flatMap(({ items }) =>
    items.map(({ path, size }) => [path, size] as const),
  );
  const bytes = [...new Map(sizes).values()].reduce((sum, size) => sum + size, 0);
  return { versions: versions.length, bytes };
}
