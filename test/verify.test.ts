/** Verification of a tree that goes on changing; what damage there can be is tested with the real command. */
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { createPool } from '../src/disk/pool.js';
import { createPipeline } from '../src/pipeline.js';
import { verifyLiving } from '../src/verify.js';
import { addVersion, squashfs, writeFiles } from './support/image-tree.js';
import { memoryLog } from './support/memory-log.js';
import { temporaryFolder } from './support/temporary.js';

const pool = createPool({ threads: 2 });
after(() => pool.close());

test('what was replaced is damage only as long as nothing has been published of it', async (t) => {
  const root = await temporaryFolder(t);
  const paths = {
    root,
    images: join(root, 'images'),
    streams: join(root, 'streams/v1'),
    state: join(root, 'state'),
  };
  await mkdir(paths.images);
  const { log } = memoryLog();
  const pipeline = createPipeline({ paths, publish: { settle: 0, gzip: false }, pool, log });
  const version = 'images/a/x/amd64/default/20260101';
  const folder = await addVersion(root, 'a/x/amd64/default/20260101');
  await addVersion(root, 'b/x/amd64/default/20260101');
  await pipeline.run();
  await writeFiles(folder, { 'rootfs.squashfs': squashfs('other') });
  const unpublished = await verifyLiving({ paths, pool }, async () => {});
  assert.deepEqual(
    unpublished.damage.map(({ path }) => path),
    [`${version}/rootfs.squashfs`],
  );
  const { files, damage } = await verifyLiving({ paths, pool }, () => pipeline.run());
  assert.deepEqual(damage, []);
  assert.equal(files, 4, 'all that was read at first is counted');
});
