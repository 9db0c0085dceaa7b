/** Gives files on an SFTP mirror other names, second ones, copies, and takes them away. */
import type { Stats } from 'ssh2';
import type { Connection } from '../connection.js';
import type { MirrorOptions, RenameOptions, Renaming } from '../mirror.js';
import { besideAs, folderOf } from '../paths.js';
import { status, statusOf } from '../problems.js';
import { allDone } from '../together.js';
import type { createSending } from './sending.js';
import {
  closeFile,
  type OpenFile,
  offers,
  orMissing,
  type Session,
  unlessRefused,
  withFile,
} from './session.js';
import type { createSyncing, Syncable } from './syncing.js';

/** One request to copy keeps the far side busy for no longer than so much takes. */
const copyBytes = 16 * 2 ** 20;
/** What a server answers to `link` that has no links to offer. */
const noLinks: (number | undefined)[] = [
  status.failure,
  status.permissionDenied,
  status.unsupported,
];

type Step = readonly Renaming[];

export interface NamingOptions {
  session: Session;
  settle: ReturnType<typeof createSending>['settle'];
  syncing: ReturnType<typeof createSyncing>;
}

export function createNaming({ session, settle, syncing }: NamingOptions) {
  const { openToSync, syncOpen } = syncing;
  return { rename, renameInOrder, renameAll, openFolder, link, copy, remove };

  async function rename(from: string, to: string, options: RenameOptions = {}): Promise<void> {
    const connection = await session.take(options.signal);
    if (options.sync === true) return await renameAll(connection, [[{ from, to }]], options);
    await renameOn(connection, from, to);
  }

  async function renameInOrder(steps: readonly Step[], options: MirrorOptions = {}): Promise<void> {
    await renameAll(await session.take(options.signal), steps, options);
  }

  /** See {@link Mirror.renameInOrder}. A folder that is `opened` already need not be opened for it. */
  async function renameAll(
    connection: Connection,
    steps: readonly Step[],
    { signal, opened }: MirrorOptions & { opened?: Promise<Syncable | undefined> },
  ): Promise<void> {
    const all = new Map(steps.flat().map(({ to }) => [folderOf(to), to]));
    const folders = [...all.values()].map((path) =>
      awaited(opened ?? openFolder(connection, path)),
    );
    const syncing: Promise<void>[] = [];
    try {
      for (const step of steps) {
        signal?.throwIfAborted();
        await allDone(step.map(({ from, to }) => renameOn(connection, from, to)));
        const open = await allDone(folders);
        // The requests of the next step follow these at once: a server that syncs does one after the other.
        for (const folder of open)
          if (folder !== undefined) syncing.push(awaited(syncOpen(folder)));
      }
      await allDone(syncing);
    } finally {
      await Promise.allSettled(syncing);
      for (const folder of await Promise.allSettled(folders)) {
        if (folder.status === 'fulfilled' && folder.value !== undefined) closeFile(folder.value);
      }
    }
  }

  /** Opens the folder of `path` to have it synced; `undefined` where the server cannot. */
  function openFolder(connection: Connection, path: string): Promise<Syncable | undefined> {
    return openToSync(connection, session.at(folderOf(path)));
  }

  async function renameOn(connection: Connection, from: string, to: string): Promise<void> {
    const [old, next] = [session.at(from), session.at(to)];
    const deed = { verb: 'rename', path: `${old} to ${next}` };
    if (!offers(connection, 'posix-rename@openssh.com', '1')) {
      const aside = session.at(besideAs(to, 'replaced'));
      return await renameInSteps(connection, { old, next, aside, deed });
    }
    await session.ask(
      connection,
      (sftp, answer) => sftp.ext_openssh_rename(old, next, answer),
      deed,
    );
  }

  interface Detour {
    old: string;
    next: string;
    /** Where a file goes that is in the way. */
    aside: string;
    deed: { verb: string; path: string };
  }

  /** See {@link Mirror.rename}. The requests are sent together, and done by the server one after the other. */
  async function renameInSteps(connection: Connection, detour: Detour): Promise<void> {
    const { old, next, aside, deed } = detour;
    const clear = () =>
      connection.call((sftp, answer) => sftp.unlink(aside, answer)).catch(unlessRefused);
    const cleared = clear();
    const moved = connection
      .call((sftp, answer) => sftp.rename(next, aside, answer))
      .then(() => true, unlessRefused);
    const renamed = session.ask(connection, (sftp, answer) => sftp.rename(old, next, answer), deed);
    const [result, move] = await Promise.allSettled([renamed, moved, cleared]);
    const wasMoved = move.status === 'fulfilled' && move.value === true;
    if (result.status === 'fulfilled') {
      if (wasMoved) await clear();
      return;
    }
    if (wasMoved) {
      await connection
        .call((sftp, answer) => sftp.rename(aside, next, answer))
        .catch(unlessRefused);
    }
    throw result.reason;
  }

  async function link(from: string, to: string, { signal }: MirrorOptions = {}): Promise<boolean> {
    const [old, next] = [session.at(from), session.at(to)];
    const connection = await session.take(signal);
    if (!offers(connection, 'hardlink@openssh.com', '1')) return false;
    try {
      await connection.call((sftp, answer) => sftp.ext_openssh_hardlink(old, next, answer));
      return true;
    } catch (error) {
      if (noLinks.includes(statusOf(error))) return false;
      throw await session.explain(connection, error, { verb: 'link', path: `${old} to ${next}` });
    }
  }

  async function copy(from: string, to: string, options: MirrorOptions = {}): Promise<boolean> {
    const [old, next] = [session.at(from), session.at(to)];
    const connection = await session.take(options.signal);
    if (!offers(connection, 'copy-data', '1')) return false;
    const source = await session.openFile(connection, { remote: old, flags: 'r', verb: 'read' });
    await withFile(source, async () => {
      const how = { remote: next, flags: 'w', verb: 'write' } as const;
      const target = await session.openFile(connection, how);
      await withFile(target, async () => {
        await copyContent({ source, target, remote: next, signal: options.signal });
        await settle(target, { remote: next, sync: true });
      });
    });
    return true;
  }

  interface Copying {
    /** Both open on the same connection. */
    source: OpenFile;
    target: OpenFile;
    remote: string;
    signal: AbortSignal | undefined;
  }

  async function copyContent({ source, target, remote, signal }: Copying): Promise<void> {
    const { connection, handle } = target;
    const deed = { verb: 'write', path: remote, writing: true };
    const { size } = await session.ask<Stats>(
      connection,
      (sftp, answer) => sftp.fstat(source.handle, answer),
      deed,
    );
    for (let offset = 0; offset < size; offset += copyBytes) {
      signal?.throwIfAborted();
      const length = Math.min(copyBytes, size - offset);
      await session.ask(
        connection,
        (sftp, answer) => sftp.ext_copy_data(source.handle, offset, length, handle, offset, answer),
        { ...deed, slow: true },
      );
    }
  }

  async function remove(path: string, { signal }: MirrorOptions = {}): Promise<void> {
    const remote = session.at(path);
    const connection = await session.take(signal);
    const deed = { verb: 'remove', path: remote };
    await orMissing(session.ask(connection, (sftp, answer) => sftp.unlink(remote, answer), deed));
  }
}

/** `work`, which is awaited later on: until then nobody is told that it has failed. */
function awaited<T>(work: Promise<T>): Promise<T> {
  work.catch(() => {});
  return work;
}
