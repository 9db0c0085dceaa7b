/** A private LXD daemon for tests that need no other manager. */
import { missingPrograms } from './command.js';
import { lxd, startManager } from './managers.js';

/** A running daemon, with an `lxc` that talks to it. */
export interface PrivateLxd {
  /** `LXD_DIR` and `LXD_CONF` for programs that shall use this daemon. */
  readonly env: { LXD_DIR: string; LXD_CONF: string };
  /** Runs `lxc` and gives its standard output. Throws with all that it said where it fails. */
  lxc(...args: string[]): Promise<string>;
  /** As {@link Client.addRemote}. */
  addRemote(name: string, options: { url: string; certificate: string }): Promise<void>;
  /** Deletes the containers, ends the daemon and removes its folder. */
  close(): Promise<void>;
}

/** Why this machine cannot run {@link startLxd} (for node:test's `skip`), or `false`. */
export function lxdMissing(): string | false {
  return missingPrograms('lxd', 'lxc') || (process.getuid?.() !== 0 && 'LXD needs root');
}

/** Starts a daemon as {@link startManager} does. */
export async function startLxd(): Promise<PrivateLxd> {
  const { env: variables, run, addRemote, close } = await startManager(lxd);
  const { LXD_DIR = '', LXD_CONF = '' } = variables;
  return { env: { LXD_DIR, LXD_CONF }, lxc: run, addRemote, close };
}
