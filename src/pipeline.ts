/**
 * The story on one page: scan → digest → catalogue → publish.
 */
import { realpath, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import {
  type CatalogueOptions,
  type ProductHead,
  resolveAliases,
  withoutTwins,
} from './catalog/catalog.js';
import { createImagesDocumentBuilder, type ProductEntry } from './catalog/images-document.js';
import {
  draftRecord,
  makeRecord,
  type ProductRecord,
  recallDigests,
  type Scanned,
  type Totals,
} from './catalog/record.js';
import { indexText, newest } from './catalog/streams.js';
import { compareNames, type Problem, type ProductFolder } from './catalog/tree.js';
import { digestProducts } from './digesting.js';
import type { Pool } from './disk/pool.js';
import { createPublisher } from './disk/publish.js';
import { createRecordStore, type Kept } from './disk/record-store.js';
import type { ScanRequest } from './disk/tasks.js';
import { ServerError, systemCode, systemText } from './errors.js';
import type { Logger } from './log.js';

export interface PipelineOptions {
  /** Absolute. */
  paths: { root: string; images: string; streams: string; state: string };
  /** `settle` in milliseconds. */
  publish: { settle: number; gzip: boolean };
  pool: Pool;
  log: Logger;
  /** Reads every file again in the first run, whatever is remembered of it. Default: no. */
  rebuild?: boolean;
}

/** What is being done, for whoever shows progress. */
export type Stage = 'scan' | 'digest' | 'settle' | 'publish';

export interface RunOptions {
  signal?: AbortSignal;
  /** Is told the stage, and for `digest` how many bytes there are to read. */
  onStage?: (stage: Stage, bytes: number) => void;
}

/** What a run found and did. */
export interface RunResult {
  products: number;
  versions: number;
  /** Size of the published files in bytes; a file that stands under two names counts once. */
  bytes: number;
  /** What had to be read. */
  read: { files: number; bytes: number };
  /** The documents that were replaced; none where nothing was new. */
  published: string[];
  /** What was held back or passed over, and why. */
  problems: Problem[];
  /** How long it took, in milliseconds; `publish` is all that came after the digests. */
  ms: { scan: number; digest: number; publish: number };
}

export interface Pipeline {
  /**
   * Brings the documents up to date with the tree as it is now.
   *
   * @throws ServerError NOT_INITIALISED, CONFIG, DENIED, DISK_FULL, IO, or INTERRUPTED after an abort.
   */
  run(options?: RunOptions): Promise<RunResult>;
}

/** A pipeline that remembers what it published: a later run costs as much as what has changed. */
export function createPipeline(options: PipelineOptions): Pipeline {
  const { paths, pool, log, rebuild = false } = options;
  const prefix = relative(paths.root, paths.images);
  const indexPath = relative(paths.root, join(paths.streams, 'images.json'));
  const store = createRecordStore({ stateDir: paths.state, imagesDir: paths.images, prefix, log });
  const publisher = createPublisher({ streamsDir: paths.streams, gzip: options.publish.gzip, log });
  const buildImages = createImagesDocumentBuilder();
  let last: Kept | undefined;

  return {
    async run({ signal, onStage = () => {} } = {}) {
      const clock = stopwatch();
      onStage('scan', 0);
      const imagesDir = await imagesFolder(paths.images);
      const keeping: Kept | Promise<Kept> =
        last ?? (rebuild ? { records: new Map() } : store.load());
      const scan = await scanTree(imagesDir, keeping);
      const scanned = clock();

      const before = pool.bytesRead();
      const files = await digestProducts(scan.changed, {
        imagesDir,
        pool,
        catalogueOptions,
        signal,
        onDigest: (bytes) => onStage('digest', bytes),
        onSettle: () => onStage('settle', 0),
      }).catch(async (error: unknown) => {
        await store.save([...scan.unchanged, ...scan.changed.map(draftRecord)]);
        throw error;
      });
      const read = { files, bytes: pool.bytesRead() - before };
      const digest = clock();

      onStage('publish', 0);
      const changed = scan.changed.map((product) => makeRecord(product, catalogueOptions()));
      const all = [...scan.unchanged, ...changed].sort(byProductId);
      const { entries, aliases, problems } = admit(all);
      const kept = await keeping;
      const isNew = changed.length > 0 || kept.records.size > all.length;
      const inPlace = !isNew && kept.documents === (await publisher.present());
      const published = inPlace
        ? []
        : await publish(entries, aliases).catch(async (error: unknown) => {
            await store.save(all);
            throw error;
          });
      const publication = clock();

      const documents = inPlace ? kept.documents : await publisher.present();
      last = { records: new Map(all.map((record) => [record.path, record])), documents };
      if (!inPlace) await store.save(all, documents);
      return {
        products: entries.length,
        ...sumTotals(all),
        read,
        published,
        problems: [...scan.problems, ...all.flatMap((record) => record.problems), ...problems],
        ms: { scan: scanned, digest, publish: publication },
      };
    },
  };

  /** The tree now: records of the products that are as they were, and the others with what is known of their files. */
  async function scanTree(imagesDir: string, keeping: Kept | Promise<Kept>) {
    const { products: addresses, problems } = await pool
      .listProducts(imagesDir)
      .catch((error: unknown) => {
        throw systemCode(error) ? imagesFolderError(imagesDir, error) : error;
      });
    const { records } = await keeping;
    const requests = addresses.map((address): ScanRequest => {
      const record = records.get(address.join('/'));
      return { address, known: record?.final === true ? record.fingerprint : undefined };
    });
    const unchanged: ProductRecord[] = [];
    const changed: Scanned[] = [];
    for (const scanned of await pool.scan(imagesDir, requests)) {
      const record = records.get(scanned.path);
      if (scanned.folder === undefined) {
        if (record !== undefined) unchanged.push(record);
        continue;
      }
      const folder = JSON.parse(scanned.folder) as ProductFolder;
      if (record !== undefined) recallDigests(folder, JSON.parse(record.digests.toString()));
      changed.push({ folder, fingerprint: scanned.fingerprint });
    }
    return { unchanged, changed, problems };
  }

  async function publish(
    products: readonly ProductEntry[],
    aliases: ReadonlyMap<ProductHead, readonly string[]>,
  ): Promise<string[]> {
    const heads = products.map(({ head }) => head);
    const updated = newest(heads);
    return publisher.publish({
      images: buildImages({ products, aliases, updated }),
      index: Buffer.from(indexText(heads, { updated, path: indexPath })),
    });
  }

  function catalogueOptions(): CatalogueOptions {
    return { now: Date.now(), settle: options.publish.settle, prefix };
  }
}

/** What is published of `records`, in product order, and who keeps which alias. */
function admit(records: readonly ProductRecord[]) {
  const { products, problems: twins } = withoutTwins(records.flatMap(({ entry }) => entry ?? []));
  const { aliases, problems } = resolveAliases(products.map(({ head }) => head));
  return { entries: products, aliases, problems: [...twins, ...problems] };
}

/**
 * The images folder without symbolic links.
 *
 * @throws ServerError NOT_INITIALISED where it is missing, CONFIG where it is not a folder, DENIED.
 */
async function imagesFolder(path: string): Promise<string> {
  try {
    const folder = await realpath(path);
    if ((await stat(folder)).isDirectory()) return folder;
  } catch (error) {
    throw imagesFolderError(path, error);
  }
  throw new ServerError('CONFIG', `The images folder ${path} is not a folder`, {
    hint: 'move what is there away, or set paths.root in the configuration',
  });
}

function imagesFolderError(path: string, cause: unknown): ServerError {
  const message = `Cannot use the images folder ${path}: ${systemText(cause)}`;
  if (systemCode(cause) === 'ENOENT') {
    const hint = 'make it with "lxd-image-server init"; or mount the file system that holds it';
    return new ServerError('NOT_INITIALISED', message, { hint, cause });
  }
  if (systemCode(cause) === 'ENOTDIR') {
    const hint = 'move the file in its way, or set paths.root in the configuration';
    return new ServerError('CONFIG', message, { hint, cause });
  }
  const hint = 'run the command as the user who owns it, or as root';
  return new ServerError('DENIED', message, { hint, cause });
}

function byProductId(a: ProductRecord, b: ProductRecord): number {
  return compareNames(a.path.replaceAll('/', ':'), b.path.replaceAll('/', ':'));
}

function sumTotals(records: readonly ProductRecord[]): Totals {
  return records.reduce(
    (sum, { totals }) => ({
      versions: sum.versions + totals.versions,
      bytes: sum.bytes + totals.bytes,
    }),
    { versions: 0, bytes: 0 },
  );
}

/** A function that tells the milliseconds since it was last called. */
function stopwatch(): () => number {
  let last = performance.now();
  return () => {
    const elapsed = performance.now() - last;
    last += elapsed;
    return Math.round(elapsed * 10) / 10;
  };
}
