/** Lists, makes and removes folders on an SFTP mirror. */
import type { FileEntryWithStats, Stats } from 'ssh2';
import type { Connection } from '../connection.js';
import type { ListedEntry, Mirror, MirrorOptions } from '../mirror.js';
import { folderOf } from '../paths.js';
import { status, statusOf } from '../problems.js';
import {
  entryOf,
  folderMode,
  type OpenFile,
  type Session,
  unlessRefused,
  withFile,
} from './session.js';

/** Requests at once for what is in a folder: at first, and where there is more and more. */
const fewRequests = 2;
const manyRequests = 32;

export function createFolders(session: Session) {
  return { list, makeFolder, removeFolder } satisfies Partial<Mirror>;

  async function list(
    path: string,
    { signal }: MirrorOptions = {},
  ): Promise<ListedEntry[] | undefined> {
    const remote = session.at(path);
    const connection = await session.take(signal);
    const handle = await connection
      .call<Buffer>((sftp, answer) => sftp.opendir(remote, answer))
      .catch(async (error: unknown) => {
        // Some servers say of a file that there is no such folder.
        const found = await session.lookAt(connection, remote);
        if (found === undefined) return undefined;
        if (found.kind !== 'folder') throw session.inTheWay(remote, 'folder', error);
        throw await session.explain(connection, error, { verb: 'list', path: remote });
      });
    if (handle === undefined) return undefined;
    const folder = { connection, handle };
    return await withFile(folder, () => readEntries(folder, { remote, signal }));
  }

  /** Asks for more and more at once, until one request finds the end. */
  async function readEntries(
    { connection, handle }: OpenFile,
    { remote, signal }: { remote: string; signal: AbortSignal | undefined },
  ): Promise<ListedEntry[]> {
    const entries: ListedEntry[] = [];
    for (let atOnce = fewRequests; ; atOnce = Math.min(atOnce * 2, manyRequests)) {
      signal?.throwIfAborted();
      const asked = Array.from({ length: atOnce }, () =>
        connection
          .call<FileEntryWithStats[]>((sftp, answer) => sftp.readdir(handle, answer))
          .catch(async (error: unknown) => {
            if (statusOf(error) === status.eof) return undefined;
            throw await session.explain(connection, error, { verb: 'list', path: remote });
          }),
      );
      const answers = await Promise.all(asked);
      for (const { filename, attrs } of answers.flatMap((answer) => answer ?? [])) {
        if (filename === '.' || filename === '..') continue;
        entries.push({ name: filename, ...entryOf(attrs) });
      }
      if (answers.includes(undefined)) return entries;
    }
  }

  async function makeFolder(path: string, { signal }: MirrorOptions = {}): Promise<void> {
    signal?.throwIfAborted();
    const remote = session.at(path);
    const connection = await session.take(signal);
    if (path === '') return await session.checkRoot(connection);
    const made = await make(connection, remote).then(
      () => [remote],
      async (error: unknown) => {
        const isOrphan = statusOf(error) === status.noSuchFile && folderOf(path) !== '';
        if (isOrphan) return await makeAll(connection, path);
        await acceptFolder(connection, { remote, error });
        return [];
      },
    );
    await Promise.all(made.map((folder) => openToAll(connection, folder)));
  }

  function make(connection: Connection, remote: string): Promise<void> {
    return connection.call((sftp, answer) => sftp.mkdir(remote, { mode: folderMode }, answer));
  }

  /** Makes a folder and those above it: in one go first, for servers do one request after the other. @returns what was made */
  async function makeAll(connection: Connection, path: string): Promise<string[]> {
    const parts = path.split('/');
    const all = parts.map((_part, index) => session.at(parts.slice(0, index + 1).join('/')));
    const answers = await Promise.allSettled(all.map((remote) => make(connection, remote)));
    const made = all.filter((_remote, index) => answers[index]?.status === 'fulfilled');
    for (const remote of all.slice(all.indexOf(made.at(-1) ?? '') + 1)) {
      const isNew = await make(connection, remote).then(
        () => true,
        async (error: unknown) => {
          await acceptFolder(connection, { remote, error });
          return false;
        },
      );
      if (isNew) made.push(remote);
    }
    return made;
  }

  /** As with files, the umask there may be narrower, and an account that may not say so has its reasons. */
  async function openToAll(connection: Connection, remote: string): Promise<void> {
    if (session.modes.areKept) return;
    const found = await connection
      .call<Stats>((sftp, answer) => sftp.stat(remote, answer))
      .catch(unlessRefused);
    if (found !== undefined && (found.mode & 0o777) === folderMode) {
      session.modes.areKept = true;
      return;
    }
    await connection
      .call((sftp, answer) => sftp.setstat(remote, { mode: folderMode }, answer))
      .catch(unlessRefused);
  }

  /** A folder that could not be made may be there. */
  async function acceptFolder(
    connection: Connection,
    { remote, error }: { remote: string; error: unknown },
  ): Promise<void> {
    if (statusOf(error) === undefined) throw error;
    const found = await session.lookAt(connection, remote);
    if (found?.kind === 'folder') return;
    if (found !== undefined) throw session.inTheWay(remote, 'folder', error);
    throw await session.explain(connection, error, { verb: 'make the folder', path: remote });
  }

  async function removeFolder(path: string, { signal }: MirrorOptions = {}): Promise<boolean> {
    const remote = session.at(path);
    const connection = await session.take(signal);
    try {
      await connection.call((sftp, answer) => sftp.rmdir(remote, answer));
      return true;
    } catch (error) {
      if (statusOf(error) === status.noSuchFile) {
        if ((await session.lookAt(connection, remote)) === undefined) return true;
        throw session.inTheWay(remote, 'folder', error);
      }
      if (statusOf(error) === status.failure && (await list(path))?.length !== 0) return false;
      throw await session.explain(connection, error, { verb: 'remove', path: remote });
    }
  }
}
