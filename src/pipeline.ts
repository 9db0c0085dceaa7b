/**
 * The story on one page: scan → digest → catalogue → publish.
 */
import { realpath, stat } from 'node:fs/promises';
import { relative } from 'node:path';
import {
  type CatalogueOptions,
  catalogueProduct,
  type Product,
  type ProductResult,
  resolveAliases,
} from './catalog/catalog.js';
import { createImagesDocumentBuilder } from './catalog/images-document.js';
import { indexText, newest } from './catalog/streams.js';
import {
  compareNames,
  type Problem,
  type ProductFolder,
  productId,
  productPath,
  type Tree,
} from './catalog/tree.js';
import {
  type DigestingOptions,
  type DigestingResult,
  digestProducts,
  recallDigests,
} from './digesting.js';
import { createDigestCache } from './disk/digest-cache.js';
import type { Pool } from './disk/pool.js';
import { createPublisher } from './disk/publish.js';
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
  const cache = createDigestCache({ stateDir: paths.state, imagesDir: paths.images, log });
  const publisher = createPublisher({ streamsDir: paths.streams, gzip: options.publish.gzip, log });
  const buildImages = createImagesDocumentBuilder();
  const judged = new WeakMap<ProductFolder, ProductResult>();
  let known: Map<string, ProductFolder> | undefined;

  return {
    async run({ signal, onStage = () => {} } = {}) {
      const clock = stopwatch();
      onStage('scan', 0);
      const imagesDir = await imagesFolder(paths.images);
      const tree = await scan(imagesDir);
      const scanned = clock();

      const before = pool.bytesRead();
      const { products: folders, files } = await digest(tree.products, {
        imagesDir,
        pool,
        catalogueOptions,
        signal,
        onDigest: (bytes) => onStage('digest', bytes),
        onSettle: () => onStage('settle', 0),
      });
      known = new Map(folders.map((folder) => [productPath(folder), folder]));
      const read = { files, bytes: pool.bytesRead() - before };
      const digested = clock();

      onStage('publish', 0);
      const results = folders.map(judge);
      const products = results.flatMap(({ product }) => product ?? []);
      const { aliases, problems } = resolveAliases(products);
      const published = await publish(products, aliases);
      const ms = { scan: scanned, digest: digested, publish: clock() };
      const all = [...tree.problems, ...results.flatMap((result) => result.problems), ...problems];
      return { ...totals(products), read, published, problems: all, ms };
    },
  };

  /** The tree as it is, with all digests that are still good. */
  async function scan(imagesDir: string): Promise<Tree> {
    const { products: addresses, problems } = await pool.listProducts(imagesDir);
    const [scanned, attach] = await Promise.all([
      pool.scan(imagesDir, addresses),
      known === undefined && !rebuild ? cache.load() : () => {},
    ]);
    const products = scanned.map((folder) => {
      const earlier = known?.get(productPath(folder));
      if (earlier !== undefined && isSame(folder, earlier)) return earlier;
      recallDigests(folder, earlier);
      attach(folder);
      return folder;
    });
    products.sort((a, b) => compareNames(productId(a), productId(b)));
    return { products, problems };
  }

  /** Reads what is missing, and keeps what was learned even where it comes to an early end. */
  async function digest(
    scanned: readonly ProductFolder[],
    context: DigestingOptions,
  ): Promise<DigestingResult> {
    const before = pool.bytesRead();
    let products = scanned;
    try {
      const result = await digestProducts(scanned, context);
      products = result.products;
      return result;
    } finally {
      if (pool.bytesRead() > before) await cache.save(products);
    }
  }

  function judge(folder: ProductFolder): ProductResult {
    const earlier = judged.get(folder);
    if (earlier !== undefined) return earlier;
    const result = catalogueProduct(folder, catalogueOptions());
    // What waits for time to pass must be judged again.
    if (result.settlesAt === undefined) judged.set(folder, result);
    return result;
  }

  async function publish(
    products: readonly Product[],
    aliases: ReadonlyMap<Product, readonly string[]>,
  ): Promise<string[]> {
    const updated = newest(products);
    const path = relative(paths.root, `${paths.streams}/images.json`);
    return publisher.publish({
      images: buildImages({ products, aliases, updated }),
      index: Buffer.from(indexText(products, { updated, path })),
    });
  }

  function catalogueOptions(): CatalogueOptions {
    const { settle } = options.publish;
    return { now: Date.now(), settle, prefix: relative(paths.root, paths.images) };
  }
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
    hint: 'Move what is there away, or set paths.root in the configuration',
  });
}

function imagesFolderError(path: string, cause: unknown): ServerError {
  const message = `Cannot use the images folder ${path}: ${systemText(cause)}`;
  if (systemCode(cause) === 'ENOENT') {
    const hint = 'Make it with "lxd-image-server init"; or mount the file system that holds it';
    return new ServerError('NOT_INITIALISED', message, { hint, cause });
  }
  if (systemCode(cause) === 'ENOTDIR') {
    const hint = 'Move the file in its way, or set paths.root in the configuration';
    return new ServerError('CONFIG', message, { hint, cause });
  }
  const hint = 'Run the command as the user who owns it, or as root';
  return new ServerError('DENIED', message, { hint, cause });
}

/** Whether a product is as it was: the same files under the same stamps, and none that failed. */
function isSame(a: ProductFolder, b: ProductFolder): boolean {
  return fingerprintOf(a) === fingerprintOf(b) && !hasFailed(b);
}

function fingerprintOf({ yaml, versions, problems }: ProductFolder): string {
  const stamps = versions.map(({ name, files, temporaries }) => [
    name,
    temporaries,
    files.map((file) => [file.name, file.stamp]),
  ]);
  return JSON.stringify([yaml?.stamp, stamps, problems]);
}

function hasFailed({ yaml, versions }: ProductFolder): boolean {
  const files = versions.flatMap((version) => version.files);
  return [...files, ...(yaml ? [yaml] : [])].some((file) => file.failure || file.fleeting);
}

function totals(products: readonly Product[]): Pick<RunResult, 'products' | 'versions' | 'bytes'> {
  const versions = products.flatMap((product) => product.versions);
  const sizes = new Map(
    versions.flatMap(({ items }) => items.map(({ path, size }) => [path, size])),
  );
  const bytes = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  return { products: products.length, versions: versions.length, bytes };
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
