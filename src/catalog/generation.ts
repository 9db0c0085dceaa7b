/**
 * What one publication consists of: files, and the documents that name them. Pure.
 *
 * A product is unpacked once: what is known of its entry is kept for as long as there is that entry.
 */
import type { ProductEntry } from './images-document.js';
import { compareNames } from './tree.js';

/** What a file has to be. */
export interface FileFacts {
  /** Bytes. */
  size: number;
  /** 64 lower-case hexadecimal digits. */
  sha256: string;
}

/** Files by their paths, which are relative to the server's root. */
export type Files = ReadonlyMap<string, FileFacts>;

/** A document without its content. */
export interface DocumentFacts extends FileFacts {
  path: string;
}

/** What a mirror has to become, as far as a plan has to know. */
export interface Wanted {
  /** Every file that the documents name. */
  files: Files;
  /** In the order in which they get their names. */
  documents: readonly DocumentFacts[];
}

/** Every file that `products` name. */
export function filesOf(products: readonly ProductEntry[]): Map<string, FileFacts> {
  const files = new Map<string, FileFacts>();
  for (const entry of products) {
    for (const [path, facts] of filesOfEntry(entry)) files.set(path, facts);
  }
  return files;
}

/** `products` without the versions that name a file in `missing`; products as before are the same objects. */
export function productsWithout(
  products: readonly ProductEntry[],
  missing: ReadonlySet<string>,
): ProductEntry[] {
  return products.flatMap((entry) => {
    if (!filesOfEntry(entry).some(([path]) => missing.has(path))) return [entry];
    const versions = versionsOf(entry).filter(({ items }) =>
      items.every(({ path }) => !missing.has(path)),
    );
    if (versions.length === 0) return [];
    return [{ head: entry.head, versions: Buffer.from(textOf(versions)) }];
  });
}

interface StoredItem extends FileFacts {
  path: string;
}

interface StoredVersion {
  name: string;
  items: StoredItem[];
  /** The version as it stands in the document. */
  value: unknown;
}

const known = new WeakMap<ProductEntry, readonly (readonly [string, FileFacts])[]>();

function filesOfEntry(entry: ProductEntry): readonly (readonly [string, FileFacts])[] {
  let files = known.get(entry);
  if (files === undefined) {
    const items = versionsOf(entry).flatMap((version) => version.items);
    files = items.map(({ path, size, sha256 }) => [path, { size, sha256 }] as const);
    known.set(entry, files);
  }
  return files;
}

/** Versions of `entry`, as `versionsText` has written it: it ends with the brace that closes the product. */
function versionsOf({ versions }: ProductEntry): StoredVersion[] {
  const all = JSON.parse(versions.toString('utf8', 0, versions.length - 1)) as Record<
    string,
    { items: Record<string, StoredItem> }
  >;
  // JavaScript has moved names like 20260103 to the front.
  return Object.entries(all)
    .sort(([a], [b]) => compareNames(a, b))
    .map(([name, value]) => ({ name, items: Object.values(value.items), value }));
}

function textOf(versions: readonly StoredVersion[]): string {
  const texts = versions.map(({ name, value }) => `"${name}":${JSON.stringify(value)}`);
  return `{${texts.join(',')}}}`;
}
