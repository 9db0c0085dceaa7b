/** What all stages of the work on a mirror share. */

import { setMaxListeners } from 'node:events';
import type { Manifest, Master } from '../catalog/manifest.js';
import { noteRecord, type Present } from '../catalog/present.js';
import type { Logger } from '../log.js';
import type { Generation } from './generation.js';
import type { Knowledge } from './knowledge.js';
import type { ListCache, ManifestStore } from './manifest-store.js';
import type { Mirror } from './mirror.js';
import { ownFolder } from './names.js';
import { folderOf } from './paths.js';
import { createMeter, type Progress, type ProgressMeter } from './progress.js';
import type { OpenSource } from './send.js';
import { inTurns } from './together.js';

export interface ReplicatorOptions {
  mirror: Mirror;
  master: Master;
  /** The folder of the images, relative to the root. */
  images: string;
  /** For how long a file outlives the last document that named it, in milliseconds. */
  grace: number;
  openSource: OpenSource;
  cache: ListCache;
  log: Logger;
  /** Whether a file of the mirror, by its path below the root, stands with this content in the master's own root. */
  isHere?: (path: string, content: string) => Promise<boolean>;
  /** How often to record what has been sent, in milliseconds. Default: 5,000. */
  recordEvery?: number;
  /** Bytes of large files that may be under way at once. Default: four times `resumeWindow`. */
  window?: number;
  /** Milliseconds since 1970. Default: the clock. */
  now?: () => number;
}

/** One piece of work on a mirror, from its look to its end. */
export interface Work extends Omit<ReplicatorOptions, 'master' | 'cache' | 'log'> {
  store: ManifestStore;
  knowledge: Knowledge;
  newest: () => Generation;
  /** For every operation on the mirror. */
  signal: { signal?: AbortSignal };
  takeOver: boolean;
  meter: ProgressMeter;
  onSending: (sent: Sent) => void;
  /** Folders that are there, or are being made. */
  folders: Map<string, Promise<void>>;
  /** Documents that are in the staging folder, or on their way, by their SHA-256. */
  documents: Map<string, Promise<void>>;
  /** What earlier work has left in the staging folder and may be used: bytes, by SHA-256. */
  left: Map<string, number>;
}

/** Files that have got their names, and bytes of files that have gone over the line. */
export interface Sent {
  files: number;
  bytes: number;
}

export interface WorkSettings {
  signal?: AbortSignal;
  takeOver?: boolean;
  onProgress?: (progress: Progress) => void;
  /** Is told of what was sent since the last call, also where the work fails later. */
  onSending?: (sent: Sent) => void;
}

export function createWork(
  shared: Pick<Work, 'store' | 'knowledge' | 'newest'> & ReplicatorOptions,
  { signal, takeOver = false, onProgress, onSending = () => {} }: WorkSettings,
): Work {
  // Every operation under way listens.
  if (signal !== undefined) setMaxListeners(0, signal);
  return {
    ...shared,
    signal: signal === undefined ? {} : { signal },
    takeOver,
    meter: createMeter(onProgress),
    onSending,
    folders: new Map(),
    documents: new Map(),
    left: new Map(),
  };
}

/** Whether a newer generation has come. */
export function isOld({ newest }: Work, { id }: Generation): boolean {
  return newest().id !== id;
}

/**
 * Makes a folder, once. Those that are made beside it wait until the one above them is there: then one request is
 * enough for each.
 */
export function makeFolder(work: Work, path: string): Promise<void> {
  const { mirror, folders, signal } = work;
  const known = folders.get(path);
  if (known !== undefined) return known;
  const above = folderOf(path);
  const make = () => mirror.makeFolder(path, signal);
  const making = folders.get(above)?.then(make) ?? make();
  for (const folder of [path, above]) {
    if (folders.has(folder)) continue;
    folders.set(folder, making);
    making.catch(() => folders.delete(folder));
  }
  return making;
}

/** Makes one of the few folders that every piece of work needs, unless earlier work has. */
export async function makeOwnFolder(work: Work, path: string): Promise<void> {
  const { folders } = work.knowledge;
  if (folders.has(path)) return;
  await makeFolder(work, path);
  folders.add(path);
}

/** Makes a mirror without a manifest this master's, before anything is done to it. @throws ServerError MIRROR_TAKEN. */
export async function claimMirror(work: Work, present: Present): Promise<void> {
  const { store, takeOver, signal } = work;
  await makeOwnFolder(work, ownFolder);
  noteRecord(present, await store.claim({ takeOver, ...signal }));
}

/** Writes the manifest. */
export async function writeRecord(work: Work, record: Manifest, present: Present): Promise<void> {
  await makeOwnFolder(work, ownFolder);
  await work.store.write(record, work.signal);
  noteRecord(present, record);
}

/** Has the names that files have got written to the disk of the mirror: documents may name them then. */
export async function syncFolders({ mirror, knowledge, signal }: Work): Promise<void> {
  await inTurns([...knowledge.unsynced], mirror.parallel, async (path) => {
    // Others may get names in it meanwhile.
    knowledge.unsynced.delete(path);
    try {
      await mirror.sync(path, signal);
    } catch (error) {
      knowledge.unsynced.add(path);
      throw error;
    }
  });
}
