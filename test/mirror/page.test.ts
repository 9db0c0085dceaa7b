/** The catalogue page as a document of a generation: outside of streams/v1, and before the list of images. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { generationOf, pathOf } from '../support/image-generations.js';
import { memoryMirror } from '../support/memory-mirror.js';
import { startMaster } from '../support/replicas.js';

const tree = { 'x/20260101/root.squashfs': 'root', 'y/20260101/root.squashfs': 'other' };
const pageOn = ({ files }: ReturnType<typeof memoryMirror>) =>
  files.get('index.html')?.content.toString();

describe('the catalogue page', () => {
  test('comes to a mirror that has been without, and changes there while the images stay', async () => {
    const mirror = memoryMirror();
    await startMaster(mirror, () => tree).sync(() => generationOf(tree));
    assert.equal(pageOn(mirror), undefined);
    for (const page of ['one', 'two']) {
      const generation = generationOf(tree, { page });
      const { sent } = await startMaster(mirror, () => tree).sync(() => generation);
      assert.deepEqual(sent, { files: 0, bytes: 0 });
      assert.equal(pageOn(mirror), page);
      for (const { path, content } of generation.documents) {
        assert.deepEqual(mirror.files.get(path)?.content, Buffer.concat(content), path);
      }
    }
  });

  test('stays on a mirror where documents have to be replaced that name what is lost', async () => {
    const mirror = memoryMirror();
    const generation = generationOf(tree, { page: 'page' });
    await startMaster(mirror, () => tree).sync(() => generation);
    const less = generation.without(new Set([pathOf('y/20260101/root.squashfs')]));
    assert.deepEqual(
      less.documents.map(({ path }) => path),
      ['index.html', 'streams/v1/images.json', 'streams/v1/index.json'],
    );
    await startMaster(mirror, () => tree).sync(() => less);
    assert.equal(pageOn(mirror), 'page');
  });

  test('leaves what lies beside it on the mirror', async () => {
    const mirror = memoryMirror();
    const generation = generationOf(tree, { page: 'page' });
    await startMaster(mirror, () => tree).sync(() => generation);
    const file = mirror.files.get('index.html');
    assert.ok(file);
    mirror.files.set('index.html.gz', { ...file });
    await startMaster(mirror, () => tree).sync(() => generationOf(tree, { page: 'other' }));
    assert.ok(mirror.files.has('index.html.gz'));
  });
});
