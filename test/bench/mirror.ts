/**
 * The transport to a mirror against rsync and sftp, with the same cipher, from memory to memory, on this machine and
 * at a distance.
 */
import { randomFillSync } from 'node:crypto';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Mirror, PutSource } from '../../src/mirror/mirror.js';
import { createSftpMirror } from '../../src/mirror/sftp.js';
import { run } from '../support/command.js';
import { startDelayProxy } from '../support/delay-proxy.js';
import { memoryLog } from '../support/memory-log.js';
import { createSshServer, type SshServer } from '../support/slow-upload.js';
import { inTurn, median, type Row, ratioRow } from './measure.js';

const MiB = 2 ** 20;
const cipher = 'aes128-gcm@openssh.com';

export interface BenchMirrorOptions {
  rounds: number;
  /** MiB of a file on loopback, and at a distance. */
  near: number;
  far: number;
  /** Round trips in milliseconds. */
  roundTrips: number[];
}

/** Needs root for nothing, and a /dev/shm with room for twice the larger file. */
export async function benchMirror(options: BenchMirrorOptions): Promise<Row[]> {
  const folder = `/dev/shm/bench-mirror-${process.pid}`;
  await mkdir(folder);
  const server = await createSshServer(join(folder, 'ssh'));
  try {
    return [
      ...(await nearRows({ folder, server, options })),
      ...(await farRows({ folder, server, options })),
    ];
  } finally {
    await server.close();
    await rm(folder, { recursive: true });
  }
}

interface Place {
  folder: string;
  server: SshServer;
  options: BenchMirrorOptions;
}

async function nearRows({ folder, server, options }: Place): Promise<Row[]> {
  const file = await makeFile(folder, options.near);
  const way = await wayTo(server, { folder, port: server.port });
  const works = [() => ours(file, way), () => rsync(file, way), () => sftp(file, way)];
  const [own, byRsync, bySftp] = (await inTurn(options.rounds, works)).map(median);
  const name = `${options.near} MiB, loopback`;
  return [
    ratioRow(`${name}, against rsync`, { ours: own ?? 0, peer: byRsync ?? 0, target: 0.7 }),
    { ...ratioRow(`${name}, against sftp`, { ours: own ?? 0, peer: bySftp ?? 0, target: 1.2 }) },
  ];
}

async function farRows({ folder, server, options }: Place): Promise<Row[]> {
  const file = await makeFile(folder, options.far);
  const rows: Row[] = [];
  for (const roundTrip of options.roundTrips) {
    const proxy = await startDelayProxy({ target: server.port, delayMs: roundTrip / 2 });
    try {
      const way = await wayTo(server, { folder, port: proxy.port });
      const kept = openMirror(way);
      // The daemon keeps its connections; the first file of this size opens them.
      await send(kept, file, way);
      const works = [() => ours(file, way), () => send(kept, file, way), () => rsync(file, way)];
      const [fresh, own, peer] = (await inTurn(options.rounds, works)).map(median);
      await kept.close();
      const target = roundTrip > 100 ? 0.3 : 0.35;
      const name = `${options.far} MiB, ${roundTrip} ms round trip, against rsync`;
      rows.push(
        ratioRow(`${name}, connections kept`, { ours: own ?? 0, peer: peer ?? 0, target }),
        ratioRow(`${name}, with login`, { ours: fresh ?? 0, peer: peer ?? 0, target }),
      );
    } finally {
      await proxy.close();
    }
  }
  return rows;
}

interface Way {
  port: number;
  server: SshServer;
  knownHosts: string;
  /** Where it arrives. */
  target: string;
}

async function wayTo(
  server: SshServer,
  { folder, port }: { folder: string; port: number },
): Promise<Way> {
  const known = await readFile(join(folder, 'ssh/known_hosts'), 'utf8');
  const knownHosts = join(folder, `known_hosts-${port}`);
  await writeFile(knownHosts, known.replace(/\[127\.0\.0\.1\]:\d+/, `[127.0.0.1]:${port}`));
  const target = join(folder, 'target');
  await mkdir(target, { recursive: true });
  return { port, server, knownHosts, target };
}

async function makeFile(folder: string, size: number): Promise<string> {
  const file = join(folder, `source-${size}`);
  const block = Buffer.alloc(MiB);
  const handle = await open(file, 'w');
  for (let count = 0; count < size; count++) await handle.write(randomFillSync(block));
  await handle.close();
  return file;
}

function openMirror({ server, port, knownHosts, target }: Way): Mirror {
  const config = {
    name: 'bench',
    user: server.user,
    remote: { host: '127.0.0.1', port },
    keyPath: server.keyFile,
    knownHosts,
    root: target,
    connections: 4,
    bandwidth: undefined,
  };
  return createSftpMirror({ config, log: memoryLog().log, env: {} });
}

/** Logs in, sends and closes. */
async function ours(file: string, way: Way): Promise<number> {
  const started = performance.now();
  const mirror = openMirror(way);
  const checkMs = await send(mirror, file, way).then((ms) => performance.now() - started - ms);
  await mirror.close();
  return performance.now() - started - checkMs;
}

/** Sends, syncs and renames. @returns milliseconds for that; what came is checked after it */
async function send(mirror: Mirror, file: string, { target }: Way): Promise<number> {
  const handle = await open(file);
  const { size } = await handle.stat();
  const source: PutSource = {
    size,
    read: async (offset, length) => {
      const bytes = Buffer.allocUnsafe(length);
      await handle.read(bytes, 0, length, offset);
      return bytes;
    },
  };
  const started = performance.now();
  await mirror.put(source, '.file.tmp', { resume: false });
  await mirror.rename('.file.tmp', 'file');
  await mirror.sync('');
  const ms = performance.now() - started;
  await handle.close();
  await checkAndRemove(file, join(target, 'file'));
  return ms;
}

async function rsync(file: string, way: Way): Promise<number> {
  const shell = ['ssh', ...sshOptions(way), '-p', String(way.port)].join(' ');
  const to = `${way.server.user}@127.0.0.1:${way.target}/file`;
  return await timed(file, way, () => run('rsync', ['-azh', '-e', shell, file, to]));
}

async function sftp(file: string, way: Way): Promise<number> {
  const options = [...sshOptions(way), '-P', String(way.port), '-b', '-'];
  const input = `put "${file}" "${way.target}/file"\n`;
  const to = `${way.server.user}@127.0.0.1`;
  return await timed(file, way, () => run('sftp', [...options, to], { input }));
}

function sshOptions({ server, knownHosts }: Way): string[] {
  const settings = { UserKnownHostsFile: knownHosts, IdentitiesOnly: 'yes', BatchMode: 'yes' };
  const words = Object.entries(settings).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
  return ['-F', '/dev/null', '-i', server.keyFile, '-c', cipher, ...words];
}

async function timed(file: string, { target }: Way, work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  const ms = performance.now() - started;
  await checkAndRemove(file, join(target, 'file'));
  return ms;
}

/** Compares in a process of its own: half a gigabyte read into this one would slow down what is measured next. */
async function checkAndRemove(file: string, copy: string): Promise<void> {
  await run('cmp', [file, copy]);
  await rm(copy);
}
