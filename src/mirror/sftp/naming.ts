/** Gives files on an SFTP mirror other names, second ones, copies, and takes them away. */
import type { Stats } from 'ssh2';
import type { Connection } from '../connection.js';
import type { Mirror, MirrorOptions, RenameOptions } from '../mirror.js';
import { besideAs, folderOf } from '../paths.js';
import { status, statusOf } from '../problems.js';
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

export interface NamingOptions {
  session: Session;
  settle: ReturnType<typeof createSending>['settle'];
  syncing: ReturnType<typeof createSyncing>;
}

export function createNaming({ session, settle, syncing }: NamingOptions) {
  const { openToSync, syncOpen } = syncing;
  return { rename, link, copy, remove } satisfies Partial<Mirror>;

  async function rename(from: string, to: string, options: RenameOptions = {}): Promise<void> {
    const connection = await session.take();
    const folder = options.sync === true ? openFolder(connection, to) : undefined;
    const [renaming, opening] = await Promise.allSettled([renameOn(connection, from, to), folder]);
    const opened = opening.status === 'fulfilled' ? opening.value : undefined;
    try {
      if (renaming.status === 'rejected') throw renaming.reason;
      if (opening.status === 'rejected') throw opening.reason;
      if (opened !== undefined) await syncOpen(opened);
    } finally {
      if (opened !== undefined) closeFile(opened);
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

  interface Steps {
    old: string;
    next: string;
    /** Where a file goes that is in the way. */
    aside: string;
    deed: { verb: string; path: string };
  }

  /** See {@link Mirror.rename}. The requests are sent together, and done by the server one after the other. */
  async function renameInSteps(connection: Connection, steps: Steps): Promise<void> {
    const { old, next, aside, deed } = steps;
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

  async function link(from: string, to: string): Promise<boolean> {
    const [old, next] = [session.at(from), session.at(to)];
    const connection = await session.take();
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
    const connection = await session.take();
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

  async function remove(path: string): Promise<void> {
    const remote = session.at(path);
    const connection = await session.take();
    const deed = { verb: 'remove', path: remote };
    await orMissing(session.ask(connection, (sftp, answer) => sftp.unlink(remote, answer), deed));
  }
}
