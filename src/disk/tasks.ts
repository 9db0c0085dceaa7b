/** What the threads of the pool do, and the messages that pass between them and the pool. */
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import type { DigestJob } from '../catalog/completeness.js';
import { type ProductFolder, productPath } from '../catalog/tree.js';
import { systemCode } from '../errors.js';
import type { DigestResult } from './digest.js';
import type { Inspection, InspectionRequest } from './inspect.js';
import { listProducts, type ProductAddress, type ProductList, scanProduct } from './scan.js';

export type Task =
  | { kind: 'list'; imagesDir: string }
  | { kind: 'scan'; imagesDir: string; products: ScanRequest[] }
  | { kind: 'digest'; imagesDir: string; jobs: DigestJob[] }
  | ({ kind: 'inspect' } & InspectionRequest);

/** Large trees of small objects travel as JSON: to clone them takes much longer. */
export interface TaskResults {
  list: ProductList;
  scan: ScannedProduct[];
  /** A list of {@link DigestResult}. */
  digest: string;
  inspect: Inspection;
}

/** The `code` of a system error would not survive the way between threads inside of the error. */
export type Reply =
  | { result: TaskResults[Task['kind']] }
  | { error: Error; code: string | undefined };

/** A product folder to take up. */
export interface ScanRequest {
  address: ProductAddress;
  /** The fingerprint under which all is known of it. */
  known?: string | undefined;
}

/** A product folder as a thread hands it over; most are as they were, and are never packed up. */
export interface ScannedProduct {
  /** `env/release/arch/type`. */
  path: string;
  /** Equal fingerprints mean equal names, stamps and problems. */
  fingerprint: string;
  /** The {@link ProductFolder} as JSON, unless the fingerprint is the one that was known. */
  folder?: string;
}

/** Memory that all threads share: how many bytes were read, and whether to stop. */
export interface Shared {
  bytes: BigInt64Array;
  stop: Int32Array;
}

/** Answers the pool's messages for as long as the thread lives. */
export function serveTasks(): void {
  const port = parentPort;
  if (port === null) throw new Error('this file is for worker threads');
  const shared = workerData as Shared;
  port.on('message', async (task: Task) => {
    const reply = await runTask(task, shared).then(
      (result): Reply => ({ result }),
      (error: Error): Reply => ({ error, code: systemCode(error) }),
    );
    port.postMessage(reply);
  });
}

async function runTask(task: Task, shared: Shared): Promise<TaskResults[Task['kind']]> {
  switch (task.kind) {
    case 'list':
      return listProducts(task.imagesDir);
    case 'scan':
      return task.products.map(({ address, known }) =>
        pack(scanProduct(task.imagesDir, address), known),
      );
    case 'digest':
      return JSON.stringify(await runDigestJobs(task, shared));
    case 'inspect':
      return (await import('./inspect.js')).inspectArchive(task);
  }
}

function pack(folder: ProductFolder, known: string | undefined): ScannedProduct {
  const path = productPath(folder);
  const fingerprint = fingerprintOf(folder);
  if (fingerprint === known) return { path, fingerprint };
  return { path, fingerprint, folder: JSON.stringify(folder) };
}

/** A digest of all that the catalogue makes of a folder. Names and stamps have no spaces or newlines. */
function fingerprintOf({ yaml, versions, problems, links = [], removed }: ProductFolder): string {
  let state = `${yaml?.stamp ?? ''}\n${JSON.stringify([problems, links, ...(removed ?? [])])}\n`;
  for (const { name, files, temporaries } of versions) {
    state += `${name} ${JSON.stringify(temporaries)}\n`;
    for (const file of files) state += `${file.name} ${file.stamp}\n`;
  }
  return createHash('sha256').update(state).digest('base64url');
}

async function runDigestJobs(
  { imagesDir, jobs }: Extract<Task, { kind: 'digest' }>,
  shared: Shared,
): Promise<DigestResult[]> {
  // Loaded when first needed: a run that finds nothing new has no use for parsers and decoders.
  const { runDigestJob, Stopped } = await import('./digest.js');
  const isStopped = () => Atomics.load(shared.stop, 0) !== 0;
  const onBytes = (bytes: number) => {
    Atomics.add(shared.bytes, 0, BigInt(bytes));
    if (isStopped()) throw new Stopped();
  };
  const results: DigestResult[] = [];
  for (const job of jobs) {
    // What was read before a stop is kept: the next run need not read it again.
    if (isStopped()) break;
    results.push(await runDigestJob(imagesDir, job, onBytes));
  }
  return results;
}
