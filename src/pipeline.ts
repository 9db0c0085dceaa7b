/**
 * The story on one page: scan → digest → catalogue → publish.
 */
import { realpath, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { resolveAliases, withoutTwins } from './catalog/aliases.js';
import type { CatalogueOptions } from './catalog/completeness.js';
import { createImagesDocumentBuilder, type ProductEntry } from './catalog/images-document.js';
import type { ProductHead } from './catalog/product.js';
import {
  draftRecord,
  makeRecord,
  type ProductRecord,
  recallDigests,
  type Scanned,
  type Totals,
} from './catalog/record.js';
import { indexText, newest } from './catalog/streams.js';
import { compareNames, type Problem, type ProductFolder, productPath } from './catalog/tree.js';
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
  /** How often to keep what has been read so far, in milliseconds. Default: 30,000. */
  saveEvery?: number;
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
  const { paths, pool, log, rebuild = false, saveEvery = 30_000 } = options;
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
      const tree = await scan(imagesDir, keeping);
      const ms = { scan: clock(), digest: 0, publish: 0 };

      const { read, ...stock } = await digest(tree, { imagesDir, signal, onStage });
      ms.digest = clock();

      onStage('publish', 0);
      const records = stock.records.sort(byProductId);
      const admitted = admit(records);
      const kept = await keeping;
      const published = await publish(admitted, { records, kept });
      ms.publish = clock();
      if (last !== kept) await store.save(records, last?.documents);

      const ofRecords = records.flatMap((record) => record.problems);
      const problems = [...stock.problems, ...ofRecords, ...admitted.problems];
      const products = admitted.entries.length;
      return { products, ...sumTotals(records), read, published, problems, ms };
    },
  };

  /** Looks at the whole tree; products under the fingerprint of a final record are not unpacked. */
  async function scan(imagesDir: string, keeping: Kept | Promise<Kept>): Promise<Scan> {
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

  /**
   * Reads what is missing. That can take hours, in which the tree goes on changing: so it is looked at
   * again until it has stayed the same. What is restless beyond that is published as far as it is known.
   */
  async function digest(tree: Scan, context: DigestContext): Promise<Stock> {
    const read = { files: 0, bytes: -pool.bytesRead() };
    let { unchanged, changed, problems } = tree;
    for (let round = 1; changed.length > 0; round++) {
      read.files += await readMissing({ unchanged, changed }, context);
      const records = [...unchanged, ...changed.map(record)];
      const now = await scan(context.imagesDir, { records: byPath(records) });
      problems = now.problems;
      ({ unchanged, changed } = stillSame(now, byPath(records)));
      if (round === mostRounds) break;
    }
    read.bytes += pool.bytesRead();
    return { records: [...unchanged, ...changed.map(record)], problems, read };
  }

  function record(product: Scanned): ProductRecord {
    return makeRecord(product, catalogueOptions());
  }

  /** Reads the files that lack digests, and keeps what was learned: now and then, and at an early end. */
  async function readMissing(
    { unchanged, changed }: Pick<Scan, 'unchanged' | 'changed'>,
    context: DigestContext,
  ): Promise<number> {
    const { onStage } = context;
    const drafts = () => [...unchanged, ...changed.map(draftRecord)];
    let saving = Promise.resolve();
    let savedAt = performance.now();
    const onRead = () => {
      if (performance.now() - savedAt < saveEvery) return;
      savedAt = performance.now();
      saving = saving.then(() => store.save(drafts()));
    };
    const reading = digestProducts(changed, {
      ...context,
      pool,
      catalogueOptions,
      onDigest: (bytes) => onStage('digest', bytes),
      onSettle: () => onStage('settle', 0),
      onRead,
    });
    try {
      return await reading.finally(() => saving);
    } catch (error) {
      await keep(drafts());
      throw error;
    }
  }

  /** Publishes, unless nothing has changed and the documents are the ones made of these very records. */
  async function publish(
    { entries, aliases }: Admitted,
    { records, kept }: { records: ProductRecord[]; kept: Kept },
  ): Promise<string[]> {
    const isOld = (record: ProductRecord) => kept.records.get(record.path) === record;
    const isNew = kept.records.size > records.length || !records.every(isOld);
    if (!isNew && kept.documents === (await publisher.present())) {
      last = kept;
      return [];
    }
    const heads = entries.map(({ head }) => head);
    const updated = newest(heads);
    const index = Buffer.from(indexText(heads, { updated, path: indexPath }));
    const images = buildImages({ products: entries, aliases, updated });
    const published = await publisher.publish({ images, index }).catch(async (error: unknown) => {
      await keep(records);
      throw error;
    });
    const documents = await publisher.present();
    last = { records: byPath(records), documents };
    return published;
  }

  /** Has the next run go on from here, of this pipeline and of others, where the documents are not up to date. */
  async function keep(records: readonly ProductRecord[]): Promise<void> {
    last = { records: byPath(records) };
    await store.save(records);
  }

  function catalogueOptions(): CatalogueOptions {
    return { now: Date.now(), settle: options.publish.settle, prefix };
  }
}

/** What the tree is now, against what is known of it. */
interface Scan {
  /** Of the products that are as they were. */
  unchanged: ProductRecord[];
  /** The others, with the digests that are still good. */
  changed: Scanned[];
  problems: Problem[];
}

type DigestContext = Required<Pick<RunOptions, 'onStage'>> & {
  imagesDir: string;
  signal: AbortSignal | undefined;
};

/** All that is known of the tree at last. */
interface Stock extends Pick<RunResult, 'read' | 'problems'> {
  records: ProductRecord[];
}

/** How often the tree is read and looked at again before a restless one is published as it is known. */
const mostRounds = 3;

/** A scan in which a product counts as unchanged under its fingerprint, also where its record is not final. */
function stillSame(scan: Scan, records: Kept['records']): Pick<Scan, 'unchanged' | 'changed'> {
  const unchanged = [...scan.unchanged];
  const changed = scan.changed.filter((product) => {
    const record = records.get(productPath(product.folder));
    if (record?.fingerprint !== product.fingerprint) return true;
    unchanged.push(record);
    return false;
  });
  return { unchanged, changed };
}

interface Admitted {
  entries: ProductEntry[];
  aliases: ReadonlyMap<ProductHead, readonly string[]>;
  problems: Problem[];
}

/** What is published of `records`, in product order, and who keeps which alias. */
function admit(records: readonly ProductRecord[]): Admitted {
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

function byPath(records: readonly ProductRecord[]): Kept['records'] {
  return new Map(records.map((record) => [record.path, record]));
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
