import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { indexImages } from '../../src/catalog/images.js';
import type { PublishedImages } from '../../src/catalog/published.js';
import { joinCatalogues, readIndex, readProducts } from '../../src/pages/catalogue/documents.js';

const digest = (letter: string) => letter.repeat(64);
const split = {
  meta: {
    ftype: 'lxd.tar.xz',
    sha256: digest('a'),
    size: 10,
    combined_squashfs_sha256: digest('b'),
    'combined_disk-kvm-img_sha256': digest('c'),
  },
  root: { ftype: 'squashfs', sha256: digest('d'), size: 200 },
  disk: { ftype: 'disk-kvm.img', sha256: digest('e'), size: 3000 },
};
const unified = { image: { ftype: 'lxd_combined.tar.gz', sha256: digest('f'), size: 7 } };
const document = (products: unknown) => ({ format: 'products:1.0', products });
const product = (versions: unknown) => ({
  aliases: 'x/1,x/1/default',
  arch: 'amd64',
  os: 'X',
  release: '1',
  release_title: 'One',
  variant: 'default',
  versions,
});

describe('index.json', () => {
  const entry = { datatype: 'image-downloads', path: 'streams/v1/images.json' };

  test('names the documents with images', () => {
    const index = {
      a: entry,
      b: { ...entry, path: 'streams/v1/more.json' },
      c: { datatype: 'other', path: 'streams/v1/other.json' },
      d: entry,
    };
    assert.deepEqual(readIndex({ format: 'index:1.0', index }), [
      'streams/v1/images.json',
      'streams/v1/more.json',
    ]);
  });

  for (const path of [
    '../images.json',
    '/images.json',
    'https://else.where/x',
    'a//b',
    'data:x',
    '',
  ]) {
    test(`leads nowhere but below the root: not to "${path}"`, () => {
      assert.deepEqual(readIndex({ format: 'index:1.0', index: { a: { ...entry, path } } }), []);
    });
  }

  for (const other of [null, 1, 'index', [], {}, { format: 'products:1.0', index: { a: entry } }]) {
    test(`is not ${JSON.stringify(other)}`, () => assert.equal(readIndex(other), undefined));
  }
});

describe('images.json', () => {
  test('gives a container and a virtual machine of one version each its combined hash and size', () => {
    const read = readProducts(document({ p: product({ '20260101': { items: split } }) }));
    assert.deepEqual(read?.products, [
      {
        id: 'p',
        os: 'X',
        release: '1',
        title: 'One',
        arch: 'amd64',
        variant: 'default',
        aliases: ['x/1', 'x/1/default'],
        versions: [
          {
            name: '20260101',
            images: [
              { kind: 'container', fingerprint: digest('b'), size: 210 },
              { kind: 'virtual-machine', fingerprint: digest('c'), size: 3010 },
            ],
          },
        ],
      },
    ]);
  });

  test('gives a unified image the SHA-256 of its file', () => {
    const read = readProducts(document({ p: product({ '20260101': { items: unified } }) }));
    assert.deepEqual(read?.products[0]?.versions[0]?.images, [
      { kind: 'unified', fingerprint: digest('f'), size: 7 },
    ]);
  });

  test('has the newest version first, whatever the order in the document', () => {
    const versions = Object.fromEntries(
      ['20260101_10:00', '20260103', '20260102'].map((name) => [name, { items: split }]),
    );
    const read = readProducts(document({ p: product(versions) }));
    const names = read?.products[0]?.versions.map(({ name }) => name);
    assert.deepEqual(names, ['20260103', '20260102', '20260101_10:00']);
  });

  const good = product({ '20260101': { items: split } });
  const odd: [string, unknown][] = [
    ['is no object', 'text'],
    ['has no versions', product({})],
    ['has versions that are a list', product([{ items: split }])],
    ['has a version without a date', product({ latest: { items: split } })],
    ['has metadata alone', product({ '20260101': { items: { meta: split.meta } } })],
    [
      'has no digest that is one',
      product({ '20260101': { items: { image: { ...unified.image, sha256: 'ABC' } } } }),
    ],
    [
      'has a size below zero',
      product({ '20260101': { items: { image: { ...unified.image, size: -1 } } } }),
    ],
  ];
  for (const [what, value] of odd) {
    test(`leaves out a product that ${what}, and counts it; others stay`, () => {
      const read = readProducts(document({ odd: value, good }));
      assert.equal(read?.leftOut, 1);
      assert.deepEqual(
        read.products.map(({ id }) => id),
        ['good'],
      );
    });
  }

  test('takes fields that are no text for empty ones', () => {
    const read = readProducts(document({ p: { ...good, os: 7, aliases: null, arch: ['x'] } }));
    assert.deepEqual(read?.products[0]?.aliases, []);
    assert.equal(read.products[0].os, '');
  });

  for (const other of [
    null,
    [],
    'x',
    { format: 'index:1.0', products: {} },
    { format: 'products:1.0' },
  ]) {
    test(`is not ${JSON.stringify(other)}`, () => assert.equal(readProducts(other), undefined));
  }

  test('is read without fail, whatever JSON it is', () => {
    const items = fc.dictionary(fc.string(), fc.oneof(fc.jsonValue(), fc.constant(split.meta)));
    const versions = fc.dictionary(
      fc.oneof(fc.string(), fc.constant('20260101')),
      fc.oneof(fc.jsonValue(), fc.record({ items })),
    );
    const products = fc.dictionary(fc.string(), fc.oneof(fc.jsonValue(), versions.map(product)));
    fc.assert(
      fc.property(fc.oneof(fc.jsonValue(), products.map(document)), (value) => {
        const read = readProducts(value);
        for (const { versions } of read?.products ?? []) {
          assert.ok(versions.length > 0 && versions.every(({ images }) => images.length > 0));
        }
      }),
    );
  });

  test('gives the fingerprints and sizes that the server gives to the LXD API', () => {
    // Where two images of a version have one content, the server lists one of them.
    const fields = [
      'combined_squashfs_sha256',
      'combined_rootxz_sha256',
      'combined_sha256',
      'combined_disk-kvm-img_sha256',
      'combined_disk1-img_sha256',
      'combined_uefi1-img_sha256',
    ];
    const combined = Object.fromEntries(
      fields.map((field, at) => [
        field,
        fc.constantFrom('a', 'b').map((by) => `${by}${at}`.repeat(32)),
      ]),
    );
    const facts = { sha256: fc.constantFrom('0', '1').map(digest), size: fc.nat() };
    const roots = ['squashfs', 'root.tar.xz', 'disk-kvm.img', 'disk1.img', 'uefi1.img'];
    const item = fc.oneof(
      fc.record(
        { ftype: fc.constantFrom('lxd.tar.xz', 'incus.tar.xz'), ...facts, ...combined },
        { requiredKeys: ['ftype', 'sha256', 'size'] },
      ),
      fc.record({ ftype: fc.constantFrom(...roots), ...facts }),
    );
    fc.assert(
      fc.property(fc.uniqueArray(item, { selector: ({ ftype }) => ftype }), (items) => {
        const listed = Object.fromEntries(
          items.map((each) => [
            each.ftype,
            { ...each, path: `images/x/1/amd64/default/20260101/${each.ftype}` },
          ]),
        );
        const value = document({ p: product({ '20260101': { items: listed } }) });
        const images = readProducts(value)?.products[0]?.versions[0]?.images ?? [];
        const index = indexImages(value as PublishedImages, { prefix: 'images' });
        const expected = index.images.map(({ type, fingerprint, size }) => ({
          kind: type,
          fingerprint,
          size,
        }));
        assert.deepEqual(images, expected);
      }),
      { numRuns: 500 },
    );
  });
});

test('several documents are one catalogue, in which each product stands once', () => {
  const one = readProducts(document({ p: product({ '20260101': { items: split } }), odd: 1 }));
  const two = readProducts({
    ...document({
      p: product({ '20260101': { items: unified } }),
      q: product({ '20260101': { items: unified } }),
    }),
    updated: 'Thu, 01 Jan 2026 00:00:00 +0000',
  });
  assert.ok(one && two);
  const joined = joinCatalogues([one, two]);
  assert.deepEqual(
    joined.products.map(({ id, versions }) => [id, versions[0]?.images[0]?.kind]),
    [
      ['p', 'container'],
      ['q', 'unified'],
    ],
  );
  assert.equal(joined.leftOut, 1);
  assert.equal(joined.updated, Date.UTC(2026, 0, 1));
});
