/** What others do to the tree, while the library is asked for images and changes them. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { describe, test } from 'node:test';
import { removedMark } from '../../src/catalog/tree.js';
import { run } from '../support/command.js';
import { eventually } from '../support/eventually.js';
import {
  librarySite,
  publishedPaths,
  splitParts,
  staged,
  treeOf,
  upload,
} from '../support/library-site.js';
import { needs, needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

const product = 'demo/box/amd64/default';

describe('the hidden file of a version', () => {
  test('that is a FIFO holds nobody up', { ...needs('mkfifo'), timeout: 20_000 }, async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts());
    const folder = join(site.root, 'images', product, image.version);
    await site.close();
    await rm(join(folder, '.properties.json'));
    await run('mkfifo', [join(folder, '.properties.json')]);
    const again = await librarySite(t, { root: site.root });
    const [found] = await again.library.images();
    assert.equal(found?.properties.os, 'Demo');
    const [event] = again.events.filter(({ msg }) => /properties are damaged/.test(String(msg)));
    assert.ok(event !== undefined);
  });

  test('is told anew when the same image comes a second time', { timeout: 60_000 }, async (t) => {
    const site = await librarySite(t, { removalGrace: 0 });
    const parts = await splitParts();
    const first = await upload(site, parts, { properties: { note: 'one' } });
    await site.library.images();
    await site.library.remove(first.fingerprint);
    await eventually('deleted', () => !existsSync(join(site.root, 'images/demo')));
    await site.library.images();
    const second = await upload(site, parts, { properties: { note: 'two' } });
    assert.equal(second.version, first.version);
    assert.equal(second.properties.note, 'two');
    assert.equal((await site.library.image(first.fingerprint)).properties.note, 'two');
  });
});

describe('product.yaml', () => {
  test('that is a FIFO is refused', { ...needs('mkfifo'), timeout: 20_000 }, async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts());
    await run('mkfifo', [join(site.root, 'images', product, 'product.yaml')]);
    await assert.rejects(site.library.addAlias('mine', image.fingerprint), {
      name: 'ServerError',
      code: 'IMAGE_INVALID',
    });
  });

  test('that leads out of the tree is neither read nor replaced', async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts());
    const path = join(site.root, 'images', product, 'product.yaml');
    await writeFile(join(site.root, 'secret'), '# secret\n');
    await symlink(join(site.root, 'secret'), path);
    await assert.rejects(site.library.addAlias('mine', image.fingerprint), {
      code: 'IMAGE_INVALID',
    });
    assert.equal(await readFile(path, 'utf8'), '# secret\n');
  });
});

describe('a removal', () => {
  for (const [name, place] of [
    ['of its own product', product],
    ['of another product', 'demo/other/amd64/default'],
  ] as const) {
    test(`keeps files to which a version ${name} has links`, { timeout: 60_000 }, async (t) => {
      const site = await librarySite(t, { settle: 0, removalGrace: 0 });
      const first = await upload(site, await splitParts());
      const next = join(site.root, 'images', place, '20270101');
      await mkdir(next, { recursive: true });
      const { metadata } = await splitParts('', { os: 'Demo', release: 'next' });
      await writeFile(join(next, 'lxd.tar.xz'), metadata);
      const rootfs = join(site.root, 'images', product, first.version, 'rootfs.squashfs');
      await symlink(relative(next, rootfs), join(next, 'rootfs.squashfs'));
      await site.runner.update();
      assert.equal((await site.library.images()).length, 2);

      await site.library.remove(first.fingerprint);
      const told = () => site.events.filter(({ msg }) => /others link to them/.test(String(msg)));
      await eventually('told', () => told().length > 0);
      assert.deepEqual(told()[0]?.by, [`${place}/20270101`]);
      assert.deepEqual(await publishedPaths(site), [
        `images/${place}/20270101/lxd.tar.xz`,
        `images/${place}/20270101/rootfs.squashfs`,
      ]);
      await stat(join(next, 'rootfs.squashfs'));

      await rm(next, { recursive: true });
      await site.runner.update();
      await eventually('deleted', () => !existsSync(dirname(rootfs)));
      assert.equal(told().length, 1);
    });
  }
});

describe('the mark of a removal', () => {
  test('that was copied with its times counts from then on', { timeout: 60_000 }, async (t) => {
    const site = await librarySite(t, { settle: 0, removalGrace: 3_600_000 });
    const image = await upload(site, await splitParts());
    const other = await upload(site, await splitParts('other', { os: 'other', release: 'x' }));
    const folder = join(site.root, 'images', product, image.version);
    await writeFile(join(folder, removedMark), '');
    await utimes(join(folder, removedMark), 1_700_000_000, 1_700_000_000);
    await site.runner.update();
    assert.deepEqual(await site.library.images(), [other]);
    // It takes its turn after whatever is due.
    await site.library.edit(other.fingerprint, { properties: {} });
    for (const { path } of image.files) await stat(join(site.root, path));
  });
});

describe('an images folder', () => {
  test('that is a folder of the same device mounted there takes uploads and removals', {
    ...needsRoot('mount'),
    timeout: 60_000,
  }, async (t) => {
    let images = '';
    // What is set up later is cleared away later.
    t.after(() => run('umount', ['--lazy', images]));
    const root = await temporaryFolder(t);
    images = join(root, 'images');
    await mkdir(images);
    await mkdir(join(root, 'elsewhere'));
    await run('mount', ['--bind', join(root, 'elsewhere'), images]);
    const site = await librarySite(t, { root, removalGrace: 0 });
    const image = await upload(site, await splitParts());
    assert.deepEqual(await site.library.images(), [image]);
    await site.library.remove(image.fingerprint);
    await eventually('deleted', () => !existsSync(join(site.root, 'images/demo')));
    assert.deepEqual(await treeOf(site), ['.staging']);
    assert.deepEqual(await staged(site), []);
  });
});
