/** The images of this server, as the LXD API asks for them and changes them; see `server/lxd/contract.ts`. */
import { join } from 'node:path';
import type { CatalogueImage, ImageIndex } from '../catalog/images.js';
import { readProperties } from '../catalog/metadata.js';
import type { AliasChange } from '../catalog/product-yaml.js';
import type { RetentionRules } from '../catalog/retention.js';
import type { Config } from '../config.js';
import { createStaging } from '../disk/staging.js';
import { markRemoved } from '../disk/version-files.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Pipeline } from '../pipeline.js';
import type { Library, Upload } from '../server/lxd/contract.js';
import { createArrivals } from './arrivals.js';
import { createHoldings } from './holdings.js';
import { createInspector } from './inspector.js';
import { namedVersions, outlivedPlaces, productOf, versionsThere, withLinks } from './outgoing.js';
import { aliasExists, createProductNames } from './product-names.js';
import { createRemovals } from './removals.js';
import type { Runner } from './runner.js';
import { createTurns } from './turns.js';
import { type Arrival, createUpload, tooLarge } from './upload.js';
import { noUploads, resultOf, type UploadCounts } from './upload-counts.js';

export interface LibraryOptions {
  config: LibraryConfig;
  pipeline: Pick<Pipeline, 'learn' | 'removed' | 'linking'>;
  runner: Pick<Runner, 'publish' | 'exclusively' | 'changed'>;
  log: Logger;
  /** How many bytes uploads must leave free on the disk. Default: as {@link createStaging} has it. */
  reserve?: number;
}

export type LibraryConfig = {
  paths: Pick<Config['paths'], 'root' | 'images' | 'streams'>;
  uploads: Config['uploads'];
  publish: Pick<Config['publish'], 'removalGrace'>;
};

/** The images, for the daemon that keeps them. */
export interface KeptLibrary extends Library {
  /** Removes what an earlier process has left of uploads. For whoever holds the lock, before there are any. */
  sweep(): Promise<void>;
  /**
   * Takes out what {@link namedVersions} finds for each of `names`, or nothing; the files go after the grace time.
   *
   * @returns these versions, `env/release/arch/type/version`.
   * @throws ServerError as {@link namedVersions}; INTERRUPTED, DENIED, IO.
   */
  takeOut(names: readonly string[]): Promise<string[]>;
  /**
   * Takes out the versions that `rules` do not keep; their files go after the grace time.
   *
   * @param options.dryRun only tells which. Default: false.
   * @returns these versions, `env/release/arch/type/version`.
   * @throws ServerError CONFIG where there is no rule; INTERRUPTED, DENIED, IO.
   */
  prune(rules: RetentionRules, options?: { dryRun?: boolean }): Promise<string[]>;
  /** A run has come to its end. Resolves when what was taken out and is due has been deleted. */
  ran(): Promise<void>;
  /**
   * As {@link Library.begin}, for what comes from this machine: `uploads.enabled` is about clients.
   *
   * @param options.size of all parts together, in bytes: what is too large is refused before it comes.
   * @throws ServerError TOO_LARGE, DISK_FULL, DENIED or IO
   */
  take(options: { signal: AbortSignal; size: number }): Promise<Upload>;
  /** Of uploads, since the start. */
  counts(): UploadCounts;
  /** Goes by another configuration from now on; uploads under way go on as they are. */
  configure(config: Omit<LibraryConfig, 'paths'>): void;
  /** Ends the uploads under way, and takes no others. To be called together with the runner's, for which some wait. */
  close(): Promise<void>;
}

export function createLibrary(options: LibraryOptions): KeptLibrary {
  const { config, pipeline, runner, log, reserve } = options;
  const { paths } = config;
  let { uploads } = config;
  const turns = createTurns();
  const ending = new AbortController();
  const underWay = new Set<Upload>();
  const counts = noUploads();
  const staging = createStaging({ ...paths, ...(reserve !== undefined && { reserve }) });
  const holdings = createHoldings({ paths, log });
  const names = createProductNames({ imagesDir: paths.images, learn: pipeline.learn });
  const inspector = createInspector();
  const shared = { imagesDir: paths.images, holdings, pipeline, turns, log };
  const publishArrival = createArrivals({ ...shared, names, runner });
  const arrive = async (arrival: Arrival) => {
    counts.publishing += 1;
    try {
      return await publishArrival(arrival);
    } finally {
      counts.publishing -= 1;
    }
  };
  const removals = createRemovals(
    { ...shared, staging, onDeleted: runner.changed },
    config.publish.removalGrace,
  );

  /** Does `work` on the tree when nobody else is at it, then publishes the products that it gives. */
  const change = async (work: (index: ImageIndex) => Promise<Iterable<string>>): Promise<void> => {
    throwIfEnding(ending.signal);
    const products = await turns.take(async () => new Set(await work(await holdings.index())));
    await Promise.all([...products].map((product) => runner.publish(product)));
  };

  /** Takes versions out; `said` is how the log tells it. @returns their products */
  const markAll = async (places: readonly string[], said: string): Promise<Set<string>> => {
    for (const place of places) await markRemoved(join(paths.images, place));
    const products = new Set(places.map(productOf));
    for (const product of products) {
      // As with LXD the names go with the last image that has them.
      const left = await versionsThere(product, paths.images);
      if (left.length === 0) await names.clear(product);
    }
    if (places.length > 0) log.info({ versions: places }, said);
    return products;
  };

  /** Changes the aliases of one product; where that cannot be published, all is as it was. */
  const changeNames = async (
    product: string,
    { to, back }: { to: AliasChange; back: AliasChange },
  ): Promise<boolean> => {
    if (!(await turns.take(() => names.change(product, [to])))) return false;
    try {
      await runner.publish(product);
    } catch (error) {
      await turns.take(() => names.change(product, [back]));
      runner.changed(product);
      throw error;
    }
    return true;
  };

  const begin = async ({ signal, size = 0 }: { signal: AbortSignal; size?: number }) => {
    throwIfEnding(ending.signal);
    if (size > uploads.maxSize) throw tooLarge(uploads.maxSize);
    const folder = await staging.make({ bytes: size });
    const upload = createUpload({
      folder,
      maxSize: uploads.maxSize,
      inspector,
      signal: AbortSignal.any([signal, ending.signal]),
      arrive,
      onBytes: (bytes) => {
        counts.bytes += bytes;
      },
      onEnd: (result) => {
        underWay.delete(upload);
        counts.ended[result] += 1;
      },
    });
    underWay.add(upload);
    if (ending.signal.aborted) await upload.discard();
    return upload;
  };

  /** Counts the upload that does not even begin. */
  const counting = async (beginning: () => Promise<Upload>): Promise<Upload> => {
    try {
      return await beginning();
    } catch (error) {
      counts.ended[resultOf(error)] += 1;
      throw error;
    }
  };

  return {
    images: () => holdings.images(),
    async image(fingerprint) {
      return holdings.complete(imageIn(await holdings.index(), fingerprint));
    },
    async aliases() {
      const { aliases } = await holdings.index();
      const images = await holdings.all(aliases.map(({ image }) => image));
      return aliases.flatMap(({ name }, at) => {
        const image = images[at];
        return image === undefined ? [] : [{ name, image }];
      });
    },

    begin: (options) =>
      counting(async () => {
        if (!uploads.enabled) throw uploadsOff();
        return await begin(options);
      }),
    take: (options) => counting(() => begin(options)),
    counts: () => ({ ...counts, running: underWay.size, ended: { ...counts.ended } }),

    remove: (fingerprint) =>
      change(async (index) => {
        const { places } = imageIn(index, fingerprint);
        return await markAll(places, 'taken out');
      }),

    async takeOut(wanted) {
      let places: string[] = [];
      await change(async (index) => {
        const options = { index, imagesDir: paths.images };
        const found = await Promise.all(wanted.map((name) => namedVersions(name, options)));
        places = await withLinks(found.flat(), options);
        return await markAll(places, 'taken out');
      });
      return places;
    },

    edit: (fingerprint, { properties, expires }) =>
      change(async (index) => {
        const image = imageIn(index, fingerprint);
        const read = readProperties(properties);
        if ('fault' in read) {
          const { reason, cure } = read.fault;
          throw new ServerError('IMAGE_INVALID', reason, { hint: cure });
        }
        const { expires: until } = await holdings.complete(image);
        await holdings.store(image, { properties: read.value, expires: expires ?? until });
        return [];
      }),

    async addAlias(name, fingerprint) {
      names.check(name);
      throwIfEnding(ending.signal);
      const index = await holdings.index();
      const { product } = imageIn(index, fingerprint);
      if (!names.claim(name, product, index)) return;
      try {
        await changeNames(product, { to: { add: name }, back: { remove: name } });
      } finally {
        names.release(name, product);
      }
    },
    async renameAlias(name, to) {
      names.check(to);
      throwIfEnding(ending.signal);
      const index = await holdings.index();
      const products = ownersOf(name, index);
      if (name === to) return;
      const claimed: string[] = [];
      try {
        for (const product of products) {
          if (!names.claim(to, product, index)) throw aliasExists(to, product);
          claimed.push(product);
        }
        const change = { to: { rename: name, to }, back: { rename: to, to: name } };
        const done = [];
        for (const product of products) done.push(await changeNames(product, change));
        if (!done.includes(true)) throw aliasOfTree(name);
      } finally {
        for (const product of claimed) names.release(to, product);
      }
    },
    async removeAlias(name) {
      throwIfEnding(ending.signal);
      for (const product of ownersOf(name, await holdings.index())) {
        await changeNames(product, { to: { remove: name }, back: { add: name } });
      }
    },

    async prune(rules, { dryRun = false } = {}) {
      let places: string[] = [];
      await change(async (index) => {
        places = await outlivedPlaces(rules, { index, imagesDir: paths.images });
        return dryRun ? [] : await markAll(places, 'taken out by the rules of retention');
      });
      return places;
    },

    async sweep() {
      await staging.sweep().catch((err: unknown) => {
        log.error({ err }, 'what is left of uploads cannot be removed');
      });
    },
    ran: removals.look,
    configure(next) {
      uploads = next.uploads;
      removals.configure(next.publish.removalGrace);
      void removals.look();
    },
    async close() {
      ending.abort();
      await Promise.all([...underWay].map((upload) => upload.discard()));
      await removals.close();
      await turns.idle();
      await inspector.close();
    },
  };
}

function imageIn(index: ImageIndex, fingerprint: string): CatalogueImage {
  const image = index.find(fingerprint.toLowerCase());
  if (image !== undefined) return image;
  throw new ServerError('IMAGE_MISSING', 'Image not found', {
    hint: 'list the images: their fingerprints, or so much of one that no other begins so',
  });
}

/** The products that have the alias `name`. @throws ServerError ALIAS_MISSING */
function ownersOf(name: string, index: ImageIndex): string[] {
  const owners = index.aliases.filter((alias) => alias.name === name);
  if (owners.length > 0) return owners.map(({ product }) => product);
  throw new ServerError('ALIAS_MISSING', 'Alias not found', { hint: 'list the aliases' });
}

function aliasOfTree(name: string): ServerError {
  return new ServerError('DENIED', `The alias "${name}" comes from the folders of its product`, {
    hint: 'add another alias; this one stays',
  });
}

function uploadsOff(): ServerError {
  return new ServerError('UPLOADS_OFF', 'This server takes no uploads', {
    hint: 'set uploads.enabled = true in its configuration, and reload it',
  });
}

function throwIfEnding(signal: AbortSignal): void {
  if (signal.aborted) throw new ServerError('INTERRUPTED', 'The server is ending');
}
