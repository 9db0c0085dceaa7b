import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { resolveAliases } from '../../src/catalog/aliases.js';
import { catalogueProduct } from '../../src/catalog/catalog.js';
import {
  createImagesDocumentBuilder,
  type ImagesDocumentBuilder,
  type ProductEntry,
} from '../../src/catalog/images-document.js';
import { parseImages } from '../../src/catalog/published.js';
import { newest, versionsText } from '../../src/catalog/streams.js';
import { aFile, aProduct, madeAt, type ProductValue, settled } from '../support/tree-values.js';

function entryOf(value: ProductValue): ProductEntry {
  const { product } = catalogueProduct(aProduct(value), settled);
  assert.ok(product !== undefined, 'the product is published');
  return { head: product.head, versions: Buffer.from(versionsText(product.versions)) };
}

function build(builder: ImagesDocumentBuilder, products: readonly ProductEntry[]): Buffer[] {
  const heads = products.map(({ head }) => head);
  return builder({
    products,
    aliases: resolveAliases(heads).aliases,
    updated: newest(heads),
  });
}

const fromScratch = (products: readonly ProductEntry[]) =>
  Buffer.concat(build(createImagesDocumentBuilder(), products)).toString();

describe('images.json in segments', () => {
  const entries = [
    entryOf({ env: 'a', release: 'x', arch: 'amd64' }),
    entryOf({ env: 'a', release: 'x', arch: 'arm64' }),
    entryOf({ env: 'a', release: 'y' }),
    entryOf({ env: 'b', release: 'x' }),
  ];
  const withAlias = (release: string, alias: string) =>
    entryOf({
      env: 'c',
      release,
      yaml: aFile('product.yaml', { found: { facts: { aliases: [alias] } } }),
    });

  /** Which segments of two documents are one and the same Buffer. */
  function same(before: readonly Buffer[], after: readonly Buffer[]): boolean[] {
    return after.slice(1, -1).map((segment) => before.includes(segment));
  }

  test('has one for each environment and release, between a head and an end', () => {
    assert.equal(build(createImagesDocumentBuilder(), entries).length, 3 + 2);
    assert.equal(build(createImagesDocumentBuilder(), []).length, 2);
  });

  test('keeps the Buffers of all groups where nothing has changed', () => {
    const builder = createImagesDocumentBuilder();
    const before = build(builder, entries);
    assert.deepEqual(same(before, build(builder, [...entries])), [true, true, true]);
  });

  test('keeps the Buffers of all groups but the one with a change', () => {
    const builder = createImagesDocumentBuilder();
    const before = build(builder, entries);
    const changed = entryOf({ env: 'a', release: 'x', arch: 'arm64', versions: ['20260104'] });
    const after = build(builder, entries.with(1, changed));
    assert.deepEqual(same(before, after), [false, true, true]);
  });

  test('makes a group anew that loses or gains a product', () => {
    const builder = createImagesDocumentBuilder();
    const all = build(builder, entries);
    const fewer = build(builder, entries.toSpliced(1, 1));
    assert.deepEqual(same(all, fewer), [false, true, true]);
    assert.deepEqual(same(fewer, build(builder, entries)), [false, true, true]);
  });

  test('makes a group anew that has become the first', () => {
    const builder = createImagesDocumentBuilder();
    const before = build(builder, entries);
    assert.deepEqual(same(before, build(builder, entries.slice(2))), [false, true]);
  });

  test('makes a group anew whose aliases went to another product', () => {
    const builder = createImagesDocumentBuilder();
    const late = withAlias('two', 'mine');
    const before = build(builder, [...entries, late]);
    const after = build(builder, [...entries, withAlias('one', 'mine'), late]);
    assert.deepEqual(same(before, after), [true, true, true, false, false]);
    const { products } = parseImages(Buffer.concat(after).toString());
    assert.match(products['c:one:amd64:default']?.aliases ?? '', /,mine$/);
    assert.doesNotMatch(products['c:two:amd64:default']?.aliases ?? '', /mine/);
  });

  test('leaves the segments of earlier documents as they were', () => {
    const builder = createImagesDocumentBuilder();
    const before = build(builder, entries);
    const text = Buffer.concat(before).toString();
    build(builder, entries.slice(1));
    assert.equal(Buffer.concat(before).toString(), text);
  });

  test('is the document built from scratch, after any changes', () => {
    const address = fc.record({
      env: fc.constantFrom('a', 'b', 'a:b', 'b+'),
      release: fc.constantFrom('x', 'y', 'b:x', 'current'),
      arch: fc.constantFrom('amd64', 'arm64'),
      type: fc.constantFrom('default', 'cloud'),
    });
    const change = fc.record({
      address,
      what: fc.constantFrom('put', 'put', 'remove'),
      version: fc.constantFrom('20260101', '20260102'),
      aliases: fc.uniqueArray(fc.constantFrom('mine', 'yours')),
      modified: fc.constantFrom(madeAt, madeAt + 86_400_000),
    });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 15 }), (changes) => {
        const builder = createImagesDocumentBuilder();
        const stock = new Map<string, ProductEntry>();
        for (const { address: value, what, version, aliases, modified } of changes) {
          const key = Object.values(value).join('/');
          const yaml = aFile('product.yaml', { modified, found: { facts: { aliases } } });
          if (what === 'remove') stock.delete(key);
          else stock.set(key, entryOf({ ...value, yaml, versions: [version] }));
          const products = [...stock]
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([, entry]) => entry);
          const text = Buffer.concat(build(builder, products)).toString();
          assert.equal(text, fromScratch(products));
          JSON.parse(text);
        }
      }),
    );
  });
});
