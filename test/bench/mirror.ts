/**
 * The transport to a mirror against rsync and sftp, with the same cipher, from memory to memory, on this machine and
 * at a distance.
 */
import { randomFillSync } from 'node:crypto';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Mirror, PutSource } from '../../src/mirror/mirror.js';
import { run } from '../support/command.js';
import { startDelayProxy } from '../support/delay-proxy.js';
import { createSshServer, type SshServer } from '../support/slow-upload.js';
import { inTurn, median, type Row, ratioRow } from './measure.js';
import { openMirror, runRsync, sshOptions, type Way, wayTo } from './way.js';

const MiB = 2 ** 20;

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

async function makeFile(folder: string, size: number): Promise<string> {
  const file = join(folder, `source-${size}`);
  const block = Buffer.alloc(MiB);
  const handle = await open(file, 'w');
  for (let count = 0; count < size; count++) await handle.write(randomFillSync(block));
  await handle.close();
  return file;
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
  return await timed(file, way, () => runRsync(way, [file], 'file'));
}

async function sftp(file: string, way: Way): Promise<number> {
  const options = [...sshOptions(way), '-P', String(way.port), '-b', '-'];
  const input = `put "${file}" "${way.target}/file"\n`;
  const to = `${way.server.user}@127.0.0.1`;
  return await timed(file, way, () => run('sftp', [...options, to], { input }));
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
