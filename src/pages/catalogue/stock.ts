/** What is searched, filtered and sorted, and how. No DOM. */
import type { Catalogue, Kind, Product } from './documents.js';

/** A product with what is asked of it again and again. */
export interface Entry {
  product: Product;
  /** The name to show and to launch it by: the shortest alias; the product's ID where it has none. */
  name: string;
  /** All its names, in small letters. */
  text: string;
  kinds: readonly Kind[];
  /** Of the newest version, in bytes. */
  size: number;
  /** Where it stands among all by name. */
  rank: number;
}

export interface Stock {
  /** By name. */
  entries: readonly Entry[];
  leftOut: number;
  updated: number;
}

export type Sorting = 'name' | 'newest' | 'size' | 'versions';

/** What is looked for; '' is anything. */
export interface Filter {
  query: string;
  os: string;
  release: string;
  arch: string;
  kind: string;
  sorting: Sorting;
}

/** What {@link Filter} can be chosen from. */
export type Facet = 'os' | 'release' | 'arch' | 'kind';

const kindOrder: readonly Kind[] = ['container', 'virtual-machine', 'unified'];

export function makeStock({ products, leftOut, updated }: Catalogue): Stock {
  const named = products.map((product) => ({ product, key: sortKey(product) }));
  named.sort((a, b) => compareNames(a.key, b.key));
  return {
    entries: named.map(({ product }, rank) => makeEntry(product, rank)),
    leftOut,
    updated,
  };
}

function sortKey({ os, title, variant, arch, id }: Product): string {
  return naturalKey([os, title, variant === 'default' ? '' : variant, arch, id].join('\u0001'));
}

/**
 * What to compare in place of `text`, so that small and capital letters are one, and 9 comes before 10. A collator
 * does that too; over ten thousand names it takes a third of a second.
 */
function naturalKey(text: string): string {
  return text.toLowerCase().replace(/\d+/g, (digits) => digits.padStart(12, '0'));
}

function makeEntry(product: Product, rank: number): Entry {
  const { id, os, release, title, arch, variant, aliases, versions } = product;
  const kinds = new Set(versions.flatMap(({ images }) => images.map(({ kind }) => kind)));
  return {
    product,
    name: shortest(aliases) ?? id,
    text: [id, os, release, title, arch, variant, ...aliases].join('\n').toLowerCase(),
    kinds: kindOrder.filter((kind) => kinds.has(kind)),
    size: versions[0]?.images.reduce((sum, { size }) => sum + size, 0) ?? 0,
    rank,
  };
}

function shortest(names: readonly string[]): string | undefined {
  return names.reduce<string | undefined>(
    (best, name) => (best === undefined || name.length < best.length ? name : best),
    undefined,
  );
}

/** The entries that fit, in the order that is asked for. */
export function search({ entries }: Pick<Stock, 'entries'>, filter: Filter): Entry[] {
  const words = wordsOf(filter.query);
  const found = entries.filter((entry) => fits(entry, filter) && hasWords(entry, words));
  const order = orders[filter.sorting];
  return order === undefined ? found : found.sort((a, b) => order(a, b) || a.rank - b.rank);
}

const orders: Record<Sorting, ((a: Entry, b: Entry) => number) | undefined> = {
  name: undefined,
  newest: (a, b) => compareNames(newestName(b), newestName(a)),
  size: (a, b) => b.size - a.size,
  versions: (a, b) => b.product.versions.length - a.product.versions.length,
};

function newestName({ product }: Entry): string {
  return product.versions[0]?.name ?? '';
}

function compareNames(a: string, b: string): number {
  return a === b ? 0 : a < b ? -1 : 1;
}

function fits(
  entry: Entry,
  { os, release, arch, kind }: Omit<Filter, 'query' | 'sorting'>,
): boolean {
  const { product } = entry;
  return (
    (os === '' || product.os === os) &&
    (release === '' || product.title === release) &&
    (arch === '' || product.arch === arch) &&
    (kind === '' || entry.kinds.some((each) => each === kind))
  );
}

function wordsOf(query: string): string[] {
  return query
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== '');
}

/** A word is part of a name, or begins the name of a version or a fingerprint that it is long enough for. */
function hasWords({ text, product }: Entry, words: readonly string[]): boolean {
  return words.every((word) => {
    if (text.includes(word)) return true;
    const isDate = /^\d{6}/.test(word);
    const isHash = /^[0-9a-f]{8,64}$/.test(word);
    if (!isDate && !isHash) return false;
    return product.versions.some(
      ({ name, images }) =>
        (isDate && name.toLowerCase().startsWith(word)) ||
        (isHash && images.some(({ fingerprint }) => fingerprint.startsWith(word))),
    );
  });
}

/** The values that there are to choose from, each with how many products have it: releases of the chosen system. */
export function choices(
  { entries }: Pick<Stock, 'entries'>,
  facet: Facet,
  os: string,
): Map<string, number> {
  const counts = new Map<string, number>();
  for (const entry of entries) {
    if (facet === 'release' && os !== '' && entry.product.os !== os) continue;
    for (const value of valuesOf(entry, facet)) {
      if (value !== '') counts.set(value, (counts.get(value) ?? 0) + 1);
    }
  }
  if (facet === 'kind') return counts;
  const named = [...counts].map(([value, count]) => ({ value, count, key: naturalKey(value) }));
  named.sort((a, b) => compareNames(a.key, b.key));
  return new Map(named.map(({ value, count }) => [value, count]));
}

function valuesOf({ product, kinds }: Entry, facet: Facet): readonly string[] {
  switch (facet) {
    case 'os':
      return [product.os];
    case 'release':
      return [product.title];
    case 'arch':
      return [product.arch];
    case 'kind':
      return kinds;
  }
}
