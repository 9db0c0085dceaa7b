import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { Kind, Product } from '../../src/pages/catalogue/documents.js';
import { versionDate } from '../../src/pages/catalogue/format.js';
import {
  initialState,
  readFragment,
  type State,
  writeFragment,
} from '../../src/pages/catalogue/state.js';
import { choices, type Filter, makeStock, search } from '../../src/pages/catalogue/stock.js';
import { counted, formatSize } from '../../src/pages/figures.js';

interface Given {
  os?: string;
  title?: string;
  arch?: string;
  kinds?: Kind[];
  size?: number;
  versions?: string[];
  aliases?: string[];
}

let made = 0;

function product(given: Given = {}): Product {
  const { os = 'X', title = '1', arch = 'amd64', kinds = ['container'], size = 1 } = given;
  const { versions = ['20260101'], aliases = [`${os}/${title}/${arch}`.toLowerCase()] } = given;
  made += 1;
  const fingerprint = (at: number) => made.toString(16).padStart(8, '0') + String(at).repeat(56);
  return {
    id: `${os}:${title}:${arch}:default`.toLowerCase(),
    os,
    release: title.toLowerCase(),
    title,
    arch,
    variant: 'default',
    aliases,
    versions: versions.map((name) => ({
      name,
      images: kinds.map((kind, at) => ({ kind, fingerprint: fingerprint(at), size })),
    })),
  };
}

const stockOf = (...products: Product[]) => makeStock({ products, leftOut: 0, updated: 0 });
const anything: Filter = { query: '', os: '', release: '', arch: '', kind: '', sorting: 'name' };
const namesIn = (products: readonly Product[], filter: Partial<Filter>) =>
  search(stockOf(...products), { ...anything, ...filter }).map(({ name }) => name);

describe('search', () => {
  const noble = product({
    os: 'Ubuntu',
    title: 'Noble',
    aliases: ['ubuntu/noble/default', 'ubuntu/noble'],
  });
  const sid = product({ os: 'Debian', title: 'sid', versions: ['20260716_12:00', '20260101'] });
  const machine = product({
    os: 'Debian',
    title: 'sid',
    arch: 'arm64',
    kinds: ['virtual-machine'],
  });
  const all = [noble, sid, machine];
  const fingerprint = sid.versions[0]?.images[0]?.fingerprint ?? '';

  for (const [query, found] of [
    ['', ['debian/sid/amd64', 'debian/sid/arm64', 'ubuntu/noble']],
    ['UBUNTU', ['ubuntu/noble']],
    ['sid arm', ['debian/sid/arm64']],
    ['arm sid', ['debian/sid/arm64']],
    ['sid noble', []],
    ['20260716', ['debian/sid/amd64']],
    [fingerprint.slice(0, 8), ['debian/sid/amd64']],
    [fingerprint, ['debian/sid/amd64']],
    // Part of nearly every fingerprint, and the beginning of none that anyone types.
    ['0', []],
    ['2026', []],
  ] as [string, string[]][]) {
    test(`for "${query.slice(0, 12)}" finds ${found.join(', ') || 'nothing'}`, () => {
      assert.deepEqual(namesIn(all, { query }), found);
    });
  }

  test('has all of the filters hold at once', () => {
    assert.deepEqual(namesIn(all, { os: 'Debian', kind: 'container' }), ['debian/sid/amd64']);
    assert.deepEqual(namesIn(all, { os: 'Debian', arch: 'arm64', release: 'sid' }), [
      'debian/sid/arm64',
    ]);
    assert.deepEqual(namesIn(all, { os: 'Ubuntu', arch: 'arm64' }), []);
    assert.deepEqual(namesIn(all, { kind: 'unified' }), []);
  });

  test('sorts as asked, and by name where that leaves it open', () => {
    const big = product({ os: 'A', size: 5, versions: ['20260101'] });
    const many = product({ os: 'B', size: 1, versions: ['20260301', '20260201'] });
    const other = product({ os: 'C', size: 1, versions: ['20260101'] });
    const sorted = (sorting: Filter['sorting']) => namesIn([other, many, big], { sorting });
    assert.deepEqual(sorted('name'), ['a/1/amd64', 'b/1/amd64', 'c/1/amd64']);
    assert.deepEqual(sorted('size'), ['a/1/amd64', 'b/1/amd64', 'c/1/amd64']);
    assert.deepEqual(sorted('newest'), ['b/1/amd64', 'a/1/amd64', 'c/1/amd64']);
    assert.deepEqual(sorted('versions'), ['b/1/amd64', 'a/1/amd64', 'c/1/amd64']);
  });

  test('puts 9 before 10, and small letters beside capitals', () => {
    const titles = ['10', '9', 'b', 'C', 'A'].map((title) => product({ title }));
    assert.deepEqual(namesIn(titles, {}), [
      'x/9/amd64',
      'x/10/amd64',
      'x/a/amd64',
      'x/b/amd64',
      'x/c/amd64',
    ]);
  });

  test('finds each product by each of its names, and never more than there is', () => {
    fc.assert(
      fc.property(fc.array(fc.string({ minLength: 1 })), fc.string(), (titles, query) => {
        const products = titles.map((title) => product({ title }));
        const found = search(stockOf(...products), { ...anything, query });
        assert.equal(new Set(found).size, found.length);
        for (const entry of stockOf(...products).entries) {
          const name = entry.product.title.trim();
          if (/\s/.test(name)) continue;
          const again = search(stockOf(...products), { ...anything, query: name });
          assert.ok(again.some(({ product }) => product === entry.product));
        }
      }),
      { numRuns: 50 },
    );
  });
});

test('a product without aliases is shown by its ID', () => {
  assert.deepEqual(namesIn([product({ aliases: [] })], {}), ['x:1:amd64:default']);
});

describe('what there is to choose from', () => {
  const stock = stockOf(
    product({ os: 'Debian', title: '12' }),
    product({ os: 'Debian', title: '9' }),
    product({ os: 'Ubuntu', title: '24.04', kinds: ['container', 'virtual-machine'] }),
    product({ os: '', title: '' }),
  );

  test('is counted and sorted, and what is empty is no choice', () => {
    assert.deepEqual(
      [...choices(stock, 'os', '')],
      [
        ['Debian', 2],
        ['Ubuntu', 1],
      ],
    );
    assert.deepEqual([...choices(stock, 'kind', '')].sort(), [
      ['container', 4],
      ['virtual-machine', 1],
    ]);
  });

  test('are the releases of the chosen system alone', () => {
    assert.deepEqual([...choices(stock, 'release', 'Debian').keys()], ['9', '12']);
    assert.deepEqual([...choices(stock, 'release', '').keys()], ['9', '12', '24.04']);
  });
});

describe('the fragment of the address', () => {
  test('is empty at the beginning', () => assert.equal(writeFragment(initialState), ''));

  test('reads as short as it can', () => {
    const state: State = {
      ...initialState,
      query: 'ubuntu',
      kind: 'virtual-machine',
      client: 'incus',
    };
    assert.equal(writeFragment(state), '#q=ubuntu&type=virtual-machine&client=incus');
  });

  test('brings each state back', () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 100 });
    const state: fc.Arbitrary<State> = fc.record({
      query: text,
      os: text,
      release: text,
      arch: text,
      kind: text,
      sorting: fc.constantFrom('name', 'newest', 'size', 'versions'),
      client: fc.constantFrom('lxc', 'incus'),
      remote: fc.constantFrom('', 'hub', 'a-b.c'),
    });
    fc.assert(
      fc.property(state, (each) =>
        assert.deepEqual(readFragment(writeFragment(each)), { ...each }),
      ),
    );
  });

  test('makes a state of anything', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (fragment) => {
        const state = readFragment(`#sort=${fragment}&remote=${fragment}&q=${fragment}`);
        assert.ok(['name', 'newest', 'size', 'versions'].includes(state.sorting));
        assert.match(state.remote, /^[A-Za-z0-9._-]*$/);
      }),
    );
  });
});

describe('figures', () => {
  for (const [bytes, text] of [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [99.94 * 2 ** 20, '99.9 MiB'],
    [412 * 2 ** 20, '412 MiB'],
    [1.5 * 2 ** 30, '1.5 GiB'],
  ] as const) {
    test(`${bytes} bytes are ${text}`, () => assert.equal(formatSize(bytes), text));
  }

  test('have their thousands set apart, and their nouns in the plural', () => {
    assert.equal(counted(1234567, 'version'), '1,234,567 versions');
    assert.equal(counted(1, 'version'), '1 version');
    assert.equal(counted(0, 'version'), '0 versions');
  });

  for (const [name, text] of [
    ['20260716_12:05', '2026-07-16 12:05'],
    ['20260716_1205', '2026-07-16 12:05'],
    ['20260716_12:05:07', '2026-07-16 12:05'],
    ['20260716T1205', '2026-07-16 12:05'],
    ['20260716', '2026-07-16'],
    ['20260716.1', '2026-07-16'],
    ['20260716_99:99', '2026-07-16'],
    ['20260231', undefined],
    ['20261301', undefined],
    ['latest', undefined],
  ] as const) {
    test(`version ${name} is of ${text ?? 'no date'}`, () =>
      assert.equal(versionDate(name)?.text, text));
  }
});
