/** Replication while everything goes wrong at once: whatever the order of things, no lie, and one end. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ErrorCode, ServerError } from '../../src/errors.js';
import type { Generation } from '../../src/mirror/generation.js';
import { manifestPath } from '../../src/mirror/names.js';
import type { Replicator } from '../../src/mirror/replicate.js';
import { createDice, type Dice } from '../support/dice.js';
import {
  generationOf,
  type ImageTree,
  liesOf,
  namesIn,
  paths,
} from '../support/image-generations.js';
import { type MemoryMirror, memoryMirror } from '../support/memory-mirror.js';
import {
  assertPublished,
  expected,
  grace,
  hour,
  imagesOn,
  memoryCache,
  stagedOn,
  startMaster,
} from '../support/replicas.js';

const files = ['x', 'y'].flatMap((product) =>
  ['20260101', '20260102', '20260103'].flatMap((version) =>
    ['lxd.tar.xz', 'root.squashfs'].map((file) => `${product}/${version}/${file}`),
  ),
);
/** Few, so that files have the content of others, and some of one length. */
const contents = ['', 'one', 'two', 'three', 'seven', 'some more'];

function anyTree(dice: Dice): ImageTree {
  const tree: Record<string, string> = {};
  for (const file of files) if (dice.roll(2) === 0) tree[file] = dice.pick(contents);
  return tree;
}

const expectedCodes: readonly ErrorCode[] = ['MIRROR_DOWN', 'MIRROR_FULL', 'SOURCE_CHANGED'];

/** One course of things; everything that happens comes from `seed`. */
async function live(seed: number): Promise<void> {
  const dice = createDice(seed);
  const cut = () => new ServerError('MIRROR_DOWN', 'The connection is lost', { hint: 'wait' });
  const full = () => {
    if (dice.roll(2) === 0) return cut();
    return new ServerError('MIRROR_FULL', 'No space left', { hint: 'make room' });
  };
  let now = 1_000_000_000;
  let isQuiet = false;
  /** One in so many operations fails, one in so many changes brings a newer generation. */
  const every = dice.pick([10, 30, 100]);
  const renewal = dice.pick([20, 100, 10_000]);
  let wasTampered = false;
  /** Files that a hand has been laid on, until they are right again. */
  let spared = new Set<string>();
  const lastNamed = new Map<string, number>();
  let tree = anyTree(dice);
  let generation = generationOf(tree);
  let ending = new AbortController();
  const renew = () => {
    tree = anyTree(dice);
    generation = generationOf(tree, { gzip: dice.roll(4) > 0 });
  };
  const watch = () => {
    const lies = liesOf(mirror.files);
    assert.deepEqual(
      lies.filter((lie) => !spared.has(lie)),
      [],
      `seed ${seed}: the index lies`,
    );
    spared = new Set(lies);
    for (const path of namesIn(mirror.files)) lastNamed.set(path, now);
  };
  const mirror: MemoryMirror = memoryMirror({
    link: dice.roll(3) > 0,
    copy: dice.roll(2) > 0,
    parallel: dice.pick([1, 3, 8]),
    changed: watch,
    begin: () => {
      if (!isQuiet && dice.roll(every * 3) === 0) throw cut();
    },
    fault: (when, operation, path) => {
      if (isQuiet) return;
      if (when === 'before' && operation === 'remove' && path.startsWith('images/')) {
        const since = lastNamed.get(path) ?? Number.NEGATIVE_INFINITY;
        assert.ok(wasTampered || now - since >= grace, `seed ${seed}: ${path} goes too early`);
      }
      if (dice.roll(every) === 0) throw ['put', 'write'].includes(operation) ? full() : cut();
      if (when === 'before' && dice.roll(renewal) === 0) renew();
      if (dice.roll(every * 10) === 0) ending.abort(new Error('shutting down'));
    },
  });
  let cache = memoryCache();
  const start = (): Replicator => {
    if (dice.roll(3) === 0) cache = memoryCache();
    return startMaster(mirror, () => tree, { now: () => now, recordEvery: 0, cache });
  };
  let replicator = start();
  /** Tries until it is done; after many tries nothing fails any more. */
  const insist = async (act: (signal: AbortSignal) => Promise<{ of: Generation }>) => {
    for (let tries = 0; ; tries++) {
      assert.ok(tries < 45, `seed ${seed}: it comes to an end`);
      isQuiet = tries > 40;
      ending = new AbortController();
      try {
        const { of } = await act(ending.signal);
        assertPublished(mirror, of);
        return;
      } catch (error) {
        const isExpected =
          error === ending.signal.reason ||
          (error instanceof ServerError && expectedCodes.includes(error.code));
        if (!isExpected) throw new Error(`seed ${seed}`, { cause: error });
        mirror.clock += 1;
        now += dice.roll(3) * hour;
        if (dice.roll(3) === 0) replicator = start();
      } finally {
        isQuiet = false;
      }
    }
  };
  const sync = (options: { inspect?: boolean } = {}) =>
    insist(async (signal) => {
      const result = await replicator.sync(() => generation, { ...options, signal });
      assert.equal(result.generation, generation.id);
      assert.equal(replicator.lag(generation), 0);
      return { of: generation };
    });
  const repair = () =>
    insist(async (signal) => {
      await replicator.verify(() => generation, { repair: true, signal });
      return { of: generation };
    });

  let manifestBefore: Buffer | undefined;
  for (let round = 0; round < 8; round++) {
    if (dice.roll(4) > 0) renew();
    await sync({ inspect: dice.roll(4) === 0 });
    now += dice.roll(4) * hour;
    if (dice.roll(5) === 0) now -= hour;
    mirror.clock += dice.roll(3);
    if (dice.roll(3) > 0) continue;
    const harm = tamper(mirror, { dice, manifestBefore });
    manifestBefore = mirror.files.get(manifestPath)?.content;
    wasTampered = true;
    spared = new Set(liesOf(mirror.files));
    if (dice.roll(2) === 0) replicator = start();
    if (dice.roll(2) === 0) renew();
    if (harm.isPlain && dice.roll(2) === 0) await sync({ inspect: true });
    else await repair();
  }
  // Where nothing is published at all, nothing is removed.
  while (generation.files.size === 0) renew();
  isQuiet = true;
  for (let round = 0; round < 3; round++) {
    mirror.clock += 1;
    await replicator.sync(() => generation, { inspect: true });
    now += grace;
  }
  assert.deepEqual(imagesOn(mirror), expected(tree), `seed ${seed}`);
  assert.deepEqual(stagedOn(mirror), [], `seed ${seed}`);
  assertPublished(mirror, generation);
  const check = await start().verify(() => generation);
  assert.deepEqual([check.damage, check.extra], [[], []], `seed ${seed}`);
}

/**
 * Lays a hand on the mirror. @returns whether a look at names, sizes and times shows it: that does not tell of
 * other content under the same stamp, nor of a manifest of earlier days.
 */
function tamper(
  mirror: MemoryMirror,
  { dice, manifestBefore }: { dice: Dice; manifestBefore: Buffer | undefined },
): { isPlain: boolean } {
  const names = [...mirror.files.keys()];
  const images = names.filter((path) => path.startsWith('images/'));
  const documents = names.filter((path) => path.startsWith('streams/'));
  mirror.clock += 1;
  const mtime = mirror.clock;
  const set = (path: string, content: string, time = mtime) =>
    mirror.files.set(path, { content: Buffer.from(content), mtime: time });
  let isPlain = true;
  for (let count = 1 + dice.roll(3); count > 0; count--) {
    const path = images.length > 0 ? dice.pick(images) : undefined;
    const file = path === undefined ? undefined : mirror.files.get(path);
    switch (dice.roll(9)) {
      case 0:
        if (path !== undefined) mirror.files.delete(path);
        break;
      case 1:
        if (path !== undefined) set(path, 'longer than all others');
        break;
      case 2:
        if (path !== undefined && file) set(path, 'x'.repeat(file.content.length));
        break;
      case 3:
        if (path !== undefined && file) {
          set(path, 'x'.repeat(file.content.length), file.mtime);
          isPlain = false;
        }
        break;
      case 4:
        if (path !== undefined) set(`${path}.part`, 'left by someone');
        break;
      case 5:
        if (documents.length > 0) mirror.files.delete(dice.pick(documents));
        break;
      case 6: {
        // Not a lie that somebody can read.
        const document = documents.length > 0 ? dice.pick(documents) : undefined;
        if (document === undefined || document === paths.images) break;
        set(document, 'x'.repeat(mirror.files.get(document)?.content.length ?? 0));
        isPlain = false;
        break;
      }
      case 7:
        mirror.files.delete(manifestPath);
        break;
      case 8:
        if (manifestBefore !== undefined) {
          mirror.files.set(manifestPath, { content: manifestBefore, mtime });
          isPlain = false;
        }
        break;
    }
  }
  return { isPlain };
}

const seeds = Number(process.env.CHAOS_SEEDS ?? 25);
const first = Number(process.env.CHAOS_FIRST ?? 1);

test('whatever happens to mirror and master, no lie is seen, and the mirror converges', async () => {
  for (let seed = first; seed < first + seeds; seed++) await live(seed);
});
