/** Replication over the real transport to a real sshd: a history of trees, each brought over in full. */
import assert from 'node:assert/strict';
import { appendFile, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createReplicator } from '../../src/mirror/replicate.js';
import {
  generationOf,
  type ImageTree,
  liesOf,
  pathOf,
  paths,
  sourcesOf,
} from '../support/image-generations.js';
import { memoryLog } from '../support/memory-log.js';
import { needs } from '../support/programs.js';
import { createSftpServer } from '../support/sftp-mirror.js';

async function filesIn(folder: string): Promise<Map<string, { content: Buffer }>> {
  const files = new Map<string, { content: Buffer }>();
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    files.set(path.slice(folder.length + 1), { content: await readFile(path) });
  }
  return files;
}

test(
  'a mirror over SFTP becomes each of the trees it is given',
  needs('sshd', 'ssh-keygen'),
  async (t) => {
    const { open, folder } = await createSftpServer(t, {});
    const mirror = open();
    const tree: Record<string, string> = {};
    for (let n = 0; n < 100; n++) {
      tree[`x/20260101_${n}/lxd.tar.xz`] = `meta ${n}`;
      // Some have the content of others, and need not be sent.
      tree[`x/20260101_${n}/root.squashfs`] = `root ${n % 30}`.repeat(1000);
    }
    const contents = [...new Set(Object.values(tree))];
    const history = [
      { trees: tree, files: 200, bytes: contents.join('').length },
      { trees: { ...tree, 'x/20260102/root.squashfs': 'new' }, files: 1, bytes: 3 },
      { trees: { ...tree, 'x/20260101_7/lxd.tar.xz': 'META' }, files: 1, bytes: 4 },
    ];
    let now = Date.now();
    for (const { trees, ...sent } of history) {
      const generation = generationOf(trees);
      const replicator = createReplicator({
        mirror,
        master: { id: 'a', host: 'b' },
        images: 'images',
        grace: 1000,
        openSource: sourcesOf(() => trees),
        cache: { get: async () => undefined, set: async () => {} },
        log: memoryLog().log,
        now: () => now,
      });
      const sync = () => replicator.sync(() => generation);
      assert.deepEqual((await sync()).sent, sent);
      assert.deepEqual((await sync()).sent, { files: 0, bytes: 0 });
      now += 1000;
      await sync();
      const files = await filesIn(folder);
      assert.deepEqual(liesOf(files), []);
      const images = [...files.keys()].filter((path) => path.startsWith('images/'));
      assert.equal(images.length, Object.keys(trees).length);
    }
    await mirror.close();
  },
);

/** A mirror behind a real sshd that is in sync, and how to start another process for it. */
async function settledServer(t: TestContext) {
  const { open, folder } = await createSftpServer(t, {});
  const tree: Record<string, string> = {};
  for (let n = 0; n < 20; n++) {
    tree[`x/20260101_${n}/lxd.tar.xz`] = `meta ${n}`;
    // More than one request.
    tree[`x/20260101_${n}/root.squashfs`] = `root ${n}`.repeat(50_000);
  }
  const generation = generationOf(tree);
  const start = () =>
    createReplicator({
      mirror: open(),
      master: { id: 'a', host: 'b' },
      images: 'images',
      grace: 1000,
      openSource: sourcesOf(() => tree as ImageTree),
      cache: { get: async () => undefined, set: async () => {} },
      log: memoryLog().log,
    });
  const replicator = start();
  await replicator.sync(() => generation);
  return { folder, tree, generation, replicator, start };
}

test(
  'a mirror over SFTP is read back in full, and mended',
  needs('sshd', 'ssh-keygen'),
  async (t) => {
    const { folder, tree, generation, replicator, start } = await settledServer(t);
    const at = (file: string) => join(folder, pathOf(file));
    const good = await replicator.verify(() => generation);
    const bytes = [...generation.files.values(), ...generation.documents].reduce(
      (sum, { size }) => sum + size,
      0,
    );
    assert.deepEqual(good, { files: 44, bytes, damage: [], extra: [], repaired: false });

    const rotten = at('x/20260101_3/root.squashfs');
    const { atime, mtime } = await stat(rotten);
    const content = await readFile(rotten);
    content[100_000] = content.readUInt8(100_000) ^ 1;
    await writeFile(rotten, content);
    await utimes(rotten, atime, mtime);
    await rm(at('x/20260101_4/lxd.tar.xz'));
    await writeFile(at('x/20260101_5/root.squashfs'), 'cut');
    await writeFile(at('x/20260101_7/extra'), 'x');
    await appendFile(join(folder, `${paths.index}.gz`), 'x');

    for (const verifier of [replicator, start()]) {
      const before = await filesIn(folder);
      const { damage, extra, files } = await verifier.verify(() => generation);
      assert.deepEqual(
        damage.map(({ path, reason }) => [path, reason.replace(/ [0-9a-f]{64}/g, '')]),
        [
          [pathOf('x/20260101_3/root.squashfs'), 'has SHA-256, published is'],
          [pathOf('x/20260101_4/lxd.tar.xz'), 'is not there'],
          [pathOf('x/20260101_5/root.squashfs'), 'has a size of 3, published is 300000'],
          [
            `${paths.index}.gz`,
            `has a size of ${1 + sizeOf(`${paths.index}.gz`)}, published is ${sizeOf(`${paths.index}.gz`)}`,
          ],
        ],
      );
      assert.deepEqual(extra, [pathOf('x/20260101_7/extra')]);
      assert.equal(files, 44 - 2);
      assert.deepEqual(await filesIn(folder), before);
    }

    const next = start();
    const { repaired, sync } = await next.verify(() => generation, { repair: true });
    assert.equal(repaired, true);
    assert.ok((sync?.sent.files ?? 0) >= 3);
    const files = await filesIn(folder);
    assert.deepEqual(liesOf(files), []);
    for (const [file, wanted] of Object.entries(tree)) {
      assert.equal(files.get(pathOf(file))?.content.toString(), wanted);
    }
    assert.deepEqual((await start().verify(() => generation)).damage, []);

    function sizeOf(path: string): number {
      return generation.documents.find((document) => document.path === path)?.size ?? 0;
    }
  },
);

test(
  'the verification of a mirror over SFTP ends with the reason of an abort, and goes on anew',
  needs('sshd', 'ssh-keygen'),
  async (t) => {
    const { folder, generation, replicator } = await settledServer(t);
    await rm(join(folder, pathOf('x/20260101_4/lxd.tar.xz')));
    await rm(join(folder, '.lxd-image-server/manifest.json'));
    const ending = new AbortController();
    const reason = new Error('shutting down');
    const verifying = replicator.verify(() => generation, {
      signal: ending.signal,
      repair: true,
      onProgress: ({ stage, files }) => {
        if (stage === 'check' && files.done === 5) ending.abort(reason);
      },
    });
    await assert.rejects(verifying, (error) => error === reason);
    const { damage } = await replicator.verify(() => generation, { repair: true });
    assert.deepEqual(damage, [{ path: pathOf('x/20260101_4/lxd.tar.xz'), reason: 'is not there' }]);
    assert.deepEqual(liesOf(await filesIn(folder)), []);
  },
);
