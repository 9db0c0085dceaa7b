/**
 * A file that is there while the daemon is to be asked where clients get images. nginx looks whether it is, so that
 * without redirects, or without a daemon, it asks nobody.
 */
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ServerError, systemCode, systemText } from '../errors.js';

export interface RedirectFlagOptions {
  /** Absolute; it is there, and this process alone uses it. */
  runDir: string;
  /** Whether nginx is to ask. */
  enabled: () => boolean;
}

export interface RedirectFlag {
  /** Makes the file or removes it, one left by an earlier process too. @throws ServerError DENIED or IO */
  refresh(): Promise<void>;
  /** Removes it for good. To be called while nginx can still ask. @throws ServerError DENIED or IO */
  close(): Promise<void>;
}

/** Where nginx looks. */
export const flagPath = (runDir: string) => join(runDir, 'redirect');

/** Keeps the file from the first {@link RedirectFlag.refresh} on. */
export function keepFlag({ runDir, enabled }: RedirectFlagOptions): RedirectFlag {
  const path = flagPath(runDir);
  let closed = false;
  let last: Promise<void> = Promise.resolve();
  // One after the other, so that the newest wish is the last that is done.
  const refresh = () => {
    const turn = last.then(() => place(path, !closed && enabled()));
    last = turn.catch(() => {});
    return turn;
  };
  return {
    refresh,
    close() {
      closed = true;
      return refresh();
    },
  };
}

async function place(path: string, isWanted: boolean): Promise<void> {
  try {
    if (isWanted) await (await open(path, 'a', 0o644)).close();
    else await rm(path, { force: true });
  } catch (cause) {
    const denied = ['EACCES', 'EPERM', 'EROFS'].includes(systemCode(cause) ?? '');
    const what = isWanted ? 'write' : 'remove';
    throw new ServerError(
      denied ? 'DENIED' : 'IO',
      `Cannot ${what} ${path}, by which nginx knows whether clients are redirected: ${systemText(cause)}`,
      { hint: 'set paths.run to a folder that this user may write', cause },
    );
  }
}
