/**
 * Brings a scanned tree to the point where every version can be judged: reads what has not been read,
 * and gives versions that were changed a moment ago the time to settle.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type CatalogueOptions,
  type DigestJob,
  missingDigests,
  settlingTimes,
} from './catalog/completeness.js';
import {
  digestsOf,
  filledIn,
  recallDigests,
  recallFilled,
  type Scanned,
} from './catalog/record.js';
import { type FileEntry, type ProductFolder, productPath } from './catalog/tree.js';
import type { DigestResult } from './disk/digest.js';
import type { Pool } from './disk/pool.js';
import type { ScanRequest } from './disk/tasks.js';
import { ServerError } from './errors.js';

export interface DigestingOptions {
  /** Absolute, without symbolic links. */
  imagesDir: string;
  pool: Pool;
  /** What decides whether a version may be read yet; asked anew each time, for its clock. */
  catalogueOptions: () => CatalogueOptions;
  /** Whether to wait for versions to settle; without that they are left as they are. */
  wait: boolean;
  signal?: AbortSignal | undefined;
  /** Is told how many bytes are about to be read. */
  onDigest: (bytes: number) => void;
  /** Is told that there is nothing to do but wait for a version to settle. */
  onSettle: () => void;
  /** Is told whenever some files have been read, and their digests put in place. */
  onRead: () => void;
}

/**
 * Reads the files of `products` that lack digests. Digests are put into the entries of the tree, and
 * products that were waited for are replaced by what they are then; so it is, as far as it got, when this
 * throws as well.
 *
 * @returns how many files were read.
 * @throws ServerError INTERRUPTED when the signal aborts.
 */
export async function digestProducts(
  products: readonly Scanned[],
  options: DigestingOptions,
): Promise<number> {
  const files = await digestAll(products, options);
  const now = options.catalogueOptions();
  const settling = products.filter(({ folder }) => settlingTimes(folder, now) !== undefined);
  if (settling.length === 0 || !options.wait) return files;
  options.onSettle();
  const until = settling.reduce(
    (latest, { folder }) => Math.max(latest, settlingTimes(folder, now)?.last ?? 0),
    0,
  );
  await wait(until - now.now, options.signal);
  await rescan(settling, options);
  return files + (await digestAll(settling, options));
}

/** Looks at product folders once more; what was learned of their files is carried over. */
async function rescan(
  products: readonly Scanned[],
  { pool, imagesDir }: DigestingOptions,
): Promise<void> {
  const requests = products.map(({ folder }): ScanRequest => {
    return { address: [folder.env, folder.release, folder.arch, folder.type] };
  });
  const again = await pool.scan(imagesDir, requests);
  for (const [index, product] of products.entries()) {
    const { fingerprint, folder: json } = again[index] ?? {};
    if (json === undefined) continue;
    const folder = JSON.parse(json) as ProductFolder;
    recallDigests(folder, digestsOf(product.folder));
    recallFilled(folder, filledIn(product.folder));
    Object.assign(product, { fingerprint, folder });
  }
}

async function digestAll(products: readonly Scanned[], options: DigestingOptions): Promise<number> {
  let files = 0;
  for (;;) {
    throwIfInterrupted(options.signal);
    const jobs = products.flatMap(({ folder }) =>
      missingDigests(folder, options.catalogueOptions()),
    );
    if (jobs.length === 0) return files;
    const read = await digestJobs(jobs, products, options);
    throwIfInterrupted(options.signal);
    if (read === 0) throw new Error(`files of ${jobs[0]?.path} were asked for, and none was read`);
    files += read;
  }
}

async function digestJobs(
  jobs: readonly DigestJob[],
  products: readonly Scanned[],
  { imagesDir, pool, signal, onDigest, onRead }: DigestingOptions,
): Promise<number> {
  const folders = filesByFolder(products);
  let files = 0;
  onDigest(jobs.flatMap((job) => job.files).reduce((sum, file) => sum + file.size, 0));
  const onResults = (results: DigestResult[]) => {
    for (const result of results) files += takeOver(result, folders.get(result.path) ?? []);
    onRead();
  };
  await pool.digest(imagesDir, jobs, { ...(signal && { signal }), onResults });
  return files;
}

function filesByFolder(products: readonly Scanned[]): Map<string, FileEntry[]> {
  const files = new Map<string, FileEntry[]>();
  for (const { folder } of products) {
    const path = productPath(folder);
    files.set(path, folder.yaml === undefined ? [] : [folder.yaml]);
    for (const version of folder.versions) files.set(`${path}/${version.name}`, version.files);
  }
  return files;
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

async function wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
  // Timers count whole milliseconds of another clock, and may so be one too early.
  await sleep(ms + 2, undefined, { ...(signal && { signal }) }).catch((error: unknown) => {
    throwIfInterrupted(signal);
    throw error;
  });
}

function throwIfInterrupted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw new ServerError('INTERRUPTED', 'Interrupted', {
      hint: 'what was read so far is kept: the next run goes on from there',
    });
  }
}
