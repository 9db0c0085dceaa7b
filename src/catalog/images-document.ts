/**
 * `images.json` in segments: products of one environment and release make one, and a segment whose
 * products are as before is the very same Buffer. So work that is kept by segment follows change.
 */
import type { Product } from './catalog.js';
import { imagesEnd, imagesHead, productText } from './streams.js';

export interface ImagesDocumentInput {
  /** In product order. */
  products: readonly Product[];
  /** The aliases that each product keeps. */
  aliases: ReadonlyMap<Product, readonly string[]>;
  /** When the newest content was made, in milliseconds since 1970. */
  updated: number;
}

/** Concatenated, the segments are the document. */
export type ImagesDocumentBuilder = (input: ImagesDocumentInput) => Buffer[];

/** A builder that remembers the segments of the last document that it built. */
export function createImagesDocumentBuilder(): ImagesDocumentBuilder {
  const texts = new WeakMap<Product, { aliases: string; text: string }>();
  let segments = new Map<string, { parts: string[]; bytes: Buffer }>();

  const textOf = (product: Product, aliases: readonly string[]): string => {
    const joined = aliases.join(',');
    const known = texts.get(product);
    if (known?.aliases === joined) return known.text;
    const text = productText(product, aliases);
    texts.set(product, { aliases: joined, text });
    return text;
  };

  return ({ products, aliases, updated }) => {
    const next: typeof segments = new Map();
    for (const [key, group] of groups(products)) {
      const parts = group.map((product) => textOf(product, aliases.get(product) ?? []));
      const known = segments.get(key);
      const lead = next.size === 0 ? '' : ',';
      const same = known !== undefined && sameParts(known.parts, [lead, ...parts]);
      const bytes = same ? known.bytes : Buffer.from(lead + parts.join(','));
      next.set(key, { parts: same ? known.parts : [lead, ...parts], bytes });
    }
    segments = next;
    const bodies = [...next.values()].map(({ bytes }) => bytes);
    return [Buffer.from(imagesHead), ...bodies, Buffer.from(imagesEnd(updated))];
  };
}

function groups(products: readonly Product[]): Map<string, Product[]> {
  const all = new Map<string, Product[]>();
  for (const product of products) {
    const key = `${product.env}/${product.release}`;
    const group = all.get(key);
    if (group === undefined) all.set(key, [product]);
    else group.push(product);
  }
  return all;
}

// Unchanged texts are the same string objects, so this compares pointers.
function sameParts(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((part, index) => part === b[index]);
}
