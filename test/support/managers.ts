/**
 * LXD and Incus as tests run them: a private daemon with its own folder and storage pool, and clients with their
 * own configuration and certificate. It needs root; what the machine's own LXD or Incus has, if there is one, is
 * neither seen nor touched.
 */
import { chmod, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CommandResult, missingPrograms, outcome, run, startServer } from './command.js';
import { incusDaemonMissing, incusEnv } from './incus.js';
import { freePort } from './ports.js';

/** What differs between the two for a test. */
export interface ManagerKind {
  name: 'lxd' | 'incus';
  /** `LXD`, as people write it. */
  title: string;
  client: 'lxc' | 'incus';
  /** Why this machine cannot run it (for node:test's `skip`), or `false`. */
  missing(): Promise<string | false>;
  /** The variables that say where the daemon and where a client keeps what it has. */
  folders: { daemon: string; client: string };
  env(): Record<string, string>;
  init: readonly [string, ...string[]];
  /** The words before the name of a client that is to get a token. */
  addTrust: readonly string[];
}

const root = process.getuid?.() === 0;

export const lxd: ManagerKind = {
  name: 'lxd',
  title: 'LXD',
  client: 'lxc',
  missing: async () => missingPrograms('lxd', 'lxc') || (!root && 'LXD needs root'),
  folders: { daemon: 'LXD_DIR', client: 'LXD_CONF' },
  env: () => ({}),
  init: ['lxd', 'init', '--preseed'],
  addTrust: ['config', 'trust', 'add', '--name'],
};

export const incus: ManagerKind = {
  name: 'incus',
  title: 'Incus',
  client: 'incus',
  missing: async () => (!root && 'Incus needs root') || (await incusDaemonMissing()),
  folders: { daemon: 'INCUS_DIR', client: 'INCUS_CONF' },
  env: incusEnv,
  init: ['incus', 'admin', 'init', '--preseed'],
  addTrust: ['config', 'trust', 'add'],
};

export const managerKinds = [lxd, incus] as const;

/** A user of `lxc` or `incus`. */
export interface Client {
  /** For programs that shall be this user. */
  readonly env: Record<string, string>;
  /** Where its certificate is, once it has one, and the configuration. */
  readonly folder: string;
  /** Runs the client and gives its standard output. Throws with all that it said where it fails. */
  run(...args: string[]): Promise<string>;
  /** Runs the client to its end, whatever its exit code. */
  outcome(...args: string[]): Promise<CommandResult>;
  /**
   * Makes a simplestreams server known as `name`. Its self-signed `certificate` (PEM) goes where the
   * client looks for it; the client passes it on to the daemon with each launch.
   */
  addRemote(name: string, options: { url: string; certificate: string }): Promise<void>;
}

/** A running daemon, with the client that set it up. */
export interface Manager extends Client {
  readonly kind: ManagerKind;
  /** Where it serves its own API, if it was asked to. */
  readonly url: string;
  /** Where the daemon keeps what it has. */
  readonly daemonFolder: string;
  /** Another user of this daemon, whom no other server knows. */
  newClient(name: string): Promise<Client>;
  /** A token for a client to be. */
  token(name: string): Promise<string>;
  /** Deletes the containers, ends the daemon and removes its folder. */
  close(): Promise<void>;
}

export interface StartOptions {
  /** Where the daemon's folder is to be. Default: the system's folder for temporary files. */
  parent?: string;
}

/** Far above what any command takes here: a client that waits for what never comes fails the test. */
const patienceSeconds = 120;

/**
 * Starts a daemon with a `dir` storage pool and no network, whose API is on a free port of 127.0.0.1 too. Throws
 * with what it said where that fails.
 */
export async function startManager(
  kind: ManagerKind,
  { parent = tmpdir() }: StartOptions = {},
): Promise<Manager> {
  const folder = await mkdtemp(join(parent, `private-${kind.name}-`));
  // Containers, whose root is no one on this machine, reach their files through here.
  await chmod(folder, 0o711);
  const address = `127.0.0.1:${await freePort()}`;
  const daemonFolder = join(folder, kind.name);
  const env = { ...kind.env(), [kind.folders.daemon]: daemonFolder };
  const daemon = join(import.meta.dirname, 'manager-daemon.js');
  const server = await startServer([process.execPath, daemon, kind.name, folder], {
    isReady: (said) => /^ready$/m.test(said),
    env: kind.env(),
  });
  const close = async () => {
    if ((await server.stop()) === 0) return;
    throw new Error(`The private ${kind.title} in ${folder} has crashed`);
  };
  const newClient = (name: string) => makeClient(kind, { env, folder: join(folder, name) });
  try {
    const client = await newClient('client');
    const [program, ...args] = kind.init;
    await run(program, args, { env: client.env, input: JSON.stringify(preseed(address)) });
    const token = async (name: string) => {
      const said = await client.run(...kind.addTrust, name);
      return said.trim().split('\n').at(-1) ?? '';
    };
    const url = `https://${address}`;
    return { ...client, kind, url, daemonFolder, newClient, token, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function preseed(address: string) {
  const disk = { type: 'disk', path: '/', pool: 'default' };
  return {
    config: { 'core.https_address': address },
    storage_pools: [{ name: 'default', driver: 'dir' }],
    profiles: [{ name: 'default', devices: { root: disk } }],
  };
}

async function makeClient(
  kind: ManagerKind,
  { env: daemon, folder }: { env: Record<string, string>; folder: string },
): Promise<Client> {
  await mkdir(join(folder, 'servercerts'), { recursive: true });
  const cache = kind.name === 'incus' ? { INCUS_CACHE: join(folder, 'cache') } : {};
  const env = { ...daemon, ...cache, [kind.folders.client]: folder };
  const line = (args: readonly string[]) =>
    ['--kill-after=5', String(patienceSeconds), kind.client, ...args] as const;
  const runClient = (...args: string[]) => run('timeout', line(args), { env });
  return {
    env,
    folder,
    run: runClient,
    outcome: (...args) => outcome('timeout', line(args), { env }),
    addRemote: async (name, { url, certificate }) => {
      await writeFile(join(folder, 'servercerts', `${name}.crt`), certificate);
      await runClient('remote', 'add', name, url, '--protocol=simplestreams');
    },
  };
}
