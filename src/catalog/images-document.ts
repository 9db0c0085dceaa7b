/**
 * `images.json` in segments: products of one environment and release make one, and a segment whose
 * products are as before is the very same Buffer. So work that is kept by segment follows change.
 */
import type { ProductHead } from './product.js';
import { imagesEnd, imagesHead, productText } from './streams.js';

/** A product as the document takes it: what it is, and its versions as `streams.ts` writes them. */
export interface ProductEntry {
  head: ProductHead;
  versions: Buffer;
}

export interface ImagesDocumentInput {
  /** In product order. An entry that is as before is the same object. */
  products: readonly ProductEntry[];
  /** The aliases that each product keeps. */
  aliases: ReadonlyMap<ProductHead, readonly string[]>;
  /** When the newest content was made, in milliseconds since 1970. */
  updated: number;
}

/** Concatenated, the segments are the document. */
export type ImagesDocumentBuilder = (input: ImagesDocumentInput) => Buffer[];

interface Segment {
  /** What it was made of. */
  parts: readonly Part[];
  bytes: Buffer;
}

interface Part {
  entry: ProductEntry;
  /** Separator, name and head of the product. */
  text: string;
}

/** A builder that remembers the segments of the last document that it built. */
export function createImagesDocumentBuilder(): ImagesDocumentBuilder {
  let segments = new Map<string, Segment>();
  return ({ products, aliases, updated }) => {
    const next = new Map<string, Segment>();
    for (const [key, group] of groups(products)) {
      const parts = group.map((entry, index): Part => {
        const separator = next.size + index === 0 ? '' : ',';
        return { entry, text: separator + productText(entry.head, aliases.get(entry.head) ?? []) };
      });
      const known = segments.get(key);
      const same = known !== undefined && sameParts(known.parts, parts);
      next.set(key, same ? known : { parts, bytes: join(parts) });
    }
    segments = next;
    const bodies = [...next.values()].map(({ bytes }) => bytes);
    return [Buffer.from(imagesHead), ...bodies, Buffer.from(imagesEnd(updated))];
  };
}

function groups(products: readonly ProductEntry[]): Map<string, ProductEntry[]> {
  const all = new Map<string, ProductEntry[]>();
  for (const product of products) {
    const key = `${product.head.env}/${product.head.release}`;
    const group = all.get(key);
    if (group === undefined) all.set(key, [product]);
    else group.push(product);
  }
  return all;
}

function sameParts(a: readonly Part[], b: readonly Part[]): boolean {
  return (
    a.length === b.length &&
    a.every((part, at) => part.entry === b[at]?.entry && part.text === b[at]?.text)
  );
}

function join(parts: readonly Part[]): Buffer {
  return Buffer.concat(parts.flatMap(({ entry, text }) => [Buffer.from(text), entry.versions]));
}
