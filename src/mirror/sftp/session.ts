/** What all operations on an SFTP mirror are made of: requests, open files, and what a refusal means. */
import type { SFTPWrapper, Stats } from 'ssh2';
import { ServerError } from '../../errors.js';
import type { Answer, Connection } from '../connection.js';
import type { Connections } from '../connections.js';
import type { EntryKind, MirrorEntry, MirrorSpace } from '../mirror.js';
import { remotePath } from '../paths.js';
import { refused, status, statusOf } from '../problems.js';

/** Files that everyone may read, the web server above all. */
export const fileMode = 0o644;
export const folderMode = 0o755;

/** A file or folder, open on one connection. */
export interface OpenFile {
  connection: Connection;
  handle: Buffer;
}

/** What is being done, for the message of an error. */
export interface Deed {
  /** `write`, `list` */
  verb: string;
  /** As the far side knows it. */
  path: string;
  /** Content is written to a file that is open: a failure that says nothing is a quota. Default: no. */
  writing?: boolean;
  /** The far side may be busy with it for long. Default: no. */
  slow?: boolean;
}

/** How a file is opened: to read, to go on writing, to write anew, or to write where nothing is. */
export type OpenFlags = 'r' | 'r+' | 'w' | 'wx';

export interface SessionOptions {
  /** The mirror's name, for errors. */
  name: string;
  user: string;
  /** Absolute, as the account sees it. */
  root: string;
  connections: Connections;
}

export type Session = ReturnType<typeof createSession>;

/** Requests to the mirror `name`, below its root. */
export function createSession(options: SessionOptions) {
  const { name, user, root, connections } = options;
  /** Whether the root is there, as each connection has found or is about to. */
  const roots = new WeakMap<Connection, Promise<void>>();
  return {
    /** Whether what is made gets the mode that it is made with, as far as somebody has looked. */
    modes: { areKept: false },
    take,
    more: connections.more,
    at: (path: string) => remotePath(root, path),
    ask,
    explain,
    lookAt,
    openFile,
    space,
    inTheWay,
    damaged,
    checkRoot,
    needRoot,
  };

  /** A connection, unless `signal` has aborted by then: what nobody waits for any more must not be begun. */
  async function take(signal?: AbortSignal): Promise<Connection> {
    const connection = await connections.take();
    signal?.throwIfAborted();
    return connection;
  }

  /** Sends a request; rejects with an error of ours where it is refused. */
  async function ask<T = void>(
    connection: Connection,
    request: (sftp: SFTPWrapper, answer: Answer<T>) => void,
    deed: Deed,
  ): Promise<T> {
    try {
      return await connection.call<T>(request, { slow: deed.slow ?? false });
    } catch (error) {
      throw await explain(connection, error, deed);
    }
  }

  /** The error of ours for what a request met with; asks the far side where that does not say enough. */
  async function explain(connection: Connection, cause: unknown, deed: Deed): Promise<Error> {
    const code = statusOf(cause);
    if (code === undefined) return cause as Error;
    const { verb, path, writing = false } = deed;
    const what = { mirror: name, verb, path };
    if (code === status.noSuchFile) {
      const problem = await needRoot(connection).catch((error: Error) => error);
      if (problem !== undefined) return problem;
    }
    if (code !== status.failure) return refused(what, { cause });
    try {
      const { free, freeFiles, readOnly = false } = (await space(connection)) ?? {};
      return refused(what, { cause, circumstances: { free, freeFiles, readOnly, writing } });
    } catch (error) {
      return error as Error;
    }
  }

  async function lookAt(connection: Connection, remote: string): Promise<MirrorEntry | undefined> {
    const deed = { verb: 'look at', path: remote };
    const found = await orMissing(
      ask<Stats>(connection, (sftp, answer) => sftp.stat(remote, answer), deed),
    );
    return found && entryOf(found);
  }

  async function openFile(
    connection: Connection,
    { remote, flags, verb }: { remote: string; flags: OpenFlags; verb: string },
  ): Promise<OpenFile> {
    if (remote === root) await needRoot(connection);
    try {
      const handle = await connection.call<Buffer>((sftp, answer) =>
        sftp.open(remote, flags, fileMode, answer),
      );
      return { connection, handle };
    } catch (error) {
      const isFolder = async () => (await lookAt(connection, remote))?.kind === 'folder';
      if (statusOf(error) === status.failure && (await isFolder())) {
        throw inTheWay(remote, 'file', error);
      }
      throw await explain(connection, error, { verb, path: remote });
    }
  }

  /** How much room there is, where the mirror tells. */
  async function space(connection: Connection): Promise<MirrorSpace | undefined> {
    if (!offers(connection, 'statvfs@openssh.com', '2')) return undefined;
    const deed = { verb: 'look at', path: root };
    const found = await ask<StatVfs>(
      connection,
      (sftp, answer) => sftp.ext_openssh_statvfs(root, answer),
      deed,
    );
    return {
      free: found.f_bavail * found.f_frsize,
      freeFiles: found.f_files === 0 ? undefined : found.f_favail,
      readOnly: (found.f_flag & 1) !== 0,
    };
  }

  /** {@link checkRoot}, of which the answer is kept where it is there: then what is missing is not all there is. */
  function needRoot(connection: Connection): Promise<void> {
    const known = roots.get(connection);
    if (known !== undefined) return known;
    const check = checkRoot(connection);
    roots.set(connection, check);
    check.catch(() => roots.delete(connection));
    return check;
  }

  /** @throws ServerError MIRROR_DENIED where the root is no folder */
  async function checkRoot(connection: Connection): Promise<void> {
    const found = await connection
      .call<Stats>((sftp, answer) => sftp.stat(root, answer))
      .catch(async (error: unknown) => {
        if (statusOf(error) === status.noSuchFile) throw noRoot(error);
        throw await explain(connection, error, { verb: 'look at', path: root });
      });
    if (!found.isDirectory()) throw noRoot(undefined);
  }

  function noRoot(cause: unknown): ServerError {
    return new ServerError('MIRROR_DENIED', `Mirror ${name}: there is no folder ${root}`, {
      hint: `make it there and let ${user} own it, or set root to where the account sees it`,
      cause,
    });
  }

  /** What stands at `remote` is not what is `wanted`. */
  function inTheWay(remote: string, wanted: 'file' | 'folder', cause: unknown): ServerError {
    if (remote === root) return noRoot(cause);
    return damaged(`${remote} is not a ${wanted}`, { hint: 'remove what stands there', cause });
  }

  function damaged(text: string, why: { hint: string; cause?: unknown }): ServerError {
    return new ServerError('MIRROR_DAMAGED', `Mirror ${name}: ${text}`, why);
  }
}

interface StatVfs {
  f_bavail: number;
  f_frsize: number;
  f_files: number;
  f_favail: number;
  f_flag: number;
}

/** Whether the server has this version of an extension, by its name in OpenSSH's PROTOCOL file. */
export function offers({ extensions }: Connection, extension: string, version: string): boolean {
  return extensions[extension] === version;
}

/** Calls `use`, and closes the file after it. */
export async function withFile<T>(file: OpenFile, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } finally {
    closeFile(file);
  }
}

/** Nothing waits for it: what matters was answered before. It ends with its connection at the latest. */
export function closeFile({ connection, handle }: OpenFile): void {
  connection.begin(
    (sftp, answer) => sftp.close(handle, answer),
    () => {},
  );
}

/** For requests whose refusal does not matter: only a lost connection does. */
export function unlessRefused(error: unknown): void {
  if (statusOf(error) === undefined) throw error;
}

/** `undefined` in place of MIRROR_MISSING. */
export async function orMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof ServerError && error.code === 'MIRROR_MISSING') return undefined;
    throw error;
  }
}

export function entryOf(stats: Stats): MirrorEntry {
  return { kind: kindOf(stats), size: stats.size ?? 0, mtime: stats.mtime ?? 0 };
}

function kindOf(stats: Stats): EntryKind {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'folder';
  return stats.isSymbolicLink() ? 'link' : 'other';
}
