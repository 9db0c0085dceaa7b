/**
 * One session of the SFTP server for development (draft-ietf-secsh-filexfer-02): requests about the files below a
 * folder, done in the order in which they come.
 */
import { constants, type Dir, type Stats } from 'node:fs';
import {
  chmod,
  type FileHandle,
  lstat,
  mkdir,
  open,
  opendir,
  rename,
  rmdir,
  stat,
  truncate,
  unlink,
  utimes,
} from 'node:fs/promises';
import { join, posix } from 'node:path';
import ssh2, { type Attributes, type FileEntry, type SFTPWrapper } from 'ssh2';
import { systemCode } from '../../src/errors.js';
import { confine } from './confined-paths.js';

export interface SessionOptions {
  /** The folder that the client sees as `/`, without symbolic links in its path. */
  root: string;
  /** Called when there are many requests to answer, and when few are left. */
  wait(): void;
  goOn(): void;
}

export interface Session {
  /** Ends it after the request under way. */
  end(): void;
  /** Resolves when it has ended and all its files are closed. */
  ended: Promise<void>;
}

const { STATUS_CODE: status, OPEN_MODE: mode } = ssh2.utils.sftp;

/** Files and folders open at once. */
const mostHandles = 1000;
/** The longest answer to one request to read, in bytes. */
const mostBytes = 256 * 1024;
/** Entries in one answer to a request to list. */
const entriesAtOnce = 100;
/** Requests that wait before no more are taken in. */
const mostWaiting = 256;

/** What is answered where a request cannot be done. */
class Refusal extends Error {
  readonly status: number;

  constructor(code: number, message: string) {
    super(message);
    this.status = code;
  }
}

type Request = (id: number, ...parts: never[]) => Promise<void>;

export function serveFiles(sftp: SFTPWrapper, { root, wait, goOn }: SessionOptions): Session {
  const paths = confine(root);
  const handles = new Map<string, FileHandle | Dir>();
  const queue: (() => Promise<void>)[] = [];
  let isOver = false;
  let wake = () => {};
  let lastHandle = 0;

  const requests: Record<string, Request> = {
    async OPEN(id: number, path: string, flags: number, { mode: wanted = 0o666 }: Attributes) {
      const may = flags & mode.CREAT ? paths.target : paths.existing;
      const place = await may(path);
      sftp.handle(id, await keep(() => open(place, openFlags(flags), wanted & 0o777)));
    },
    async CLOSE(id: number, handle: Buffer) {
      const closing = handleOf(handle);
      handles.delete(handle.toString());
      await closing.close();
      done(id);
    },
    async READ(id: number, handle: Buffer, offset: number, length: number) {
      const bytes = Buffer.allocUnsafe(Math.min(length, mostBytes));
      const { bytesRead } = await fileOf(handle).read(bytes, 0, bytes.length, offset);
      if (bytesRead === 0) throw new Refusal(status.EOF, 'End of file');
      sftp.data(id, bytes.subarray(0, bytesRead));
    },
    async WRITE(id: number, handle: Buffer, offset: number, bytes: Buffer) {
      const file = fileOf(handle);
      for (let written = 0; written < bytes.length; ) {
        const left = bytes.length - written;
        written += (await file.write(bytes, written, left, offset + written)).bytesWritten;
      }
      done(id);
    },
    async STAT(id: number, path: string) {
      sftp.attrs(id, attributesOf(await stat(await paths.existing(path))));
    },
    async LSTAT(id: number, path: string) {
      sftp.attrs(id, attributesOf(await lstat(await paths.entry(path))));
    },
    async FSTAT(id: number, handle: Buffer) {
      sftp.attrs(id, attributesOf(await fileOf(handle).stat()));
    },
    async SETSTAT(id: number, path: string, attributes: Partial<Attributes>) {
      const place = await paths.existing(path);
      await change(attributes, {
        truncate: (size) => truncate(place, size),
        chmod: (bits) => chmod(place, bits),
        utimes: (atime, mtime) => utimes(place, atime, mtime),
      });
      done(id);
    },
    async FSETSTAT(id: number, handle: Buffer, attributes: Partial<Attributes>) {
      await change(attributes, fileOf(handle));
      done(id);
    },
    async OPENDIR(id: number, path: string) {
      const place = await paths.existing(path);
      sftp.handle(id, await keep(() => opendir(place)));
    },
    async READDIR(id: number, handle: Buffer) {
      const folder = folderOf(handle);
      const entries: FileEntry[] = [];
      while (entries.length < entriesAtOnce) {
        const entry = await folder.read();
        if (entry === null) break;
        const found = await lstat(join(folder.path, entry.name)).catch(ifGone);
        if (found !== undefined) entries.push(listed(entry.name, found));
      }
      if (entries.length === 0) throw new Refusal(status.EOF, 'No more entries');
      sftp.name(id, entries);
    },
    async MKDIR(id: number, path: string, { mode: wanted = 0o777 }: Partial<Attributes>) {
      await mkdir(await paths.entry(path), wanted & 0o777);
      done(id);
    },
    async RMDIR(id: number, path: string) {
      await rmdir(await paths.entry(path));
      done(id);
    },
    async REMOVE(id: number, path: string) {
      await unlink(await paths.entry(path));
      done(id);
    },
    async RENAME(id: number, from: string, to: string) {
      const [old, next] = [await paths.entry(from), await paths.entry(to)];
      // The draft has it so. Two sessions that rename to the same path at the same moment are not kept apart.
      if ((await lstat(next).catch(ifGone)) !== undefined) {
        throw new Refusal(status.FAILURE, 'There is such a file');
      }
      await rename(old, next);
      done(id);
    },
    async REALPATH(id: number, path: string) {
      const filename = posix.resolve('/', path);
      // No attributes, which the types do not know.
      sftp.name(id, [{ filename, longname: filename } as FileEntry]);
    },
  };

  for (const [name, request] of Object.entries(requests)) {
    sftp.on(name, (id: number, ...parts: unknown[]) => {
      add(() => request(id, ...(parts as never[])).catch((error: unknown) => refuse(id, error)));
    });
  }
  // What does not keep to the protocol ends the session.
  sftp.on('error', end);
  sftp.on('end', end);
  sftp.on('close', end);
  return { end, ended: work() };

  function add(task: () => Promise<void>): void {
    if (isOver) return;
    queue.push(task);
    if (queue.length === mostWaiting) wait();
    wake();
  }

  function end(): void {
    isOver = true;
    wake();
  }

  async function work(): Promise<void> {
    while (!isOver) {
      const task = queue.shift();
      if (task === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      await task();
      if (queue.length === mostWaiting / 2) goOn();
    }
    await Promise.all([...handles.values()].map((handle) => handle.close()));
    sftp.end();
    // The end of the connection has to be heard of.
    goOn();
  }

  function done(id: number): void {
    sftp.status(id, status.OK);
  }

  function refuse(id: number, error: unknown): void {
    const message = error instanceof Error ? error.message : '';
    const code = error instanceof Refusal ? error.status : statusFor(systemCode(error));
    sftp.status(id, code, message);
  }

  async function keep(opening: () => Promise<FileHandle | Dir>): Promise<Buffer> {
    if (handles.size >= mostHandles) throw new Refusal(status.FAILURE, 'Too many open files');
    const opened = await opening();
    lastHandle += 1;
    handles.set(String(lastHandle), opened);
    return Buffer.from(String(lastHandle));
  }

  function handleOf(handle: Buffer): FileHandle | Dir {
    const found = handles.get(handle.toString());
    if (found === undefined) throw new Refusal(status.FAILURE, 'No such handle');
    return found;
  }

  function fileOf(handle: Buffer): FileHandle {
    const found = handleOf(handle);
    if (!('fd' in found)) throw new Refusal(status.FAILURE, 'Not a file');
    return found;
  }

  function folderOf(handle: Buffer): Dir {
    const found = handleOf(handle);
    if ('fd' in found) throw new Refusal(status.FAILURE, 'Not a folder');
    return found;
  }
}

/** What can be changed of a file, whether it is open or not. */
interface Changeable {
  truncate(size: number): Promise<void>;
  chmod(mode: number): Promise<void>;
  utimes(atime: number, mtime: number): Promise<void>;
}

async function change(
  { size, mode: bits, atime, mtime, uid }: Partial<Attributes>,
  file: Changeable,
): Promise<void> {
  if (uid !== undefined) throw new Refusal(status.PERMISSION_DENIED, 'Owners stay as they are');
  if (size !== undefined) await file.truncate(size);
  if (bits !== undefined) await file.chmod(bits & 0o777);
  if (atime !== undefined && mtime !== undefined) await file.utimes(atime, mtime);
}

function openFlags(flags: number): number {
  const { O_RDONLY, O_WRONLY, O_RDWR, O_APPEND, O_CREAT, O_TRUNC, O_EXCL } = constants;
  const writes = (flags & mode.WRITE) !== 0;
  const reads = (flags & mode.READ) !== 0;
  // Neither through a link that was put there meanwhile, nor waiting for the other end of a pipe.
  let result = constants.O_NOFOLLOW | constants.O_NONBLOCK;
  result |= writes ? (reads ? O_RDWR : O_WRONLY) : O_RDONLY;
  if (flags & mode.APPEND) result |= O_APPEND;
  if (flags & mode.CREAT) result |= O_CREAT;
  if (flags & mode.TRUNC) result |= O_TRUNC;
  if (flags & mode.EXCL) result |= O_EXCL;
  return result;
}

function attributesOf({ mode: bits, uid, gid, size, atimeMs, mtimeMs }: Stats): Attributes {
  const [atime, mtime] = [Math.floor(atimeMs / 1000), Math.floor(mtimeMs / 1000)];
  return { mode: bits, uid, gid, size, atime, mtime };
}

function listed(filename: string, found: Stats): FileEntry {
  const kind = found.isDirectory() ? 'd' : found.isSymbolicLink() ? 'l' : '-';
  const rights = (found.mode & 0o777).toString(8);
  const longname = `${kind}${rights} ${found.size} ${found.mtime.toISOString()} ${filename}`;
  return { filename, longname, attrs: attributesOf(found) };
}

/** For a file that has gone since its name was read: nothing. */
function ifGone(error: unknown): undefined {
  if (systemCode(error) !== 'ENOENT') throw error;
}

function statusFor(code: string | undefined): number {
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return status.NO_SUCH_FILE;
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return status.PERMISSION_DENIED;
    case 'ENAMETOOLONG':
    case 'ERR_INVALID_ARG_VALUE':
      return status.BAD_MESSAGE;
    default:
      return status.FAILURE;
  }
}
