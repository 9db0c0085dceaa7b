import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { resolveAliases } from '../../src/catalog/aliases.js';
import { catalogueProduct } from '../../src/catalog/catalog.js';
import { createImagesDocumentBuilder } from '../../src/catalog/images-document.js';
import type { Item, Product, ProductHead, Version } from '../../src/catalog/product.js';
import { parseImages, parseIndex } from '../../src/catalog/published.js';
import {
  imagesEnd,
  imagesHead,
  imagesTail,
  indexText,
  newest,
  productText,
  rfc2822,
  versionsText,
} from '../../src/catalog/streams.js';
import { isPrintable, type ProductFolder, productId } from '../../src/catalog/tree.js';
import { aFile, aProduct, aVersion, madeAt, settled } from '../support/tree-values.js';

/** The two documents of `folders`, in the order in which they are given. */
function documentsOf(folders: readonly ProductFolder[]): { images: string; index: string } {
  const products = folders.flatMap((folder) => catalogueProduct(folder, settled).product ?? []);
  const heads = products.map(({ head }) => head);
  const updated = newest(heads);
  const segments = createImagesDocumentBuilder()({
    products: products.map(({ head, versions }) => ({
      head,
      versions: Buffer.from(versionsText(versions)),
    })),
    aliases: resolveAliases(heads).aliases,
    updated,
  });
  return {
    images: Buffer.concat(segments).toString(),
    index: indexText(heads, { updated, path: 'streams/v1/images.json' }),
  };
}

const digest = (letter: string) => ({ sha256: letter.repeat(64) });

/** A split image with a delta and a note, and a unified one; every kind of field is there. */
function smallTree(): ProductFolder[] {
  const metadata = (letter: string) => aFile('lxd.tar.xz', { size: 640, found: digest(letter) });
  const root = (name: string, letters: string) =>
    aFile(name, {
      size: 4096,
      found: {
        ...digest(letters.slice(0, 1)),
        combined: { [letters.slice(1, 2).repeat(64)]: letters.slice(2).repeat(64) },
      },
    });
  const split = aProduct({
    env: 'demo',
    release: 'current',
    yaml: aFile('product.yaml', {
      found: {
        facts: {
          os: 'Démo "1"',
          releaseTitle: 'One',
          aliases: ['mine'],
          requirements: [{ values: { secureboot: 'false' } }],
        },
      },
    }),
    versions: [
      aVersion('20260101', { files: [metadata('1'), root('rootfs.squashfs', '213')] }),
      aVersion('20260103_12:00', {
        files: [
          metadata('4'),
          root('root.tar.xz', '547'),
          root('rootfs.squashfs', '648'),
          aFile('rootfs.20260101.vcdiff', { size: 12, found: digest('9') }),
          aFile('README', { size: 0, found: digest('0') }),
        ],
      }),
    ],
  });
  const unified = aProduct({
    env: 'other',
    type: 'cloud',
    versions: [
      aVersion('20260102', {
        files: [aFile('incus_combined.tar.gz', { size: 5000, found: digest('a') })],
      }),
    ],
  });
  return [split, unified];
}

test('a small tree gives these documents, to the byte', () => {
  const { images, index } = documentsOf(smallTree());
  const time = '"updated":"Sat, 03 Jan 2026 12:00:05 +0000"';
  const base = 'images/demo/current/amd64/default';
  const unified = `"path":"images/other/one/amd64/cloud/20260102/incus_combined.tar.gz","sha256":"${'a'.repeat(64)}","size":5000}`;
  const old = `"combined_squashfs_sha256":"${'3'.repeat(64)}",`;
  const oldFile = `"path":"${base}/20260101/lxd.tar.xz","sha256":"${'1'.repeat(64)}","size":640}`;
  const both = `"combined_rootxz_sha256":"${'7'.repeat(64)}","combined_sha256":"${'7'.repeat(64)}","combined_squashfs_sha256":"${'8'.repeat(64)}",`;
  const bothFile = `"path":"${base}/20260103_12:00/lxd.tar.xz","sha256":"${'4'.repeat(64)}","size":640}`;
  assert.equal(
    images,
    [
      '{"content_id":"images","datatype":"image-downloads","format":"products:1.0","products":{',
      '"demo:current:amd64:default":{',
      '"aliases":"demo/current/amd64/default,demo/current/default,demo/current,demo,mine",',
      '"arch":"amd64","os":"Démo \\"1\\"","release":"current","release_title":"One",',
      '"requirements":{"secureboot":"false"},"variant":"default","versions":{',
      '"20260101":{"items":{',
      `"incus.tar.xz":{${old}"ftype":"incus.tar.xz",${oldFile},`,
      `"lxd.tar.xz":{${old}"ftype":"lxd.tar.xz",${oldFile},`,
      `"rootfs.squashfs":{"ftype":"squashfs","path":"${base}/20260101/rootfs.squashfs","sha256":"${'2'.repeat(64)}","size":4096}`,
      '}},"20260103_12:00":{"items":{',
      `"README":{"ftype":"README","path":"${base}/20260103_12:00/README","sha256":"${'0'.repeat(64)}","size":0},`,
      `"incus.tar.xz":{${both}"ftype":"incus.tar.xz",${bothFile},`,
      `"lxd.tar.xz":{${both}"ftype":"lxd.tar.xz",${bothFile},`,
      `"root.tar.xz":{"ftype":"root.tar.xz","path":"${base}/20260103_12:00/root.tar.xz","sha256":"${'5'.repeat(64)}","size":4096},`,
      `"rootfs.20260101.vcdiff":{"delta_base":"20260101","ftype":"squashfs.vcdiff","path":"${base}/20260103_12:00/rootfs.20260101.vcdiff","sha256":"${'9'.repeat(64)}","size":12},`,
      `"rootfs.squashfs":{"ftype":"squashfs","path":"${base}/20260103_12:00/rootfs.squashfs","sha256":"${'6'.repeat(64)}","size":4096}`,
      '}}}},',
      '"other:one:amd64:cloud":{"aliases":"other/one/amd64/cloud,other/one/cloud",',
      '"arch":"amd64","os":"other","release":"one","release_title":"one",',
      '"variant":"cloud","versions":{"20260102":{"items":{',
      `"incus_combined.tar.gz":{"ftype":"incus_combined.tar.gz",${unified},`,
      `"lxd_combined.tar.gz":{"ftype":"lxd_combined.tar.gz",${unified}`,
      `}}}}},${time}}\n`,
    ].join(''),
  );
  assert.equal(
    index,
    [
      '{"format":"index:1.0","index":{"images":{',
      '"datatype":"image-downloads","format":"products:1.0","path":"streams/v1/images.json",',
      '"products":["demo:current:amd64:default","other:one:amd64:cloud"],',
      `${time}}},${time}}\n`,
    ].join(''),
  );
});

test('no products give documents that are whole', () => {
  const { images, index } = documentsOf([]);
  const time = '"updated":"Thu, 01 Jan 1970 00:00:00 +0000"';
  assert.equal(images, `${imagesHead}},${time}}\n`);
  assert.deepEqual(parseImages(images).products, {});
  assert.deepEqual(parseIndex(index), { path: 'streams/v1/images.json', products: [] });
});

describe('the documents of any tree', () => {
  const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:+~@-]{0,12}$/);
  const dates = fc.constantFrom('20260101', '20260102', '20260103_12:00:05', '20251231');
  const files = fc.uniqueArray(
    fc.oneof(
      fc.constantFrom('lxd.tar.xz', 'incus.tar.xz', 'lxd_combined.tar.gz', 'a.squashfs', 'a.qcow2'),
      fc.constantFrom('root.tar.xz', 'a.squashfs.vcdiff', 'a.20260101.vcdiff'),
      name,
    ),
    { maxLength: 6 },
  );
  const often = fc.oneof(
    files,
    files.map((names) => [...new Set([...names, 'lxd.tar.xz', 'a.squashfs'])]),
  );
  const text = fc.string({ unit: 'grapheme', maxLength: 10 }).filter(isPrintable);
  const product = fc
    .record({
      env: name,
      release: name,
      arch: name,
      type: fc.oneof(fc.constant('default'), name),
      versions: fc.dictionary(dates, often, { noNullPrototype: true, maxKeys: 3 }),
      os: text,
      title: text,
    })
    .map(({ versions, os, title, ...address }) =>
      aProduct({
        ...address,
        yaml: aFile('product.yaml', { found: { facts: { os, releaseTitle: title } } }),
        versions: Object.entries(versions)
          .sort(([a], [b]) => (a < b ? -1 : 1))
          .map(([date, names]) => aVersion(date, { files: names })),
      }),
    );
  const tree = fc.uniqueArray(product, { selector: productId, maxLength: 5 });

  test('are read back as they were meant', () => {
    fc.assert(
      fc.property(tree, (folders) => {
        const { images, index } = documentsOf(folders);
        const products = folders.flatMap((each) => catalogueProduct(each, settled).product ?? []);
        const read = parseImages(images);
        assert.deepEqual(Object.keys(read.products), parseIndex(index).products);
        assert.deepEqual(
          parseIndex(index).products,
          products.map(({ head }) => productId(head)),
        );
        for (const each of products) assertSame(read.products[productId(each.head)], each);
        assert.ok(images.startsWith(imagesHead));
        assert.match(images, imagesTail);
      }),
    );
  });

  test('do not depend on the order in which files were found', () => {
    fc.assert(
      fc.property(tree, fc.infiniteStream(fc.nat()), (folders, numbers) => {
        const expected = documentsOf(folders);
        const shuffled = folders.map((folder) => ({
          ...folder,
          versions: folder.versions.map((version) => ({
            ...version,
            files: shuffle(version.files, numbers),
          })),
        }));
        assert.deepEqual(documentsOf(shuffled), expected);
      }),
    );
  });
});

function assertSame(read: unknown, { head, versions }: Product): void {
  const { aliases: _aliases, ...rest } = read as Record<string, unknown>;
  assert.deepEqual(rest, {
    arch: head.arch,
    os: head.os,
    release: head.release,
    release_title: head.releaseTitle,
    variant: head.type,
    versions: Object.fromEntries(
      versions.map(({ name, items }) => [
        name,
        { items: Object.fromEntries(items.map((item) => [item.key, fieldsOf(item)])) },
      ]),
    ),
  });
}

function fieldsOf({ ftype, path, size, sha256, combined, deltaBase }: Item): object {
  return {
    ftype,
    path,
    size,
    sha256,
    ...combined,
    ...(deltaBase === undefined ? {} : { delta_base: deltaBase }),
  };
}

function shuffle<T>(list: readonly T[], numbers: IterableIterator<number>): T[] {
  return list
    .map((value) => ({ value, at: Number(numbers.next().value) }))
    .sort((a, b) => a.at - b.at)
    .map(({ value }) => value);
}

describe('the text of versions', () => {
  const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:+~@-]{0,60}$/);
  const digests = fc.stringMatching(/^[0-9a-f]{64}$/);
  const item = fc.record(
    {
      key: name,
      ftype: name,
      path: fc.oneof(
        fc.array(name, { minLength: 1 }).map((parts) => parts.join('/')),
        fc.string(),
      ),
      size: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
      sha256: digests,
      combined: fc.dictionary(
        fc.constantFrom('combined_sha256', 'combined_squashfs_sha256'),
        digests,
      ),
      deltaBase: name,
    },
    { requiredKeys: ['key', 'ftype', 'path', 'size', 'sha256'] },
  );
  const version = fc.record({ name, items: fc.uniqueArray(item, { selector: ({ key }) => key }) });
  const versions = fc.uniqueArray(version, { selector: (each) => each.name, maxLength: 4 });

  test('is JSON with the same values for all names of the grammar, in any folder', () => {
    fc.assert(
      fc.property(versions, (list) => {
        const text = versionsText(list as Version[]);
        assert.ok(text.endsWith('}'), 'it closes the product');
        const read = JSON.parse(text.slice(0, -1)) as Record<string, { items: object }>;
        for (const { name: each, items } of list) {
          assert.deepEqual(
            read[each]?.items,
            Object.fromEntries(items.map((value) => [value.key, fieldsOf(value as Item)])),
          );
        }
      }),
    );
  });

  test('keeps the order, even of names that are numbers', () => {
    const names = ['20260103', '20260101', '1', '0a'];
    const text = versionsText(names.map((each) => ({ name: each, items: [] })));
    assert.equal(text, `{${names.map((each) => `"${each}":{"items":{}}`).join(',')}}}`);
  });
});

test('the head of a product is JSON, whatever its texts and requirements', () => {
  const head = fc.record({
    env: fc.string(),
    release: fc.string(),
    arch: fc.string(),
    type: fc.string(),
    os: fc.string(),
    releaseTitle: fc.string(),
    requirements: fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true }),
    aliases: fc.constant<string[]>([]),
    updated: fc.constant(0),
  });
  fc.assert(
    fc.property(
      head,
      fc.array(fc.stringMatching(/^[a-z/]{1,5}$/)),
      (value: ProductHead, aliases) => {
        const text = productText(value, aliases);
        const read = JSON.parse(`{${text}{}}}`) as Record<string, Record<string, unknown>>;
        assert.deepEqual(Object.keys(read), [productId(value)]);
        const { requirements = {}, ...rest } = read[productId(value)] ?? {};
        assert.deepEqual(requirements, value.requirements);
        assert.deepEqual(rest, {
          aliases: aliases.join(','),
          arch: value.arch,
          os: value.os,
          release: value.release,
          release_title: value.releaseTitle,
          variant: value.type,
          versions: {},
        });
      },
    ),
  );
});

describe('times in documents', () => {
  const cases: [milliseconds: number, text: string][] = [
    [0, 'Thu, 01 Jan 1970 00:00:00 +0000'],
    [madeAt, 'Sat, 03 Jan 2026 12:00:05 +0000'],
    [madeAt + 999, 'Sat, 03 Jan 2026 12:00:05 +0000'],
    [Date.UTC(2024, 1, 29, 23, 59, 59), 'Thu, 29 Feb 2024 23:59:59 +0000'],
  ];
  for (const [milliseconds, text] of cases) {
    test(`are as RFC 2822 has them: ${text}`, () => assert.equal(rfc2822(milliseconds), text));
  }

  test('are read back to the second', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: Date.UTC(9999, 11, 31) }), (milliseconds) => {
        const text = rfc2822(milliseconds);
        assert.match(text, /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} \+0000$/);
        assert.equal(Date.parse(text), milliseconds - (milliseconds % 1000));
        assert.ok(imagesTail.test(imagesEnd(milliseconds)));
      }),
    );
  });

  test('are those of the newest product', () => {
    const heads = [5, 9, 7].map((updated) => ({ updated }) as ProductHead);
    assert.equal(newest(heads), 9);
    assert.equal(newest([]), 0);
  });
});
