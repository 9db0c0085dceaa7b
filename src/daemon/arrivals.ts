/**
 * Gives uploads their place: a version that is whole is renamed into its product, its aliases are written down, and
 * it is published; where that fails, nothing of it stays in the tree.
 */
import { join } from 'node:path';
import type { CatalogueImage } from '../catalog/images.js';
import { versionNames } from '../catalog/placement.js';
import { imagesFolder } from '../disk/images-folder.js';
import { makeProductFolder, removeFolders } from '../disk/product-folder.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Pipeline } from '../pipeline.js';
import type { LibraryImage } from '../server/lxd/contract.js';
import type { Holdings } from './holdings.js';
import type { ProductNames } from './product-names.js';
import type { Runner } from './runner.js';
import type { Turns } from './turns.js';
import type { Arrival } from './upload.js';

export interface ArrivalsOptions {
  /** Absolute. */
  imagesDir: string;
  holdings: Pick<Holdings, 'index' | 'complete'>;
  names: ProductNames;
  pipeline: Pick<Pipeline, 'learn'>;
  runner: Pick<Runner, 'publish' | 'exclusively' | 'changed'>;
  /** One thing at a time changes the tree. */
  turns: Turns;
  log: Logger;
}

/** @throws ServerError as {@link Upload.finish} */
export type Arrive = (arrival: Arrival) => Promise<LibraryImage>;

/** What has been done for an arrival, so that it can be undone. */
interface Placed {
  /** The version's folder; absent until it is there. */
  target?: string;
  /** `env/release/arch/type/version`. */
  place: string;
  /** Folders that were made for it, the innermost first. */
  made: string[];
  /** Aliases that its product got. */
  added: string[];
  /** Names that were claimed. */
  claimed: string[];
}

export function createArrivals(options: ArrivalsOptions): Arrive {
  const { imagesDir, holdings, names, pipeline, runner, turns, log } = options;
  /** What is on its way into the documents, by fingerprint. */
  const arriving = new Map<string, Promise<unknown>>();

  const publish = async (arrival: Arrival): Promise<LibraryImage> => {
    const placed: Placed = { place: '', made: [], added: [], claimed: [] };
    try {
      await turns.take(() => place(arrival, placed).catch((error) => undo(arrival, placed, error)));
      return await holdings.complete(await published(arrival, placed));
    } finally {
      for (const name of placed.claimed) names.release(name, arrival.product);
    }
  };

  const place = async (arrival: Arrival, placed: Placed): Promise<void> => {
    const { product, aliases, folder, signal } = arrival;
    const index = await holdings.index();
    const present = index.find(arrival.fingerprint);
    if (present !== undefined) throw exists(present);
    const standard = names.ofFolders(product);
    // A new product comes with names, which may be those of another: whoever launches that goes on getting it.
    const isNew = index.versions(product).length === 0;
    for (const name of new Set([...aliases, ...(isNew ? standard : [])])) {
      if (names.claim(name, product, index)) placed.claimed.push(name);
    }
    const parent = await imagesFolder(imagesDir);
    placed.made = await makeProductFolder(parent, product);
    if (signal.aborted) throw new ServerError('INTERRUPTED', 'The upload was cancelled');
    for (const version of versionNames(arrival.created)) {
      // A run may find it before all that follows is done.
      pipeline.learn({ [version]: arrival.digests });
      const target = join(parent, product, version);
      if (!(await folder.place(target))) continue;
      Object.assign(placed, { target, place: `${product}/${version}` });
      break;
    }
    const further = placed.claimed.filter((name) => !standard.includes(name));
    const changes = further.map((add) => ({ add }));
    if (await names.change(product, changes)) placed.added = further;
  };

  /** Publishes, and gives the image as the documents have it then; where it is not in there, it is taken out. */
  const published = async (arrival: Arrival, placed: Placed): Promise<CatalogueImage> => {
    const { product, fingerprint } = arrival;
    const found = async () => {
      const image = (await holdings.index()).find(fingerprint);
      return image?.places.includes(placed.place) ? image : undefined;
    };
    let failure: unknown;
    try {
      const { problems } = await runner.publish(product);
      const image = await found();
      if (image !== undefined) return image;
      const problem = problems.find(({ path }) => `${path}/`.startsWith(`${placed.place}/`));
      failure = new ServerError(
        'IMAGE_INVALID',
        `It cannot be published: ${problem?.reason ?? 'other images are in its way'}`,
        problem && { hint: problem.cure },
      );
    } catch (error) {
      failure = error;
    }
    // A run under way may publish it while it is taken out.
    return await runner.exclusively(async () => {
      const image = await found();
      if (image !== undefined) return image;
      await turns.take(() => undo(arrival, placed, failure));
      throw failure;
    });
  };

  /** Takes back what was done. @throws `failure`, whatever comes of it. */
  const undo = async (
    { folder, product }: Arrival,
    { target, made, added }: Placed,
    failure: unknown,
  ): Promise<never> => {
    try {
      if (target !== undefined) await folder.takeBack(target);
      if (added.length > 0)
        await names.change(
          product,
          added.map((remove) => ({ remove })),
        );
      await removeFolders(made);
    } catch (err) {
      log.error({ err, product }, 'an upload that failed cannot be taken out of the tree');
    } finally {
      runner.changed(product);
    }
    throw failure;
  };

  return async (arrival) => {
    for (const name of arrival.aliases) names.check(name);
    // Who comes second waits to see what becomes of the first.
    for (;;) {
      const other = arriving.get(arrival.fingerprint);
      if (other === undefined) break;
      await other.catch(() => undefined);
    }
    const publishing = publish(arrival);
    arriving.set(arrival.fingerprint, publishing);
    try {
      return await publishing;
    } finally {
      arriving.delete(arrival.fingerprint);
    }
  };
}

function exists({ places }: CatalogueImage): ServerError {
  return new ServerError('IMAGE_EXISTS', 'Image with same fingerprint already exists', {
    hint: `it is there as ${places.join(' and ')}`,
  });
}
