import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ServerError } from '../../src/errors.js';
import type { Generation } from '../../src/mirror/generation.js';
import { resumeWindow } from '../../src/mirror/mirror.js';
import { manifestPath, stagingFolder, stagingPath } from '../../src/mirror/names.js';
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

const small: ImageTree = {
  'x/20260101/lxd.tar.xz': 'meta 1',
  'x/20260101/root.squashfs': 'root 1',
  'x/20260102/lxd.tar.xz': 'meta 2',
  'x/20260102/root.squashfs': 'root 2',
  'y/20260101/lxd.tar.xz': 'meta 3',
  'y/20260101/root.squashfs': 'root 1',
};

describe('a sync', () => {
  test('makes an empty mirror the same as the master, and a second one does nothing', async () => {
    const mirror = memoryMirror();
    const generation = generationOf(small);
    const replicator = startMaster(mirror, () => small);
    const first = await replicator.sync(() => generation);
    assert.deepEqual(imagesOn(mirror), expected(small));
    assertPublished(mirror, generation);
    assert.equal(first.sent.files, 6);
    assert.equal(first.sent.bytes, 5 * 6, 'one content of two files is sent once');
    assert.deepEqual(stagedOn(mirror), []);

    for (const again of [replicator, startMaster(mirror, () => small)]) {
      const before = { ...mirror.counts };
      const { sent } = await again.sync(() => generation);
      assert.deepEqual(sent, { files: 0, bytes: 0 });
      assert.equal(mirror.counts.put, before.put);
      assert.ok(mirror.counts.operations - before.operations <= 8, 'it takes a short look');
    }
  });

  test('sends nothing that the mirror has under another name, however it can copy', async () => {
    for (const means of [{}, { link: false }, { link: false, copy: false }]) {
      const mirror = memoryMirror(means);
      const before = { 'x/20260101/root.squashfs': 'root' };
      const after = { 'y/20260102/root.squashfs': 'root' };
      await startMaster(mirror, () => before).sync(() => generationOf(before));
      const { sent } = await startMaster(mirror, () => after).sync(() => generationOf(after));
      assert.deepEqual(sent, { files: 1, bytes: means.copy === false ? 4 : 0 });
      assert.equal(imagesOn(mirror)[pathOf('y/20260102/root.squashfs')], 'root');
    }
  });

  test('removes what is gone after the grace time, with the folders that are empty then', async () => {
    let now = 1_000_000_000;
    const mirror = memoryMirror();
    const { 'x/20260102/lxd.tar.xz': _1, 'x/20260102/root.squashfs': _2, ...left } = small;
    const replicator = startMaster(mirror, () => small, { now: () => now });
    await replicator.sync(() => generationOf(small));
    const generation = generationOf(left);
    const { again } = await replicator.sync(() => generation);
    assert.equal(again, now + grace);
    now += grace - 1;
    assert.equal((await replicator.sync(() => generation)).removed, 0);
    assert.deepEqual(imagesOn(mirror), expected(small));
    now += 1;
    const restarted = startMaster(mirror, () => small, { now: () => now });
    const last = await restarted.sync(() => generation);
    assert.deepEqual([last.removed, last.again], [2, undefined]);
    assert.deepEqual(imagesOn(mirror), expected(left));
    assert.equal(mirror.folders.has('images/demo/x/amd64/default/20260102'), false);
    assert.equal(mirror.folders.has('images/demo/x/amd64/default/20260101'), true);
  });

  test('goes on with what an earlier try has left, and reads it before it is used', async () => {
    const root = 'r'.repeat(resumeWindow + 100_000);
    const tree = { 'x/20260101/root.squashfs': root };
    for (const left of [root.slice(0, -10), `!${root.slice(1, -10)}`]) {
      const mirror = memoryMirror();
      mirror.folders.add('.lxd-image-server').add(stagingFolder);
      mirror.files.set(stagingPath(sha256Of(root)), { content: Buffer.from(left), mtime: 0 });
      await startMaster(mirror, () => tree).sync(() => generationOf(tree));
      assert.deepEqual(imagesOn(mirror), expected(tree));
      const documents = generationOf(tree).documents.reduce((sum, { size }) => sum + size, 0);
      const again = left.startsWith('!') ? root.length : 0;
      assert.ok(mirror.counts.hashed >= root.length, 'the mirror was asked what it has');
      assert.equal(mirror.counts.put, resumeWindow + 10 + again + documents, left.slice(0, 2));
    }
  });

  test('adopts files that are there already, once it has read them', async () => {
    const mirror = memoryMirror();
    const tree = { 'x/20260101/a': 'one', 'x/20260101/b': 'two', 'x/20260101/c': 'three' };
    const folder = 'images/demo/x/amd64/default/20260101';
    for (const [name, content] of [
      ['a', 'one'],
      ['b', 'TWO'],
    ] as const) {
      mirror.files.set(`${folder}/${name}`, { content: Buffer.from(content), mtime: 1 });
    }
    for (let path = folder; path !== ''; path = path.slice(0, Math.max(0, path.lastIndexOf('/')))) {
      mirror.folders.add(path);
    }
    const { adopted, sent } = await startMaster(mirror, () => tree).sync(() => generationOf(tree));
    assert.deepEqual([adopted, sent.files], [1, 2]);
    assert.deepEqual(imagesOn(mirror), expected(tree));
  });

  test('is refused by a mirror of another master, which is named, unless it takes over', async () => {
    const mirror = memoryMirror();
    await startMaster(mirror, () => small).sync(() => generationOf(small));
    const other = { id: 'b7', host: 'other.example' };
    const refused = startMaster(mirror, () => small, { master: other });
    const before = new Map(mirror.files);
    await assert.rejects(
      refused.sync(() => generationOf({})),
      (error) => {
        assert.ok(error instanceof ServerError);
        assert.equal(error.code, 'MIRROR_TAKEN');
        assert.match(error.message, /another master, master\.example \(a3f0\)/);
        return true;
      },
    );
    assert.deepEqual(mirror.files, before);
    await refused.sync(() => generationOf({}), { takeOver: true });
    assertPublished(mirror, generationOf({}));
  });

  test('goes to one of several masters that find it empty at the same moment', async () => {
    const mirror = memoryMirror();
    const masters = ['a', 'b', 'c', 'd'].map((id) => {
      const tree = { [`${id}/20260101/a`]: `of ${id}`, 'same/20260101/a': `of ${id}` };
      const replicator = startMaster(mirror, () => tree, { master: { id, host: `${id}.example` } });
      return { tree, syncing: replicator.sync(() => generationOf(tree)) };
    });
    const outcomes = await Promise.allSettled(masters.map(({ syncing }) => syncing));
    const winners = masters.filter((_master, index) => outcomes[index]?.status === 'fulfilled');
    assert.equal(winners.length, 1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') assert.equal(outcome.reason.code, 'MIRROR_TAKEN');
    }
    const { tree } = winners[0] as (typeof masters)[number];
    assertPublished(mirror, generationOf(tree));
    assert.deepEqual(imagesOn(mirror), expected(tree));
  });

  const manifests: [title: string, manifest: string][] = [
    ['is cut short', '{"format":1'],
    ['is empty', ''],
    ['is of another format', '{"format":2}'],
    ['is too large', ' '.repeat(3_000_000)],
    ['leaves the images', manifestWith({ recent: [['etc/passwd', 1, '']] })],
    ['leaves the root', manifestWith({ recent: [['images/../../etc/passwd', 1, '']] })],
    ['names a list that is not there', manifestWith({ lists: [['0'.repeat(64), 10]] })],
    ['names a list of absurd size', manifestWith({ lists: [['0'.repeat(64), 2 ** 52]] })],
  ];
  for (const [title, manifest] of manifests) {
    test(`looks for itself where the manifest ${title}`, async () => {
      const mirror = memoryMirror();
      await startMaster(mirror, () => small).sync(() => generationOf(small));
      mirror.files.set(manifestPath, { content: Buffer.from(manifest), mtime: mirror.clock });
      const { adopted, sent } = await startMaster(mirror, () => small).sync(() =>
        generationOf(small),
      );
      assert.deepEqual([adopted, sent.files], [6, 0]);
      const { adopted: again } = await startMaster(mirror, () => small).sync(() =>
        generationOf(small),
      );
      assert.equal(again, 0);
    });
  }

  test('says that a file is not what was published, after it has sent all others', async () => {
    for (const change of [
      { 'x/20260102/root.squashfs': 'ROOT 2' },
      { 'x/20260102/root.squashfs': 'longer than before' },
    ]) {
      const mirror = memoryMirror({ changed: () => assert.deepEqual(liesOf(mirror.files), []) });
      const now = { ...small, ...change };
      const replicator = startMaster(mirror, () => now);
      await assert.rejects(
        replicator.sync(() => generationOf(small)),
        (error) => error instanceof ServerError && error.code === 'SOURCE_CHANGED',
      );
      assert.equal(mirror.files.has(paths.images), false);
      const before = mirror.counts.put;
      await replicator.sync(() => generationOf(now));
      assert.deepEqual(imagesOn(mirror), expected(now));
      const documents = generationOf(now).documents.reduce((sum, { size }) => sum + size, 0);
      const changed = change['x/20260102/root.squashfs'].length;
      assert.equal(mirror.counts.put - before, changed + documents, 'all else was there');
    }
  });

  test('puts documents back that someone has removed, cut or added', async () => {
    const generation = generationOf(small);
    const plainOnly = generationOf(small, { gzip: false });
    const harms: [Generation, (mirror: MemoryMirror) => void][] = [
      [generation, ({ files }) => files.delete(paths.index)],
      [generation, ({ files }) => files.set(paths.images, { content: Buffer.from(''), mtime: 0 })],
      [
        plainOnly,
        ({ files }) => files.set(`${paths.images}.gz`, { content: Buffer.from('x'), mtime: 0 }),
      ],
    ];
    for (const [wanted, harm] of harms) {
      for (const restarts of [false, true]) {
        const mirror = memoryMirror();
        const replicator = startMaster(mirror, () => small);
        await replicator.sync(() => wanted);
        harm(mirror);
        const next = restarts ? startMaster(mirror, () => small) : replicator;
        const { sent } = await next.sync(() => wanted);
        assert.equal(sent.files, 0);
        assertPublished(mirror, wanted);
      }
    }
  });

  test('mends files that were changed by hand, when it looks closely', async () => {
    const mirror = memoryMirror();
    await startMaster(mirror, () => small).sync(() => generationOf(small));
    const [a = '', b = '', c = ''] = Object.keys(imagesOn(mirror));
    mirror.clock += 1;
    mirror.files.delete(a);
    mirror.files.set(b, { content: Buffer.from('longer than before'), mtime: mirror.clock });
    mirror.files.set(c, { content: Buffer.from('meta X'), mtime: mirror.clock });
    const { sent } = await startMaster(mirror, () => small).sync(() => generationOf(small), {
      inspect: true,
    });
    assert.equal(sent.files, 3);
    assert.deepEqual(imagesOn(mirror), expected(small));
    assertPublished(mirror, generationOf(small));
  });

  test('records what it has sent while it goes on, so that a new process need not send it', async () => {
    const many = Object.fromEntries(
      Array.from({ length: 20 }, (_, n) => [`x/20260101/file${n}`, `content ${n}`]),
    );
    let named = 0;
    const mirror = memoryMirror({
      parallel: 1,
      fault: (when, operation, path) => {
        if (when === 'after' && operation === 'rename' && path.startsWith('images/')) named += 1;
        if (named === 15) throw lost();
      },
    });
    const settings = { recordEvery: 0 };
    await assert.rejects(startMaster(mirror, () => many, settings).sync(() => generationOf(many)));
    named = 100;
    mirror.clock += 1;
    const last = await startMaster(mirror, () => many).sync(() => generationOf(many));
    assert.equal(last.sent.files, 5);
    assert.ok(last.adopted >= 1 && last.adopted < 15, `${last.adopted} had to be read`);
  });

  test('leaves nothing behind that it does not need: lists, and what writing was cut in', async () => {
    const many = Object.fromEntries(
      Array.from({ length: 450 }, (_, n) => [`x/20260101/file${n}`, `content ${n}`]),
    );
    const mirror = memoryMirror();
    const own = () =>
      [...mirror.files.keys()].filter((path) => path.startsWith('.lxd-image-server/')).sort();
    await startMaster(mirror, () => many, { recordEvery: 0 }).sync(() => generationOf(many));
    const before = own();
    assert.ok(before.length >= 2 && before.length <= 4, `${before}`);
    const leftovers = ['.manifest.json.a1.tmp', `files-${'0'.repeat(64)}.json`, 'staging/abc'];
    for (const name of leftovers) {
      mirror.files.set(`.lxd-image-server/${name}`, { content: Buffer.from('x'), mtime: 0 });
    }
    await startMaster(mirror, () => many).sync(() => generationOf(many));
    assert.deepEqual(own(), before);
  });

  test('does not use a list whose content is not what the manifest says', async () => {
    const many = Object.fromEntries(
      Array.from({ length: 250 }, (_, n) => [`x/20260101/file${n}`, `content ${n}`]),
    );
    const mirror = memoryMirror();
    await startMaster(mirror, () => many).sync(() => generationOf(many));
    const list = [...mirror.files.keys()].find((path) => path.includes('/files-')) ?? '';
    const content = Buffer.from(
      String(mirror.files.get(list)?.content).replace('/file7"', '/file!"'),
    );
    mirror.files.set(list, { content, mtime: mirror.clock });
    const { adopted, sent } = await startMaster(mirror, () => many).sync(() => generationOf(many));
    assert.deepEqual([adopted, sent.files], [250, 0]);
  });

  test('turns to a newer generation at the next file', async () => {
    const many = Object.fromEntries(
      Array.from({ length: 50 }, (_, n) => [`x/20260101/file${n}`, `content ${n}`]),
    );
    const next = { 'x/20260102/root.squashfs': 'newest' };
    let newest = generationOf(many);
    let began = 0;
    const mirror = memoryMirror({
      parallel: 4,
      fault: (when, operation, path) => {
        if (when === 'after' && operation === 'rename' && path.includes('20260101')) began += 1;
        if (began === 3) newest = generationOf(next);
      },
    });
    await startMaster(mirror, () => ({ ...many, ...next })).sync(() => newest);
    assertPublished(mirror, generationOf(next));
    assert.ok(began <= 3 + 4, `${began} files of the old generation were named`);
    assert.deepEqual(stagedOn(mirror), []);
  });

  test('ends with the reason when it is aborted', async () => {
    const ending = new AbortController();
    const reason = new Error('shutting down');
    const mirror = memoryMirror({ fault: () => ending.abort(reason) });
    const sync = startMaster(mirror, () => small).sync(() => generationOf(small), {
      signal: ending.signal,
    });
    await assert.rejects(sync, reason);
  });

  test('tells how far it is', async () => {
    const mirror = memoryMirror();
    const seen: string[] = [];
    await startMaster(mirror, () => small).sync(() => generationOf(small), {
      onProgress: ({ stage, files, bytes }) => {
        assert.ok(files.done <= files.total && bytes.done <= bytes.total);
        if (files.total > 0 && files.done === files.total) {
          seen.push(`${stage} ${files.total} ${bytes.done}`);
        }
      },
    });
    assert.deepEqual([...new Set(seen)], ['send 5 30', 'send 1 6']);
  });
});

function manifestWith(change: object): string {
  const head = { format: 1, master, documents: [], lists: [], recent: [] };
  return JSON.stringify({ ...head, ...change });
}

/** What is on the master, one after the other: versions come, go, come again, are replaced, swap their content. */
const history: ImageTree[] = [
  small,
  { ...small, 'x/20260103/root.squashfs': 'root 3', 'y/20260103/root.squashfs': 'root 2' },
  { ...small, 'x/20260101/root.squashfs': 'ROOT 1', 'x/20260102/root.squashfs': 'root 1' },
  { 'x/20260102/root.squashfs': 'root 2', 'x/20260101/root.squashfs': 'root 1' },
  { 'x/20260102/root.squashfs': 'root 1', 'x/20260101/root.squashfs': 'root 2' },
  {},
  { ...small, 'x/20260104/root.squashfs': '' },
];

const full = () => new ServerError('MIRROR_FULL', 'No space left', { hint: 'make room' });
const lost = () => new ServerError('MIRROR_DOWN', 'The connection is lost', { hint: 'try again' });

/** Goes through the history, with a fault at change `at` and at every `every`th after that. */
async function goThrough(options: {
  at: number;
  every: number;
  when: 'before' | 'after';
  restarts: boolean;
}): Promise<{ faults: number }> {
  let changes = 0;
  let faults = 0;
  let isQuiet = false;
  const mirror = memoryMirror({
    changed: () => assert.deepEqual(liesOf(mirror.files), []),
    fault: (when) => {
      if (when !== options.when || isQuiet) return;
      changes += 1;
      const after = changes - options.at;
      if (after === 0 || (after > 0 && options.every > 0 && after % options.every === 0)) {
        faults += 1;
        throw lost();
      }
    },
  });
  let now = 1_000_000_000;
  let tree = small;
  const settings = { now: () => now, recordEvery: 0 };
  let replicator = startMaster(mirror, () => tree, settings);
  const settle = async (generation: Generation) => {
    for (let tries = 0; ; tries++) {
      assert.ok(tries < 1000, 'it comes to an end');
      try {
        return await replicator.sync(() => generation);
      } catch (error) {
        assert.ok(error instanceof ServerError && error.code === 'MIRROR_DOWN', String(error));
        mirror.clock += 1;
        if (options.restarts) replicator = startMaster(mirror, () => tree, settings);
      }
    }
  };
  for (const next of history) {
    tree = next;
    const generation = generationOf(next);
    await settle(generation);
    assertPublished(mirror, generation);
    now += grace / 3;
  }
  isQuiet = true;
  for (let round = 0; round < 2; round++) {
    await replicator.sync(() => generationOf(tree), { inspect: true });
    now += grace;
  }
  await replicator.sync(() => generationOf(tree));
  assert.deepEqual(imagesOn(mirror), expected(tree));
  assert.deepEqual(stagedOn(mirror), []);
  return { faults };
}

describe('whatever fails', () => {
  for (const when of ['before', 'after'] as const) {
    for (const restarts of [false, true]) {
      const title = `${when} the change, ${restarts ? 'in a new process' : 'in the same process'}`;
      test(`at every single step, ${title}: no lie is seen, and the mirror converges`, async () => {
        let at = 1;
        for (; ; at++) {
          const { faults } = await goThrough({ at, every: 0, when, restarts });
          if (faults === 0) break;
        }
        assert.ok(at > 100, `there were ${at} steps`);
      });
    }
  }

  test('the manifest vouches for no documents while they change, though its own change was not acknowledged', async () => {
    let isLost = false;
    let changes = 0;
    const mirror = memoryMirror({
      fault: (when, operation, path) => {
        const manifest = String(mirror.files.get(manifestPath)?.content ?? '{"documents":[]}');
        const { documents } = JSON.parse(manifest) as { documents: unknown[] };
        if (when === 'before' && operation === 'rename' && path.startsWith('streams/')) {
          assert.deepEqual(documents, []);
          changes += 1;
        }
        if (when === 'after' && path === manifestPath && documents.length > 0 && !isLost) {
          isLost = true;
          throw lost();
        }
      },
    });
    const replicator = startMaster(mirror, () => small);
    await assert.rejects(replicator.sync(() => generationOf(small)));
    await replicator.sync(() => generationOf({}));
    assertPublished(mirror, generationOf({}));
    assert.equal(changes, 8);
  });

  test('a removal that was cut is gone on with, without another look at the tree', async () => {
    let now = 1_000_000_000;
    let removals = 0;
    const mirror = memoryMirror({
      parallel: 1,
      fault: (when, operation, path) => {
        if (when !== 'before' || operation !== 'remove' || !path.startsWith('images/')) return;
        if (++removals === 3) throw lost();
      },
    });
    const left = { 'z/20260101/root.squashfs': 'left' };
    const tree = { ...small, ...left };
    const replicator = startMaster(mirror, () => tree, { now: () => now });
    await replicator.sync(() => generationOf(tree));
    await replicator.sync(() => generationOf(left));
    now += grace;
    await assert.rejects(replicator.sync(() => generationOf(left)));
    assert.equal(Object.keys(imagesOn(mirror)).length, 5);
    await replicator.sync(() => generationOf(left));
    assert.deepEqual(imagesOn(mirror), expected(left));
  });

  test('content that was left with two names is not written over under one of them', async () => {
    for (const restarts of [false, true]) {
      let isCut = false;
      const mirror = memoryMirror({
        changed: () => assert.deepEqual(liesOf(mirror.files), []),
        fault: (when, operation, path) => {
          if (isCut && when === 'before' && operation === 'rename' && path.includes('20260105')) {
            throw lost();
          }
        },
      });
      let tree: ImageTree = { 'x/20260101/root.squashfs': 'content' };
      let replicator = startMaster(mirror, () => tree);
      await replicator.sync(() => generationOf(tree));
      tree = { ...tree, 'x/20260105/root.squashfs': 'content' };
      isCut = true;
      await assert.rejects(replicator.sync(() => generationOf(tree)));
      isCut = false;
      assert.ok(mirror.files.has(stagingPath(sha256Of('content'))), 'it is left there');
      tree = { 'x/20260105/root.squashfs': 'content', 'x/20260101/root.squashfs': 'other' };
      if (restarts) replicator = startMaster(mirror, () => tree);
      const put = mirror.counts.put;
      const { sent } = await replicator.sync(() => generationOf(tree));
      assert.deepEqual(sent, { files: 2, bytes: 5 }, 'what was left is used');
      const documents = generationOf(tree).documents.reduce((sum, { size }) => sum + size, 0);
      assert.ok(mirror.counts.put - put <= 5 + 2 * documents);
      assert.deepEqual(imagesOn(mirror), expected(tree));
    }
  });

  test('what an earlier try has left in full length, and wrong, is sent anew', async () => {
    const tree = { 'x/20260101/root.squashfs': 'content' };
    const mirror = memoryMirror();
    mirror.folders.add('.lxd-image-server').add(stagingFolder);
    const left = { content: Buffer.from('CONTENT'), mtime: 0 };
    mirror.files.set(stagingPath(sha256Of('content')), left);
    await startMaster(mirror, () => tree).sync(() => generationOf(tree));
    assert.deepEqual(imagesOn(mirror), expected(tree));
    assert.equal(String(left.content), 'CONTENT', 'the file itself was not written to');
  });

  test('a look that fails once it has read another manifest does not pass for one', async () => {
    let isCut = false;
    const mirror = memoryMirror({
      begin: (operation) => {
        if (isCut && operation === 'stat') throw lost();
      },
    });
    const replicator = startMaster(mirror, () => small);
    await replicator.sync(() => generationOf(small));
    const manifest = mirror.files.get(manifestPath)?.content;
    mirror.files.clear();
    mirror.files.set(manifestPath, { content: Buffer.from(`${manifest}\n`), mtime: 0 });
    isCut = true;
    await assert.rejects(replicator.sync(() => generationOf(small), { inspect: true }));
    isCut = false;
    assert.equal(replicator.lag(generationOf(small)), undefined);
    await replicator.sync(() => generationOf(small), { inspect: true });
    assert.deepEqual(imagesOn(mirror), expected(small));
  });

  test('names are on the disk of the mirror before a document uses them, whatever was cut', async () => {
    for (const restarts of [false, true]) {
      let isCut = true;
      const unsynced = new Set<string>();
      const mirror = memoryMirror({
        parallel: 1,
        fault: (when, operation, path) => {
          if (operation !== 'rename') return;
          const folder = path.slice(0, path.lastIndexOf('/'));
          if (when === 'after' && path.startsWith('images/')) unsynced.add(folder);
          if (when === 'before' && path === paths.images) assert.deepEqual([...unsynced], []);
          if (when === 'after' && path.includes('/y/') && isCut) throw lost();
        },
      });
      const { sync } = mirror;
      mirror.sync = async (path, options) => {
        await sync(path, options);
        unsynced.delete(path);
      };
      let replicator = startMaster(mirror, () => small, { recordEvery: 0 });
      await assert.rejects(replicator.sync(() => generationOf(small)));
      assert.ok(unsynced.size > 0);
      isCut = false;
      if (restarts) replicator = startMaster(mirror, () => small, { recordEvery: 0 });
      await replicator.sync(() => generationOf(small));
      assertPublished(mirror, generationOf(small));
    }
  });

  test('a lie that a restart finds is taken out of the documents before it is mended', async () => {
    let lies: number | undefined;
    const mirror = memoryMirror({
      fault: (when, operation, path) => {
        const isContent = path === stagingPath(sha256Of('meta 1'));
        if (when === 'before' && operation === 'put' && isContent) {
          lies = liesOf(mirror.files).length;
        }
      },
    });
    await startMaster(mirror, () => small).sync(() => generationOf(small));
    for (const documents of [[], [`${paths.images}.gz`], [paths.images]]) {
      lies = undefined;
      mirror.files.delete(pathOf('x/20260101/lxd.tar.xz'));
      mirror.files.delete(manifestPath);
      for (const document of documents) mirror.files.delete(document);
      if (documents.includes(paths.images)) mirror.files.delete(paths.index);
      await startMaster(mirror, () => small).sync(() => generationOf(small));
      assert.equal(lies, 0);
      assert.deepEqual(imagesOn(mirror), expected(small));
    }
  });

  test('what a superseded generation has left does not keep a mirror full', async () => {
    const room = 10_000;
    const mirror = memoryMirror({
      fault: (when, operation) => {
        if (when !== 'before' || operation !== 'put') return;
        const used = [...mirror.files.values()].reduce((sum, file) => sum + file.content.length, 0);
        if (used > room) throw full();
      },
    });
    let tree: ImageTree = { 'x/20260101/root.squashfs': 'r'.repeat(2 * room) };
    const replicator = startMaster(mirror, () => tree);
    await assert.rejects(
      replicator.sync(() => generationOf(tree)),
      (error) => error instanceof ServerError && error.code === 'MIRROR_FULL',
    );
    tree = small;
    await replicator.sync(() => generationOf(tree));
    assert.deepEqual(imagesOn(mirror), expected(tree));
  });

  test('a full mirror that has to hold only what fits converges by itself, after the grace time', async () => {
    const root = 'r'.repeat(4000);
    const room = 16_000;
    let now = 1_000_000_000;
    const used = () => {
      const contents = new Set([...mirror.files.values()].map(({ content }) => content));
      return [...contents].reduce((sum, { length }) => sum + length, 0);
    };
    const mirror = memoryMirror({
      changed: () => assert.deepEqual(liesOf(mirror.files), []),
      fault: (when, operation) => {
        if (when === 'before' && ['put', 'write'].includes(operation) && used() > room) {
          throw full();
        }
      },
    });
    const treeOf = (numbers: number[]) =>
      Object.fromEntries(numbers.map((n) => [`x/2026010${n}/root.squashfs`, `${n}${root}`]));
    let tree = treeOf([1, 2]);
    const replicator = startMaster(mirror, () => tree, { now: () => now });
    await replicator.sync(() => generationOf(tree));
    tree = treeOf([2, 3, 4]);
    let tries = 0;
    for (; ; tries++) {
      assert.ok(tries < 30, 'it comes to an end');
      try {
        await replicator.sync(() => generationOf(tree));
        break;
      } catch (error) {
        assert.ok(error instanceof ServerError && error.code === 'MIRROR_FULL', String(error));
        now += grace / 10;
      }
    }
    assert.ok(tries >= 10, `${tries}`);
    assert.deepEqual(imagesOn(mirror), expected(tree));
    assertPublished(mirror, generationOf(tree));
  });

  test('what is found to be gone has the tree looked at, at the next try', async () => {
    const mirror = memoryMirror();
    let tree = small;
    const replicator = startMaster(mirror, () => tree);
    await replicator.sync(() => generationOf(tree));
    const gone = 'images/demo/x/amd64/default/20260101';
    for (const path of mirror.files.keys()) if (path.startsWith(gone)) mirror.files.delete(path);
    tree = { ...tree, 'x/20260101/more': 'more' };
    // The folder goes while files are given their names in it.
    const { rename } = mirror;
    mirror.rename = async (from, to, options) => {
      if (to.endsWith('/more') && mirror.folders.delete(gone)) mirror.rename = rename;
      return await rename(from, to, options);
    };
    await assert.rejects(
      replicator.sync(() => generationOf(tree)),
      (error) => error instanceof ServerError && error.code === 'MIRROR_MISSING',
    );
    await replicator.sync(() => generationOf(tree));
    assert.deepEqual(imagesOn(mirror), expected(tree));
  });

  test('a file that is gone when its content is to be taken is brought back, too', async () => {
    const mirror = memoryMirror();
    let tree: ImageTree = { 'x/20260101/root.squashfs': 'content' };
    const replicator = startMaster(mirror, () => tree);
    await replicator.sync(() => generationOf(tree));
    mirror.files.delete(pathOf('x/20260101/root.squashfs'));
    tree = { ...tree, 'x/20260105/root.squashfs': 'content' };
    await replicator.sync(() => generationOf(tree));
    assert.deepEqual(imagesOn(mirror), expected(tree));
    assert.deepEqual(liesOf(mirror.files), []);
  });

  test('a mirror that was to be taken over is asked about again', async () => {
    let isCut = false;
    const mirror = memoryMirror({
      fault: () => {
        if (isCut) throw lost();
      },
    });
    await startMaster(mirror, () => small).sync(() => generationOf(small));
    const other = startMaster(mirror, () => small, { master: { id: 'b7', host: 'b' } });
    isCut = true;
    await assert.rejects(
      other.sync(() => generationOf({}), { takeOver: true }),
      (error) => error instanceof ServerError && error.code === 'MIRROR_DOWN',
    );
    isCut = false;
    await assert.rejects(
      other.sync(() => generationOf({})),
      (error) => error instanceof ServerError && error.code === 'MIRROR_TAKEN',
    );
    await other.sync(() => generationOf({}), { takeOver: true });
    assertPublished(mirror, generationOf({}));
  });

  test('a generation that was named in part is reckoned with by the next', async () => {
    let changes = 0;
    const mirror = memoryMirror({
      changed: () => assert.deepEqual(liesOf(mirror.files), []),
      fault: (when, _operation, path) => {
        if (when === 'after' && path === paths.images && ++changes === 2) throw lost();
      },
    });
    let tree: ImageTree = small;
    const replicator = startMaster(mirror, () => tree);
    await replicator.sync(() => generationOf(tree, { gzip: false }));
    for (const content of ['first', 'other']) {
      tree = { ...small, 'x/20260104/root.squashfs': content };
      const sync = replicator.sync(() => generationOf(tree, { gzip: false }));
      if (content === 'first') await assert.rejects(sync);
      else await sync;
    }
    assert.deepEqual(imagesOn(mirror), expected(tree));
  });

  test('again and again: no lie is seen, and the mirror converges', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          at: fc.integer({ min: 1, max: 60 }),
          every: fc.integer({ min: 40, max: 100 }),
          when: fc.constantFrom('before' as const, 'after' as const),
          restarts: fc.boolean(),
        }),
        async (options) => {
          await goThrough(options);
        },
      ),
      { numRuns: 60, endOnFailure: true },
    );
  });
});
