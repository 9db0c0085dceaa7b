import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import {
  appendFile,
  mkdir,
  readdir,
  readlink,
  rename,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { createSharedFiles, type SharedFile } from '../../src/disk/shared-files.js';
import { ServerError } from '../../src/errors.js';
import { temporaryFolder } from '../support/temporary.js';

const block = 1000;

async function setUp(t: TestContext, { keep = 5 * block, size = 10_500 } = {}) {
  const root = await temporaryFolder(t);
  const content = randomBytes(size);
  await writeFile(join(root, 'a'), content);
  return { root, content, files: createSharedFiles({ root, keep, block }) };
}

/** What this process has open below `folder`. */
async function openFiles(folder: string): Promise<string[]> {
  const descriptors = await readdir('/proc/self/fd');
  const paths = descriptors.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => ''));
  return (await Promise.all(paths)).filter((path) => path.startsWith(folder));
}

async function readAll(file: SharedFile, piece = 300): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for (let at = 0; at < file.size; at += piece) {
    pieces.push(await file.read(at, Math.min(piece, file.size - at)));
  }
  return Buffer.concat(pieces);
}

const isChanged = (error: unknown) =>
  error instanceof ServerError && error.code === 'SOURCE_CHANGED';

describe('a file that is shared', () => {
  test('is read once for readers side by side, whatever the size of their pieces', async (t) => {
    const { files, content } = await setUp(t);
    const readers = await Promise.all([1, 2, 3, 4, 5].map(() => files.openSource('a')));
    for (let at = 0; at < content.length; at += 700) {
      const length = Math.min(700, content.length - at);
      for (const bytes of await Promise.all(readers.map((reader) => reader.read(at, length)))) {
        assert.ok(bytes.equals(content.subarray(at, at + length)));
      }
    }
    assert.equal(files.bytesRead(), content.length);
    await Promise.all(readers.map((reader) => reader.close()));
  });

  test('is read again for one who is far behind, for only so much is kept', async (t) => {
    const { files, content } = await setUp(t);
    const [first, second] = [await files.openSource('a'), await files.openSource('a')];
    assert.deepEqual(await readAll(first), content);
    assert.deepEqual(await readAll(second, 2500), content);
    assert.equal(files.bytesRead(), 2 * content.length);
    await Promise.all([first.close(), second.close()]);
  });

  test('is closed with its last reader, and read afresh by the next', async (t) => {
    const { root, files, content } = await setUp(t, { keep: 100 * block });
    const before = await openFiles(root);
    const [first, second] = await Promise.all([files.openSource('a'), files.openSource('a')]);
    assert.equal((await openFiles(root)).length, 1);
    await readAll(first);
    await first.close();
    await first.close();
    assert.deepEqual(await readAll(second), content);
    await second.close();
    assert.deepEqual([before, await openFiles(root)], [[], []]);
    const third = await files.openSource('a');
    await readAll(third);
    assert.equal(files.bytesRead(), 2 * content.length);
    await third.close();
  });

  test('is refused when it has changed in the middle, or is no file', async (t) => {
    for (const change of [
      (path: string) => appendFile(path, 'more'),
      (path: string) => truncate(path, 2000),
      (path: string) => writeFile(path, randomBytes(10_500)),
    ]) {
      const { root, files } = await setUp(t);
      const file = await files.openSource('a');
      await file.read(0, 10);
      await change(join(root, 'a'));
      await assert.rejects(file.read(5000, 10), isChanged);
      await file.close();
      assert.deepEqual(await openFiles(root), []);
    }
    const { root, files } = await setUp(t);
    await mkdir(join(root, 'folder'));
    for (const path of ['none', 'folder']) await assert.rejects(files.openSource(path), isChanged);
    const file = await files.openSource('a');
    await assert.rejects(file.read(10_499, 2), isChanged);
    await file.close();
    assert.deepEqual(await openFiles(root), []);
  });

  test('is another one when it has been replaced, and those who read the old one go on', async (t) => {
    const { root, files, content } = await setUp(t);
    const old = await files.openSource('a');
    await old.read(0, 10);
    const next = randomBytes(3000);
    await writeFile(join(root, 'b'), next);
    await rename(join(root, 'b'), join(root, 'a'));
    const young = await files.openSource('a');
    assert.deepEqual(await readAll(young), next);
    assert.deepEqual(await readAll(old), content);
    await old.close();
    assert.deepEqual(await readAll(young), next);
    await young.close();
    await rm(join(root, 'a'));
    await assert.rejects(files.openSource('a'), isChanged);
    assert.deepEqual(await openFiles(root), []);
  });
});
