/**
 * Opens files of the tree for reading, such that no link and no race leads out of it.
 */
import { constants } from 'node:fs';
import { type FileHandle, open, readlink, realpath } from 'node:fs/promises';
import { join, relative, sep } from 'node:path';
import { systemCode } from '../errors.js';

/** An open regular file; whoever gets it closes the handle. */
export interface OpenFile {
  handle: FileHandle;
  /** Bytes. */
  size: number;
  modified: Date;
}

const notThere = new Set([
  'ENOENT',
  'ENOTDIR',
  'ELOOP',
  'ENAMETOOLONG',
  'EISDIR',
  'ENXIO',
  'ENODEV',
]);
const flags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/**
 * Opens `path` below `dir`. The descriptor is opened first and then asked where it really lies,
 * so that swapping a folder for a link in between changes nothing.
 *
 * @param dir absolute; may itself be reached by links
 * @returns `undefined` for what is not there, not a regular file, hidden, or outside of `dir`
 * @throws the system error where the file is there but cannot be opened
 */
export async function openInside(dir: string, path: string): Promise<OpenFile | undefined> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(join(dir, path), flags);
    const file = await describe(handle, { dir, path });
    if (file === undefined) await handle.close();
    return file;
  } catch (error) {
    await handle?.close();
    if (notThere.has(systemCode(error) ?? '')) return undefined;
    throw error;
  }
}

async function describe(
  handle: FileHandle,
  { dir, path }: { dir: string; path: string },
): Promise<OpenFile | undefined> {
  const found = await handle.stat();
  if (!found.isFile()) return undefined;
  const [realDir, realFile] = await Promise.all([realpath(dir), truePath(handle, join(dir, path))]);
  if (!isVisibleBelow(realDir, realFile)) return undefined;
  return { handle, size: found.size, modified: found.mtime };
}

/** Where the open file lies; only Linux knows it of the descriptor itself. */
function truePath(handle: FileHandle, path: string): Promise<string> {
  return process.platform === 'linux' ? readlink(`/proc/self/fd/${handle.fd}`) : realpath(path);
}

/** `..`, as the way out of `dir`, is a dot name too. */
function isVisibleBelow(dir: string, file: string): boolean {
  return relative(dir, file)
    .split(sep)
    .every((segment) => segment !== '' && !segment.startsWith('.'));
}
