/**
 * A mirror of the real daemon meets with one fault after the other, at any moment, while the tree of the master keeps
 * changing. A reader of the mirror looks at all that its documents name, all along; now and then all is left alone,
 * and the mirror has to become what the master has, by itself.
 *
 * MIRROR_SEED=7 does again what was done with that seed (but no two runs take the same time over it),
 * MIRROR_SEEDS=100 does it with so many seeds, MIRROR_FAULTS=50 with so many faults in each.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { cp, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseImages, versionsOf } from '../../src/catalog/published.js';
import type { MirrorCheck } from '../../src/mirror/replicate.js';
import { type Daemon, emptyRoot, startDaemon } from '../support/daemon.js';
import { createDice, type Dice } from '../support/dice.js';
import { addVersion } from '../support/image-tree.js';
import { createMirrorHost, eventIn, type MirrorHost } from '../support/mirror-host.js';
import { type MirrorReader, startMirrorReader } from '../support/mirror-reader.js';
import {
  assertMirrored,
  becomesMirrored,
  filesBelow,
  hasDocuments,
  mirrorTable,
} from '../support/mirrored.js';
import { needsRoot } from '../support/programs.js';
import { createTreeChanges, type TreeChanges } from '../support/tree-changes.js';

const faults = Number(process.env.MIRROR_FAULTS ?? 18);
const seeds =
  process.env.MIRROR_SEED === undefined
    ? Array.from({ length: Number(process.env.MIRROR_SEEDS ?? 2) }, (_unused, index) => index + 1)
    : [Number(process.env.MIRROR_SEED)];
/** After so many faults all is left alone. */
const faultsInRow = 9;

const graceMs = 2000;
const settings = `publish.removal_grace = "${graceMs}ms"`;
const largeFile = 6 * 2 ** 20;
/** MiB; all that there ever is fits in, but not twice. */
const disk = 512;

interface Site {
  t: TestContext;
  root: string;
  host: MirrorHost;
  dice: Dice;
  changes: TreeChanges[];
  reader: MirrorReader;
  daemon: Daemon;
  /** How many faults there have been, by kind. */
  done: Record<string, number>;
  /** Whether files were changed by hand that only a look at them finds. */
  isTampered: boolean;
}

type Fault = (site: Site) => Promise<void>;

/** Every fault ends within seconds, with all in order again but for what it has done. */
const kinds: Record<string, Fault> = {
  async 'cut on the way there'({ host, dice }) {
    await cutAfter(host, { bytes: anyBytes(dice), from: 'clients' });
  },
  async 'cut on the way back'({ host, dice }) {
    await cutAfter(host, { bytes: anyBytes(dice) >> 4, from: 'server' });
  },
  async 'server killed'(site) {
    const { host, dice } = site;
    await moment(site);
    await host.kill();
    await sleep(dice.roll(1500));
    await host.start();
  },
  async 'sessions killed'(site) {
    await moment(site);
    await site.host.signal('SIGKILL');
  },
  async 'sessions stopped'(site) {
    const { host, dice } = site;
    await moment(site);
    await host.signal('SIGSTOP');
    await sleep(dice.roll(2000));
    await host.signal('SIGCONT');
  },
  async 'nothing passes'(site) {
    const { host, dice } = site;
    await moment(site);
    host.way.freeze();
    await sleep(dice.roll(2000));
    if (dice.roll(2) === 0) host.way.cut();
    host.way.thaw();
  },
  async 'disk full'(site) {
    const { host, dice } = site;
    await moment(site);
    await host.fill(dice.pick([0, 4096, dice.roll(2 ** 20)]));
    await sleep(dice.roll(1500));
    await host.free();
  },
  async 'file removed by hand'(site) {
    await moment(site);
    await tamper(site, (file) => rm(file, { force: true }));
  },
  async 'file cut by hand'(site) {
    await moment(site);
    await tamper(site, (file, size) => truncate(file, site.dice.roll(size)));
  },
  async 'file overwritten by hand'(site) {
    await moment(site);
    await tamper(site, (file, size) => overwrite(file, site.dice.roll(size)));
  },
  async 'manifest lost or spoiled'(site) {
    await moment(site);
    await spoilManifest(site);
  },
  async 'temporary files left'(site) {
    await moment(site);
    await litter(site);
  },
  async 'daemon killed'(site) {
    await moment(site);
    await site.daemon.end('SIGKILL');
    site.daemon = await launch(site);
  },
  async 'daemon restarted'(site) {
    await moment(site);
    assert.equal(await site.daemon.end(), 0);
    site.daemon = await launch(site);
  },
  async 'configuration read again'(site) {
    await moment(site);
    site.daemon.signal('SIGHUP');
  },
};

describe('whatever happens to a mirror, its index does not lie, and it becomes what it should be', {
  concurrency: 2,
}, () => {
  const reader = startMirrorReader({ after });
  for (const seed of seeds) {
    test(
      `${faults} faults with seed ${seed}`,
      needsRoot('sshd', 'ssh-keygen', 'mount'),
      async (t) => {
        const site = await makeSite(t, { seed, reader });
        const names = Object.keys(kinds);
        const began = Math.floor(site.dice.roll(names.length));
        for (let number = 0; number < faults; ) {
          const count = Math.min(faultsInRow, faults - number);
          // All kinds in turn, then as the dice fall.
          const row = Array.from({ length: count }, (_unused, at) => {
            const turn = number + at;
            return turn < names.length
              ? names[(turn + began) % names.length]
              : site.dice.pick(names);
          });
          await oneRow(site, row as string[]);
          number += count;
        }
        const { looks, documents, files } = await reader.sightings(site.host.folder);
        await reader.leave(site.host.folder);
        // It must have looked while they were replaced, or all this shows nothing; on a slow machine it misses some.
        assert.ok(documents > faults / 2, `the reader saw only ${documents} documents`);
        t.diagnostic(
          `${JSON.stringify(site.done)}; ${looks} looks at ${documents} documents, ${files} files read`,
        );
      },
    );
  }
});

async function makeSite(
  t: TestContext,
  { seed, reader }: { seed: number; reader: MirrorReader },
): Promise<Site> {
  let end = async () => {};
  t.after(() => end());
  const root = await emptyRoot(t);
  const host = await createMirrorHost(t, { diskMib: disk });
  await reader.follow(host.folder, { graceMs });
  const onForce = async () => {};
  const changes = ['one', 'other'].map((env, index) =>
    createTreeChanges({ root, env, seed: seed * 10 + index, onForce, large: largeFile }),
  );
  await addVersion(root, 'zz/sentinel/amd64/default/20260101');
  const site = {
    t,
    root,
    host,
    dice: createDice(seed),
    changes,
    reader,
    done: {},
    isTampered: false,
  };
  const whole: Site = Object.assign(site, { daemon: await launch(site) });
  end = async () => void (await whole.daemon.end('SIGKILL'));
  await becomesMirrored(root, host.folder);
  return whole;
}

async function launch({ t, root, host }: Pick<Site, 't' | 'root' | 'host'>): Promise<Daemon> {
  return await startDaemon(t, root, {
    settle: '60ms',
    config: `${settings}\n${mirrorTable(host.config)}`,
  });
}

/** Faults one after the other while the tree changes; then the mirror has to become what it should be. */
async function oneRow(site: Site, row: readonly string[]): Promise<void> {
  const stop = new AbortController();
  const seeds = [...site.changes, undefined].map(() => site.dice.roll(1e9));
  const working = [
    ...site.changes.map((each, at) =>
      goOnChanging(each, createDice(seeds[at] as number), stop.signal),
    ),
    goOnCopying(site, createDice(seeds.at(-1) as number), stop.signal),
  ];
  try {
    for (const name of row) {
      await within((kinds[name] as Fault)(site), name);
      site.done[name] = (site.done[name] ?? 0) + 1;
      await sleep(site.dice.roll(300));
    }
    stop.abort();
    await within(Promise.all(working), 'the end of all changes');
    await within(assertConverges(site), 'convergence');
  } catch (error) {
    throw new Error([`after ${row.join(', ')}`, ...(await stateOf(site))].join('\n'), {
      cause: error,
    });
  } finally {
    stop.abort();
    await Promise.all(working);
  }
}

/** How long anything here may take, in milliseconds: only what hangs takes so long. */
const longest = 100_000;

async function within<T>(work: Promise<T>, what: string): Promise<T> {
  const timer = new AbortController();
  const late = sleep(longest, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`${what} takes too long`);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    timer.abort();
    late.catch(() => undefined);
  }
}

/** What is known when something has gone wrong. */
async function stateOf({ daemon, root, host }: Site): Promise<string[]> {
  const status = await daemon.status().catch(String);
  const [ours, theirs] = [await filesBelow(root), await filesBelow(host.folder)].map(
    (files) => new Set(files),
  ) as [Set<string>, Set<string>];
  return [
    ...daemon.events.filter(({ msg }) => /mirror/.test(msg)).slice(-20),
    status,
    { hasDocuments: await hasDocuments(root, host.folder) },
    { missing: [...ours].filter((path) => !theirs.has(path)) },
    { extra: [...theirs].filter((path) => !ours.has(path)) },
  ].map((each) => JSON.stringify(each));
}

async function goOnChanging(
  changes: TreeChanges,
  { roll }: Dice,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await changes.step();
    await sleep(roll(80));
  }
}

/** Puts the same content under several names, and takes these away. */
async function goOnCopying(
  { root }: Site,
  { roll, pick }: Dice,
  signal: AbortSignal,
): Promise<void> {
  const from = join(root, 'images/zz/sentinel/amd64/default/20260101');
  const product = join(root, 'images/zz/copies/amd64/default');
  for (let serial = 1; !signal.aborted; serial++) {
    const there = await readdir(product).catch((): string[] => []);
    if (there.length > 5) await rm(join(product, pick(there)), { recursive: true });
    else await cp(from, join(product, `20260102_${serial}`), { recursive: true });
    await sleep(100 + roll(300));
  }
}

async function assertConverges(site: Site): Promise<void> {
  const { root, host, reader } = site;
  await quiet(site.daemon);
  if (site.isTampered) await mend(site);
  await becomesMirrored(root, host.folder);
  await assertMirrored(root, host.folder);
  const check = await verify(site, { repair: false });
  assert.deepEqual([check.damage, check.extra], [[], []]);
  assert.deepEqual((await reader.sightings(host.folder)).faults, []);
  await reader.caughtUp(host.folder);
}

/** Waits until the daemon has nothing to do, and nothing waits for its time any more. */
async function quiet(daemon: Daemon): Promise<void> {
  await daemon.until(async () => {
    const { activity, held } = await daemon.status();
    return activity.doing === 'idle' && held.every(({ until }) => until === undefined);
  });
}

/** What was changed by hand is found by whoever looks for it. */
async function mend(site: Site): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await verify(site, { repair: true });
      site.isTampered = false;
      return;
    } catch (error) {
      // It is not up yet: an earlier fault was the last thing that it has seen.
      if (tries === 5) throw error;
    }
  }
}

async function verify(
  { daemon, root }: Site,
  { repair }: { repair: boolean },
): Promise<MirrorCheck> {
  return await daemon.call<MirrorCheck>('mirror-verify', { root, name: 'eu', repair });
}

/** Some bytes, more often few. */
function anyBytes({ roll }: Dice): number {
  return 1 + Math.floor(2 ** (8 + roll(1500) / 100));
}

/** Where so much does not pass in a second, it is cut then. */
async function cutAfter(
  { way }: MirrorHost,
  { bytes, from }: { bytes: number; from: 'clients' | 'server' },
): Promise<void> {
  const before = way.cuts;
  way.cutAfter(bytes, { from });
  for (let tries = 0; tries < 100 && way.cuts === before; tries++) await sleep(10);
  if (way.cuts === before) way.cut();
}

const places = ['.lxd-image-server', '.lxd-image-server/staging', 'streams/v1', 'images'];

/** Waits for any moment: some time, or the n-th thing that happens in a folder of the mirror. */
async function moment({ host, dice }: Site): Promise<void> {
  const ms = dice.roll(500);
  const folder = join(host.folder, dice.pick(['', ...places]));
  const count = 1 + dice.roll(12);
  if (folder !== host.folder && existsSync(folder)) await eventIn(folder, { count, ms: 1000 });
  else await sleep(ms);
}

/** Does something to a file that the mirror names. */
async function tamper(
  site: Site,
  work: (file: string, size: number) => Promise<void>,
): Promise<void> {
  const { host, dice, reader } = site;
  const text = await readFile(join(host.folder, 'streams/v1/images.json'), 'utf8');
  const items = Object.values(parseImages(text).products)
    .flatMap(versionsOf)
    .flatMap((version) => version.items);
  // None, for a moment, where all that it names has been tampered with.
  if (items.length === 0) return;
  const { path, size, sha256 } = dice.pick(items);
  await reader.spare(host.folder, sha256 ?? '');
  site.isTampered = true;
  await work(join(host.folder, path), size).catch(ignoreMissing);
}

async function overwrite(file: string, offset: number): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    await handle.write('!!', offset);
  } finally {
    await handle.close();
  }
}

/** It was removed a moment ago. */
function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error;
}

async function spoilManifest({ host, dice }: Site): Promise<void> {
  const own = join(host.folder, '.lxd-image-server');
  const manifest = join(own, 'manifest.json');
  const lists = (await readdir(own)).filter((name) => name.startsWith('files-'));
  const ways = [
    () => rm(manifest, { force: true }),
    () => truncate(manifest, dice.roll(200)),
    () => writeFile(manifest, 'nothing of use'),
    () => overwrite(manifest, 0),
    () => rm(join(own, dice.pick(['manifest.json', ...lists])), { force: true }),
    // The master may be writing there at that moment.
    () => rm(own, { recursive: true, force: true, maxRetries: 20, retryDelay: 10 }),
  ];
  await dice.pick(ways)().catch(ignoreMissing);
}

/** Leaves what programs leave that were killed, and content that is not what its name says. */
async function litter({ root, host, dice }: Site): Promise<void> {
  const staging = join(host.folder, '.lxd-image-server/staging');
  const text = await readFile(join(root, 'streams/v1/images.json'), 'utf8');
  const digests = [...text.matchAll(/"sha256": ?"([0-9a-f]{64})"/g)].map(([, digest]) => digest);
  const names = [
    'f'.repeat(64),
    'rubbish',
    dice.pick(digests) as string,
    dice.pick(digests) as string,
  ];
  // What is there may be a second name of a file that is published.
  const add = (path: string, content: string) => writeFile(path, content, { flag: 'wx' });
  const work = [
    ...names.map((name) => add(join(staging, name), 'x'.repeat(dice.roll(100_000)))),
    add(join(host.folder, '.lxd-image-server/.manifest.json.1234.tmp'), 'x'),
  ];
  for (const each of await Promise.allSettled(work)) {
    if (each.status === 'rejected' && each.reason.code !== 'EEXIST') ignoreMissing(each.reason);
  }
}
