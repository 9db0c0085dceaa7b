/**
 * Files that several readers want at the same time, each at its own pace: read from the disk once as long as the
 * readers are not far apart, in memory that is bounded whatever their number.
 */
import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ServerError, systemCode, systemText } from '../errors.js';
import { stampOf } from './stamp.js';

export interface SharedFile {
  /** Bytes. */
  size: number;
  /**
   * Gives `length` bytes from `offset`, which nobody may change.
   * @throws ServerError SOURCE_CHANGED where the file has changed since it was opened; IO.
   */
  read(offset: number, length: number): Promise<Buffer>;
  close(): Promise<void>;
}

export interface SharedFiles {
  /**
   * Opens a file by its path below the root; whoever opens one that is open shares it.
   * @throws ServerError SOURCE_CHANGED where it is not there, or no file; IO.
   */
  openSource(path: string): Promise<SharedFile>;
  /** Bytes read from files so far. */
  bytesRead(): number;
}

export interface SharedFilesOptions {
  /** Absolute. */
  root: string;
  /** Bytes that are kept for those who read more slowly, of all files together. Default: 64 MiB. */
  keep?: number;
  /** Bytes that are read at once. Default: 1 MiB. */
  block?: number;
}

/** What is open, or about to be. */
interface Shared {
  opening: Promise<Opened>;
  readers: number;
}

interface Opened {
  handle: FileHandle;
  size: number;
  stamp: string;
}

export function createSharedFiles(options: SharedFilesOptions): SharedFiles {
  const { root, keep = 64 * 2 ** 20, block = 2 ** 20 } = options;
  const files = new Map<string, Shared>();
  const blocks = createBlocks(keep);
  let bytesRead = 0;

  return {
    async openSource(path) {
      const shared = await share(path);
      const opened = await shared.opening;
      let isOpen = true;
      return {
        size: opened.size,
        read: (offset, length) => read(opened, { path, offset, length }),
        async close() {
          if (!isOpen) return;
          isOpen = false;
          await release(shared, path);
        },
      };
    },
    bytesRead: () => bytesRead,
  };

  /** The file at `path` as it is now, open once for all who want it so. */
  async function share(path: string): Promise<Shared> {
    const known = files.get(path);
    if (known !== undefined) {
      known.readers += 1;
      if (await isCurrent(known, path)) return known;
      if (files.get(path) === known) files.delete(path);
      await release(known, path);
      return await share(path);
    }
    const shared = { opening: openShared(path), readers: 1 };
    files.set(path, shared);
    try {
      await shared.opening;
    } catch (error) {
      if (files.get(path) === shared) files.delete(path);
      throw error;
    }
    return shared;
  }

  async function isCurrent({ opening }: Shared, path: string): Promise<boolean> {
    try {
      const { stamp } = await opening;
      return stampOf(await stat(join(root, path), { bigint: true })) === stamp;
    } catch {
      // Whoever opens it anew is told why.
      return false;
    }
  }

  async function openShared(path: string): Promise<Opened> {
    const handle = await openFile(path);
    try {
      const found: BigIntStats = await handle.stat({ bigint: true });
      if (!found.isFile()) throw changed(path);
      return { handle, size: Number(found.size), stamp: stampOf(found) };
    } catch (error) {
      await handle.close();
      throw error instanceof ServerError ? error : readError(path, error);
    }
  }

  async function openFile(path: string): Promise<FileHandle> {
    // What is no file, like a pipe, must not keep us waiting.
    const flags = constants.O_RDONLY | constants.O_NONBLOCK;
    return await open(join(root, path), flags).catch((error: unknown) => {
      if (systemCode(error) === 'ENOENT') throw changed(path, error);
      throw readError(path, error);
    });
  }

  async function release(shared: Shared, path: string): Promise<void> {
    shared.readers -= 1;
    if (shared.readers > 0) return;
    if (files.get(path) === shared) files.delete(path);
    const opened = await shared.opening.catch(() => undefined);
    if (opened === undefined) return;
    blocks.forget(opened);
    await opened.handle.close();
  }

  async function read(
    shared: Opened,
    { path, offset, length }: { path: string; offset: number; length: number },
  ): Promise<Buffer> {
    if (offset + length > shared.size) throw changed(path);
    if (length === 0) return Buffer.alloc(0);
    const first = Math.floor(offset / block);
    const last = Math.floor((offset + length - 1) / block);
    const pieces = await Promise.all(
      Array.from({ length: last - first + 1 }, (_, at) =>
        blocks.get(shared, first + at, () => readBlock(shared, { path, index: first + at })),
      ),
    );
    const start = offset - first * block;
    const whole = pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces);
    return whole.subarray(start, start + length);
  }

  async function readBlock(
    { handle, size, stamp }: Opened,
    { path, index }: { path: string; index: number },
  ): Promise<Buffer> {
    const start = index * block;
    const bytes = Buffer.allocUnsafeSlow(Math.min(block, size - start));
    try {
      for (let done = 0; done < bytes.length; ) {
        const { bytesRead: count } = await handle.read(
          bytes,
          done,
          bytes.length - done,
          start + done,
        );
        if (count === 0) throw changed(path);
        done += count;
        bytesRead += count;
      }
      if (stampOf(await handle.stat({ bigint: true })) !== stamp) throw changed(path);
    } catch (error) {
      throw error instanceof ServerError ? error : readError(path, error);
    }
    return bytes;
  }
}

/** Blocks of files, those used last; what is being read is there for all who ask meanwhile. */
function createBlocks(keep: number): {
  get(file: Opened, index: number, read: () => Promise<Buffer>): Promise<Buffer>;
  forget(file: Opened): void;
} {
  /** Those used last come last. */
  const all = new Map<string, { reading: Promise<Buffer>; size: number; file: Opened }>();
  const numbers = new WeakMap<Opened, number>();
  let files = 0;
  let held = 0;
  const drop = (key: string) => {
    held -= all.get(key)?.size ?? 0;
    all.delete(key);
  };
  return {
    get(file, index, read) {
      const number = numbers.get(file) ?? ++files;
      numbers.set(file, number);
      const key = `${number} ${index}`;
      const known = all.get(key);
      if (known !== undefined) {
        all.delete(key);
        all.set(key, known);
        return known.reading;
      }
      const entry = { reading: read(), size: 0, file };
      all.set(key, entry);
      entry.reading.then(
        (bytes) => {
          if (all.get(key) !== entry) return;
          entry.size = bytes.length;
          held += bytes.length;
          for (const [oldest, { size }] of all) {
            if (held <= keep) break;
            if (size > 0) drop(oldest);
          }
        },
        () => {
          if (all.get(key) === entry) drop(key);
        },
      );
      return entry.reading;
    },
    forget(file) {
      for (const [key, entry] of all) if (entry.file === file) drop(key);
    },
  };
}

function changed(path: string, cause?: unknown): ServerError {
  return new ServerError('SOURCE_CHANGED', `${path} is not what was published any more`, {
    hint: 'it is sent when the next update has read it',
    cause,
  });
}

function readError(path: string, error: unknown): ServerError {
  return new ServerError('IO', `Cannot read ${path}: ${systemText(error)}`, {
    hint: 'see to the disk and the permissions',
    cause: error,
  });
}
