/**
 * Documents as the pipeline hands them to the publisher, one pair for each number: products are only
 * ever added, some get a new version each time, and the number can be told from any of the documents.
 */
import { createHash } from 'node:crypto';
import {
  createImagesDocumentBuilder,
  type ProductEntry,
} from '../../src/catalog/images-document.js';
import type { ProductHead } from '../../src/catalog/product.js';
import { indexText, versionsText } from '../../src/catalog/streams.js';
import { compareNames, productId } from '../../src/catalog/tree.js';
import type { Documents } from '../../src/disk/publish.js';

/** Gives the documents of generation `number`, which has `number + 1` products. */
export type Generations = (number: number) => Documents;

/** Generations that share segments where they have products in common, as those of one pipeline do. */
export function createGenerations(): Generations {
  const build = createImagesDocumentBuilder();
  const known = new Map<string, ProductEntry>();
  const entryOf = (product: number, serial: number): ProductEntry => {
    const key = `${product}/${serial}`;
    const entry = known.get(key) ?? makeEntry(product, serial);
    known.set(key, entry);
    return entry;
  };
  return (number) => {
    const products = Array.from({ length: number + 1 }, (_, product) =>
      entryOf(product, Math.floor(number / (product + 2))),
    ).sort((a, b) => compareNames(productId(a.head), productId(b.head)));
    const heads = products.map(({ head }) => head);
    const updated = number * 1000;
    const aliases = new Map(heads.map((head) => [head, head.aliases]));
    return {
      images: build({ products, aliases, updated }),
      index: Buffer.from(indexText(heads, { updated, path: 'streams/v1/images.json' })),
    };
  };
}

/** The number of the generation that `document`, either of the two, belongs to. */
export function generationOf(document: string): number {
  const { updated } = JSON.parse(document) as { updated: string };
  return Date.parse(updated) / 1000;
}

function makeEntry(product: number, serial: number): ProductEntry {
  const [release, arch] = [`r${product % 7}`, `a${product}`];
  const head: ProductHead = {
    env: 'demo',
    release,
    arch,
    type: 'default',
    os: 'Demo',
    releaseTitle: release,
    aliases: [`demo/${release}`],
    requirements: {},
    updated: serial,
  };
  const version = `20260101_${serial}`;
  const item = { key: 'rootfs.squashfs', ftype: 'squashfs', size: 1000 + serial };
  const path = `images/demo/${release}/${arch}/default/${version}/rootfs.squashfs`;
  const sha256 = createHash('sha256').update(path).digest('hex');
  const versions = versionsText([{ name: version, items: [{ ...item, path, sha256 }] }]);
  return { head, versions: Buffer.from(versions) };
}
