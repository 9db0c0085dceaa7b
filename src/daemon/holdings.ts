/** What is published, as images: read back from `images.json` when it has changed and somebody asks. */
import { open } from 'node:fs/promises';
import { join, relative } from 'node:path';
import {
  type CatalogueImage,
  type ImageIndex,
  type ImageMemory,
  type ImageType,
  indexImages,
} from '../catalog/images.js';
import { createImagesReader, DocumentError, type PublishedImages } from '../catalog/published.js';
import type { StoredFacts } from '../catalog/stored-facts.js';
import { stampOf } from '../disk/stamp.js';
import { readStoredFacts, writeStoredFacts } from '../disk/version-files.js';
import { ServerError, systemCode, systemText } from '../errors.js';
import type { Logger } from '../log.js';
import type { LibraryImage } from '../server/lxd/contract.js';
import { createTurns } from './turns.js';

export interface HoldingsOptions {
  /** Absolute. */
  paths: { root: string; images: string; streams: string };
  log: Logger;
}

export interface Holdings {
  /** What is published now. @throws ServerError DAMAGED or IO. */
  index(): Promise<ImageIndex>;
  /** `image` with what is kept of it beside its files. */
  complete(image: CatalogueImage): Promise<LibraryImage>;
  all(images: readonly CatalogueImage[]): Promise<LibraryImage[]>;
  /** All that is published, complete: the same list for as long as nothing has changed. */
  images(): Promise<readonly LibraryImage[]>;
  /** Keeps facts with all versions that have the image. @throws ServerError IMAGE_MISSING, DISK_FULL, DENIED, IO */
  store(image: CatalogueImage, facts: Pick<StoredFacts, 'properties' | 'expires'>): Promise<void>;
}

/** How many files are asked for at once where all are. */
const atOnce = 32;

export function createHoldings({ paths, log }: HoldingsOptions): Holdings {
  const path = join(paths.streams, 'images.json');
  const prefix = relative(paths.root, paths.images);
  const turns = createTurns();
  const parseProducts = createImagesReader();
  const memory: ImageMemory = new WeakMap();
  let held: { stamp: string; index: ImageIndex } | undefined;
  /** By version, and by the file whose content tells it from others of that name. */
  let stored = new Map<string, Promise<StoredFacts | undefined>>();
  let listed: { of: ImageIndex; images: Promise<readonly LibraryImage[]> } | undefined;

  const load = async (): Promise<ImageIndex> => {
    const read = await readDocument(path, held?.stamp);
    if (read === 'same' && held !== undefined) return held.index;
    if (read === 'same' || read === 'missing') return nothing;
    const index = await indexOf(parse(read.text));
    // What goes may come again, under the same names and with other words.
    const keys = new Set(index.images.map(keyOf));
    stored = new Map([...stored].filter(([key]) => keys.has(key)));
    held = { stamp: read.stamp, index };
    return index;
  };

  const parse = (text: string) => {
    try {
      return parseProducts(text);
    } catch (error) {
      if (!(error instanceof DocumentError)) throw error;
      throw new ServerError('DAMAGED', `${path} ${error.message}`, {
        hint: 'publish anew: lxd-image-server update',
        cause: error,
      });
    }
  };

  const indexOf = async (document: Pick<PublishedImages, 'products'>): Promise<ImageIndex> => {
    const index = indexImages(document, { prefix, memory });
    const unified = new Map<string, ImageType>();
    for (const image of index.images.filter(({ files }) => files.length === 1)) {
      const facts = await storedOf(image);
      if (facts?.type !== undefined)
        for (const place of image.places) unified.set(place, facts.type);
    }
    return unified.size === 0 ? index : indexImages(document, { prefix, unified, memory });
  };

  const folderOf = (place: string) => join(paths.images, place);

  const storedOf = (image: CatalogueImage): Promise<StoredFacts | undefined> => {
    const key = keyOf(image);
    const known = stored.get(key);
    if (known !== undefined) return known;
    const reading = readFacts(image);
    stored.set(key, reading);
    reading.catch(() => stored.delete(key));
    return reading;
  };

  const readFacts = async (image: CatalogueImage) => {
    for (const place of image.places) {
      const facts = await readStoredFacts(folderOf(place));
      if (facts === 'damaged') log.warn({ version: place }, 'properties are damaged; not used');
      else if (facts !== undefined) return facts;
    }
    return undefined;
  };

  const complete = async (image: CatalogueImage): Promise<LibraryImage> => {
    const facts = await storedOf(image);
    const { places: _places, ...shown } = image;
    if (facts === undefined) return { ...shown, published: image.created, expires: 0 };
    const { properties, created, published, expires } = facts;
    return { ...shown, properties, created: created || image.created, published, expires };
  };

  const all = async (images: readonly CatalogueImage[]) => {
    const found: LibraryImage[] = [];
    for (let at = 0; at < images.length; at += atOnce) {
      found.push(...(await Promise.all(images.slice(at, at + atOnce).map(complete))));
    }
    return found;
  };

  return {
    index: () => turns.take(load),
    complete,
    all,
    async images() {
      const index = await turns.take(load);
      if (listed?.of !== index) {
        const images = all(index.images);
        listed = { of: index, images };
        images.catch(() => {
          if (listed?.images === images) listed = undefined;
        });
      }
      return listed.images;
    },
    async store(image, change) {
      const { type } = (await storedOf(image)) ?? {};
      const { created, published } = await complete(image);
      const facts = { ...change, type, created, published };
      try {
        for (const place of image.places) await writeStoredFacts(folderOf(place), facts);
      } finally {
        stored.delete(keyOf(image));
        listed = undefined;
      }
    },
  };
}

const nothing = indexImages({ products: {} }, { prefix: '' });

function keyOf({ places, files }: CatalogueImage): string {
  return `${places[0]} ${files[0]?.sha256}`;
}

/** The document, unless it is the one with `stamp`. */
async function readDocument(
  path: string,
  stamp: string | undefined,
): Promise<{ stamp: string; text: string } | 'same' | 'missing'> {
  try {
    const handle = await open(path);
    try {
      const found = stampOf(await handle.stat({ bigint: true }));
      if (found === stamp) return 'same';
      return { stamp: found, text: await handle.readFile('utf8') };
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 'missing';
    throw new ServerError('IO', `Cannot read ${path}: ${systemText(error)}`, {
      hint: 'see to the disk and the path',
      cause: error,
    });
  }
}
