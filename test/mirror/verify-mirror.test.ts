/** Verification of a mirror: what it finds, what it leaves alone, what it mends. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ServerError } from '../../src/errors.js';
import { manifestPath } from '../../src/mirror/names.js';
import type { MirrorCheck, Progress, Replicator } from '../../src/mirror/replicate.js';
import { nothingVerified } from '../../src/mirror/verify-mirror.js';
import {
  generationOf,
  type ImageTree,
  liesOf,
  pathOf,
  paths,
  sha256Of,
} from '../support/image-generations.js';
import { type MemoryMirror, memoryMirror } from '../support/memory-mirror.js';
import {
  assertPublished,
  expected,
  grace,
  imagesOn,
  master,
  stagedOn,
  startMaster,
} from '../support/replicas.js';

const tree: ImageTree = {
  'x/20260101/lxd.tar.xz': 'meta 1',
  'x/20260101/root.squashfs': 'root 1',
  'x/20260102/lxd.tar.xz': 'meta 2',
  'x/20260102/root.squashfs': 'root 2',
  'y/20260101/lxd.tar.xz': 'meta 3',
  'y/20260101/root.squashfs': 'root 1',
};
const generation = generationOf(tree);
const file = pathOf('x/20260101/lxd.tar.xz');
const size = [...generation.files.values(), ...generation.documents].reduce(
  (sum, each) => sum + each.size,
  0,
);

/** A mirror that is in sync, a second after that. */
async function settledMirror(
  options: Parameters<typeof memoryMirror>[0] = {},
): Promise<{ mirror: MemoryMirror; replicator: Replicator }> {
  const mirror = memoryMirror(options);
  const replicator = startMaster(mirror, () => tree);
  await replicator.sync(() => generation);
  mirror.clock += 1;
  return { mirror, replicator };
}

interface Harm {
  title: string;
  harm: (mirror: MemoryMirror) => void;
  damage: MirrorCheck['damage'];
  extra?: string[];
  /** How many files less are read than there are. Default: 0. */
  unread?: number;
}

const set =
  (path: string, content: string, age = 0) =>
  (mirror: MemoryMirror) =>
    void mirror.files.set(path, { content: Buffer.from(content), mtime: mirror.clock - age });
const other = (path: string, content: string, published: string) => ({
  path,
  reason: `has SHA-256 ${sha256Of(content)}, published is ${published}`,
});
const factsOf = (path: string) => {
  const facts = generation.documents.find((document) => document.path === path);
  assert.ok(facts);
  return facts;
};

const harms: Harm[] = [
  ...[0, 1000].map((age) => ({
    title: `a file of the same size with ${age === 0 ? 'a new' : 'an old'} time`,
    harm: set(file, 'META 1', age),
    damage: [other(file, 'META 1', sha256Of('meta 1'))],
  })),
  {
    title: 'a file that is missing',
    harm: ({ files }) => files.delete(file),
    damage: [{ path: file, reason: 'is not there' }],
    unread: 1,
  },
  {
    title: 'a file that was cut',
    harm: set(file, 'met', 1000),
    damage: [{ path: file, reason: 'has a size of 3, published is 6' }],
    unread: 1,
  },
  {
    title: 'files that are too much',
    harm: (mirror) => {
      set(`${file}.old`, 'x')(mirror);
      set('images/README', 'x')(mirror);
    },
    damage: [],
    extra: [`${file}.old`, 'images/README'].sort(),
  },
  ...[paths.images, paths.index, `${paths.images}.gz`, `${paths.index}.gz`].flatMap((path) => {
    const content = '!'.repeat(factsOf(path).size);
    return [
      {
        title: `other content of the same size in ${path}`,
        harm: set(path, content, 1000),
        damage: [other(path, content, factsOf(path).sha256)],
      },
      {
        title: `that ${path} was cut`,
        harm: set(path, '{'),
        damage: [{ path, reason: `has a size of 1, published is ${factsOf(path).size}` }],
      },
      {
        title: `that ${path} is missing`,
        harm: ({ files }: MemoryMirror) => void files.delete(path),
        damage: [{ path, reason: 'is not there' }],
        unread: 1,
      },
    ];
  }),
  {
    title: 'nothing where the manifest is missing',
    harm: ({ files }) => files.delete(manifestPath),
    damage: [],
  },
  {
    title: 'a file that is missing where the manifest is, too',
    harm: ({ files }) => {
      files.delete(manifestPath);
      files.delete(file);
    },
    damage: [{ path: file, reason: 'is not there' }],
    unread: 1,
  },
  {
    title: 'a file that is missing, and which the manifest claims to be there',
    harm: (mirror) => {
      const said = String(mirror.files.get(manifestPath)?.content);
      // Another text, which says the same: it is not the one that was written last.
      set(manifestPath, `${said}\n`)(mirror);
      mirror.files.delete(file);
    },
    damage: [{ path: file, reason: 'is not there' }],
    unread: 1,
  },
];

/** Everything that stands on `mirror`. */
const stateOf = ({ files, folders }: MemoryMirror) => ({
  files: new Map([...files].map(([path, { content, mtime }]) => [path, `${mtime} ${content}`])),
  folders: new Set(folders),
});

describe('verification of a mirror', () => {
  test('finds nothing where all is well, and has read all of it', async () => {
    const { mirror, replicator } = await settledMirror();
    const before = stateOf(mirror);
    for (const each of [replicator, startMaster(mirror, () => tree)]) {
      for (const repair of [false, true]) {
        const hashed = mirror.counts.hashed;
        const check = await each.verify(() => generation, { repair });
        assert.deepEqual(check, { files: 10, bytes: size, damage: [], extra: [], repaired: false });
        assert.equal(mirror.counts.hashed - hashed, size);
      }
    }
    assert.deepEqual(stateOf(mirror), before);
  });

  for (const { title, harm, damage, extra = [], unread = 0 } of harms) {
    for (const restarts of [false, true]) {
      const how = restarts ? 'in a new process' : 'in the same process';
      test(`finds ${title}, ${how}, and changes nothing`, async () => {
        const { mirror, replicator } = await settledMirror();
        harm(mirror);
        const before = stateOf(mirror);
        const verifier = restarts ? startMaster(mirror, () => tree) : replicator;
        const check = await verifier.verify(() => generation);
        assert.deepEqual(stateOf(mirror), before);
        assert.deepEqual(
          [check.damage, check.extra, check.files, check.repaired],
          [damage, extra, 10 - unread, false],
        );
        assert.equal(verifier.lag(generation), damage.some(({ path }) => path === file) ? 1 : 0);
      });

      for (const means of ['repair', 'the next sync', 'the next close look'] as const) {
        if (means !== 'repair' && restarts) continue;
        test(`has ${title} mended by ${means}, ${how}`, async () => {
          let isWatched = false;
          const { mirror, replicator } = await settledMirror({
            changed: () => {
              if (!isWatched) return;
              const lies = liesOf(mirror.files).filter((lie) => !spared.has(lie));
              assert.deepEqual(lies, []);
              spared = new Set(liesOf(mirror.files));
            },
          });
          harm(mirror);
          if (isReadable(mirror)) isWatched = true;
          let spared = new Set(isWatched ? liesOf(mirror.files) : []);
          const next = restarts ? startMaster(mirror, () => tree) : replicator;
          const check = await next.verify(() => generation, { repair: means === 'repair' });
          assert.equal(check.repaired, means === 'repair' && damage.length + extra.length > 0);
          if (means !== 'repair') {
            await next.sync(() => generation, { inspect: means === 'the next close look' });
          }
          assert.deepEqual(imagesOn(mirror), {
            ...expected(tree),
            ...Object.fromEntries(extra.map((path) => [path, 'x'])),
          });
          assertPublished(mirror, generation);
          assert.deepEqual(stagedOn(mirror), []);
          const { damage: left, extra: kept } = await startMaster(mirror, () => tree).verify(
            () => generation,
          );
          // What is too much has its grace time now, and is not told of any more.
          assert.deepEqual([left, kept], [[], []]);
        });
      }
    }
  }

  test('has files that are too much removed after the grace time, from the repair on', async () => {
    let now = 1_000_000_000;
    const mirror = memoryMirror();
    const replicator = startMaster(mirror, () => tree, { now: () => now });
    await replicator.sync(() => generation);
    set(`${file}.old`, 'x')(mirror);
    now += 10 * grace;
    const { sync } = await replicator.verify(() => generation, { repair: true });
    assert.deepEqual([sync?.removed, sync?.again], [0, now + grace]);
    now += grace - 1;
    assert.equal((await replicator.sync(() => generation)).removed, 0);
    now += 1;
    assert.equal((await replicator.sync(() => generation)).removed, 1);
    assert.deepEqual(imagesOn(mirror), expected(tree));
  });

  test('does not take files for too much that documents name, or that are kept for their time', async () => {
    const { mirror, replicator } = await settledMirror();
    const next = generationOf({});
    // The mirror lags: its documents are not those of the new generation, which names no file.
    const behind = await replicator.verify(() => next);
    assert.deepEqual(behind.extra, []);
    assert.deepEqual(
      behind.damage.map(({ path }) => path),
      next.documents.map(({ path }) => path).sort(),
    );
    await replicator.sync(() => next);
    const kept = await startMaster(mirror, () => ({})).verify(() => next);
    assert.deepEqual([kept.damage, kept.extra, kept.files], [[], [], 10]);
  });

  test('takes what lies damaged out of the documents before it is sent anew', async () => {
    const sizes: [boolean, string][] = [];
    let isHarmed = false;
    const { mirror, replicator } = await settledMirror({
      fault: (when, operation, path) => {
        if (!isHarmed || when !== 'before' || !path.startsWith('.lxd-image-server/staging/'))
          return;
        if (operation === 'put' && path.endsWith(sha256Of('meta 1'))) {
          sizes.push([liesOf(mirror.files).length === 0, operation]);
        }
      },
    });
    for (const harm of [set(file, 'META 1', 1000), set(file, '')]) {
      harm(mirror);
      mirror.files.delete(manifestPath);
      isHarmed = true;
      await replicator.verify(() => generation, { repair: true });
      isHarmed = false;
    }
    assert.ok(sizes.length >= 2 && sizes.every(([isTrue]) => isTrue), `${sizes}`);
  });

  test('does not give content to other files that it has found to be damaged', async () => {
    const { mirror } = await settledMirror();
    const without = { 'y/20260101/lxd.tar.xz': 'meta 3' };
    const replicator = startMaster(mirror, () => ({ ...tree, 'z/20260101/lxd.tar.xz': 'meta 1' }));
    await replicator.sync(() => generationOf(without));
    set(file, 'META 1', 1000)(mirror);
    assert.deepEqual((await replicator.verify(() => generationOf(without))).damage, []);
    const next = { ...without, 'z/20260101/lxd.tar.xz': 'meta 1' };
    await replicator.sync(() => generationOf(next));
    assert.equal(imagesOn(mirror)[pathOf('z/20260101/lxd.tar.xz')], 'meta 1');
  });

  test('is refused by a mirror of another master', async () => {
    const { mirror } = await settledMirror();
    const before = stateOf(mirror);
    const stranger = startMaster(mirror, () => tree, { master: { ...master, id: 'b7' } });
    for (const repair of [false, true]) {
      await assert.rejects(
        stranger.verify(() => generation, { repair }),
        (error) => error instanceof ServerError && error.code === 'MIRROR_TAKEN',
      );
    }
    assert.deepEqual(stateOf(mirror), before);
  });

  test('that was broken off goes on with what it has not read, and tells all that it has found', async () => {
    let left = Number.POSITIVE_INFINITY;
    const ending = new AbortController();
    const { mirror, replicator } = await settledMirror({
      parallel: 1,
      begin: (operation) => {
        if (operation === 'hash' && --left === 0) ending.abort(new Error('something is due'));
      },
    });
    set(file, 'mata 1')(mirror);
    const verified = nothingVerified();
    // Four documents, then files in the order of the generation.
    left = 7;
    const { signal } = ending;
    await assert.rejects(replicator.verify(() => generation, { signal, verified }));
    assert.deepEqual([...verified.damage.keys()], [file]);
    const wasRead = [...verified.whole.keys()].map((path) => generation.files.get(path)?.size ?? 0);
    assert.ok(wasRead.length > 0 && wasRead.length < generation.files.size - 1);
    await replicator.sync(() => generation);
    mirror.counts.hashed = 0;
    const check = await replicator.verify(() => generation, { verified });
    assert.deepEqual(
      check.damage.map(({ path }) => path),
      [file],
      'mended by now, but told',
    );
    assert.equal(mirror.counts.hashed, size - wasRead.reduce((sum, each) => sum + each, 0));
  });

  test('ends with the reason when it is aborted, and what it knows is right then', async () => {
    for (let at = 1; ; at++) {
      const ending = new AbortController();
      const reason = new Error('shutting down');
      let operations = 0;
      let isCounted = false;
      const { mirror, replicator } = await settledMirror({
        begin: () => {
          if (isCounted && ++operations === at) ending.abort(reason);
        },
      });
      set(file, 'META 1', 1000)(mirror);
      const text = `${mirror.files.get(manifestPath)?.content}\n`;
      set(manifestPath, text)(mirror);
      mirror.files.delete(pathOf('x/20260102/lxd.tar.xz'));
      isCounted = true;
      const verifying = replicator.verify(() => generation, { signal: ending.signal });
      const isOver = await verifying.then(
        () => operations < at,
        (error: unknown) => {
          assert.equal(error, reason);
          return false;
        },
      );
      isCounted = false;
      await replicator.verify(() => generation, { repair: true });
      assert.deepEqual(imagesOn(mirror), expected(tree));
      assertPublished(mirror, generation);
      if (!isOver) continue;
      assert.ok(at > 20, `there were ${at} operations`);
      return;
    }
  });

  test('tells how far it is, in values that do not change', async () => {
    const { replicator } = await settledMirror();
    const seen: Progress[] = [];
    const texts: string[] = [];
    await replicator.verify(() => generation, {
      onProgress: (progress) => {
        seen.push(progress);
        texts.push(JSON.stringify(progress));
      },
    });
    assert.deepEqual(
      seen.map((progress) => JSON.stringify(progress)),
      texts,
    );
    assert.deepEqual(seen.at(-1), {
      stage: 'check',
      files: { done: 6, total: 6 },
      bytes: { done: 36, total: 36 },
    });
    assert.ok(seen.every(({ files, bytes }) => files.done <= 6 && bytes.done <= 36));
  });

  test('finds files that cannot be read, or change meanwhile, and has them replaced', async () => {
    for (const [code, reason] of [
      ['MIRROR_DENIED', 'cannot be read'],
      ['MIRROR_DAMAGED', 'is no file, or changed while it was read'],
    ] as const) {
      const { mirror, replicator } = await settledMirror();
      const broken = mirror.files.get(file);
      const { hash } = mirror;
      mirror.hash = async (path, options) => {
        if (mirror.files.get(path) !== broken) return await hash(path, options);
        throw new ServerError(code, 'It does not work', { hint: 'look at it' });
      };
      for (const repair of [false, true]) {
        const { damage } = await replicator.verify(() => generation, { repair });
        assert.deepEqual(damage, [{ path: file, reason }]);
      }
      assert.notEqual(mirror.files.get(file), broken);
      assert.deepEqual(imagesOn(mirror), expected(tree));
      assert.deepEqual((await replicator.verify(() => generation)).damage, []);
    }
  });

  test('ends where the mirror cannot be reached', async () => {
    const { mirror, replicator } = await settledMirror();
    mirror.hash = async () => {
      throw new ServerError('MIRROR_DOWN', 'The connection is lost', { hint: 'wait' });
    };
    await assert.rejects(
      replicator.verify(() => generation, { repair: true }),
      (error) => error instanceof ServerError && error.code === 'MIRROR_DOWN',
    );
    assert.equal(replicator.lag(generation), 0);
  });

  test('reads several files at once', async () => {
    let most = 0;
    let going = 0;
    const { mirror, replicator } = await settledMirror();
    const { hash } = mirror;
    mirror.hash = async (path, options) => {
      most = Math.max(most, ++going);
      const result = await hash(path, options);
      going -= 1;
      return result;
    };
    await replicator.verify(() => generation);
    assert.equal(most, 6);
  });
});

describe('the lag of a mirror', () => {
  test('is what is not whole there, in versions, and is not known before the first look', async () => {
    const mirror = memoryMirror();
    const replicator = startMaster(mirror, () => tree);
    assert.equal(replicator.lag(generation), undefined);
    const lags = new Set<number | undefined>();
    await replicator.sync(() => generation, {
      onProgress: ({ stage }) => {
        if (stage !== 'look') lags.add(replicator.lag(generation));
      },
    });
    assert.deepEqual([...lags], [3, 2, 1, 0]);
    const more = generationOf({ ...tree, 'z/20260101/root.squashfs': 'root 1' });
    assert.deepEqual([replicator.lag(more), replicator.lag(generation)], [1, 0]);
  });
});

/** Whether there is an `images.json` that clients can read. */
function isReadable({ files }: MemoryMirror): boolean {
  try {
    JSON.parse(String(files.get(paths.images)?.content ?? '!'));
    JSON.parse(String(files.get(paths.index)?.content ?? '!'));
    return true;
  } catch {
    return false;
  }
}
