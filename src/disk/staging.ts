/**
 * Uploads in flight: `.staging/<id>`, a folder for each that only its owner may read. What is whole gets its place in
 * the tree by one rename; a crash before that leaves nothing but a folder here, which is swept at the next start.
 */
import { randomBytes } from 'node:crypto';
import {
  chmod,
  type FileHandle,
  lstat,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  stat,
  statfs,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ServerError, systemCode } from '../errors.js';
import { leaveToOwner, makeFolder, syncFolder, writeError, writeFileAtomically } from './files.js';
import { imagesFolder } from './images-folder.js';

export interface StagingOptions {
  /** Absolute. */
  root: string;
  images: string;
  /** How many bytes uploads must leave free on the file system. Default: 64 MiB. */
  reserve?: number;
}

export interface Staging {
  /** Removes what is left of uploads; for whoever holds the lock of the root, before there are any. */
  sweep(): Promise<void>;
  /**
   * A new, empty folder.
   *
   * @param options.bytes what it is to take, where that is known. Default: 0.
   * @throws ServerError NOT_INITIALISED, DENIED or IO; DISK_FULL where there is no room for so much.
   */
  make(options?: { bytes?: number }): Promise<StagedFolder>;
  /** Takes a folder out of the tree, whole, and then deletes it; no matter if it is gone. @throws ServerError DENIED or IO. */
  delete(path: string): Promise<void>;
}

export interface StagedFolder {
  /** Absolute. */
  path: string;
  /**
   * Writes a file as its content comes, and has the disk confirm it. At most some hundred KiB are kept in memory.
   *
   * @param source its pieces must not change once they were handed over.
   * @param options.onChunk is given each piece before it is written; what it throws ends the writing.
   * @throws ServerError DISK_FULL, DENIED or IO; INTERRUPTED after an abort; whatever `source` throws.
   */
  write(name: string, source: AsyncIterable<Uint8Array>, options: WriteOptions): Promise<void>;
  /** Writes a small file. @throws ServerError DISK_FULL, DENIED or IO. */
  keep(name: string, text: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /**
   * Makes the folder `target`, which is in a folder that exists, for all to read.
   *
   * @returns false where something of that name is there; it is left alone.
   * @throws ServerError DISK_FULL, DENIED or IO; then it is not there.
   */
  place(target: string): Promise<boolean>;
  /** Takes it back from `target`. */
  takeBack(target: string): Promise<void>;
  /** Leaves nothing of what is in staging; may be called again. */
  remove(): Promise<void>;
}

export interface WriteOptions {
  signal: AbortSignal;
  onChunk: (chunk: Uint8Array) => void;
}

const defaultReserve = 64 * 1024 * 1024;
/** So many bytes are gathered for one call of the system, while those before are being written. */
const batchBytes = 256 * 1024;
/** After so many bytes the disk is to confirm them, and the room that is left is looked at. */
const syncBytes = 32 * 1024 * 1024;

export function createStaging({ root, images, reserve = defaultReserve }: StagingOptions): Staging {
  /** One disk confirms one upload at a time: all threads of Node waiting for it would stop everything else. */
  let syncing: Promise<unknown> = Promise.resolve();
  const sync = (work: () => Promise<void>): Promise<void> => {
    const done = syncing.then(work);
    syncing = done.catch(() => undefined);
    return done;
  };
  return {
    async sweep() {
      for (const parent of new Set([root, images])) {
        await rm(join(parent, stagingName), { recursive: true, force: true }).catch(
          (error: unknown) => {
            throw writeError(join(parent, stagingName), error);
          },
        );
      }
    },
    async make({ bytes = 0 } = {}) {
      const home = await stagingHome({ root, images });
      const path = join(home, randomBytes(8).toString('hex'));
      await makeFolder(home, 0o700);
      if (bytes > 0) await requireRoom(home, reserve + bytes);
      try {
        await mkdir(path, { mode: 0o700 });
        await leaveToOwner(path);
      } catch (error) {
        throw writeError(path, error);
      }
      return stagedFolder(path, { reserve, sync });
    },
    async delete(path) {
      const home = await stagingHome({ root, images });
      const aside = join(home, randomBytes(8).toString('hex'));
      try {
        await makeFolder(home, 0o700);
        if (await isMissing(path)) return;
        await rename(path, aside);
        await syncFolder(dirname(path));
        await rm(aside, { recursive: true, force: true });
      } catch (error) {
        throw writeError(path, error);
      }
    },
  };
}

const stagingName = '.staging';

/** In the root, unless the images are on another file system: then a rename would not get there. */
async function stagingHome({ root, images }: Pick<StagingOptions, 'root' | 'images'>) {
  const folder = await imagesFolder(images);
  const [ofRoot, ofImages] = await Promise.all([stat(root), stat(folder)]);
  const isNear = ofRoot.dev === ofImages.dev && !(await isMountBetween(root, folder));
  return join(isNear ? root : images, stagingName);
}

/**
 * Whether no rename gets from one folder into the other though both are of one device: a part of it that is mounted
 * once more. The kernel is asked with a rename that it always refuses, and for this reason first.
 */
function isMountBetween(from: string, to: string): Promise<boolean> {
  return rename(join(from, stagingName), `${to}/.`).then(
    () => false,
    (error: unknown) => systemCode(error) === 'EXDEV',
  );
}

interface Disk {
  reserve: number;
  sync: (work: () => Promise<void>) => Promise<void>;
}

function stagedFolder(path: string, disk: Disk): StagedFolder {
  const translating = async <T>(work: Promise<T>): Promise<T> =>
    work.catch((error: unknown) => {
      throw systemCode(error) === undefined ? error : writeError(path, error);
    });
  return {
    path,
    write: (name, source, options) => writeFile(join(path, name), source, { ...options, ...disk }),
    keep: (name, text) => writeFileAtomically(join(path, name), [Buffer.from(text)]),
    rename: (from, to) => translating(rename(join(path, from), join(path, to))),
    place: (target) => translating(place(path, target)),
    takeBack: (target) => translating(move(target, path)),
    remove: () => translating(rm(path, { recursive: true, force: true })),
  };
}

async function writeFile(
  path: string,
  source: AsyncIterable<Uint8Array>,
  { signal, onChunk, ...disk }: WriteOptions & Disk,
): Promise<void> {
  const handle = await open(path, 'wx', 0o644).catch((error: unknown) => {
    throw writeError(path, error);
  });
  const writer = createWriter(handle, { path, ...disk });
  try {
    await leaveToOwner(path, handle).catch((error: unknown) => {
      throw writeError(path, error);
    });
    await writer.checkRoom();
    await forEach(source, signal, async (chunk) => {
      onChunk(chunk);
      await writer.push(chunk);
    });
    await writer.end();
  } finally {
    // Descriptors are not closed under a thread that still writes.
    await writer.idle();
    await handle.close();
  }
}

/** Calls `use` for each piece of `source` until `signal` aborts, also where that never gives another. */
async function forEach(
  source: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
  use: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  const iterator = source[Symbol.asyncIterator]();
  let leave = () => {};
  const onAbort = () => leave();
  signal.addEventListener('abort', onAbort, { once: true });
  const next = () =>
    new Promise<IteratorResult<Uint8Array>>((resolve, reject) => {
      leave = () => reject(new ServerError('INTERRUPTED', 'The upload was cancelled'));
      if (signal.aborted) leave();
      else iterator.next().then(resolve, reject);
    });
  let done = false;
  try {
    for (let result = await next(); result.done !== true; result = await next()) {
      await use(result.value);
    }
    done = true;
  } finally {
    signal.removeEventListener('abort', onAbort);
    // A source that hangs would never answer; and what it says now is of no interest any more.
    if (!done) void Promise.resolve(iterator.return?.()).catch(() => undefined);
  }
}

interface Writer {
  checkRoom(): Promise<void>;
  push(chunk: Uint8Array): Promise<void>;
  /** Writes what is left and has the disk confirm all of it. */
  end(): Promise<void>;
  /** Resolves when nothing is being written, however that ended. */
  idle(): Promise<void>;
}

function createWriter(
  handle: FileHandle,
  { path, reserve, sync }: Disk & { path: string },
): Writer {
  let batch: Uint8Array[] = [];
  let batched = 0;
  let unsynced = 0;
  let writing: Promise<void> = Promise.resolve();
  let syncing: Promise<void> = Promise.resolve();

  // What the source throws is not ours to translate.
  const failing = <T>(work: Promise<T>): Promise<T> =>
    work.catch((error: unknown) => {
      throw writeError(path, error);
    });
  const checkRoom = () => requireRoom(dirname(path), reserve);
  const flush = async () => {
    const pieces = batch;
    const bytes = batched;
    [batch, batched] = [[], 0];
    await writing;
    writing = handled(failing(writeAll(handle, pieces, bytes)));
    unsynced += bytes;
    if (unsynced < syncBytes) return;
    unsynced = 0;
    await writing;
    await checkRoom();
    await syncing;
    syncing = handled(failing(sync(() => handle.datasync())));
  };
  return {
    checkRoom,
    async push(chunk) {
      if (chunk.length === 0) return;
      batch.push(chunk);
      batched += chunk.length;
      if (batched >= batchBytes) await flush();
    },
    async end() {
      if (batched > 0) await flush();
      await writing;
      await syncing;
      await failing(sync(() => handle.sync()));
    },
    async idle() {
      await Promise.allSettled([writing, syncing]);
    },
  };
}

/** @throws ServerError DISK_FULL where the disk of `folder` has less than `bytes` left; DENIED or IO. */
async function requireRoom(folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder).catch((error: unknown) => {
    throw writeError(folder, error);
  });
  if (bavail * bsize >= bytes) return;
  throw new ServerError('DISK_FULL', 'There is not enough room left on the disk of the images', {
    hint: 'make room, then try again',
  });
}

async function writeAll(
  handle: FileHandle,
  pieces: readonly Uint8Array[],
  length: number,
): Promise<void> {
  const { bytesWritten } = await handle.writev(pieces);
  if (bytesWritten === length) return;
  // A write may end early, for example where the disk is full; then this one tells why.
  await handle.writeFile(Buffer.concat(pieces).subarray(bytesWritten));
}

/** `promise`, whose failure is not unhandled before somebody waits for it. */
function handled(promise: Promise<void>): Promise<void> {
  promise.catch(() => undefined);
  return promise;
}

async function place(path: string, target: string): Promise<boolean> {
  // A rename would replace an empty folder, in which somebody may have begun an upload.
  if (!(await isMissing(target))) return false;
  for (const name of await readdir(path)) await chmod(join(path, name), 0o644);
  await openToAll(path);
  await syncFolder(path);
  // That took a while.
  if (!(await isMissing(target))) return false;
  try {
    await move(path, target);
  } catch (error) {
    if (['EEXIST', 'ENOTEMPTY', 'ENOTDIR'].includes(systemCode(error) ?? '')) return false;
    if (!(await isMissing(target))) await move(target, path);
    throw error;
  }
  return true;
}

/** How often to look whether the clock of the file system has moved on, a millisecond apart. */
const mostTicks = 50;

/**
 * Lets everyone read the folder, later by the clock of the file system than anything in it was changed: by that a
 * scan tells that the folder came whole, and need not wait for it to settle.
 */
async function openToAll(path: string): Promise<void> {
  const files = (await readdir(path)).map((name) => stat(join(path, name), { bigint: true }));
  const changed = (await Promise.all(files)).map(({ ctimeNs }) => ctimeNs);
  for (let tick = 0; tick < mostTicks; tick++) {
    await chmod(path, 0o755);
    const { ctimeNs, mtimeNs } = await stat(path, { bigint: true });
    if ([mtimeNs, ...changed].every((time) => time < ctimeNs)) return;
    await sleep(1);
  }
}

async function move(from: string, to: string): Promise<void> {
  await rename(from, to);
  await syncFolder(dirname(to));
  await syncFolder(dirname(from));
}

function isMissing(path: string): Promise<boolean> {
  return lstat(path).then(
    () => false,
    (error: unknown) => {
      if (systemCode(error) === 'ENOENT') return true;
      throw error;
    },
  );
}
