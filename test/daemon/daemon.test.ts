/** What the daemon does with what lands in the tree, and how it behaves as a service. */
import assert from 'node:assert/strict';
import { appendFile, chmod, link, mkdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { publishedVersions } from '../support/cli.js';
import { assertAsRebuilt, type Daemon, emptyRoot, shows, startDaemon } from '../support/daemon.js';
import {
  addVersion,
  metadataArchive,
  splitImage,
  squashfs,
  writeFiles,
  writeSums,
} from '../support/image-tree.js';

const product = 'demo/one/amd64/default';
const version = `${product}/20260101`;
const published = 'demo:one:amd64:default/20260101';

describe('the daemon publishes', () => {
  test('a version that was written while it watched, once it has settled', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    await addVersion(root, version);
    await daemon.until(shows(root, published));
    assert.equal(await daemon.end(), 0);
    await assertAsRebuilt(root);
  });

  test('a version with a SHA256SUMS that is met, without waiting', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { settle: '1h' });
    await writeSums(await addVersion(root, version));
    await daemon.until(shows(root, published));
  });

  test('a version renamed into place, without waiting', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { settle: '1h' });
    const folder = await addVersion(root, `${product}/.incoming`);
    // A file of the very tick of the rename could still be changing.
    const written = (await stat(join(folder, 'rootfs.squashfs'), { bigint: true })).ctimeNs;
    while ((await stat(root, { bigint: true })).ctimeNs - written < 20_000_000n) {
      await utimes(root, new Date(), new Date());
    }
    await rename(folder, join(root, 'images', version));
    await daemon.until(shows(root, published));
  });

  test('nothing of a version that goes on changing, and all of it when it has ended', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { settle: '1s' });
    const folder = await addVersion(root, version, { 'lxd.tar.xz': await metadataArchive() });
    const whole = squashfs('slow', 40_000);
    for (let at = 0; at < whole.length; at += 4000) {
      await appendFile(join(folder, 'rootfs.squashfs'), whole.subarray(at, at + 4000));
      await daemon.event('looked');
      assert.deepEqual(await publishedVersions(root), []);
    }
    await daemon.until(shows(root, published));
  });

  test('a file that changed after its publication, never as it was', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    const folder = await addVersion(root, version);
    await daemon.until(shows(root, published));
    const { 'rootfs.squashfs': other = '' } = await splitImage('another');
    await writeFiles(folder, { 'rootfs.squashfs': other });
    await daemon.event('published');
    await daemon.until(shows(root, published));
    await daemon.end();
    await assertAsRebuilt(root);
  });

  test('what was moved under its new name, and no more what was removed', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    await addVersion(root, version);
    await addVersion(root, 'demo/two/amd64/default/20260101');
    await addVersion(root, 'gone/one/amd64/default/20260101');
    await daemon.until(
      shows(root, published, 'demo:two:amd64:default/20260101', 'gone:one:amd64:default/20260101'),
    );
    const images = join(root, 'images');
    await mkdir(join(images, 'demo/three/amd64'), { recursive: true });
    await rename(join(images, product), join(images, 'demo/three/amd64/default'));
    await rename(join(images, 'demo/two'), join(images, 'demo/four'));
    await rm(join(images, 'gone'), { recursive: true });
    await daemon.until(
      shows(root, 'demo:three:amd64:default/20260101', 'demo:four:amd64:default/20260101'),
    );
    await addVersion(root, 'demo/four/amd64/default/20260102');
    await daemon.until(
      shows(
        root,
        'demo:three:amd64:default/20260101',
        'demo:four:amd64:default/20260101',
        'demo:four:amd64:default/20260102',
      ),
    );
    await daemon.end();
    await assertAsRebuilt(root);
  });

  test('what changed while it was not running', async (t) => {
    const root = await emptyRoot(t);
    const before = await startDaemon(t, root);
    await addVersion(root, version);
    await before.until(shows(root, published));
    await before.end();
    await addVersion(root, 'demo/two/amd64/default/20260101');
    await rm(join(root, 'images', version), { recursive: true });
    const daemon = await startDaemon(t, root);
    await daemon.until(shows(root, 'demo:two:amd64:default/20260101'));
  });
});

test('a published version stays so when its files get other permissions or further names', async (t) => {
  const root = await emptyRoot(t);
  const daemon = await startDaemon(t, root, { settle: '2s' });
  const folder = await addVersion(root, version);
  await daemon.until(shows(root, published));
  const file = join(folder, 'rootfs.squashfs');
  const documents = await stat(join(root, 'streams/v1/images.json'), { bigint: true });
  await chmod(file, 0o644);
  await looked(daemon);
  await link(file, join(root, 'another-name'));
  await chmod(file, 0o664);
  await looked(daemon);
  const after = await stat(join(root, 'streams/v1/images.json'), { bigint: true });
  assert.deepEqual([after.ino, after.mtimeNs], [documents.ino, documents.mtimeNs]);
});

/** Waits until the daemon has looked at something after this moment. */
async function looked(daemon: Daemon): Promise<void> {
  const count = () => daemon.events.filter(({ msg }) => msg === 'looked').length;
  const before = count();
  await daemon.until(() => count() > before);
}
