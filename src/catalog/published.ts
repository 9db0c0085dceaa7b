/** Documents as they are found: `images.json` and `index.json` read back, whoever wrote them. Pure. */
import * as v from 'valibot';
import { imagesContentId, imagesHead, imagesTail } from './streams.js';
import { compareNames } from './tree.js';

const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, 'not a SHA-256 digest'));

const item = v.looseObject({
  ftype: v.string(),
  path: v.pipe(v.string(), v.check(isInside, 'not a path below the root')),
  sha256,
  size: v.pipe(v.number(), v.integer(), v.minValue(0)),
});

const product = v.looseObject({
  aliases: v.optional(v.string(), ''),
  arch: v.string(),
  os: v.optional(v.string(), ''),
  release: v.optional(v.string(), ''),
  release_title: v.optional(v.string(), ''),
  variant: v.optional(v.string(), ''),
  versions: v.record(v.string(), v.looseObject({ items: v.record(v.string(), item) })),
});

const images = v.looseObject({
  format: v.literal('products:1.0'),
  products: v.record(v.string(), product),
  updated: v.optional(v.string(), ''),
});

const index = v.looseObject({
  format: v.literal('index:1.0'),
  index: v.record(v.string(), v.looseObject({ path: v.string(), products: v.array(v.string()) })),
});

export type PublishedItem = v.InferOutput<typeof item> & Record<string, unknown>;
export type PublishedProduct = v.InferOutput<typeof product>;
export type PublishedImages = v.InferOutput<typeof images>;

/** What is wrong with a document, as the end of the sentence "images.json …". */
export class DocumentError extends Error {}

/**
 * Reads `images.json`.
 *
 * @throws DocumentError where it is not JSON, or not what simplestreams clients read.
 */
export function parseImages(text: string): PublishedImages {
  return parse(images, text);
}

/**
 * Reads `images.json` again and again, as {@link parseImages}: a product that is written as it was the time before is
 * the same object, and costs next to nothing.
 */
export function createImagesReader(): (text: string) => Pick<PublishedImages, 'products'> {
  let known: ReadonlyMap<string, WrittenProduct> = new Map();
  return (text) => {
    const read = readProducts(text, known);
    known = read ?? new Map();
    if (read === undefined) return parseImages(text);
    return { products: Object.fromEntries([...read].map(([id, { product }]) => [id, product])) };
  };
}

interface WrittenProduct {
  text: string;
  product: PublishedProduct;
}

/** The products by ID; `undefined` where the document is not written in the way of ours. */
function readProducts(
  text: string,
  known: ReadonlyMap<string, WrittenProduct>,
): Map<string, WrittenProduct> | undefined {
  const tail = imagesTail.exec(text);
  if (!text.startsWith(imagesHead) || tail === null) return undefined;
  const products = new Map<string, WrittenProduct>();
  for (const part of membersOf(text.slice(imagesHead.length, tail.index))) {
    const name = part.slice(1, part.indexOf('":'));
    const before = known.get(name);
    // With the older text, all of the document that it is a part of would stay in memory.
    if (before?.text === part) products.set(name, { text: part, product: before.product });
    else {
      const read = readProduct(part);
      if (read?.id !== name || products.has(name)) return undefined;
      products.set(name, { text: part, product: read.product });
    }
  }
  return products;
}

/**
 * Cuts the members of an object apart where item, items, version, versions and product end. Should that stand in
 * the middle of a text as well, then what is before it is no member that could be read.
 */
function* membersOf(text: string): Generator<string> {
  let start = 0;
  while (start < text.length) {
    const end = text.indexOf('}}}}},"', start);
    yield text.slice(start, end === -1 ? text.length : end + 5);
    start = end === -1 ? text.length : end + 6;
  }
}

function readProduct(text: string): { id: string; product: PublishedProduct } | undefined {
  try {
    const result = v.safeParse(v.record(v.string(), product), JSON.parse(`{${text}}`));
    const [[id, read] = [], ...more] = result.success ? Object.entries(result.output) : [];
    return id === undefined || read === undefined || more.length > 0
      ? undefined
      : { id, product: read };
  } catch {
    return undefined;
  }
}

/** The product IDs that `index.json` lists, and where it says that their document is. @throws DocumentError */
export function parseIndex(text: string): { path: string; products: string[] } {
  const entry = parse(index, text).index[imagesContentId];
  if (entry === undefined) throw new DocumentError(`has no entry "${imagesContentId}"`);
  return { path: entry.path, products: entry.products };
}

/** Versions of a product, oldest first. */
export function versionsOf(product: PublishedProduct): { name: string; items: PublishedItem[] }[] {
  return Object.entries(product.versions)
    .sort(([a], [b]) => compareNames(a, b))
    .map(([name, { items }]) => ({ name, items: Object.values(items) as PublishedItem[] }));
}

function parse<T extends v.GenericSchema>(schema: T, text: string): v.InferOutput<T> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new DocumentError('is not JSON, or was cut short');
  }
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const path = v.getDotPath(issue);
  throw new DocumentError(
    `is not a simplestreams document: ${path ? `${path}: ` : ''}${issue.message}`,
  );
}

function isInside(path: string): boolean {
  return path.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
}
