/** Has files, and the names in folders, written to the disk of an SFTP mirror. */
import type { Connection } from '../connection.js';
import type { MirrorOptions } from '../mirror.js';
import { closeFile, type OpenFile, offers, type Session } from './session.js';

/** What is open to be synced. */
export interface Syncable extends OpenFile {
  remote: string;
}

export function createSyncing(session: Session) {
  return { sync, openToSync, syncOpen };

  async function sync(path: string, { signal }: MirrorOptions = {}): Promise<void> {
    const opened = await openToSync(await session.take(signal), session.at(path));
    if (opened === undefined) return;
    try {
      await syncOpen(opened);
    } finally {
      closeFile(opened);
    }
  }

  /** Opens a file or folder; `undefined` where the server cannot sync. OpenSSH opens folders, too. */
  async function openToSync(connection: Connection, remote: string): Promise<Syncable | undefined> {
    if (!offers(connection, 'fsync@openssh.com', '1')) return undefined;
    const file = await session.openFile(connection, { remote, flags: 'r', verb: 'sync' });
    return { ...file, remote };
  }

  async function syncOpen({ connection, handle, remote }: Syncable): Promise<void> {
    const deed = { verb: 'sync', path: remote, slow: true };
    await session.ask(connection, (sftp, answer) => sftp.ext_openssh_fsync(handle, answer), deed);
  }
}
