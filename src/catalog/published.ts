/** Documents as they are found: `images.json` and `index.json` read back, whoever wrote them. Pure. */
import * as v from 'valibot';
import { imagesContentId } from './streams.js';
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
