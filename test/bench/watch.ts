/** The daemon: how soon it is ready and what it needs, and how soon what lands in the tree is published. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, truncateSync, watch, writeFileSync } from 'node:fs';
import { cp, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { get } from 'node:https';
import { join } from 'node:path';
import { cli, nodeOptions } from '../support/cli.js';
import { type Daemon, daemonConfig, startDaemon } from '../support/daemon.js';
import { createTestCertificate } from '../support/tls.js';
import { withFolder } from './folder.js';
import { limitRow, median, type Row, runMeasured, withoutTarget } from './measure.js';
import { makeManyVersions, versionPath } from './tree.js';

const settle = 500;

export interface WatchBenchOptions {
  /** Trees to start on, in versions; uploads go into the first. */
  sizes: readonly number[];
  /** How many starts, and how many uploads one after the other, are measured. */
  starts: number;
  uploads: number;
  /** How many versions are dropped in at once. */
  drop: number;
}

/** Measures the daemon on tmpfs. Targets hold for 10,000 and 100,000 versions. */
export async function benchWatch(options: WatchBenchOptions): Promise<Row[]> {
  const rows: Row[] = [];
  for (const [index, versions] of options.sizes.entries()) {
    rows.push(
      ...(await withFolder(async (root) => {
        await makeManyVersions(root, versions);
        await daemonConfig(root, { settle: `${settle}ms` });
        await runMeasured(process.execPath, [
          ...nodeOptions,
          cli,
          'update',
          '--config',
          join(root, 'config.toml'),
        ]);
        const starts = await benchStarts(root, { ...options, versions });
        return index > 0 ? starts : [...starts, ...(await benchUploads(root, options))];
      })),
    );
  }
  return rows;
}

const targets: Record<number, { ms: number; MiB: number }> = {
  10000: { ms: 1500, MiB: 160 },
  100000: { ms: 15_000, MiB: 600 },
};

async function benchStarts(
  root: string,
  { starts, versions }: WatchBenchOptions & { versions: number },
): Promise<Row[]> {
  const times: number[] = [];
  const sizes: number[] = [];
  const ends: number[] = [];
  const looks: number[] = [];
  for (let start = 0; start < starts; start++) {
    const end = await withDaemon(root, async (daemon, ms) => {
      times.push(ms);
      sizes.push((await daemon.status()).process.memory / 2 ** 20);
      const asked = performance.now();
      await daemon.call('update', { root });
      looks.push(performance.now() - asked);
    });
    ends.push(end);
  }
  const target = targets[versions];
  const label = versions.toLocaleString('en');
  const rows = [
    limitRow(`\`watch\`, ${label} versions: ready, digests known`, {
      value: median(times),
      target: target?.ms ?? 0,
      unit: 'ms',
    }),
    limitRow(`the same: resident memory`, {
      value: Math.max(...sizes),
      target: target?.MiB ?? 0,
      unit: 'MiB',
    }),
    withoutTarget(
      limitRow('the same: a look at everything that finds nothing new', {
        value: median(looks),
        target: 0,
        unit: 'ms',
      }),
    ),
    limitRow('the same: SIGTERM in idle', { value: Math.max(...ends), target: 1000, unit: 'ms' }),
  ];
  return target === undefined ? rows.map(withoutTarget) : rows;
}

async function benchUploads(root: string, { uploads, drop }: WatchBenchOptions): Promise<Row[]> {
  const latencies: number[] = [];
  const dropped: DropResult[] = [];
  await withDaemon(root, async (daemon) => {
    for (let upload = 0; upload < uploads; upload++) {
      latencies.push(await upload1(root, upload));
    }
    dropped.push(await dropMany(root, { drop, daemon }));
  });
  const sorted = latencies.toSorted((a, b) => a - b);
  const last = sorted[Math.ceil(sorted.length * 0.99) - 1] ?? Number.NaN;
  const [{ ms, publications, pause }] = dropped as [DropResult];
  const upload = 'last byte of an upload to `images.json`, after the settle time';
  return [
    limitRow(`${upload}: median of ${uploads}`, {
      value: median(latencies),
      target: 150,
      unit: 'ms',
    }),
    limitRow('the same: 99th percentile', { value: last, target: 500, unit: 'ms' }),
    limitRow(`${drop} versions at once, settle time included`, {
      value: ms,
      target: 10_000,
      unit: 'ms',
    }),
    limitRow('the same: publications', { value: publications, target: 5, unit: '' }),
    limitRow('the longest time for which the daemon answered nothing', {
      value: pause,
      target: 200,
      unit: 'ms',
    }),
    limitRow('SIGTERM while 64 GiB are read and a client stalls in its download', {
      value: await benchEndUnderLoad(root),
      target: 5000,
      unit: 'ms',
    }),
  ];
}

/** Uploads one version. @returns how long after its last byte and the settle time it was published, in ms. */
async function upload1(root: string, number: number): Promise<number> {
  const product = versionPath(((number * 7919) % 10_000) - ((number * 7919) % 10));
  const version = `images/${product.slice(0, product.lastIndexOf('/'))}/20260202_${1000 + number}`;
  const parts = ['lxd.tar.xz', 'rootfs.squashfs'].map((name) => ({
    name,
    bytes: readFileSync(join(root, 'images', versionPath(number), name)),
  }));
  mkdirSync(join(root, version), { recursive: true });
  const published = documentsWith(root, [`${version}/`]);
  for (const { name, bytes } of parts) writeFileSync(join(root, version, name), bytes);
  const written = performance.now();
  return (await published) - written - settle;
}

interface DropResult {
  ms: number;
  publications: number;
  pause: number;
}

async function dropMany(
  root: string,
  { drop, daemon }: { drop: number; daemon: Daemon },
): Promise<DropResult> {
  const prepared = join(root, '.prepared');
  const versions = Array.from({ length: drop }, (_unused, number) => {
    return `dropped/r${number % 10}/amd64/type${number % 50}/20260303_${1000 + number}`;
  });
  for (const [number, version] of versions.entries()) {
    await cp(join(root, 'images', versionPath(number)), join(prepared, version), {
      recursive: true,
    });
  }
  const before = publications(daemon);
  const published = documentsWith(
    root,
    versions.map((version) => `images/${version}/`),
  );
  const began = performance.now();
  const copying = spawn('cp', ['-r', join(prepared, 'dropped'), join(root, 'images')]);
  await once(copying, 'exit');
  const ms = (await published) - began;
  const { longestPauseMs: pause } = (await daemon.status()).process;
  await rm(prepared, { recursive: true });
  return { ms, publications: publications(daemon) - before, pause };
}

function publications({ events }: Daemon): number {
  return events.filter(({ msg }) => msg === 'published').length;
}

/** When `images.json` first holds all of `texts`, by `performance.now()`. */
function documentsWith(root: string, texts: readonly string[]): Promise<number> {
  const folder = join(root, 'streams/v1');
  return new Promise((resolve) => {
    const watcher = watch(folder, (_event, name) => {
      if (name !== 'images.json') return;
      const now = performance.now();
      const document = readFileSync(join(folder, 'images.json'), 'utf8');
      if (!texts.every((text) => document.includes(text))) return;
      watcher.close();
      resolve(now);
    });
  });
}

/**
 * How long SIGTERM takes while a large file is read and a client downloads slowly, in milliseconds.
 */
async function benchEndUnderLoad(root: string): Promise<number> {
  const version = 'images/large/r/amd64/default/20260101';
  const ms = await withDaemon(root, async (daemon) => {
    mkdirSync(join(root, version), { recursive: true });
    for (const name of ['lxd.tar.xz', 'disk.qcow2']) writeFileSync(join(root, version, name), 'x');
    truncateSync(join(root, version, 'disk.qcow2'), 64 * 2 ** 30);
    const { server } = await daemon.status();
    if (!('url' in server)) throw new Error(server.reason);
    const download = get(`${server.url}/${version}/disk.qcow2`, { rejectUnauthorized: false });
    const [response] = (await once(download, 'response')) as [IncomingMessage];
    // Nothing is taken of it, and its end is no surprise.
    response.on('error', () => {});
    while ((await daemon.status()).activity.doing !== 'digest');
  });
  await rm(join(root, 'images/large'), { recursive: true });
  return ms;
}

/** The lines of the configuration that have the daemon serve over HTTPS, as it does by default. */
async function serverConfig(root: string): Promise<string> {
  const { cert, key } = await createTestCertificate();
  const pems = { tls_cert: cert, tls_key: key };
  const lines = Object.entries(pems).map(([name, pem]) => {
    const file = join(root, `${name}.pem`);
    writeFileSync(file, pem, { mode: 0o600 });
    return `server.${name} = ${JSON.stringify(file)}`;
  });
  return ['server.listen = "127.0.0.1:0"', ...lines].join('\n');
}

/**
 * Starts a daemon, and ends it after `use`, which is told how long it took until it was ready, in ms.
 *
 * @returns how long it took to end, in ms.
 */
async function withDaemon(
  root: string,
  use: (daemon: Daemon, ms: number) => Promise<void>,
): Promise<number> {
  const config = await serverConfig(root);
  const cleanups: (() => unknown)[] = [];
  const began = performance.now();
  const after = (cleanup: () => unknown) => void cleanups.push(cleanup);
  const context = { after } as Parameters<typeof startDaemon>[0];
  const options = { settle: `${settle}ms`, config };
  try {
    const daemon = await startDaemon(context, root, options);
    await use(daemon, performance.now() - began);
    const stopping = performance.now();
    await daemon.end();
    return performance.now() - stopping;
  } finally {
    for (const cleanup of cleanups) await cleanup();
  }
}
