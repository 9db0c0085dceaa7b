/**
 * Values of image trees as a scan and the reading of files make them, for tests of the pure core.
 * What a test does not name has a value with which the version is complete and published.
 */
import { createHash } from 'node:crypto';
import type { CatalogueOptions, DigestJob, FileRequest } from '../../src/catalog/completeness.js';
import {
  byName,
  type Fault,
  type FileDigest,
  type FileEntry,
  type ProductFolder,
  productPath,
  roleOf,
  type VersionFolder,
} from '../../src/catalog/tree.js';

/** When the files of these trees were made: 2026-01-03 12:00:05 UTC, in milliseconds since 1970. */
export const madeAt = Date.UTC(2026, 0, 3, 12, 0, 5);

/** Options under which files from {@link madeAt} have settled. */
export const settled: CatalogueOptions = { now: madeAt + 60_000, settle: 2_000, prefix: 'images' };

export interface FileValue extends Partial<Omit<FileEntry, 'name'>> {
  /** Decides the SHA-256. Default: the name. */
  content?: string;
  /** Parts of the digest that reading the file brought to light. */
  found?: Partial<FileDigest>;
  /** Whether the file has not been read. Default: no. */
  unread?: boolean;
}

/** SHA-256 of `text`, lower-case hexadecimal. */
export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** A file that was read, and made long enough ago. */
export function aFile(name: string, value: FileValue = {}): FileEntry {
  const { content = name, found = {}, unread = false, ...entry } = value;
  const digest = { sha256: sha256(content), ...found };
  return {
    name,
    size: 100,
    stamp: `stamp of ${content}`,
    modified: madeAt,
    touched: madeAt,
    ...(unread ? {} : { digest }),
    ...entry,
  };
}

/** A SHA256SUMS that states these digests. */
export function aSumsFile(sums: Record<string, string>, value: FileValue = {}): FileEntry {
  return aFile('SHA256SUMS', { ...value, found: { sums } });
}

export interface VersionValue {
  /** Files, or names of files that were read. Default: LXD metadata and a squashfs. */
  files?: readonly (string | FileEntry)[];
  temporaries?: string[];
}

/** A version; root files that were read have combined digests with all metadata that was read. */
export function aVersion(name: string, value: VersionValue = {}): VersionFolder {
  const { files = ['lxd.tar.xz', 'rootfs.squashfs'], temporaries = [] } = value;
  const entries = files.map((file) => (typeof file === 'string' ? aFile(file) : file)).sort(byName);
  const metadata = entries.filter((file) => roleOf(file.name).kind === 'metadata');
  for (const file of entries) {
    if (roleOf(file.name).kind !== 'root' || file.digest === undefined) continue;
    file.digest.combined ??= combine(
      metadata.flatMap(({ digest }) => digest ?? []),
      file.digest,
    );
  }
  return { name, files: entries, temporaries };
}

function combine(metadata: readonly FileDigest[], root: FileDigest): Record<string, string> {
  return Object.fromEntries(metadata.map((each) => [each.sha256, combined(each, root)]));
}

/** What stands for the SHA-256 of a metadata file followed by a root file. */
export function combined(metadata: FileDigest, root: FileDigest): string {
  return sha256(`${metadata.sha256} then ${root.sha256}`);
}

export interface ProductValue extends Partial<Omit<ProductFolder, 'versions'>> {
  /** Versions, or names of versions. Default: one. */
  versions?: readonly (string | VersionFolder)[];
}

/** A product folder: `demo/one/amd64/default` where nothing else is said. */
export function aProduct(value: ProductValue = {}): ProductFolder {
  const { versions = ['20260103'], ...rest } = value;
  return {
    env: 'demo',
    release: 'one',
    arch: 'amd64',
    type: 'default',
    problems: [],
    ...rest,
    versions: versions.map((each) => (typeof each === 'string' ? aVersion(each) : each)),
  };
}

/** A fault for whoever does not care which. */
export const someFault: Fault = { code: 'unreadable', reason: 'it is cursed', cure: 'lift it' };

/** Decides what becomes of a file that is read: its digest, or why there is none. */
export type Reader = (path: string) => { digest: FileDigest } | { failure: Fault };

/**
 * Does digest jobs as the threads of the pool do, and puts the outcomes into `folder`: what is known is
 * not read again, save metadata from which the hash of a root has to go on.
 *
 * @returns the paths of the files that were read.
 */
export function answer(folder: ProductFolder, jobs: readonly DigestJob[], read: Reader): string[] {
  return jobs.flatMap((job) => answerOne(folder, job, read));
}

function answerOne(folder: ProductFolder, job: DigestJob, read: Reader): string[] {
  const entries = entriesAt(folder, job.path);
  const metadata = job.files.filter((file) => file.read === 'metadata');
  const others = job.files.filter((file) => file.read !== 'metadata');
  const known = metadata.flatMap((file) => file.known ?? []);
  const allKnown =
    known.length === metadata.length && others.every((file) => isEnough(file, known));
  const wanted: FileDigest[] = [];
  const paths: string[] = [];
  for (const file of [...metadata, ...others]) {
    if (file.known !== undefined && file.read !== 'metadata' && isEnough(file, wanted)) continue;
    if (file.known !== undefined && file.read === 'metadata' && allKnown) continue;
    const outcome = read(`${job.path}/${file.name}`);
    paths.push(`${job.path}/${file.name}`);
    const entry = entries.find(({ name }) => name === file.name);
    if (entry === undefined) throw new Error(`${file.name} was asked for, and is not there`);
    if ('failure' in outcome) {
      entry.failure = outcome.failure;
      continue;
    }
    entry.digest = { ...outcome.digest };
    if (file.read === 'metadata') wanted.push(outcome.digest);
    if (file.read === 'root') entry.digest.combined = combine(wanted, outcome.digest);
  }
  return paths;
}

function isEnough(file: FileRequest, metadata: readonly FileDigest[]): boolean {
  return (
    file.read !== 'root' ||
    metadata.every(({ sha256 }) => file.known?.combined?.[sha256] !== undefined)
  );
}

function entriesAt(folder: ProductFolder, path: string): readonly FileEntry[] {
  if (path === productPath(folder)) return folder.yaml === undefined ? [] : [folder.yaml];
  const version = folder.versions.find(({ name }) => path === `${productPath(folder)}/${name}`);
  if (version === undefined) throw new Error(`${path} was asked for, and is not there`);
  return version.files;
}
