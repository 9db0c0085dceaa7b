import assert from 'node:assert/strict';
import { appendFile, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { openImage } from '../../src/cli/image-files.js';
import { splitParts } from '../support/library-site.js';
import { superblock } from '../support/sample-images.js';
import { temporaryFolder } from '../support/temporary.js';

/** An image with a root file system of `bytes`, opened. */
async function opened(t: TestContext, bytes = 1_000_000) {
  const folder = await temporaryFolder(t);
  const paths = ['lxd.tar.xz', 'rootfs.squashfs'].map((name) => join(folder, name));
  const [metadata = '', rootfs = ''] = paths;
  const root = Buffer.alloc(bytes, 'x');
  superblock(bytes).copy(root);
  const contents = [(await splitParts()).metadata, root];
  await writeFile(metadata, contents[0] as Buffer);
  await writeFile(rootfs, root);
  const image = await openImage(paths);
  t.after(() => image.close());
  return { image, rootfs, whole: Buffer.concat(contents), sizes: contents.map((c) => c.length) };
}

async function allOf(content: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const found: Uint8Array[] = [];
  for await (const piece of content) found.push(piece);
  return Buffer.concat(found);
}

test('files are read whole, one after the other, as often as need be', async (t) => {
  const { image, whole, sizes } = await opened(t);
  assert.equal(image.bytes, whole.length);
  const [metadata, rootfs] = sizes;
  assert.deepEqual(image.parts, [
    { part: 'metadata', size: metadata },
    { part: 'rootfs', size: rootfs },
  ]);
  for (let time = 0; time < 2; time++) assert.deepEqual(await allOf(image.content()), whole);
});

const changes: [string, (file: string) => Promise<void>][] = [
  ['grows', (file) => appendFile(file, 'more')],
  ['is cut', (file) => truncate(file, 500_000)],
  ['is written anew', (file) => utimes(file, 1, 1)],
];
for (const [what, change] of changes) {
  test(`a file that ${what} while it is read is refused`, async (t) => {
    const { image, rootfs } = await opened(t);
    const content = image.content()[Symbol.asyncIterator]();
    await content.next();
    await change(rootfs);
    const rest = allOf({ [Symbol.asyncIterator]: () => content });
    await assert.rejects(rest, {
      code: 'IO',
      message: /rootfs.squashfs changed while it was read/,
    });
  });
}
