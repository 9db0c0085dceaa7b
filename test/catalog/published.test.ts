import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { DocumentError, parseImages, parseIndex, versionsOf } from '../../src/catalog/published.js';

const item = { ftype: 'squashfs', path: 'images/a/b', sha256: 'a'.repeat(64), size: 1 };

/** An images.json with one product, in which `change` has been made to the item and to the product. */
function images(change: { item?: object; product?: object; document?: object } = {}): string {
  const items = { root: { ...item, ...change.item } };
  const product = { arch: 'amd64', versions: { '20260103': { items } }, ...change.product };
  return JSON.stringify({ format: 'products:1.0', products: { p: product }, ...change.document });
}

function refuses(parse: (text: string) => unknown, text: string, message: string | RegExp): void {
  assert.throws(
    () => parse(text),
    (error) => {
      assert.ok(error instanceof DocumentError);
      if (typeof message === 'string') assert.equal(error.message, message);
      else assert.match(error.message, message);
      return true;
    },
  );
}

describe('images.json', () => {
  test('is read with all that others may have put into it', () => {
    const text = images({
      item: { md5: 'x', combined_sha256: 'b'.repeat(64) },
      product: { aliases: 'a,b', support_eol: '2030-01-01', os: 'Demo' },
      document: { license: 'none' },
    });
    const { products } = parseImages(text);
    assert.equal(products.p?.aliases, 'a,b');
    assert.equal(products.p?.support_eol, '2030-01-01');
    assert.equal(products.p?.versions['20260103']?.items.root?.combined_sha256, 'b'.repeat(64));
  });

  test('may leave out what clients do without', () => {
    const { products, updated } = parseImages(images());
    const { aliases, os, release, release_title, variant } = products.p ?? {};
    assert.deepEqual([updated, aliases, os, release, release_title, variant], Array(6).fill(''));
  });

  const none = 'is not JSON, or was cut short';
  const wrong = (what: string) => new RegExp(`^is not a simplestreams document: ${what}`);
  const cases: [title: string, text: string, message: string | RegExp][] = [
    ['empty', '', none],
    ['a page of HTML', '<html></html>', none],
    ['zeros', '\0'.repeat(100), none],
    ['cut short', images().slice(0, -1), none],
    ['null', 'null', wrong('Invalid type')],
    ['a list', '[]', wrong('format: ')],
    ['a number', '1', wrong('Invalid type')],
    ['an index', '{"format":"index:1.0","index":{}}', wrong('format: ')],
    ['without products', '{"format":"products:1.0"}', wrong('products: ')],
    ['with products that are null', images({ document: { products: null } }), wrong('products: ')],
    [
      'without an architecture',
      images({ product: { arch: undefined } }),
      wrong('products.p.arch: '),
    ],
    ['with a list of aliases', images({ product: { aliases: [] } }), wrong('products.p.aliases: ')],
    ['without versions', images({ product: { versions: 1 } }), wrong('products.p.versions: ')],
    [
      'without items',
      images({ product: { versions: { v: {} } } }),
      wrong('products.p.versions.v.items: '),
    ],
    ...['md5', 'A'.repeat(64), 'a'.repeat(63), `${'a'.repeat(64)}\n`].map(
      (sha256): [string, string, RegExp] => [
        `with a digest like ${JSON.stringify(sha256.slice(0, 5))}… of ${sha256.length}`,
        images({ item: { sha256 } }),
        /items\.root\.sha256: not a SHA-256 digest$/,
      ],
    ),
    ...[-1, 1.5, '1', null].map((size): [string, string, RegExp] => [
      `with a size like ${JSON.stringify(size)}`,
      images({ item: { size } }),
      /items\.root\.size: /,
    ]),
    ...['', '/etc/passwd', '../a', 'a/../../b', 'a//b', './a', 'a/', 'a/..', '.'].map(
      (path): [string, string, RegExp] => [
        `with a path like "${path}"`,
        images({ item: { path } }),
        /items\.root\.path: not a path below the root$/,
      ],
    ),
    ['deeper than any stack', '['.repeat(1_000_000), none],
  ];
  for (const [title, text, message] of cases) {
    test(`is refused where it is ${title}`, () => refuses(parseImages, text, message));
  }

  test('is read or refused, whatever it is', () => {
    const texts = fc.oneof(
      fc.string(),
      fc.json(),
      fc.json().map((text) => images({ item: { size: text } })),
    );
    fc.assert(
      fc.property(texts, (text) => {
        for (const parse of [parseImages, parseIndex]) {
          try {
            parse(text);
          } catch (error) {
            assert.ok(error instanceof DocumentError);
          }
        }
      }),
    );
  });
});

test('versions come oldest first, with the items of each', () => {
  const names = ['20260103_12:00', '20260103', '9', '20251231'];
  const versions = Object.fromEntries(names.map((name) => [name, { items: { root: item } }]));
  const { p: product } = parseImages(images({ product: { versions } })).products;
  assert.ok(product !== undefined);
  const list = versionsOf(product);
  assert.deepEqual(
    list.map(({ name }) => name),
    ['20251231', '20260103', '20260103_12:00', '9'],
  );
  assert.deepEqual(list[0]?.items, [item]);
});

describe('index.json', () => {
  const entry = { datatype: 'image-downloads', path: 'streams/v1/images.json', products: ['a'] };
  const index = (entries: object) => JSON.stringify({ format: 'index:1.0', index: entries });

  test('leads to the document of images, whatever else it lists', () => {
    assert.deepEqual(parseIndex(index({ other: { ...entry, path: 'x' }, images: entry })), {
      path: entry.path,
      products: ['a'],
    });
  });

  const cases: [title: string, text: string, message: string | RegExp][] = [
    ['cut short', index({ images: entry }).slice(0, -2), 'is not JSON, or was cut short'],
    ['without images', index({ other: entry }), 'has no entry "images"'],
    ['without products', index({ images: { path: 'x' } }), /index\.images\.products: /],
    ['a document of products', images(), /^is not a simplestreams document: format: /],
  ];
  for (const [title, text, message] of cases) {
    test(`is refused where it is ${title}`, () => refuses(parseIndex, text, message));
  }
});
