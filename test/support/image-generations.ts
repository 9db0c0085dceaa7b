/** Generations for mirrors, made from what their files should hold, and the sources to send these from. */
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import {
  createImagesDocumentBuilder,
  type ProductEntry,
} from '../../src/catalog/images-document.js';
import type { ProductHead, Version } from '../../src/catalog/product.js';
import { parseImages } from '../../src/catalog/published.js';
import { indexText, versionsText } from '../../src/catalog/streams.js';
import { type Generation, makeGeneration } from '../../src/mirror/generation.js';
import { type OpenSource, sourceChanged } from '../../src/mirror/send.js';

/** `product/version/file` → content. */
export type ImageTree = Readonly<Record<string, string>>;

export function sha256Of(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

/** The path of a file of an {@link ImageTree} on a server. */
export function pathOf(file: string): string {
  const [product, version, name] = file.split('/');
  return `images/demo/${product}/amd64/default/${version}/${name}`;
}

export function entriesOf(tree: ImageTree): ProductEntry[] {
  const products = new Map<string, Map<string, Version>>();
  for (const [file, content] of Object.entries(tree).sort()) {
    const [product = '', name = '', key = ''] = file.split('/');
    const versions = products.get(product) ?? new Map<string, Version>();
    products.set(product, versions);
    const version = versions.get(name) ?? { name, items: [] };
    versions.set(name, version);
    version.items.push({
      key,
      ftype: key,
      path: pathOf(file),
      size: Buffer.byteLength(content),
      sha256: sha256Of(content),
    });
  }
  return [...products].map(([release, versions]) => ({
    head: headOf(release),
    versions: Buffer.from(versionsText([...versions.values()])),
  }));
}

function headOf(release: string): ProductHead {
  return {
    ...{ env: 'demo', release, arch: 'amd64', type: 'default', os: 'demo', releaseTitle: release },
    ...{ aliases: [], requirements: {}, updated: 0 },
  };
}

export const paths = { images: 'streams/v1/images.json', index: 'streams/v1/index.json' };

/** The generation of `tree`, with a catalogue page where one is given. */
export function generationOf(
  tree: ImageTree,
  { gzip = true, page }: { gzip?: boolean; page?: string } = {},
): Generation {
  const products = entriesOf(tree);
  const heads = products.map(({ head }) => head);
  const images = createImagesDocumentBuilder()({ products, aliases: new Map(), updated: 0 });
  const index = [Buffer.from(indexText(heads, { updated: 0, path: paths.images }))];
  const documents = [
    { path: paths.images, content: images },
    { path: paths.index, content: index },
  ].flatMap((document) => {
    const compressed = [gzipSync(Buffer.concat(document.content))];
    return gzip ? [{ path: `${document.path}.gz`, content: compressed }, document] : [document];
  });
  if (page !== undefined) documents.unshift({ path: 'index.html', content: [Buffer.from(page)] });
  return makeGeneration({ products, aliases: new Map(), updated: 0, at: 0, documents, paths });
}

/** Reads from a tree as it is at the time. */
export function sourcesOf(tree: () => ImageTree): OpenSource {
  return async (path) => {
    const find = () =>
      Object.entries(tree()).find(([file]) => pathOf(file) === path)?.[1] ??
      Promise.reject(sourceChanged(path));
    const opened = Buffer.from(await find());
    return {
      size: opened.length,
      async read(offset, length) {
        const now = Buffer.from(await find());
        if (!now.equals(opened)) throw sourceChanged(path);
        return now.subarray(offset, offset + length);
      },
      async close() {},
    };
  };
}

/** What the documents in `files` name that is not there, whole and with that content. */
export function liesOf(files: ReadonlyMap<string, { content: Uint8Array }>): string[] {
  const images = files.get(paths.images)?.content;
  if (files.has(paths.index) && images === undefined) return ['index.json leads nowhere'];
  if (images === undefined) return [];
  return itemsIn(images).flatMap(({ path, sha256, size }) => {
    const there = files.get(path)?.content;
    if (there === undefined) return [`${path} is not there`];
    return there.length === size && sha256Of(there) === sha256 ? [] : [`${path} differs`];
  });
}

/** The paths that `images.json` in `files` names. */
export function namesIn(files: ReadonlyMap<string, { content: Uint8Array }>): string[] {
  const images = files.get(paths.images)?.content;
  return images === undefined ? [] : itemsIn(images).map(({ path }) => path);
}

function itemsIn(images: Uint8Array): { path: string; sha256: string; size: number }[] {
  const { products } = parseImages(Buffer.from(images).toString());
  return Object.values(products).flatMap(({ versions }) =>
    Object.values(versions).flatMap((version) => Object.values(version.items)),
  );
}
