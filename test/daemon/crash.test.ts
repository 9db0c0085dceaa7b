/**
 * The daemon is killed again and again while the tree changes; after each kill another one has to put things
 * right. CRASH_SEED=7 does again what was done with that seed (but no two runs take the same time over it),
 * CRASH_SEEDS=100 does it with so many seeds, CRASH_KILLS=50 so often with each.
 */
import assert from 'node:assert/strict';
import { type FSWatcher, mkdirSync, watch } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemCode } from '../../src/errors.js';
import { runCli } from '../support/cli.js';
import { type Daemon, emptyRoot, launchDaemon } from '../support/daemon.js';
import { createDice, type Dice } from '../support/dice.js';
import { type DocumentsReader, startReader } from '../support/documents-reader.js';
import { addVersion, splitImage, squashfs, writeFiles } from '../support/image-tree.js';
import { needs } from '../support/programs.js';
import { createTreeChanges, type TreeChanges } from '../support/tree-changes.js';

const kills = Number(process.env.CRASH_KILLS ?? 12);
const seeds =
  process.env.CRASH_SEED === undefined
    ? Array.from({ length: Number(process.env.CRASH_SEEDS ?? 9) }, (_unused, index) => index + 1)
    : [Number(process.env.CRASH_SEED)];

/** When a daemon is killed. Times are in milliseconds. */
type Moment =
  /** So long after its process was started. */
  | { at: 'start'; ms: number }
  /** So long after it was ready. */
  | { at: 'life'; ms: number }
  /** At the n-th event in one of the folders that it writes to. */
  | { at: 'write'; folder: string; event: number }
  /** As a thread enters a system call for the n-th time: between one step and the next. */
  | { at: 'call'; call: string; count: number }
  /** As it reads the n-th piece of a large file. */
  | { at: 'reading'; count: number }
  /** So long after it was told to end, or to read a configuration that makes it keep its records. */
  | { at: 'end' | 'reload'; ms: number };

/** Where it writes, and the last of the events there that is worth waiting for. */
const folders = { 'streams/v1': 40, '.lxd-image-server': 6, run: 3 };
/** What the lock, the socket and publications are made of, and how often it is called in the first seconds. */
const calls = { openat: 1500, link: 1, unlink: 3, bind: 1, rename: 12, fsync: 12, writev: 6 };
const largeFile = 32 * 1024 * 1024;
/** After so many milliseconds a kill does not wait any longer for its moment. */
const longestLife = 4000;
const longestReading = 60_000;

/** The kinds in turn, so that all of them occur with every seed, then as the dice fall. */
function momentOf({ roll, pick }: Dice, number: number): Moment {
  const kinds = ['start', 'life', 'write', 'call', 'reading', 'end', 'call', 'reload'] as const;
  const at = number < kinds.length ? (kinds[number] as Moment['at']) : pick(kinds);
  switch (at) {
    case 'start':
      return { at, ms: roll(500) };
    case 'life':
      return { at, ms: roll(1200) };
    case 'write': {
      const folder = pick(Object.keys(folders)) as keyof typeof folders;
      return { at, folder, event: 1 + roll(folders[folder]) };
    }
    case 'call': {
      const call = pick(Object.keys(calls)) as keyof typeof calls;
      return { at, call, count: 1 + roll(calls[call]) };
    }
    case 'reading':
      return { at, count: 1 + roll(30) };
    default:
      return { at, ms: roll(40) };
  }
}

/** One tree, what is done to it, and who watches. */
interface Site {
  t: TestContext;
  root: string;
  dice: Dice;
  /** Whatever can be done to two environments. */
  changes: TreeChanges[];
  reader: DocumentsReader;
  /** How many kills have come at their moment, by kind. */
  hits: Partial<Record<Moment['at'], number>>;
  /** How many times the settle time was set to another. */
  reloads: number;
}

describe('whenever the daemon is killed, another one puts things right', { concurrency: 4 }, () => {
  const reader = startReader({ after });
  for (const seed of seeds) {
    test(`${kills} times while the tree changes, with seed ${seed}`, needs('strace'), async (t) => {
      const site = await makeSite(t, { seed, reader });
      let done = 0;
      for (let number = 0; done < kills; number++) done += await oneRound(site, number);
      await assertNothingPilesUp(site);
      const seen = await site.reader.sightings(site.root);
      // It must have looked while they were replaced, or all this shows nothing.
      assert.ok(seen.documents > kills, `the reader saw only ${seen.documents} documents`);
      t.diagnostic(
        `${done} kills, at their moment ${JSON.stringify(site.hits)}; ${seen.looks} looks at ${seen.documents} documents`,
      );
    });
  }
});

async function makeSite(
  t: TestContext,
  { seed, reader }: { seed: number; reader: DocumentsReader },
): Promise<Site> {
  const root = await emptyRoot(t);
  for (const folder of [...Object.keys(folders), 'state'])
    mkdirSync(join(root, folder), { recursive: true });
  await reader.follow(root);
  const onForce = (path: string) => reader.spare(root, path);
  const changes = ['one', 'other'].map((env, index) =>
    createTreeChanges({ root, env, seed: seed * 10 + index, onForce, large: 12 * 1024 * 1024 }),
  );
  await addVersion(root, `${sentinel}/20260101`);
  return { t, root, dice: createDice(seed), changes, reader, hits: {}, reloads: 0 };
}

/** @returns how many times the daemon was killed. */
async function oneRound(site: Site, number: number): Promise<number> {
  const { roll } = site.dice;
  const moments = [momentOf(site.dice, number)];
  // Whoever comes after a kill may be killed in its turn.
  if (number % 3 === 1) moments.push({ at: 'start', ms: roll(500) });
  const goesOn = roll(2) === 0;
  const stop = new AbortController();
  const working = site.changes.map((each) =>
    goOnChanging(each, { dice: createDice(roll(1e9)), signal: stop.signal }),
  );
  try {
    for (const moment of moments) await killAt(site, moment);
    if (!goesOn) {
      stop.abort();
      await Promise.all(working);
    }
    const daemon = await launch(site);
    await daemon.event('ready');
    stop.abort();
    await Promise.all(working);
    // What was done before it started it must find by itself.
    if (goesOn) await noticed(site, daemon, number);
    await quiet(daemon);
    assert.equal(await daemon.end(), 0);
    await assertAsRebuilt(site);
  } catch (error) {
    throw new Error(`round ${number}, after ${JSON.stringify(moments)}`, { cause: error });
  } finally {
    stop.abort();
    await Promise.all(working);
  }
  return moments.length;
}

async function goOnChanging(
  changes: TreeChanges,
  { dice, signal }: { dice: Dice; signal: AbortSignal },
): Promise<void> {
  while (!signal.aborted) {
    await changes.step();
    await sleep(dice.roll(60));
  }
}

function launch({ t, root, reloads }: Site, runner: string[] = []): Promise<Daemon> {
  // One thread for files: the n-th call is then the n-th of the process.
  const env = runner.length > 0 ? { UV_THREADPOOL_SIZE: '1' } : {};
  return launchDaemon(t, root, { settle: `${60 + reloads}ms`, runner, env });
}

/** Lets a daemon live until `moment`, or until there is no point in waiting for that any longer. */
async function killAt(site: Site, moment: Moment): Promise<void> {
  const { root } = site;
  const reached = new AbortController();
  const watches: FSWatcher[] = [];
  if (moment.at === 'write') {
    let left = moment.event;
    const count = () => --left === 0 && reached.abort();
    watches.push(watch(join(root, moment.folder), { persistent: false }, count));
  }
  if (moment.at === 'reading') await prepareLarge(site);
  const daemon = await launch(site, tracer(site, moment));
  const began = performance.now();
  const life = live(site, daemon, { moment, signal: reached.signal });
  await Promise.race([life, daemon.ended]);
  for (const each of watches) each.close();
  const hasPassed = performance.now() - began >= longestLife;
  const isMissed = hasPassed && (moment.at === 'write' || moment.at === 'call');
  if (!isMissed) site.hits[moment.at] = (site.hits[moment.at] ?? 0) + 1;
  await daemon.end('SIGKILL');
  await life;
}

/** Waits for the moment, or for the daemon's end. */
async function live(
  site: Site,
  daemon: Daemon,
  { moment, signal }: { moment: Moment; signal: AbortSignal },
): Promise<void> {
  const pause = (ms: number) => sleep(ms, undefined, { signal }).catch(() => undefined);
  switch (moment.at) {
    case 'start':
      return await pause(moment.ms);
    case 'write':
    case 'call':
      return await Promise.race([pause(longestLife), daemon.ended]);
    case 'life':
      await daemon.event('ready');
      return await pause(moment.ms);
    case 'reading':
      await daemon.event('ready');
      await rename(join(site.root, largeVersion.hidden), join(site.root, largeVersion.path));
      await within(daemon.ended, longestReading);
      return;
    case 'reload':
      await daemon.event('published');
      await settleOtherwise(site);
      daemon.signal('SIGHUP');
      return await pause(moment.ms);
    case 'end':
      await daemon.event('published');
      daemon.signal('SIGTERM');
      return await pause(moment.ms);
  }
}

/** Waits for `what`. @throws where it takes more than `ms` milliseconds. */
async function within(what: Promise<void>, ms: number): Promise<void> {
  const timer = new AbortController();
  const late = sleep(ms, undefined, { signal: timer.signal }).then(() => {
    throw new Error('the large file is not read');
  });
  try {
    await Promise.race([what, late]);
  } finally {
    timer.abort();
    await late.catch(() => undefined);
  }
}

/** Has strace send the kill; it stands aside, so that the process is the daemon's own. */
function tracer({ root }: Site, moment: Moment): string[] {
  const strace = ['strace', '-D', '-f', '-o', '/dev/null'];
  if (moment.at === 'call') {
    const inject = `inject=${moment.call}:signal=SIGKILL:when=${moment.count}`;
    return [...strace, '--seccomp-bpf', '-e', inject];
  }
  if (moment.at !== 'reading') return [];
  const inject = `inject=read:signal=SIGKILL:when=${moment.count}`;
  return [...strace, '-e', inject, '-P', join(root, largeVersion.path, 'rootfs.squashfs')];
}

const largeVersion = {
  hidden: 'images/large/one/amd64/.next',
  path: 'images/large/one/amd64/default/20260101',
};

/** Puts a large version where it can be renamed from, and makes room for it. */
async function prepareLarge({ root, reader }: Site): Promise<void> {
  await reader.spare(root, largeVersion.path);
  await rm(join(root, largeVersion.path), { recursive: true, force: true });
  await mkdir(join(root, largeVersion.path, '..'), { recursive: true });
  const image = await splitImage('large');
  const files = { ...image, 'rootfs.squashfs': squashfs('large', largeFile) };
  await writeFiles(join(root, largeVersion.hidden), files);
}

/** Nothing of the kind is there yet. */
function ignoreMissing(error: unknown): string {
  if (systemCode(error) !== 'ENOENT') throw error;
  return '';
}

async function settleOtherwise(site: Site): Promise<void> {
  site.reloads += 1;
  const file = join(site.root, 'config.toml');
  const text = await readFile(file, 'utf8');
  await writeFile(
    `${file}.new`,
    text.replace(/settle = "\d+ms"/, `settle = "${60 + site.reloads}ms"`),
  );
  await rename(`${file}.new`, file);
}

const sentinel = 'zz/sentinel/amd64/default';

/** Waits until the daemon has noticed all that was done: events come in the order of what they tell of. */
async function noticed({ root }: Site, daemon: Daemon, number: number): Promise<void> {
  const version = `20260102_${String(number).padStart(3, '0')}`;
  const product = join(root, 'images', sentinel);
  await addVersion(root, `${sentinel}/.${version}`);
  await rename(join(product, `.${version}`), join(product, version));
  await daemon.until(async () => (await read(root, 'images.json')).includes(`"${version}"`));
}

/** Waits until the daemon has nothing to do, and nothing waits for its time any more. */
async function quiet(daemon: Daemon): Promise<void> {
  await daemon.until(async () => {
    const { activity, held } = await daemon.status();
    return activity.doing === 'idle' && held.every(({ until }) => until === undefined);
  });
}

async function read(root: string, name: string): Promise<string> {
  return await readFile(join(root, 'streams/v1', name), 'utf8').catch(ignoreMissing);
}

const documents = ['images.json', 'images.json.gz', 'index.json', 'index.json.gz'];

/** The documents are those that a run from nothing makes, and nothing that should never be seen was. */
async function assertAsRebuilt({ root, reader }: Site): Promise<void> {
  await reader.caughtUp(root);
  const left = (await readdir(join(root, 'streams/v1'))).length - documents.length;
  // What a writer that was killed has left stays until the next publication, and no longer.
  assert.ok(left <= documents.length, `${left} files have been left in streams/v1`);
  const contents = () =>
    Promise.all(documents.map((name) => readFile(join(root, 'streams/v1', name))));
  const before = await contents();
  const config = join(root, 'config.toml');
  const result = await runCli(['update', '--rebuild', '--json', '--config', config]);
  assert.ok(result.code === 0 || result.code === 3, result.stderr);
  const [images, ...others] = await contents();
  // First, for the differences that it shows.
  assert.deepEqual(JSON.parse(String(before[0])), JSON.parse(String(images)));
  assert.deepEqual([images, ...others], before);
  assert.deepEqual((JSON.parse(result.stdout) as { published: string[] }).published, []);
  assert.deepEqual((await reader.sightings(root)).faults, []);
}

/** All that writers have left that were killed is gone. */
async function assertNothingPilesUp({ root }: Site): Promise<void> {
  const locks = join(root, '.lxd-image-server');
  // Drafts are swept once they are a minute old.
  for (const name of await readdir(locks)) await utimes(join(locks, name), 0, 0);
  const config = join(root, 'config.toml');
  assert.ok([0, 3].includes((await runCli(['update', '--config', config])).code));
  assert.deepEqual((await readdir(join(root, 'streams/v1'))).sort(), documents);
  assert.equal((await readdir(locks)).join().replace(/\d+/, 'n'), 'lock.n');
  assert.equal((await readdir(join(root, 'state'))).join().replace(/-.*/, ''), 'records');
}
