import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ServerError } from '../../src/errors.js';
import type { NamedFile } from '../../src/mirror/replicate.js';
import { generationOf, pathOf, sha256Of } from '../support/image-generations.js';
import { memoryMirror } from '../support/memory-mirror.js';
import { grace, startMaster } from '../support/replicas.js';

const [meta, root] = ['x/20260101/lxd.tar.xz', 'x/20260101/root.squashfs'];
const tree = { [meta]: 'meta 1', [root]: 'root 1' };

function file(name: string, content: string): NamedFile {
  return { path: pathOf(name), sha256: sha256Of(content), size: content.length };
}

describe('what a mirror is known to hold', () => {
  test('is what has got its name there, with that content and no other', async () => {
    const mirror = memoryMirror();
    const replicator = startMaster(mirror, () => tree);
    assert.equal(replicator.isSure(), false);
    assert.equal(replicator.holds(file(meta, 'meta 1')), false);
    assert.equal(replicator.sample(), undefined);
    await replicator.sync(() => generationOf(tree));
    assert.equal(replicator.isSure(), true);
    assert.equal(replicator.holds(file(meta, 'meta 1')), true);
    assert.equal(replicator.holds(file(meta, 'meta 2')), false);
    assert.equal(replicator.holds({ ...file(meta, 'meta 1'), size: 7 }), false);
    assert.equal(replicator.holds(file('x/20260102/lxd.tar.xz', 'meta 1')), false);
  });

  test('grows file by file while they are sent', async () => {
    const seen: boolean[][] = [];
    const mirror = memoryMirror({
      parallel: 1,
      fault(when, operation, path) {
        if (operation !== 'rename' || !path.startsWith('images/')) return;
        const known = [file(meta, 'meta 1'), file(root, 'root 1')].map(replicator.holds);
        seen.push(known.map((held) => held && when === 'before'));
      },
    });
    const replicator = startMaster(mirror, () => tree);
    await replicator.sync(() => generationOf(tree));
    assert.equal(seen[0]?.includes(true), false);
    assert.equal(seen[2]?.filter(Boolean).length, 1);
  });

  test('is neither the old nor the new content while a name is given to another', async () => {
    const during: boolean[] = [];
    let now = tree;
    const mirror = memoryMirror({
      fault(_when, operation, path) {
        if (operation === 'rename' && path === pathOf(root) && now !== tree) {
          during.push(...['root 1', 'root 2'].map((each) => replicator.holds(file(root, each))));
        }
      },
    });
    const replicator = startMaster(mirror, () => now);
    await replicator.sync(() => generationOf(tree));
    now = { ...tree, [root]: 'root 2' };
    await replicator.sync(() => generationOf(now));
    assert.deepEqual(during, [false, false, false, false]);
    assert.equal(replicator.holds(file(root, 'root 1')), false);
    assert.equal(replicator.holds(file(root, 'root 2')), true);
  });

  test('is nothing where a name may have been given and nobody knows, until the next look', async () => {
    let breaks = true;
    const mirror = memoryMirror({
      fault(when, operation, path) {
        if (when === 'after' && operation === 'rename' && path === pathOf(root) && breaks) {
          throw new ServerError('MIRROR_DOWN', 'gone');
        }
      },
    });
    const replicator = startMaster(mirror, () => tree);
    await assert.rejects(replicator.sync(() => generationOf(tree)));
    assert.equal(replicator.holds(file(root, 'root 1')), false);
    breaks = false;
    await replicator.sync(() => generationOf(tree));
    assert.equal(replicator.holds(file(root, 'root 1')), true);
  });

  test('does not have a file any more when that is about to be removed', async () => {
    let time = 1_000_000_000;
    const during: boolean[] = [];
    const mirror = memoryMirror({
      fault(_when, operation, path) {
        if (operation === 'remove' && path === pathOf(root)) {
          during.push(replicator.holds(file(root, 'root 1')));
        }
      },
    });
    const replicator = startMaster(mirror, () => tree, { now: () => time });
    await replicator.sync(() => generationOf(tree));
    const left = generationOf({ [meta]: 'meta 1' });
    await replicator.sync(() => left);
    assert.equal(replicator.holds(file(root, 'root 1')), true, 'clients may have an older index');
    time += grace;
    await replicator.sync(() => left);
    assert.deepEqual(during, [false, false]);
  });

  test('is nothing while the tree is in doubt, and after a look what that has found', async () => {
    const mirror = memoryMirror();
    const replicator = startMaster(mirror, () => tree);
    const generation = generationOf(tree);
    await replicator.sync(() => generation);
    mirror.files.delete(pathOf(root));
    replicator.doubt();
    assert.equal(replicator.holds(file(meta, 'meta 1')), false);
    assert.equal(replicator.sample(), undefined);
    const before = mirror.counts.put;
    await replicator.recall(() => generation);
    assert.equal(replicator.holds(file(meta, 'meta 1')), true);
    assert.equal(replicator.holds(file(root, 'root 1')), false);
    assert.equal(mirror.counts.put, before, 'to look changes nothing');
    await replicator.sync(() => generation);
    assert.equal(replicator.holds(file(root, 'root 1')), true);
  });

  test('is recalled from the manifest alone, in one short look', async () => {
    const mirror = memoryMirror();
    const generation = generationOf(tree);
    await startMaster(mirror, () => tree).sync(() => generation);
    const replicator = startMaster(mirror, () => tree);
    const { operations, put } = mirror.counts;
    await replicator.recall(() => generation);
    assert.ok(mirror.counts.operations - operations <= 6);
    assert.equal(mirror.counts.put, put);
    assert.equal(mirror.counts.hashed, 0);
    assert.equal(replicator.holds(file(root, 'root 1')), true);
    const after = mirror.counts.operations;
    await replicator.recall(() => generation);
    assert.equal(mirror.counts.operations, after, 'what is known is not asked for again');
  });

  test('is gone through file by file, round and round, as it changes', async () => {
    const mirror = memoryMirror();
    let now: Record<string, string> = tree;
    const replicator = startMaster(mirror, () => now);
    await replicator.sync(() => generationOf(now));
    const take = (count: number) =>
      Array.from({ length: count }, () => replicator.sample()?.path).sort();
    assert.deepEqual(take(2), [pathOf(meta), pathOf(root)]);
    assert.deepEqual(take(4), [pathOf(meta), pathOf(meta), pathOf(root), pathOf(root)]);
    now = { [root]: 'root 1', 'y/20260101/lxd.tar.xz': 'meta 3' };
    await replicator.sync(() => generationOf(now));
    assert.deepEqual(
      [...new Set(take(4))],
      [pathOf(root), pathOf('y/20260101/lxd.tar.xz')],
      'what waits to be removed is left out',
    );
  });
});

describe('what is sent', () => {
  test('counts as it goes, and where it was cut', async () => {
    const content = 'x'.repeat(300);
    const big = { [root]: content };
    let cut = true;
    const mirror = memoryMirror({
      fault(when, operation) {
        if (operation === 'put' && when === 'before' && sent.bytes >= 200 && cut) {
          throw new ServerError('MIRROR_DOWN', 'gone');
        }
      },
    });
    const sent = { files: 0, bytes: 0, steps: 0 };
    const onSending = ({ files, bytes }: { files: number; bytes: number }) => {
      assert.ok(files >= 0 && bytes >= 0);
      sent.files += files;
      sent.bytes += bytes;
      if (bytes > 0) sent.steps += 1;
    };
    const replicator = startMaster(mirror, () => big);
    await assert.rejects(replicator.sync(() => generationOf(big), { onSending }));
    assert.deepEqual(sent, { files: 0, bytes: 200, steps: 2 });
    cut = false;
    await replicator.sync(() => generationOf(big), { onSending });
    assert.deepEqual(sent, { files: 1, bytes: 500, steps: 5 }, 'what is sent again counts again');
  });

  test('does not count what the mirror had already', async () => {
    const mirror = memoryMirror();
    let now: Record<string, string> = tree;
    const replicator = startMaster(mirror, () => now);
    await replicator.sync(() => generationOf(now));
    now = { ...tree, 'x/20260102/root.squashfs': 'root 1' };
    const sent = { files: 0, bytes: 0 };
    await replicator.sync(() => generationOf(now), {
      onSending(more) {
        sent.files += more.files;
        sent.bytes += more.bytes;
      },
    });
    assert.deepEqual(sent, { files: 1, bytes: 0 });
  });
});
