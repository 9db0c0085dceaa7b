/** Publication: how long `update` takes, against what the machine can do at best. */
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createPool } from '../../src/disk/pool.js';
import { createLogger } from '../../src/log.js';
import { createPipeline } from '../../src/pipeline.js';
import { cli, nodeOptions } from '../support/cli.js';
import { withFolder } from './folder.js';
import {
  inTurn,
  limitRow,
  type Measured,
  median,
  type Row,
  ratioRow,
  runMeasured,
  shownMs,
  withoutTarget,
} from './measure.js';
import { makeLargeVersions, makeManyVersions, versionPath } from './tree.js';

const mebibyte = 1024 * 1024;

export interface PublishBenchOptions {
  /** Measurements of each thing. */
  rounds: number;
  /** Sizes of the curve, in versions; the second is the one with targets. */
  sizes: readonly [small: number, main: number, large: number];
}

export interface PublishBench {
  rows: Row[];
  /** One line a size: versions, find, first run, unchanged run, one version added, peak memory. */
  curve: string[][];
}

/** Measures publication on tmpfs. */
export async function benchPublish(options: PublishBenchOptions): Promise<PublishBench> {
  const rows = [
    ...(await benchHelp(options)),
    ...(await withFolder((root) => benchRebuild(root, options))),
  ];
  const curve: string[][] = [];
  for (const versions of options.sizes) {
    const isMain = versions === options.sizes[1];
    const size = await withFolder((root) => benchSize(root, { versions, rounds: options.rounds }));
    // The targets are for ten thousand versions.
    const goals = versions === 10_000 ? size.rows : size.rows.map(withoutTarget);
    if (isMain) rows.push(...goals);
    curve.push(size.line);
  }
  return { rows, curve };
}

async function benchHelp({ rounds }: PublishBenchOptions): Promise<Row[]> {
  const [ours = [], peer = []] = await inTurn(rounds * 3, [
    () => runMeasured(process.execPath, [...nodeOptions, cli, '--help']),
    () => runMeasured(process.execPath, ['-e', '0']),
  ]);
  const times = { ours: medianMs(ours), peer: medianMs(peer), target: 2.5 };
  return [ratioRow('`--help`, against `node -e 0`', times)];
}

async function benchRebuild(root: string, { rounds }: PublishBenchOptions): Promise<Row[]> {
  const count = 8;
  await makeLargeVersions(root, count, 256 * mebibyte);
  const config = writeConfig(root);
  const roots = Array.from({ length: count }, (_unused, index) =>
    join(root, `images/large/release/amd64/type${index}/20260101_12:00/rootfs.squashfs`),
  );
  const openssl = (files: string[]) =>
    runMeasured('openssl', ['dgst', '-sha256', ...files, ...files]);
  const half = count / 2;
  const [ours = [], peer = []] = await inTurn(rounds, [
    () =>
      runMeasured(process.execPath, [
        ...nodeOptions,
        cli,
        'update',
        '--rebuild',
        '--config',
        config,
      ]),
    async () => {
      const [first, second] = await Promise.all([
        openssl(roots.slice(0, half)),
        openssl(roots.slice(half)),
      ]);
      return first.ms > second.ms ? first : second;
    },
  ]);
  const name =
    '`update --rebuild`, 8 × 256 MiB, against two `openssl dgst -sha256` of the same bytes twice';
  return [
    ratioRow(name, { ours: medianMs(ours), peer: medianMs(peer), target: 1.2 }),
    limitRow('the same: peak memory', { value: peak(ours), target: 200, unit: 'MiB' }),
  ];
}

async function benchSize(
  root: string,
  { versions, rounds }: { versions: number; rounds: number },
): Promise<{ rows: Row[]; line: string[] }> {
  await makeManyVersions(root, versions);
  const config = writeConfig(root);
  const update = () =>
    runMeasured(process.execPath, [...nodeOptions, cli, 'update', '--config', config]);
  const find = () => runMeasured('find', [root, '-type', 'f', '-printf', '%s %T@\\n']);
  const [first = []] = await inTurn(Math.min(rounds, 3), [
    async () => {
      rmSync(join(root, 'state'), { recursive: true, force: true });
      rmSync(join(root, 'streams'), { recursive: true, force: true });
      return update();
    },
  ]);
  const [unchanged = [], found = []] = await inTurn(rounds * 2, [update, find]);
  const added = await benchAddition(root, { rounds });
  const memory = Math.max(peak(first), peak(unchanged));
  const label = versions.toLocaleString('en');
  return {
    rows: [
      ratioRow(`\`update\`, ${label} versions, nothing changed, against \`find\``, {
        ours: medianMs(unchanged),
        peer: medianMs(found),
        target: 6,
      }),
      limitRow(`first \`update\`, ${label} versions, every file read`, {
        value: medianMs(first),
        target: 2500,
        unit: 'ms',
      }),
      limitRow(`one version added to ${label}: publication`, {
        value: added,
        target: 40,
        unit: 'ms',
      }),
      limitRow(`\`update\`, ${label} versions: peak memory`, {
        value: memory,
        target: 200,
        unit: 'MiB',
      }),
    ],
    line: [
      label,
      shownMs(medianMs(found)),
      shownMs(medianMs(first)),
      shownMs(medianMs(unchanged)),
      shownMs(added),
      `${memory.toFixed(0)} MiB`,
    ],
  };
}

/** The time from the last digest to both documents in place, in a process that keeps its pipeline. */
async function benchAddition(root: string, { rounds }: { rounds: number }): Promise<number> {
  const pool = createPool();
  const log = createLogger({ level: 'error', format: 'text' });
  const paths = pathsOf(root);
  const pipeline = createPipeline({ paths, publish: { settle: 0, gzip: true }, pool, log });
  try {
    // The first run has no segments yet, and what is compiled on the way is not what is measured.
    for (let warmUp = 0; warmUp < 3; warmUp++) await addVersion(root, warmUp, pipeline);
    const times: number[] = [];
    for (let round = 0; round < rounds * 3; round++)
      times.push(await addVersion(root, 3 + round, pipeline));
    return median(times);
  } finally {
    await pool.close();
  }
}

async function addVersion(
  root: string,
  number: number,
  pipeline: ReturnType<typeof createPipeline>,
): Promise<number> {
  const source = join(root, 'images', versionPath(0));
  const name = `202602${String((number % 28) + 1).padStart(2, '0')}_${String(number).padStart(2, '0')}:00`;
  cpSync(source, join(root, 'images', versionPath(number * 10), '..', name), { recursive: true });
  const { ms, published } = await pipeline.run();
  if (!published.includes('images.json')) throw new Error(`version ${name} was not published`);
  return ms.publish;
}

function pathsOf(root: string) {
  return {
    root,
    images: join(root, 'images'),
    streams: join(root, 'streams/v1'),
    state: join(root, 'state'),
  };
}

function writeConfig(root: string): string {
  const file = join(root, 'config.toml');
  const text = (value: string) => JSON.stringify(value);
  mkdirSync(join(root, 'images'), { recursive: true });
  writeFileSync(
    file,
    `paths.root = ${text(root)}\npaths.state = ${text(join(root, 'state'))}\npublish.settle = "0s"\n`,
  );
  return file;
}

function medianMs(measured: readonly Measured[]): number {
  return median(measured.map(({ ms }) => ms));
}

function peak(measured: readonly Measured[]): number {
  return Math.max(...measured.map(({ peakMiB }) => peakMiB));
}
