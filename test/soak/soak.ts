/**
 * `npm run soak [-- --short] [--hours 24] [--scale 144]`: the life of the daemon in little time. Prints what it
 * holds, hour by hour, and fails where that grows, or where the documents are not what they should be.
 */
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { median } from '../bench/measure.js';
import { runCli } from '../support/cli.js';
import { type Daemon, startDaemon } from '../support/daemon.js';
import { createDice } from '../support/dice.js';
import { createTestCertificate } from '../support/tls.js';
import { createTreeChanges, type TreeChanges } from '../support/tree-changes.js';
import { type Clients, createClients } from './clients.js';
import { createLife, type Life } from './life.js';
import {
  descriptorKinds,
  flatnessOf,
  type Holdings,
  measure,
  type Sample,
  type Sampler,
  startSampling,
} from './samples.js';

const { values: given } = parseArgs({
  options: {
    short: { type: 'boolean', default: false },
    hours: { type: 'string' },
    /** How many times faster than life. */
    scale: { type: 'string' },
  },
});
const hours = Number(given.hours ?? (given.short ? 3 : 24));
const scale = Number(given.scale ?? (given.short ? 720 : 144));
const hourMs = 3_600_000 / scale;
const stock = given.short ? 300 : 1000;
/** How far memory may grow after the first tenth. In the short form that is no time to tell anything. */
const most = given.short ? 0.6 : 0.1;
/** When the threads have been given up that were needed for the last work. */
const restMs = 12_500;

const print = (text: string) => process.stdout.write(`${text}\n`);
const ends: (() => unknown)[] = [];
const root = await mkdtemp(join(tmpdir(), 'soak-'));
try {
  const failures = await soak();
  for (const failure of failures) print(`FAILED: ${failure}`);
  process.exitCode = failures.length > 0 ? 1 : 0;
} finally {
  for (const end of ends.reverse()) await end();
  await rm(root, { recursive: true, force: true });
}

/** All that takes part. */
interface Stage {
  daemon: Daemon;
  changes: TreeChanges;
  clients: Clients;
  life: Life;
  configFile: string;
}

/** @returns what went wrong. */
async function soak(): Promise<string[]> {
  const stage = await prepare();
  const { daemon, changes, life, clients, configFile } = stage;
  // Before the first hour: rest makes a process smaller, and its memory would tell nothing for a while.
  const failures = await clients.visit();
  const before = await rest(stage);

  const began = performance.now();
  const hour = () => (performance.now() - began) / hourMs;
  const sampler = startSampling(daemon.pid, { everyMs: Math.min(500, hourMs / 20), hour });
  printHead();
  for (let number = 0; number < hours; number++) {
    failures.push(...(await life.hour(number)));
    printHour(number, { sampler, daemon, versions: changes.count() });
  }
  await sampler.stop();

  const after = await rest(stage);
  print(`\nat rest: ${JSON.stringify(before)} before, ${JSON.stringify(after)} after`);
  failures.push(...judgeMemory(sampler.samples), ...judgeRests(before, after));
  failures.push(...(await judgeWatches(daemon, after)));
  const { process: held, catalogue } = await daemon.status();
  print(
    `${catalogue.versions} versions published; the longest pause took ${held.longestPauseMs} ms`,
  );
  const code = await daemon.end();
  if (code !== 0) failures.push(`the daemon ended with ${code}`);
  return [...failures, ...(await judgeDocuments(configFile))];
}

/** A tree full of versions, a daemon that serves it, and clients. */
async function prepare(): Promise<Stage> {
  const { key, cert } = await createTestCertificate();
  await writeFile(join(root, 'tls.key'), key, { mode: 0o600 });
  await writeFile(join(root, 'tls.crt'), cert);
  await mkdir(join(root, 'images'));
  /** Everything that was ever taken away or replaced. */
  const spared = new Set<string>();
  const isSpared = (path: string) => [...spared].some((each) => path.startsWith(`${each}/`));
  const changes = createTreeChanges({
    ...{ root, env: 'demo', seed: 1, products: 100, pauseMs: 40 },
    onForce: async (path) => void spared.add(path),
  });
  await fill(changes);

  const atEnd = (end: (() => unknown) | undefined) => void ends.push(end as () => unknown);
  const daemon = await startDaemon({ after: atEnd as TestContext['after'] }, root, {
    settle: '300ms',
    config: [
      'server.listen = "127.0.0.1:0"',
      `server.tls_cert = ${JSON.stringify(join(root, 'tls.crt'))}`,
      `server.tls_key = ${JSON.stringify(join(root, 'tls.key'))}`,
      // Every ten minutes, as it comes.
      `schedule.rescan = "*/${Math.max(1, Math.round(600_000 / scale / 1000))} * * * * *"`,
    ].join('\n'),
  });
  const { server } = await daemon.status();
  if (!('url' in server)) throw new Error(`It does not serve: ${server.reason}`);
  const clients = createClients({ url: server.url, ca: cert, dice: createDice(2), isSpared });
  const configFile = join(root, 'config.toml');
  const life = createLife({ daemon, changes, clients, configFile, versions: stock, hourMs });
  return { daemon, changes, clients, life, configFile };
}

async function fill(changes: TreeChanges): Promise<void> {
  for (let left = stock; left > 0; left -= 20) {
    await Promise.all(Array.from({ length: 20 }, () => changes.upload({ manner: 'renamed' })));
  }
}

interface Rest extends Holdings {
  kinds: Record<string, number>;
}

/** Puts off the rescans, waits until there is nothing to do, then measures. */
async function rest({ daemon, life, clients }: Stage): Promise<Rest> {
  const rescan = /^schedule.rescan = .*$/m;
  let before = '';
  await life.configure((text) => {
    before = rescan.exec(text)?.[0] ?? '';
    return text.replace(rescan, 'schedule.rescan = ""');
  });
  clients.close();
  await sleep(restMs);
  await daemon.until(async () => {
    const { activity, held } = await daemon.status();
    return activity.doing === 'idle' && held.every(({ until }) => until === undefined);
  });
  const found = await leastOf(daemon.pid);
  await life.configure((text) => text.replace(rescan, before));
  return found;
}

/** What it holds all the time: now and then it opens a file for a moment. */
async function leastOf(pid: number): Promise<Rest> {
  const found: Rest[] = [];
  for (let left = 10; left > 0; left--) {
    found.push({ ...(await measure(pid)), kinds: await descriptorKinds(pid) });
    await sleep(100);
  }
  return found.reduce((a, b) => (b.descriptors < a.descriptors ? b : a));
}

function printHead(): void {
  const names = ['hour', 'versions', 'memory (median, MiB)', 'most', 'descriptors', 'watches'];
  print(`| ${[...names, 'runs', 'published'].join(' | ')} |`);
  print('| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |');
}

function printHour(
  number: number,
  { sampler, daemon, versions }: { sampler: Sampler; daemon: Daemon; versions: number },
): void {
  const samples = sampler.samples.filter(({ hour }) => Math.floor(hour) === number);
  const memory = samples.map((sample) => sample.memory);
  const range = (values: readonly number[]) => {
    const [least, most] = [Math.min(...values), Math.max(...values)];
    return least === most ? `${least}` : `${least}–${most}`;
  };
  const count = (msg: string) => daemon.events.filter((event) => event.msg === msg).length;
  const cells = [
    ...[number + 1, versions, median(memory).toFixed(1), Math.max(...memory).toFixed(1)],
    range(samples.map(({ descriptors }) => descriptors)),
    range(samples.map(({ watches }) => watches)),
    ...[count('looked'), count('published')],
  ];
  print(`| ${cells.join(' | ')} |`);
}

/** Memory is flat where neither the last fifth of the time nor the trend says that it grows by more than `most`. */
function judgeMemory(samples: readonly Sample[]): string[] {
  const { early, late, slope, growth } = flatnessOf(samples, hours);
  const figures =
    `memory: ${early.toFixed(1)} MiB in the second tenth, ${late.toFixed(1)} MiB in the last fifth ` +
    `(${percent(late / early - 1)}); ${slope.toFixed(2)} MiB an hour, ${percent(growth)} in the end`;
  print(figures);
  return late > early * (1 + most) || growth > most ? [`it grows: ${figures}`] : [];
}

function percent(share: number): string {
  return `${share < 0 ? '' : '+'}${(share * 100).toFixed(1)} %`;
}

function judgeRests(before: Rest, after: Rest): string[] {
  if (before.descriptors === after.descriptors) return [];
  return [`${before.descriptors} descriptors at rest have become ${after.descriptors}`];
}

async function judgeWatches(daemon: Daemon, { watches }: Rest): Promise<string[]> {
  const { folders } = (await daemon.status()).watching;
  const there = await countFolders(join(root, 'images'));
  if (watches === there && folders === there) return [];
  return [
    `${there} folders are there; it says that it watches ${folders}, and has ${watches} watches`,
  ];
}

/** The folders that are to be watched: all that are not hidden, down to the versions. */
async function countFolders(folder: string, depth = 0): Promise<number> {
  if (depth === 5) return 1;
  const entries = await readdir(folder, { withFileTypes: true });
  const folders = entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith('.'));
  let count = 1;
  for (const { name } of folders) count += await countFolders(join(folder, name), depth + 1);
  return count;
}

/** The documents must be those that a run from nothing makes. */
async function judgeDocuments(configFile: string): Promise<string[]> {
  const args = ['update', '--rebuild', '--json', '--config', configFile];
  const { code, stdout, stderr } = await runCli(args);
  if (code !== 0 && code !== 3) return [`update --rebuild ended with ${code}: ${stderr}`];
  const { published } = JSON.parse(stdout) as { published: string[] };
  return published.map((name) => `update --rebuild makes another ${name}`);
}
