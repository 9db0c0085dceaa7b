/**
 * Brings a scanned tree to the point where every version can be judged: reads what has not been read,
 * and gives versions that were changed a moment ago the time to settle.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type CatalogueOptions,
  catalogueProduct,
  type DigestJob,
  missingDigests,
} from './catalog/catalog.js';
import { type FileEntry, type ProductFolder, productPath } from './catalog/tree.js';
import type { DigestResult } from './disk/digest.js';
import type { Pool } from './disk/pool.js';
import { ServerError } from './errors.js';

export interface DigestingOptions {
  /** Absolute, without symbolic links. */
  imagesDir: string;
  pool: Pool;
  /** What decides whether a version may be read yet; asked anew each time, for its clock. */
  catalogueOptions: () => CatalogueOptions;
  signal?: AbortSignal | undefined;
  /** Is told how many bytes are about to be read. */
  onDigest: (bytes: number) => void;
  /** Is told that there is nothing to do but wait for a version to settle. */
  onSettle: () => void;
}

export interface DigestingResult {
  /** The products, those that were waited for as they are now. */
  products: ProductFolder[];
  /** How many files were read. */
  files: number;
}

/**
 * Reads the files of `scanned` that lack digests. Digests are put into the entries of the tree; they are
 * in place, as far as they got, when this throws as well.
 *
 * @throws ServerError INTERRUPTED when the signal aborts.
 */
export async function digestProducts(
  scanned: readonly ProductFolder[],
  options: DigestingOptions,
): Promise<DigestingResult> {
  const { signal, onSettle } = options;
  const products = [...scanned];
  let files = await digestAll(products, options);
  const settling = products.filter((product) => settlesAt(product, options) !== undefined);
  if (settling.length > 0) {
    onSettle();
    const latest = Math.max(...settling.map((product) => settlesAt(product, options) ?? 0));
    await wait(latest - Date.now(), signal);
    const addresses = settling.map(
      ({ env, release, arch, type }) => [env, release, arch, type] as const,
    );
    const again = await options.pool.scan(
      options.imagesDir,
      addresses.map((address) => [...address]),
    );
    for (const product of again) {
      const index = products.findIndex(
        (candidate) => productPath(candidate) === productPath(product),
      );
      recallDigests(product, products[index]);
      products[index] = product;
    }
    files += await digestAll(again, options);
  }
  return { products, files };
}

/** Gives the files of `product` the digests that `earlier`, the same product before, has for their stamps. */
export function recallDigests(product: ProductFolder, earlier: ProductFolder | undefined): void {
  if (earlier === undefined) return;
  recallFiles(product.yaml ? [product.yaml] : [], earlier.yaml ? [earlier.yaml] : []);
  const versions = new Map(earlier.versions.map((version) => [version.name, version]));
  for (const version of product.versions) {
    recallFiles(version.files, versions.get(version.name)?.files ?? []);
  }
}

function recallFiles(files: readonly FileEntry[], earlier: readonly FileEntry[]): void {
  for (const file of files) {
    const known = earlier.find(({ name, stamp }) => name === file.name && stamp === file.stamp);
    if (known?.digest !== undefined && known.fleeting !== true) file.digest = known.digest;
  }
}

async function digestAll(
  products: readonly ProductFolder[],
  options: DigestingOptions,
): Promise<number> {
  let files = 0;
  for (;;) {
    throwIfInterrupted(options.signal);
    const jobs = products.flatMap((product) => missingDigests(product, options.catalogueOptions()));
    if (jobs.length === 0) return files;
    const read = await digestJobs(jobs, products, options);
    throwIfInterrupted(options.signal);
    if (read === 0) throw new Error(`files of ${jobs[0]?.path} were asked for, and none was read`);
    files += read;
  }
}

async function digestJobs(
  jobs: readonly DigestJob[],
  products: readonly ProductFolder[],
  { imagesDir, pool, signal, onDigest }: DigestingOptions,
): Promise<number> {
  const folders = filesByFolder(products);
  let files = 0;
  onDigest(jobs.flatMap((job) => job.files).reduce((sum, file) => sum + file.size, 0));
  const onResults = (results: DigestResult[]) => {
    for (const result of results) files += takeOver(result, folders.get(result.path) ?? []);
  };
  await pool.digest(imagesDir, jobs, { ...(signal && { signal }), onResults });
  return files;
}

function filesByFolder(products: readonly ProductFolder[]): Map<string, FileEntry[]> {
  return new Map(
    products.flatMap((product) => {
      const path = productPath(product);
      const versions = product.versions.map((version): [string, FileEntry[]] => [
        `${path}/${version.name}`,
        version.files,
      ]);
      return [...versions, [path, product.yaml ? [product.yaml] : []] as [string, FileEntry[]]];
    }),
  );
}

/** Puts outcomes into the tree. @returns how many files were read for them. */
function takeOver(result: DigestResult, files: readonly FileEntry[]): number {
  let read = 0;
  for (const { name, digest, failure, fleeting } of result.files) {
    const file = files.find((candidate) => candidate.name === name);
    if (file === undefined) continue;
    if (fleeting !== undefined || failure !== undefined) read++;
    if (digest !== undefined) file.digest = digest;
    if (failure !== undefined) file.failure = failure;
    if (fleeting !== undefined) file.fleeting = fleeting;
  }
  return read;
}

function settlesAt(product: ProductFolder, options: DigestingOptions): number | undefined {
  return catalogueProduct(product, options.catalogueOptions()).settlesAt;
}

async function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await sleep(Math.max(0, ms), undefined, { ...(signal && { signal }) }).catch((error: unknown) => {
    throwIfInterrupted(signal);
    throw error;
  });
}

function throwIfInterrupted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw new ServerError('INTERRUPTED', 'Interrupted', {
      hint: 'What was read so far is kept: the next run goes on from there',
    });
  }
}
