/**
 * The machine of a mirror, on which everything can go wrong: its sshd and the sessions of that can be killed, stopped
 * and started again, its disk is a small one that can be filled, and the way to it can be cut.
 */
import { watch } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SftpMirrorConfig } from '../../src/mirror/sftp.js';
import { outcome, run } from './command.js';
import { createDelayProxy, type DelayProxy } from './delay-proxy.js';
import { mounting } from './mounting.js';
import { createSshServer, type SshServerOptions } from './slow-upload.js';
import { temporaryFolder } from './temporary.js';

export interface MirrorHostOptions extends Omit<SshServerOptions, 'port'> {
  /** Gives it a disk of its own with so many MiB, which needs root. Default: none. */
  diskMib?: number;
}

export interface MirrorHost {
  /** The mirror's root. */
  folder: string;
  /** Where the server keeps its keys. */
  ssh: string;
  /** A configuration for it, by way of {@link MirrorHost.way}. */
  config: SftpMirrorConfig;
  way: DelayProxy;
  /** Kills the server and all its sessions. */
  kill(): Promise<void>;
  /** Starts it again. */
  start(): Promise<void>;
  /** Sends a signal to every process of its sessions. @returns how many there were. */
  signal(name: NodeJS.Signals): Promise<number>;
  /** Leaves no more than so many bytes of its disk. */
  fill(left?: number): Promise<void>;
  /** Takes that back. */
  free(): Promise<void>;
  /** Mounts its disk anew, with `options` such as `ro`. @returns whether that could be done. */
  remount(options: string): Promise<boolean>;
}

/** A host that is gone after the test, with whatever was still running on it. */
export async function createMirrorHost(
  t: Pick<TestContext, 'after'>,
  { diskMib, settings = '', ...options }: MirrorHostOptions = {},
): Promise<MirrorHost> {
  let end = async () => {};
  t.after(() => end());
  const mount = mounting(t);
  const home = await temporaryFolder(t);
  const [disk, ssh, pidFile] = ['disk', 'ssh', 'pid'].map((name) => join(home, name)) as [
    string,
    string,
    string,
  ];
  const folder = join(disk, 'root');
  await mkdir(disk);
  if (diskMib !== undefined) {
    await mount(disk);
    await run('mount', ['-o', `remount,size=${diskMib}m`, disk]);
  }
  await mkdir(folder);
  const begin = (port?: number) =>
    createSshServer(ssh, {
      ...options,
      settings: `PidFile ${pidFile}\n${settings}`,
      ...(port !== undefined && { port }),
    });
  let server: Awaited<ReturnType<typeof begin>> | undefined = await begin();
  const { port, user, keyFile } = server;
  const way = await createDelayProxy({ target: port });

  /** One whose parent has ended since is below the server no more. */
  let stopped: number[] = [];
  const kill = async () => {
    if (server === undefined) return;
    send([...(await stopAll(await pidIn(pidFile))), ...stopped], 'SIGKILL');
    stopped = [];
    // It waits until none is left that could say anything.
    await server.close();
    server = undefined;
    await rm(pidFile, { force: true });
  };
  end = async () => {
    await way.close();
    await kill();
  };
  const knownHosts = join(home, 'known_hosts');
  const hosts = await readFile(join(ssh, 'known_hosts'), 'utf8');
  await writeFile(knownHosts, hosts.replace(`:${port} `, `:${way.port} `));
  const filler = join(disk, 'filler');
  return {
    folder,
    ssh,
    config: {
      name: 'eu',
      user,
      remote: { host: '127.0.0.1', port: way.port },
      keyPath: keyFile,
      knownHosts,
      root: folder,
      connections: 3,
      bandwidth: undefined,
    },
    way,
    kill,
    async start() {
      server ??= await begin(port);
    },
    async signal(name) {
      if (server === undefined) return 0;
      const sessions = await descendantsOf(await pidIn(pidFile));
      send([...sessions, ...stopped], name);
      stopped = name === 'SIGSTOP' ? sessions : [];
      return sessions.length;
    },
    async fill(left = 0) {
      // It takes what there is, and fails then.
      await outcome('dd', ['if=/dev/zero', `of=${filler}`, 'bs=64k']);
      const { size } = await stat(filler);
      await truncate(filler, Math.max(0, size - left));
    },
    free: async () => await rm(filler, { force: true }),
    remount: async (how) => (await outcome('mount', ['-o', `remount,${how}`, disk])).code === 0,
  };
}

/** The server says that it listens before it writes the file. */
async function pidIn(file: string): Promise<number> {
  for (let tries = 500; tries > 0; tries -= 1) {
    const pid = Number(await readFile(file, 'utf8').catch(() => ''));
    if (pid > 0) return pid;
    await sleep(10);
  }
  throw new Error('The server has not written its process id');
}

function send(pids: readonly number[], name: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch {
      // It has ended by itself.
    }
  }
}

/** Stops a process and all below it, until none is left that could start another. */
async function stopAll(pid: number): Promise<number[]> {
  send([pid], 'SIGSTOP');
  for (let known: number[] = []; ; ) {
    const found = await descendantsOf(pid);
    if (found.every((each) => known.includes(each))) return [pid, ...known];
    send(found, 'SIGSTOP');
    known = [...new Set([...known, ...found])];
  }
}

/** All processes below one, those above first. */
async function descendantsOf(pid: number): Promise<number[]> {
  const children = new Map<number, number[]>();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const line = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
    // The name of the program, in brackets, may have anything in it.
    const parent = Number(line.slice(line.lastIndexOf(')') + 2).split(' ')[1]);
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const below = (of: number): number[] =>
    (children.get(of) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(pid);
}

/** Resolves at the n-th event in `folder`. @returns whether that came within `ms` milliseconds. */
export async function eventIn(
  folder: string,
  { count, ms }: { count: number; ms: number },
): Promise<boolean> {
  const stop = new AbortController();
  const counted = new Promise<boolean>((resolve) => {
    let left = count;
    watch(folder, { signal: stop.signal }, () => --left === 0 && resolve(true));
  });
  const late = sleep(ms, false, { signal: stop.signal }).catch(() => false);
  try {
    return await Promise.race([counted, late]);
  } finally {
    stop.abort();
  }
}
