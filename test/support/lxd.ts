/**
 * A private LXD daemon for tests: own folder, own storage pool, own client configuration.
 * It needs root; what the machine's own LXD has, if there is one, is neither seen nor touched.
 */
import { chmod, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { missingPrograms, run, startServer } from './command.js';

const preseed = {
  storage_pools: [{ name: 'default', driver: 'dir' }],
  profiles: [{ name: 'default', devices: { root: { type: 'disk', path: '/', pool: 'default' } } }],
};

/** A running daemon, with an `lxc` that talks to it. */
export interface PrivateLxd {
  /** `LXD_DIR` and `LXD_CONF` for programs that shall use this daemon. */
  readonly env: { LXD_DIR: string; LXD_CONF: string };
  /** Runs `lxc` and gives its standard output. Throws with all that it said where it fails. */
  lxc(...args: string[]): Promise<string>;
  /**
   * Makes a simplestreams server known as `name`. Its self-signed `certificate` (PEM) goes where the
   * client looks for it; the client passes it on to the daemon with each launch.
   */
  addRemote(name: string, options: { url: string; certificate: string }): Promise<void>;
  /** Deletes the containers, ends the daemon and removes its folder. */
  close(): Promise<void>;
}

/** Why this machine cannot run {@link startLxd} (for node:test's `skip`), or `false`. */
export function lxdMissing(): string | false {
  return missingPrograms('lxd', 'lxc') || (process.getuid?.() !== 0 && 'LXD needs root');
}

/** Starts a daemon with a `dir` storage pool and no network. Throws with what it said where that fails. */
export async function startLxd(): Promise<PrivateLxd> {
  const folder = await mkdtemp(join(tmpdir(), 'private-lxd-'));
  // Containers, whose root is no one on this machine, reach their files through here.
  await chmod(folder, 0o711);
  const env = { LXD_DIR: join(folder, 'lxd'), LXD_CONF: join(folder, 'client') };
  await mkdir(join(env.LXD_CONF, 'servercerts'), { recursive: true });
  const daemon = join(import.meta.dirname, 'lxd-daemon.js');
  const server = await startServer([process.execPath, daemon, folder], {
    isReady: (said) => /^ready$/m.test(said),
  });
  const close = async () => {
    if ((await server.stop()) !== 0) throw new Error(`The private LXD in ${folder} has crashed`);
  };
  try {
    await run('lxd', ['init', '--preseed'], { env, input: JSON.stringify(preseed) });
  } catch (error) {
    await close();
    throw error;
  }
  const lxc = (...args: string[]) => run('lxc', args, { env });
  return {
    env,
    lxc,
    addRemote: async (name, { url, certificate }) => {
      await writeFile(join(env.LXD_CONF, 'servercerts', `${name}.crt`), certificate);
      await lxc('remote', 'add', name, url, '--protocol=simplestreams');
    },
    close,
  };
}
