/** Replication over the real transport to a real sshd: a history of trees, each brought over in full. */
import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { createReplicator } from '../../src/mirror/replicate.js';
import { generationOf, liesOf, sourcesOf } from '../support/image-generations.js';
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
