/** What the threads of the pool do, and the messages that pass between them and the pool. */
import { parentPort, workerData } from 'node:worker_threads';
import type { DigestJob } from '../catalog/catalog.js';
import type { ProductFolder } from '../catalog/tree.js';
import { type DigestResult, runDigestJob } from './digest.js';
import { listProducts, type ProductAddress, type ProductList, scanProduct } from './scan.js';

export type Task =
  | { kind: 'list'; imagesDir: string }
  | { kind: 'scan'; imagesDir: string; addresses: ProductAddress[] }
  | { kind: 'digest'; imagesDir: string; jobs: DigestJob[] };

export interface TaskResults {
  list: ProductList;
  scan: ProductFolder[];
  digest: DigestResult[];
}

/** A reply carries its result as JSON: to clone large trees of small objects takes much longer. */
export type Reply = { json: string } | { error: Error };

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
      (result): Reply => ({ json: JSON.stringify(result) }),
      (error: Error): Reply => ({ error }),
    );
    port.postMessage(reply);
  });
}

async function runTask(task: Task, shared: Shared): Promise<TaskResults[Task['kind']]> {
  switch (task.kind) {
    case 'list':
      return listProducts(task.imagesDir);
    case 'scan':
      return task.addresses.map((address) => scanProduct(task.imagesDir, address));
    case 'digest':
      return runDigestJobs(task, shared);
  }
}

async function runDigestJobs(
  { imagesDir, jobs }: Extract<Task, { kind: 'digest' }>,
  shared: Shared,
): Promise<DigestResult[]> {
  const onBytes = (bytes: number) => {
    Atomics.add(shared.bytes, 0, BigInt(bytes));
    if (Atomics.load(shared.stop, 0) !== 0) throw new Stopped();
  };
  const results: DigestResult[] = [];
  try {
    for (const job of jobs) results.push(await runDigestJob(imagesDir, job, onBytes));
  } catch (error) {
    // What was read before the stop is kept: the next run need not read it again.
    if (!(error instanceof Stopped)) throw error;
  }
  return results;
}

/** Thrown to leave a file in the middle when the pool is told to stop. */
class Stopped extends Error {}
