import assert from 'node:assert/strict';
import { mkdir, rename, rmdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { placeOf } from '../../src/disk/mounts.js';
import { run } from '../support/command.js';
import { mounting } from '../support/mounting.js';
import { needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

test('a place is the same until another folder takes the name', async (t) => {
  const root = await temporaryFolder(t);
  const folder = join(root, 'images');
  await mkdir(folder);
  const place = await placeOf(folder);
  await writeFile(join(folder, 'file'), 'x');
  assert.equal(await placeOf(folder), place);

  await rename(folder, join(root, 'away'));
  await mkdir(folder);
  const other = await placeOf(folder);
  assert.notEqual(other, place);

  await rmdir(folder);
  await rename(join(root, 'away'), folder);
  assert.equal(await placeOf(folder), place);
});

test('a missing folder is a place of its own', async (t) => {
  const folder = join(await temporaryFolder(t), 'images');
  const missing = await placeOf(folder);
  assert.match(missing, /^none: ENOENT$/m);
  assert.equal(await placeOf(folder), missing);
  await mkdir(folder);
  assert.notEqual(await placeOf(folder), missing);
});

test('a place behind a symbolic link is that of the folder', async (t) => {
  const root = await temporaryFolder(t);
  await mkdir(join(root, 'disk'));
  await symlink('disk', join(root, 'images'));
  assert.equal(await placeOf(join(root, 'images')), await placeOf(join(root, 'disk')));
});

test('mounts at, above and below the folder count, all others do not', async (t) => {
  const root = await temporaryFolder(t);
  const folder = join(root, 'my images');
  const mountinfo = join(root, 'mountinfo');
  const point = (path: string) => path.replaceAll(' ', '\\040');
  await mkdir(folder);
  const base = ['27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw'];
  const place = async (...lines: string[]) => {
    await writeFile(mountinfo, `${[...base, ...lines].join('\n')}\n`);
    return placeOf(folder, { mountinfo });
  };
  const before = await place();
  assert.match(before, /^mount 27 254:0 \/ \/$/m);

  const counting = [root, folder, `${folder}/demo/old releases`];
  for (const path of counting) {
    const line = `40 27 0:50 / ${point(path)} rw - tmpfs tmpfs rw`;
    assert.notEqual(await place(line), before, path);
    assert.notEqual(await place(line.replace('0:50', '0:51')), await place(line), path);
    assert.equal(await place(line.replaceAll('rw', 'ro')), await place(line), path);
  }
  const elsewhere = [`${folder}2`, join(root, 'my'), join(root, 'other'), '/proc'];
  for (const path of elsewhere) {
    assert.equal(await place(`40 27 0:50 / ${point(path)} rw - tmpfs tmpfs rw`), before, path);
  }
});

test('without a table of mounts the folder itself still counts', async (t) => {
  const root = await temporaryFolder(t);
  const folder = join(root, 'images');
  const mountinfo = join(root, 'none');
  const missing = await placeOf(folder, { mountinfo });
  await mkdir(folder);
  assert.notEqual(await placeOf(folder, { mountinfo }), missing);
  assert.match(await placeOf(folder, { mountinfo }), /^inode \d+:\d+$/);
});

test('a file system mounted at or below the folder is told', needsRoot('mount'), async (t) => {
  const mount = mounting(t);
  const folder = join(await temporaryFolder(t), 'my images');
  const below = join(folder, 'demo');
  await mkdir(below, { recursive: true });
  const before = await placeOf(folder);
  await mount(below);
  const withBelow = await placeOf(folder);
  assert.notEqual(withBelow, before);
  await mount(folder);
  assert.notEqual(await placeOf(folder), withBelow);
  await run('umount', [folder]);
  assert.equal(await placeOf(folder), withBelow);
  await run('umount', [below]);
  assert.equal(await placeOf(folder), before);
});
