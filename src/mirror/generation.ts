/** Generations with their documents: what replication sends. */
import { createHash } from 'node:crypto';
import {
  type DocumentFacts,
  type FileFacts,
  filesOf,
  productsWithout,
  type Wanted,
} from '../catalog/generation.js';
import { createImagesDocumentBuilder, type ProductEntry } from '../catalog/images-document.js';
import type { ProductHead } from '../catalog/product.js';
import { indexText } from '../catalog/streams.js';

export interface GenerationDocument extends DocumentFacts {
  /** In pieces. */
  content: readonly Uint8Array[];
}

export interface Generation extends Wanted {
  /** SHA-256 of `images.json`. */
  id: string;
  /** When it was published, in milliseconds since 1970. */
  at: number;
  /** In the order in which they get their names. */
  documents: readonly GenerationDocument[];
  /** A generation without the versions that have a file in `missing`, its documents not compressed. */
  without(missing: ReadonlySet<string>): Generation;
}

export interface GenerationInput {
  /** In product order. An entry that is as before is the same object. */
  products: readonly ProductEntry[];
  aliases: ReadonlyMap<ProductHead, readonly string[]>;
  /** When the newest content was made, in milliseconds since 1970. */
  updated: number;
  /** When this was published, in milliseconds since 1970. */
  at: number;
  /**
   * The documents as they were published, in the order in which they get their names, their paths relative to the
   * root; the catalogue page is one of them.
   */
  documents: readonly { path: string; content: readonly Uint8Array[] }[];
  /** Which of them are `images.json` and `index.json`. */
  paths: { images: string; index: string };
}

/** What was published, for mirrors. Costs as much as the documents and what is new among the products. */
export function makeGeneration(input: GenerationInput): Generation {
  const { products, aliases, updated, at, paths } = input;
  const documents = input.documents.map(({ path, content }) => ({
    path,
    content,
    ...factsOf(content),
  }));
  const images = documents.find(({ path }) => path === paths.images);
  if (images === undefined) throw new Error(`no ${paths.images} among the documents`);
  return {
    id: images.sha256,
    at,
    files: filesOf(products),
    documents,
    without(missing) {
      const left = productsWithout(products, missing);
      const heads = left.map(({ head }) => head);
      const index = indexText(heads, { updated, path: paths.images });
      const isOfStreams = ({ path }: { path: string }) =>
        [paths.images, paths.index].includes(path.replace(/\.gz$/, ''));
      return makeGeneration({
        ...input,
        products: left,
        documents: [
          ...input.documents.filter((document) => !isOfStreams(document)),
          {
            path: paths.images,
            content: createImagesDocumentBuilder()({ products: left, aliases, updated }),
          },
          { path: paths.index, content: [Buffer.from(index)] },
        ],
      });
    },
  };
}

function factsOf(content: readonly Uint8Array[]): FileFacts {
  const hash = createHash('sha256');
  let size = 0;
  for (const piece of content) {
    hash.update(piece);
    size += piece.length;
  }
  return { size, sha256: hash.digest('hex') };
}
