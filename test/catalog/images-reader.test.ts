/** Documents that are read one after the other, as each publication gives another. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type ImageMemory, type ImageType, indexImages } from '../../src/catalog/images.js';
import { createImagesReader, DocumentError, parseImages } from '../../src/catalog/published.js';
import { imagesHead } from '../../src/catalog/streams.js';

const digest = 'ab'.repeat(32);

function product(os: string, { versions = 1, root = 'rootfs.squashfs' } = {}): object {
  const items = (name: string) => {
    const item = (file: string, ftype: string) => ({
      ...{ ftype, path: `images/a/b/c/d/${name}/${file}`, sha256: digest, size: 1 },
      combined_squashfs_sha256: name.padEnd(64, '0'),
    });
    return root === 'unified'
      ? { u: item('lxd_combined.tar.gz', 'lxd_combined.tar.gz') }
      : { m: item('lxd.tar.xz', 'lxd.tar.xz'), r: item(root, 'squashfs') };
  };
  const names = Array.from({ length: versions }, (_, at) => `2026010${at + 1}`);
  return {
    ...{ aliases: 'x', arch: 'amd64', os, release: 'r', release_title: 'r', variant: 'd' },
    versions: Object.fromEntries(names.map((name) => [name, { items: items(name) }])),
  };
}

function written(products: Record<string, object>): string {
  const body = Object.entries(products).map(
    ([id, entry]) => `${JSON.stringify(id)}:${JSON.stringify(entry)}`,
  );
  return `${imagesHead}${body.join(',')}},"updated":"now"}\n`;
}

/** Texts that look like where a product ends. */
const texts = fc.oneof(
  fc.string(),
  fc.constantFrom('}}}}},"', '}}}}},', '":{', '}}}}},"b:r:c:d":{"versions":{}', '\\', '__proto__'),
);
const documents = fc.array(
  fc.dictionary(
    fc.oneof(fc.constantFrom('a:r:c:d', 'b:r:c:d'), texts),
    fc.record({ os: texts, versions: fc.nat({ max: 3 }) }).map(({ os, ...more }) => {
      return product(os, more);
    }),
    { maxKeys: 4 },
  ),
  { maxLength: 4 },
);

describe('a document that is read after others', () => {
  test('says what it says when it is read alone', () => {
    fc.assert(
      fc.property(documents, (all) => {
        const read = createImagesReader();
        const memory: ImageMemory = new WeakMap();
        for (const text of all.map(written)) {
          const alone = parseImages(text);
          const products = read(text);
          assert.deepEqual(Object.entries(products.products), Object.entries(alone.products));
          const { images, aliases } = indexImages(products, { prefix: 'images', memory });
          const expected = indexImages(alone, { prefix: 'images' });
          assert.deepEqual(
            { images, aliases },
            { images: expected.images, aliases: expected.aliases },
          );
        }
      }),
    );
  });

  test('has the very product that the one before had, where that is written alike', () => {
    const read = createImagesReader();
    const first = read(written({ 'a:r:c:d': product('a'), 'b:r:c:d': product('b') })).products;
    const second = read(
      written({ 'a:r:c:d': product('a'), 'b:r:c:d': product('b', { versions: 2 }) }),
    ).products;
    assert.ok(first['a:r:c:d'] !== undefined);
    assert.equal(second['a:r:c:d'], first['a:r:c:d']);
    assert.notEqual(second['b:r:c:d'], first['b:r:c:d']);
  });

  test('is refused as when it is read alone, and the next is read', () => {
    const read = createImagesReader();
    const good = written({ 'a:r:c:d': product('a') });
    read(good);
    for (const bad of [
      good.slice(0, -20),
      good.replace('"arch":"amd64"', '"arch":7'),
      good.replace(digest, 'no digest'),
      good.replace('{"items"', '{"items":{}}},"items"'),
      '',
    ]) {
      assert.throws(() => parseImages(bad), DocumentError);
      assert.throws(() => read(bad), DocumentError);
    }
    assert.deepEqual(Object.keys(read(good).products), ['a:r:c:d']);
  });

  test('gives images that nobody else changes, of the type that is told then', () => {
    const memory: ImageMemory = new WeakMap();
    const document = parseImages(written({ 'a:r:c:d': product('a', { root: 'unified' }) }));
    const types = (type?: ImageType) => {
      const unified = new Map(type === undefined ? [] : [['a/b/c/d/20260101', type]]);
      const { images } = indexImages(document, { prefix: 'images', memory, unified });
      for (const image of images) image.aliases = ['changed'];
      return images.map((image) => image.type);
    };
    assert.deepEqual(types(), ['container']);
    assert.deepEqual(types('virtual-machine'), ['virtual-machine']);
    assert.deepEqual(types('virtual-machine'), ['virtual-machine']);
    assert.deepEqual(types(), ['container']);
    const [image] = indexImages(document, { prefix: 'images', memory }).images;
    assert.deepEqual(image?.aliases, ['x']);
  });
});
