/**
 * Where a socket lies in the file system: it has its mode when it gets its name, replaces one that nobody listens at
 * any more, and takes away no other than its own.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, link, lstat, mkdir, rename, rm, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { ServerError, systemCode, systemText } from '../errors.js';

/** What the system takes as the path of a socket (unix(7)), without the closing zero. */
export const mostPathBytes = 107;

/** Where nginx finds the daemon with this folder. */
export const localPath = (runDir: string) => join(runDir, 'http.sock');

/** A socket that was put in place. */
export interface SocketPlace {
  /** Removes it, unless another process's stands there by now. @throws ServerError DENIED or IO */
  remove(): Promise<void>;
}

/** Has a server listen at a path. */
type Listen = (path: string) => Promise<unknown>;

/**
 * Has `listen` listen at `path`, mode 0660; makes the folder where it is missing.
 *
 * @param options.owned is given the socket before it gets its name, to make it somebody's.
 * @throws ServerError BUSY where another process answers there, CONFIG for a path that is too long, DENIED or IO
 */
export async function listenAtSocket(
  path: string,
  listen: Listen,
  { owned = async () => {} }: { owned?: (path: string) => Promise<void> } = {},
): Promise<SocketPlace> {
  if (Buffer.byteLength(path) > mostPathBytes) throw tooLong(path);
  try {
    const inode = await makeSocket(path, listen, owned);
    return { remove: () => removeOwn(path, inode) };
  } catch (error) {
    throw error instanceof ServerError ? error : listenError(path, error);
  }
}

/**
 * The socket gets its name when it has its mode already: it is made in a folder that nobody else may enter.
 * @returns its inode.
 */
async function makeSocket(
  path: string,
  listen: Listen,
  owned: (path: string) => Promise<void>,
): Promise<number> {
  const runDir = dirname(path);
  await mkdir(runDir, { recursive: true, mode: 0o755 });
  // Shorter than the name of any socket, for its path must not become longer.
  const folder = join(runDir, `.c${randomBytes(3).toString('base64url')}`);
  await mkdir(folder, { mode: 0o700 });
  const made = join(folder, 's');
  try {
    await listen(made);
    await owned(made);
    await chmod(made, 0o660);
    await linkInPlace(made, { path, aside: join(folder, 'o') });
    return (await lstat(made)).ino;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Gives the socket `made` its name. Of two that try at once, one succeeds. */
async function linkInPlace(
  made: string,
  { path, aside }: { path: string; aside: string },
): Promise<void> {
  for (let attempt = 0; attempt < 10; attempt++) {
    try {
      return await link(made, path);
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error;
    }
    const found = await whatIs(path);
    if (found === 'other') throw inTheWay(path);
    if (found === 'living') break;
    if (found === 'stale') await removeStale(path, aside);
  }
  throw new ServerError('BUSY', `Another daemon listens at ${path}`, {
    hint: 'stop it first, or set paths.run to a folder of its own',
  });
}

async function whatIs(path: string): Promise<'living' | 'stale' | 'other' | 'nothing'> {
  try {
    if (!(await lstat(path)).isSocket()) return 'other';
    return (await isAlive(path)) ? 'living' : 'stale';
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 'nothing';
    throw error;
  }
}

/** Takes a stale socket away; one that has come to life in its place meanwhile gets its name back. */
async function removeStale(path: string, aside: string): Promise<void> {
  try {
    await rename(path, aside);
  } catch (error) {
    // Another process was faster.
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  if (await isAlive(aside)) await link(aside, path);
  await unlink(aside);
}

/** Whether a process listens there, be it that it does not answer. */
async function isAlive(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch (error) {
    if (['ECONNREFUSED', 'ENOENT'].includes(systemCode(error) ?? '')) return false;
    // Its queue is full: there is one.
    if (systemCode(error) === 'EAGAIN') return true;
    throw error;
  } finally {
    socket.destroy();
  }
}

function tooLong(path: string): ServerError {
  const message = `The path of a socket is too long: ${path} has ${Buffer.byteLength(path)} bytes, ${mostPathBytes} are the most`;
  return new ServerError('CONFIG', message, { hint: 'set paths.run to a shorter path' });
}

function inTheWay(path: string): ServerError {
  return new ServerError('IO', `Cannot listen at ${path}: what is there is no socket`, {
    hint: 'move it away, or set paths.run to another folder',
  });
}

function listenError(path: string, cause: unknown): ServerError {
  const denied = ['EACCES', 'EPERM', 'EROFS'].includes(systemCode(cause) ?? '');
  return new ServerError(
    denied ? 'DENIED' : 'IO',
    `Cannot listen at ${path}: ${systemText(cause)}`,
    { hint: 'set paths.run to a folder that this user may write', cause },
  );
}

/** Removes the socket, unless another daemon's stands there by now. */
async function removeOwn(path: string, inode: number): Promise<void> {
  try {
    if ((await lstat(path)).ino === inode) await unlink(path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw listenError(path, error);
  }
}
