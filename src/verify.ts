/**
 * Verification: every published file is read again and compared with what the documents say of it,
 * and the documents with one another.
 */
import { readFile, rename, unlink } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { gunzipSync } from 'node:zlib';
import type { DigestJob, FileRequest } from './catalog/catalog.js';
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
import { syncFolder } from './disk/files.js';
import type { Pool } from './disk/pool.js';
import { ServerError, systemCode, systemText } from './errors.js';

/** One thing that is not as the documents say. */
export interface Damage {
  /** Relative to the root. */
  path: string;
  reason: string;
  /** `document`: one of the documents is wrong. `gone`: a file is missing. `content`: it has other bytes. */
  kind: 'document' | 'gone' | 'unreadable' | 'content';
}

export interface Verification {
  /** How many files were read, and their bytes. */
  files: number;
  bytes: number;
  damage: Damage[];
}

export interface VerifyOptions {
  paths: { root: string; streams: string };
  pool: Pool;
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
  const folders = images === undefined ? new Map<string, Folder>() : foldersOf(images);
  const jobs = [...folders].map(([path, folder]) => jobOf(path, folder));
  const requests = jobs.flatMap((job) => job.files);
  onStart(requests.reduce((total, file) => total + file.size, 0));
  const before = pool.bytesRead();
  await pool.digest(paths.root, jobs, {
    ...(signal && { signal }),
    onResults: (results) => {
      for (const { path, files } of results) {
        damage.push(...damageOf(path, folders.get(path) ?? new Map(), files));
      }
    },
  });
  if (signal?.aborted === true) throw new ServerError('INTERRUPTED', 'Interrupted');
  damage.sort((a, b) => compareNames(a.path, b.path));
  return { files: requests.length, bytes: pool.bytesRead() - before, damage };
}

/**
 * Makes way for a publication that leaves out what is damaged: files with other bytes are set aside under
 * a hidden name beside their place, and compressed documents that are not the documents are removed.
 * No image file is deleted.
 *
 * @returns the new paths of what was set aside, relative to the root.
 */
export async function clearDamage(root: string, damage: readonly Damage[]): Promise<string[]> {
  const moved: string[] = [];
  for (const { path, kind } of damage) {
    if (kind === 'document' && path.endsWith('.gz')) await unlink(join(root, path));
    if (kind !== 'content') continue;
    const target = join(dirname(path), `.damaged-${basename(path)}`);
    await rename(join(root, path), join(root, target));
    await syncFolder(join(root, dirname(path)));
    moved.push(target);
  }
  return moved;
}

async function verifyDocuments(paths: VerifyOptions['paths']) {
  const damage: Damage[] = [];
  const add = (name: string, reason: string) => {
    const path = relative(paths.root, join(paths.streams, name));
    damage.push({ path, reason, kind: 'document' });
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
    if (!isPackedForm(packed, bytes)) add(`${name}.gz`, `is not ${name} compressed`);
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

function foldersOf(images: PublishedImages): Map<string, Folder> {
  const folders = new Map<string, Folder>();
  const versions = Object.values(images.products).flatMap(versionsOf);
  for (const item of versions.flatMap(({ items }) => items)) {
    const path = dirname(item.path);
    const folder = folders.get(path) ?? new Map<string, PublishedItem[]>();
    folders.set(path, folder);
    const name = basename(item.path);
    folder.set(name, [...(folder.get(name) ?? []), item]);
  }
  return folders;
}

function jobOf(path: string, folder: Folder): DigestJob {
  const files = [...folder].map(([name, items]): FileRequest => {
    const { kind } = roleOf(name);
    const read = kind === 'metadata' || kind === 'root' ? kind : 'plain';
    return { name, size: items[0]?.size ?? 0, read };
  });
  return { path, files };
}

function damageOf(path: string, folder: Folder, outcomes: readonly FileOutcome[]): Damage[] {
  const damage = outcomes.flatMap((outcome): Damage[] => {
    const [item] = folder.get(outcome.name) ?? [];
    const fault = faultOf(outcome, item);
    return fault === undefined ? [] : [{ path: `${path}/${outcome.name}`, ...fault }];
  });
  // Combined digests say something of the documents only where each file is as published.
  return damage.length > 0 ? damage : combinedDamage(path, folder, outcomes);
}

function faultOf(
  { failure, digest }: FileOutcome,
  item: PublishedItem | undefined,
): Omit<Damage, 'path'> | undefined {
  if (failure !== undefined) {
    return { reason: failure.reason, kind: failure.code === 'gone' ? 'gone' : 'unreadable' };
  }
  if (digest?.sha256 === item?.sha256) return undefined;
  const reason = `its SHA-256 is ${digest?.sha256}, published is ${item?.sha256}`;
  return { reason, kind: 'content' };
}

function combinedDamage(path: string, folder: Folder, outcomes: readonly FileOutcome[]): Damage[] {
  return [...folder].flatMap(([name, items]) =>
    items.flatMap((item): Damage[] => {
      const known = outcomes.flatMap(({ digest }) => digest?.combined?.[item.sha256] ?? []);
      const wrong = Object.keys(item).find(
        (field) => /^combined_.*sha256$/.test(field) && !known.includes(String(item[field])),
      );
      if (wrong === undefined) return [];
      const reason = `its ${wrong} in images.json is not that of the files`;
      return [{ path: `${path}/${name}`, reason, kind: 'document' }];
    }),
  );
}
