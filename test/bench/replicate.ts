/**
 * Replication of many versions of two small files each, against `rsync -azh --delete` of the same tree, and what it
 * costs to send to several mirrors at once. All from memory to memory.
 */
import { fork } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, open, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createSharedFiles } from '../../src/disk/shared-files.js';
import { startDelayProxy } from '../support/delay-proxy.js';
import { generationOf, type ImageTree, pathOf } from '../support/image-generations.js';
import { createSshServer, type SshServer } from '../support/slow-upload.js';
import { inTurn, limitRow, median, type Row, ratioRow } from './measure.js';
import type { Task, Told } from './replicate-many.js';
import { replicate } from './replicating.js';
import { openMirror, runRsync, type Way, wayTo } from './way.js';

const MiB = 2 ** 20;

export interface BenchReplicateOptions {
  rounds: number;
  /** How many versions there are. */
  versions: number;
  /** Round trip in milliseconds of a mirror that is far. */
  roundTrip: number;
  /** How many mirrors are sent to at once, and MiB of the file that they are sent. */
  mirrors: number;
  large: number;
}

/** What rsync is measured against for each step, near and far; `undefined` is no target. */
const targets = {
  first: { near: 1.5, far: 3 },
  nothing: { near: 0.1, far: 0.1 },
  one: { near: undefined, far: 0.2 },
};

/** Needs root for nothing, and a /dev/shm with room for the large file of each mirror. */
export async function benchReplicate(options: BenchReplicateOptions): Promise<Row[]> {
  const folder = `/dev/shm/bench-replicate-${process.pid}`;
  await mkdir(folder);
  const server = await createSshServer(join(folder, 'ssh'));
  const place = { folder, server, options, source: join(folder, 'source') };
  try {
    const tree = manyVersions(options.versions);
    await writeTree(place.source, tree);
    const near = await wayTo(server, { folder, port: server.port });
    const delayMs = options.roundTrip / 2;
    const proxy = await startDelayProxy({ target: server.port, delayMs });
    const far = await wayTo(server, { folder, port: proxy.port });
    const rows = [
      ...(await stepRows(place, tree, { way: near, where: 'near' })),
      ...(await stepRows(place, tree, { way: far, where: 'far' })),
    ];
    await proxy.close();
    return [...rows, await renamedRow(near, place.source), ...(await manyRows(place))];
  } finally {
    await server.close();
    await rm(folder, { recursive: true });
  }
}

interface Place {
  folder: string;
  /** The master's root. */
  source: string;
  server: SshServer;
  options: BenchReplicateOptions;
}

function manyVersions(count: number): ImageTree {
  const entries = Array.from({ length: count }, (_, index) => {
    const version = `r${Math.floor(index / 10)}/20260101_${index % 10}`;
    return [
      [`${version}/lxd.tar.xz`, `metadata of ${version} `.repeat(20)],
      [`${version}/rootfs.squashfs`, `root file system of ${version} `.repeat(30)],
    ];
  });
  return Object.fromEntries(entries.flat());
}

async function writeTree(root: string, tree: ImageTree): Promise<void> {
  for (const [file, content] of Object.entries(tree)) {
    const path = join(root, pathOf(file));
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
  }
}

/** First sync with its login, then one with nothing to do, then one with a version more. */
async function stepRows(
  { source, options }: Place,
  tree: ImageTree,
  { way, where }: { way: Way; where: 'near' | 'far' },
): Promise<Row[]> {
  const more = { 'r0/20270101/lxd.tar.xz': 'metadata', 'r0/20270101/rootfs.squashfs': 'root' };
  const [before, after] = [generationOf(tree), generationOf({ ...tree, ...more })];
  const added = dirname(join(source, pathOf('r0/20270101/lxd.tar.xz')));
  const steps = async (send: (isMore: boolean) => Promise<unknown>): Promise<number[]> => {
    const first = await timeOf(() => send(false));
    const nothing = await timeOf(() => send(false));
    await writeTree(source, more);
    const one = await timeOf(() => send(true));
    await rm(added, { recursive: true });
    await rm(way.target, { recursive: true });
    await mkdir(way.target);
    return [first, nothing, one];
  };
  const ours = async () => {
    const mirror = openMirror(way);
    const sync = replicate(mirror, createSharedFiles({ root: source }).openSource);
    const times = await steps((isMore) => sync(isMore ? after : before));
    await mirror.close();
    return times;
  };
  const peer = () =>
    steps(() => runRsync(way, ['--delete', `${source}/images`], '').then(() => undefined));
  const [own = [], theirs = []] = await inTurn(options.rounds, [ours, peer]);
  const distance = where === 'near' ? 'loopback' : `${options.roundTrip} ms`;
  return Object.entries(targets).map(([step, target], index) => {
    const name = { first: 'first sync of', nothing: 'nothing to do in', one: 'one more among' }[
      step
    ];
    const times = {
      ours: median(own.map((round) => round[index] ?? 0)),
      peer: median(theirs.map((round) => round[index] ?? 0)),
    };
    const row = ratioRow(`${name} ${options.versions} versions, ${distance}`, {
      ...times,
      target: target[where] ?? Number.POSITIVE_INFINITY,
    });
    return target[where] === undefined ? { ...row, target: '' } : row;
  });
}

async function timeOf(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

/** A version whose files the mirror has under other names. */
async function renamedRow(way: Way, source: string): Promise<Row> {
  const content = 'a root file system '.repeat(100_000);
  const [before, after] = [
    { 'x/20260101/a.squashfs': content },
    { 'x/20260102/b.squashfs': content },
  ];
  await writeTree(source, before);
  const mirror = openMirror(way);
  const sync = replicate(mirror, createSharedFiles({ root: source }).openSource);
  await sync(generationOf(before));
  const { sent } = await sync(generationOf({ ...before, ...after }));
  await mirror.close();
  return {
    name: 'bytes sent for content that is there under another name',
    ours: `${sent.bytes} B for ${sent.files} file`,
    peer: '',
    result: `${sent.bytes} B`,
    target: '0 B',
    met: sent.bytes === 0 && sent.files === 1,
  };
}

async function manyRows({ folder, server, source, options }: Place): Promise<Row[]> {
  const file = await writeLarge(source, options.large);
  const sendTo = async (count: number): Promise<Told> => {
    const task: Task = { folder, server, source, file, count };
    const child = fork(join(import.meta.dirname, 'replicate-many.js'), [JSON.stringify(task)]);
    const [[told]] = await Promise.all([once(child, 'message'), once(child, 'exit')]);
    return told as Told;
  };
  const [one, many] = [await sendTo(1), await sendTo(options.mirrors)];
  const ratio = many.read / one.read;
  const to = `${options.large} MiB to ${options.mirrors} mirrors at once`;
  return [
    {
      name: `bytes read, ${to}`,
      ours: `${Math.round(many.read / MiB)} MiB`,
      peer: `${Math.round(one.read / MiB)} MiB for one`,
      result: `${ratio.toFixed(2)} ×`,
      target: '≤ 1.2 ×',
      met: ratio <= 1.2,
    },
    limitRow(`memory, ${to}`, { value: many.peakMiB, target: 250, unit: 'MiB' }),
  ];
}

/** A file of the master of `size` MiB, no two of which are alike. */
async function writeLarge(source: string, size: number): Promise<Task['file']> {
  const path = pathOf('large/20260101/rootfs.squashfs');
  await mkdir(dirname(join(source, path)), { recursive: true });
  const handle = await open(join(source, path), 'w');
  const hash = createHash('sha256');
  for (let count = 0; count < size; count++) {
    const block = randomBytes(MiB);
    hash.update(block);
    await handle.write(block);
  }
  await handle.close();
  return { path, size: size * MiB, sha256: hash.digest('hex') };
}
