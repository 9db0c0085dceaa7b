/**
 * Verification: every published file is read again and compared with what the documents say of it,
 * and the documents with one another.
 */
import { statSync } from 'node:fs';
import { lstat, readFile, realpath, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { gunzipSync } from 'node:zlib';
import type { DigestJob, FileRequest } from './catalog/completeness.js';
import {
  DocumentError,
  type PublishedImages,
  type PublishedItem,
  parseImages,
  parseIndex,
  versionsOf,
} from './catalog/published.js';
import { compareNames, roleOf } from './catalog/tree.js';
import type { FileOutcome } from './disk/digest.js';
import { syncFolder, writeError } from './disk/files.js';
import type { Pool } from './disk/pool.js';
import { ServerError, systemCode, systemText } from './errors.js';

/** One thing that is not as the documents say. */
export interface Damage {
  /** Relative to the root. */
  path: string;
  reason: string;
  /**
   * `document`: what one of the documents says is wrong. `packed`: its compressed form is not that of it.
   * `gone`: a file is missing. `content`: it has other bytes.
   */
  kind: 'document' | 'packed' | 'gone' | 'unreadable' | 'content';
}

export interface Verification {
  /** How many files were read, and their bytes. */
  files: number;
  bytes: number;
  damage: Damage[];
}

export interface VerifyOptions {
  /** Absolute. */
  paths: { root: string; images: string; streams: string };
  pool: Pool;
  /** Reads only the files of these folders, relative to the root. Default: all. */
  folders?: ReadonlySet<string>;
  signal?: AbortSignal;
  /** Is told how many bytes there are to read. */
  onStart?: (bytes: number) => void;
}

/**
 * Verifies what is published.
 *
 * @throws ServerError NOT_INITIALISED where nothing is published, DENIED, or INTERRUPTED.
 */
export async function verifyTree(options: VerifyOptions): Promise<Verification> {
  const { paths, pool, signal, onStart = () => {} } = options;
  const { images, damage } = await verifyDocuments(paths);
  const { folders, strays } = foldersOf(images, relative(paths.root, paths.images));
  damage.push(...strays.map((path) => strayDamage(paths, path)));
  const wanted = [...folders].filter(([path]) => options.folders?.has(path) ?? true);
  const jobs = wanted.map(([path, folder]) => jobOf(path, folder));
  const requests = jobs.flatMap((job) => job.files);
  onStart(requests.reduce((total, file) => total + file.size, 0));
  const before = pool.bytesRead();
  await pool.digest(paths.root, jobs, {
    ...(signal && { signal }),
    onResults: (results) => {
      for (const { path, files } of results) {
        const measured = files.map((file) => measure(`${paths.root}/${path}`, file));
        damage.push(...damageOf(path, folders.get(path) ?? new Map(), measured));
      }
    },
  });
  if (signal?.aborted === true) throw new ServerError('INTERRUPTED', 'Interrupted');
  damage.sort((a, b) => compareNames(a.path, b.path));
  return { files: requests.length, bytes: pool.bytesRead() - before, damage };
}

/**
 * Verifies a tree that goes on changing: what was replaced or removed while it was read is no damage, and
 * is as it should be once `publish` has brought the documents up to date.
 *
 * @throws ServerError as {@link verifyTree} and `publish` do.
 */
export async function verifyLiving(
  options: VerifyOptions,
  publish: () => Promise<unknown>,
): Promise<Verification> {
  const first = await verifyTree(options);
  if (first.damage.length === 0) return first;
  await publish();
  const { damage } = await verifyTree({ ...options, folders: foldersWith(first.damage) });
  return { ...first, damage };
}

/** The folders of what is damaged, relative to the root. */
export function foldersWith(damage: readonly Damage[]): Set<string> {
  return new Set(damage.map(({ path }) => dirname(path)));
}

/**
 * Sets files with other bytes than published aside, under a hidden name beside their place, so that the
 * next publication leaves their versions out. Nothing is overwritten, and nothing deleted but compressed
 * documents that are not what they should be: the next publication makes them anew. For whoever holds the lock.
 *
 * @returns the new paths, relative to the root.
 * @throws ServerError DENIED or IO.
 */
export async function setAside(
  paths: VerifyOptions['paths'],
  damage: readonly Damage[],
): Promise<string[]> {
  const moved: string[] = [];
  for (const { path, kind } of damage) {
    const file = join(paths.root, path);
    try {
      if (kind === 'packed') await unlink(file);
      if (kind === 'content' && (await isBelow(dirname(file), paths.images))) {
        moved.push(relative(paths.root, await hide(file)));
      }
    } catch (error) {
      throw writeError(file, error);
    }
  }
  return moved;
}

/** Whether `folder` is in `images` also when symbolic links are followed: documents can lead anywhere. */
async function isBelow(folder: string, images: string): Promise<boolean> {
  return (await realpath(folder)).startsWith(`${await realpath(images)}/`);
}

async function hide(file: string): Promise<string> {
  const wanted = join(dirname(file), `.${basename(file)}.damaged`);
  let target = wanted;
  for (let number = 2; await exists(target); number++) target = `${wanted}.${number}`;
  await rename(file, target);
  await syncFolder(dirname(file));
  return target;
}

function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    (error: unknown) => {
      if (systemCode(error) === 'ENOENT') return false;
      throw error;
    },
  );
}

async function verifyDocuments(paths: VerifyOptions['paths']) {
  const damage: Damage[] = [];
  const add = (name: string, reason: string, kind: Damage['kind'] = 'document') => {
    const path = relative(paths.root, join(paths.streams, name));
    damage.push({ path, reason, kind });
  };
  const imagesBytes = await readDocument(paths.streams, 'images.json');
  const indexBytes = await readDocument(paths.streams, 'index.json');
  if (imagesBytes === undefined && indexBytes === undefined) throw nothingPublished(paths.streams);
  const images = parsed(
    () => parseImages(text(imagesBytes)),
    (reason) => add('images.json', reason),
  );
  const index = parsed(
    () => parseIndex(text(indexBytes)),
    (reason) => add('index.json', reason),
  );
  if (images !== undefined && index !== undefined) {
    const listed = index.products.toSorted(compareNames).join('\n');
    const there = Object.keys(images.products).sort(compareNames).join('\n');
    if (listed !== there) add('index.json', 'lists other products than images.json has');
    const path = relative(paths.root, join(paths.streams, 'images.json'));
    if (index.path !== path) add('index.json', `leads to ${index.path} instead of ${path}`);
  }
  for (const [name, bytes] of [
    ['images.json', imagesBytes],
    ['index.json', indexBytes],
  ] as const) {
    const packed = await readDocument(paths.streams, `${name}.gz`);
    if (packed === undefined || bytes === undefined) continue;
    if (!isPackedForm(packed, bytes)) add(`${name}.gz`, `is not ${name} compressed`, 'packed');
  }
  return { images, damage };
}

function text(bytes: Buffer | undefined): string {
  if (bytes === undefined) throw new DocumentError('is missing');
  return bytes.toString('utf8');
}

function parsed<T>(parse: () => T, onError: (reason: string) => void): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof DocumentError)) throw error;
    onError(error.message);
    return undefined;
  }
}

async function readDocument(streamsDir: string, name: string): Promise<Buffer | undefined> {
  const path = join(streamsDir, name);
  return readFile(path).catch((cause: unknown) => {
    if (systemCode(cause) === 'ENOENT') return undefined;
    throw new ServerError('DENIED', `Cannot read ${path}: ${systemText(cause)}`, {
      hint: 'run the command as the user who owns it, or as root',
      cause,
    });
  });
}

function nothingPublished(streamsDir: string): ServerError {
  return new ServerError('NOT_INITIALISED', `Nothing is published in ${streamsDir}`, {
    hint: 'run "lxd-image-server init", or "lxd-image-server update"',
  });
}

function isPackedForm(packed: Buffer, bytes: Buffer): boolean {
  try {
    return gunzipSync(packed, { maxOutputLength: Math.max(1, bytes.length) }).equals(bytes);
  } catch {
    return false;
  }
}

/** The published items of one folder, by file name. One file can stand there under several keys. */
type Folder = Map<string, PublishedItem[]>;

/** The folders that `images` names files of, by path; and paths that no file of a version can have. */
function foldersOf(images: PublishedImages | undefined, prefix: string) {
  const folders = new Map<string, Folder>();
  const strays: string[] = [];
  const versions = Object.values(images?.products ?? {}).flatMap(versionsOf);
  for (const item of versions.flatMap(({ items }) => items)) {
    if (!isOfVersion(item.path, prefix)) {
      strays.push(item.path);
      continue;
    }
    const path = dirname(item.path);
    const folder = folders.get(path) ?? new Map<string, PublishedItem[]>();
    folders.set(path, folder);
    const name = basename(item.path);
    folder.set(name, [...(folder.get(name) ?? []), item]);
  }
  return { folders, strays };
}

/** Whether `path` is `<prefix>/<environment>/<release>/<architecture>/<type>/<version>/<file>`. */
function isOfVersion(path: string, prefix: string): boolean {
  return path.startsWith(`${prefix}/`) && path.slice(prefix.length + 1).split('/').length === 6;
}

function strayDamage({ root, streams }: VerifyOptions['paths'], path: string): Damage {
  return {
    path: relative(root, join(streams, 'images.json')),
    reason: `names ${JSON.stringify(path)}, which is no file of a version`,
    kind: 'document',
  };
}

function jobOf(path: string, folder: Folder): DigestJob {
  const files = [...folder].map(([name, items]): FileRequest => {
    const { kind } = roleOf(name);
    const read = kind === 'metadata' || kind === 'root' ? kind : 'plain';
    return { name, size: items[0]?.size ?? 0, read };
  });
  return { path, files };
}

interface MeasuredOutcome extends FileOutcome {
  /** Bytes; `undefined` where the file could not be read, or is gone since. */
  size: number | undefined;
}

/** Asks for the size of a file that has just been read, which takes no time. */
function measure(folder: string, outcome: FileOutcome): MeasuredOutcome {
  const { name, digest } = outcome;
  const size = digest && statSync(`${folder}/${name}`, { throwIfNoEntry: false })?.size;
  return { ...outcome, size };
}

function damageOf(path: string, folder: Folder, outcomes: readonly MeasuredOutcome[]): Damage[] {
  const damaged = outcomes.flatMap((outcome): Damage[] => {
    const place = `${path}/${outcome.name}`;
    const { failure, digest, size } = outcome;
    if (failure !== undefined) {
      const kind = failure.code === 'gone' ? 'gone' : 'unreadable';
      return [{ path: place, reason: failure.reason, kind }];
    }
    const items = folder.get(outcome.name) ?? [];
    const other = items.find(({ sha256 }) => sha256 !== digest?.sha256);
    if (other !== undefined) {
      const reason = `has SHA-256 ${digest?.sha256}, published is ${other.sha256}`;
      return [{ path: place, reason, kind: 'content' }];
    }
    const wrong = items.find((item) => size !== undefined && item.size !== size);
    if (wrong === undefined) return [];
    const reason = `the size published with it, ${wrong.size}, is not its own, ${size}`;
    return [{ path: place, reason, kind: 'document' }];
  });
  // Combined hashes say something of their own only where the files are as they should be.
  return damaged.length > 0 ? damaged : combinedDamage(path, folder, outcomes);
}

function combinedDamage(path: string, folder: Folder, outcomes: readonly FileOutcome[]): Damage[] {
  return [...folder].flatMap(([name, items]): Damage[] => {
    const field = items.map((item) => wrongCombined(item, outcomes)).find(Boolean);
    if (field === undefined) return [];
    const reason = `the ${field} published with it is not that of its files`;
    return [{ path: `${path}/${name}`, reason, kind: 'document' }];
  });
}

/** The field of `item` with a combined hash that no root of its folder has. */
function wrongCombined(item: PublishedItem, outcomes: readonly FileOutcome[]): string | undefined {
  const combined = new Set(outcomes.flatMap(({ digest }) => digest?.combined?.[item.sha256] ?? []));
  return Object.keys(item).find(
    (field) => /^combined_.*sha256$/.test(field) && !combined.has(String(item[field])),
  );
}
