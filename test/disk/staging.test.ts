import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { createStaging, type StagedFolder } from '../../src/disk/staging.js';
import { outcome, run } from '../support/command.js';
import { piecesOf } from '../support/library-site.js';
import { mounting } from '../support/mounting.js';
import { needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

interface Place {
  root: string;
  images: string;
  make: (reserve?: number) => Promise<StagedFolder>;
}

async function placeIn(root: string): Promise<Place> {
  const images = join(root, 'images');
  await mkdir(images, { recursive: true });
  return { root, images, make: (reserve = 0) => createStaging({ root, images, reserve }).make() };
}

const newPlace = async (t: TestContext) => placeIn(await temporaryFolder(t));

const quiet = { signal: new AbortController().signal, onChunk: () => {} };

describe('a staged folder', () => {
  test('has the files as they came, in pieces of any size', async (t) => {
    const { make } = await newPlace(t);
    const folder = await make();
    const bytes = Buffer.alloc(3_000_001, 'content of a file');
    for (const size of [1_000_003, 65_537, 4_000_000]) {
      const seen: number[] = [];
      const onChunk = (chunk: Uint8Array) => void seen.push(chunk.length);
      await folder.write(`of-${size}`, piecesOf(bytes, size), { ...quiet, onChunk });
      assert.ok(bytes.equals(await readFile(join(folder.path, `of-${size}`))));
      assert.equal(
        seen.reduce((sum, length) => sum + length),
        bytes.length,
      );
    }
    await folder.write('none', piecesOf(Buffer.alloc(0)), quiet);
    assert.equal((await readFile(join(folder.path, 'none'))).length, 0);
  });

  test('gets its place where nothing is, and leaves alone what is there', async (t) => {
    const { images, make } = await newPlace(t);
    const target = (name: string) => join(images, name);
    await mkdir(target('empty'));
    await mkdir(target('full'));
    await writeFile(target('full/x'), 'x');
    await writeFile(target('file'), 'x');
    await symlink('nowhere', target('link'));
    const folder = await make();
    await folder.keep('a', 'text');
    for (const name of ['empty', 'full', 'file', 'link']) {
      assert.equal(await folder.place(target(name)), false, name);
    }
    assert.deepEqual(await readdir(target('empty')), []);
    assert.equal(await folder.place(target('new')), true);
    assert.equal(await readFile(target('new/a'), 'utf8'), 'text');
    await folder.takeBack(target('new'));
    assert.deepEqual((await readdir(images)).sort(), ['empty', 'file', 'full', 'link']);
    await folder.remove();
    await folder.remove();
    assert.deepEqual(await readdir(dirname(folder.path)), []);
  });

  test('is swept with all that it has, and only then', async (t) => {
    const { root, images, make } = await newPlace(t);
    const staging = createStaging({ root, images });
    await staging.sweep();
    const folder = await make();
    await folder.write('a', piecesOf(Buffer.alloc(100)), quiet);
    await staging.sweep();
    assert.deepEqual(await readdir(root), ['images']);
  });

  test('takes nothing where too little room would be left', async (t) => {
    const { make } = await newPlace(t);
    const folder = await make(2 ** 60);
    const pulled: number[] = [];
    const onChunk = () => void pulled.push(1);
    await assert.rejects(folder.write('a', piecesOf(Buffer.alloc(10)), { ...quiet, onChunk }), {
      code: 'DISK_FULL',
    });
    assert.deepEqual(pulled, []);
  });

  test('is not made for more than there is room for', async (t) => {
    const { root, images } = await newPlace(t);
    const staging = createStaging({ root, images, reserve: 0 });
    await assert.rejects(staging.make({ bytes: 2 ** 60 }), { code: 'DISK_FULL' });
    assert.deepEqual(await readdir(join(root, '.staging')), []);
    await staging.make({ bytes: 1 });
  });
});

/** A file system of this size, mounted at a temporary folder. */
async function smallDisk(t: TestContext, size: string): Promise<string> {
  let folder: string | undefined;
  // What is set up first is cleared away first.
  t.after(async () => folder && outcome('umount', ['--lazy', folder]));
  folder = await temporaryFolder(t);
  await run('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'images', folder]);
  return folder;
}

describe('on file systems of their own', needsRoot('mount', 'umount'), () => {
  test('a disk that is full ends an upload, and has its room again afterwards', async (t) => {
    const { make } = await placeIn(await smallDisk(t, '4m'));
    const folder = await make();
    const large = piecesOf(Buffer.alloc(6_000_000));
    await assert.rejects(folder.write('a', large, quiet), { code: 'DISK_FULL' });
    await folder.remove();
    const again = await make();
    await again.write('a', piecesOf(Buffer.alloc(3_000_000)), quiet);
  });

  test('the room that is left is looked at while an upload goes on', async (t) => {
    const { make } = await placeIn(await smallDisk(t, '100m'));
    let written = 0;
    const onChunk = (chunk: Uint8Array) => {
      written += chunk.length;
    };
    const folder = await make(50 * 1024 * 1024);
    await assert.rejects(
      folder.write('a', piecesOf(Buffer.alloc(90 * 1024 * 1024)), { ...quiet, onChunk }),
      { code: 'DISK_FULL' },
    );
    assert.ok(written < 80 * 1024 * 1024, `${written} bytes were taken`);
  });

  test('staging is where the images are', async (t) => {
    const mount = mounting(t);
    const { root, images, make } = await newPlace(t);
    await mount(images);
    const folder = await make();
    assert.equal(dirname(folder.path), join(images, '.staging'));
    await folder.keep('a', 'text');
    assert.equal(await folder.place(join(images, 'new')), true);
    await make();
    await createStaging({ root, images }).sweep();
    assert.deepEqual(await readdir(images), ['new']);
    await run('umount', [images]);
  });
});
