import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { filesOf, productsWithout } from '../../src/catalog/generation.js';
import { parseImages } from '../../src/catalog/published.js';
import { entriesOf, generationOf, pathOf, paths, sha256Of } from '../support/image-generations.js';

const tree = {
  'x/20260103/lxd.tar.xz': 'meta',
  'x/20260103/root.squashfs': 'root',
  'x/20260103_12:00/root.squashfs': 'later',
  'x/20260201/root.squashfs': 'newest',
  'y/20260103/root.squashfs': 'root',
};

describe('the files of products', () => {
  test('are all that their versions name, by path', () => {
    const files = filesOf(entriesOf(tree));
    assert.equal(files.size, 5);
    assert.deepEqual(files.get(pathOf('x/20260103/root.squashfs')), {
      size: 4,
      sha256: sha256Of('root'),
    });
  });

  test('are unpacked once for each entry', () => {
    const entries = entriesOf(tree);
    const [first] = entries;
    assert.ok(first !== undefined);
    const known = filesOf(entries);
    first.versions = Buffer.from('not read again');
    assert.deepEqual(filesOf(entries), known);
  });
});

describe('products without what is missing', () => {
  test('lack the versions that name it, and stay the same objects where they name none', () => {
    const entries = entriesOf(tree);
    const left = productsWithout(entries, new Set([pathOf('x/20260103/lxd.tar.xz')]));
    assert.equal(left[1], entries[1]);
    assert.equal(left[0]?.head, entries[0]?.head);
    const expected = entriesOf({
      'x/20260103_12:00/root.squashfs': 'later',
      'x/20260201/root.squashfs': 'newest',
    });
    assert.equal(left[0]?.versions.toString(), expected[0]?.versions.toString());
  });

  test('are gone where they have no other version', () => {
    const left = productsWithout(entriesOf(tree), new Set([pathOf('y/20260103/root.squashfs')]));
    assert.deepEqual(
      left.map(({ head }) => head.release),
      ['x'],
    );
  });
});

describe('a generation without some files', () => {
  test('has documents that name none of their versions, and no compressed ones', () => {
    const { 'y/20260103/root.squashfs': _, ...others } = tree;
    const less = generationOf(tree).without(new Set([pathOf('y/20260103/root.squashfs')]));
    const same = generationOf(others, { gzip: false });
    assert.deepEqual([...less.files].sort(), [...same.files].sort());
    assert.equal(less.id, same.id);
    assert.deepEqual(
      less.documents.map(({ path, sha256 }) => [path, sha256]),
      same.documents.map(({ path, sha256 }) => [path, sha256]),
    );
    const images = less.documents.find(({ path }) => path === paths.images);
    const text = Buffer.concat(images?.content ?? []).toString();
    assert.equal(less.id, sha256Of(text));
    assert.deepEqual(Object.keys(parseImages(text).products), ['demo:x:amd64:default']);
  });
});
