/** Files written so that a reader, and a crash at any moment, sees the old content or the new, never a mixture. */
import { randomBytes } from 'node:crypto';
import {
  chmod,
  constants,
  type FileHandle,
  lchown,
  lstat,
  mkdir,
  open,
  readdir,
  rename,
  stat,
  unlink,
} from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ServerError, systemCode, systemText } from '../errors.js';
import { stampOf } from './stamp.js';

/** A file that is complete and on the disk under a temporary name. */
export interface StagedFile {
  /** By which a scan will know it. */
  stamp: string;
  /** Gives it its name. The folder is not synced: see {@link syncFolder}. */
  commit(): Promise<void>;
  /** Removes it. */
  discard(): Promise<void>;
}

export interface StageOptions {
  /** Permissions. Default: 0o644. */
  mode?: number;
}

/**
 * Writes `content`, piece by piece, to a temporary, hidden name beside `path`, and has the disk confirm it.
 * Root leaves it to the owner of the folder, as everything that is made here: the daemon may be another user.
 *
 * @throws ServerError DISK_FULL, DENIED or IO; then nothing is left behind.
 */
export async function stageFile(
  path: string,
  content: readonly Uint8Array[],
  { mode = 0o644 }: StageOptions = {},
): Promise<StagedFile> {
  const temporary = join(dirname(path), temporaryName(basename(path)));
  const discard = () => removeIfThere(temporary);
  const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
  const handle = await open(temporary, flags, mode).catch((error: unknown) => {
    throw writeError(path, error);
  });
  let stamp = '';
  try {
    await withHandle(handle, async () => {
      await writeAll(handle, content);
      // Whatever the umask: what is published is for the web server to read.
      await handle.chmod(mode);
      await leaveToOwner(temporary, handle);
      await handle.sync();
      stamp = stampOf(await handle.stat({ bigint: true }));
    });
  } catch (error) {
    await discard();
    throw writeError(path, error);
  }
  const commit = () =>
    rename(temporary, path).catch(async (error: unknown) => {
      await discard();
      throw writeError(path, error);
    });
  return { stamp, commit, discard };
}

/**
 * Root leaves what it has just made at `path` to the owner of its folder: the daemon, which may be another user,
 * has to work there. For everyone else it belongs to whom it should.
 *
 * @param handle of a file that is open: then nobody can put another in its place meanwhile.
 * @throws the system error.
 */
export async function leaveToOwner(path: string, handle?: FileHandle): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = await stat(dirname(path));
  const made = await (handle?.stat() ?? lstat(path));
  if (made.uid === uid && made.gid === gid) return;
  await (handle?.chown(uid, gid) ?? lchown(path, uid, gid));
}

async function writeAll(handle: FileHandle, pieces: readonly Uint8Array[]): Promise<void> {
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const { bytesWritten } = await handle.writev(pieces);
  if (bytesWritten === length) return;
  // A write may end early, for example where the disk is full; then this one tells why.
  const rest = Buffer.concat(pieces).subarray(bytesWritten);
  await handle.writeFile(rest);
}

/** {@link stageFile}, then its name, then the folder: when this returns, the new content survives a crash. */
export async function writeFileAtomically(
  path: string,
  content: readonly Uint8Array[],
  options: StageOptions = {},
): Promise<void> {
  const staged = await stageFile(path, content, options);
  await staged.commit();
  await syncFolder(dirname(path));
}

/** Has the disk confirm the names in `folder`. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  await withHandle(handle, () => handle.sync());
}

/** Makes `folder` and what is missing above it, with `mode` whatever the umask. @throws ServerError as {@link stageFile}. */
export async function makeFolder(folder: string, mode = 0o755): Promise<void> {
  try {
    const first = await mkdir(folder, { recursive: true, mode });
    if (first === undefined) return;
    const made: string[] = [];
    for (let each = folder; each.length >= first.length; each = dirname(each)) made.unshift(each);
    for (const each of made) {
      await leaveToOwner(each);
      await chmod(each, mode);
    }
  } catch (error) {
    throw writeError(folder, error);
  }
}

/**
 * Removes what {@link stageFile} has left of files called `names` in `folder` where it was killed. Whoever
 * still writes one of them would lose it.
 */
export async function removeTemporaries(folder: string, names: readonly string[]): Promise<void> {
  for (const entry of await readdir(folder)) {
    if (names.some((name) => isTemporaryOf(name, entry))) await removeIfThere(join(folder, entry));
  }
}

/** Removes a file that may be gone already. */
export async function removeIfThere(path: string): Promise<void> {
  await unlink(path).catch(ignoreMissing);
}

/** The pattern of names that {@link stageFile} gives: `.images.json.a1b2c3`. */
function isTemporaryOf(name: string, candidate: string): boolean {
  return (
    candidate.startsWith(`.${name}.`) && /^[0-9a-f]{6}$/.test(candidate.slice(name.length + 2))
  );
}

function temporaryName(name: string): string {
  return `.${name}.${randomBytes(3).toString('hex')}`;
}

async function withHandle(handle: FileHandle, use: () => Promise<void>): Promise<void> {
  try {
    await use();
  } finally {
    await handle.close();
  }
}

function ignoreMissing(error: unknown): void {
  if (systemCode(error) !== 'ENOENT') throw error;
}

/** `error`, which came while `path` was written, as one of ours. */
export function writeError(path: string, error: unknown): ServerError {
  if (error instanceof ServerError) return error;
  const message = `Cannot write ${path}: ${systemText(error)}`;
  switch (systemCode(error)) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new ServerError('DISK_FULL', message, {
        hint: 'make room, then try again',
        cause: error,
      });
    case 'EACCES':
    case 'EPERM':
      return new ServerError('DENIED', message, {
        hint: 'run the command as the user who owns the folder, or as root',
        cause: error,
      });
    case 'EROFS':
      return new ServerError('DENIED', message, {
        hint: 'mount it for writing; the kernel log may tell why it is read-only',
        cause: error,
      });
    default:
      return new ServerError('IO', message, { hint: 'see to the disk and the path', cause: error });
  }
}
