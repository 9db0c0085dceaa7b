/** The pool of worker threads in which all scanning and hashing takes place, so that the main thread stays free. */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { DigestJob } from '../catalog/completeness.js';
import type { DigestResult } from './digest.js';
import type { Inspection, InspectionRequest } from './inspect.js';
import type { ProductList } from './scan.js';
import type { Reply, ScannedProduct, ScanRequest, Shared, Task, TaskResults } from './tasks.js';

export interface DigestOptions {
  /** Ends the work at the next piece of a file; what is done by then has been handed over. */
  signal?: AbortSignal;
  /** Is given the results as they come. */
  onResults: (results: DigestResult[]) => void;
}

export interface Pool {
  /** @throws the system error where `imagesDir` cannot be listed. */
  listProducts(imagesDir: string): Promise<ProductList>;
  /** Takes up product folders, in the order of `products`; after an abort not all of them. */
  scan(
    imagesDir: string,
    products: readonly ScanRequest[],
    signal?: AbortSignal,
  ): Promise<ScannedProduct[]>;
  /** Reads the files of `jobs`, the largest first. */
  digest(imagesDir: string, jobs: readonly DigestJob[], options: DigestOptions): Promise<void>;
  /** Looks for what an archive says of the image that it is of. While it does, nothing else may be asked for. */
  inspect(request: InspectionRequest): Promise<Inspection>;
  /** Bytes read by {@link Pool.digest} so far, since the pool was made. */
  bytesRead(): number;
  /** Files for which {@link Pool.digest} has handed over a result, since the pool was made. */
  filesRead(): number;
  /**
   * Ends the threads, which gives back their memory. A later task starts new ones; a task under way is
   * given up with an error.
   */
  close(): Promise<void>;
}

/**
 * What a thread allocates is garbage as soon as its message is sent, or a file is read. Left alone, V8
 * gives it tens of MiB before it collects; this much is as fast.
 */
const youngGenerationMb = 4;

/** How many products one scan message carries: enough to make messages cheap, few enough to share out. */
const scanBatch = 64;

/** What one digest message may cost: bytes to read, and for each file as much as its opening costs. */
const digestBatch = { bytes: 16 * 1024 * 1024, perFile: 64 * 1024 };

/**
 * Starts a pool.
 *
 * @param options.threads how many; default: as many as there are processors, at least two.
 */
export function createPool({ threads = Math.max(2, availableParallelism()) } = {}): Pool {
  const shared: Shared = {
    bytes: new BigInt64Array(new SharedArrayBuffer(8)),
    stop: new Int32Array(new SharedArrayBuffer(4)),
  };
  const start = () => Array.from({ length: threads }, () => new Thread(shared));
  let filesRead = 0;
  // At once, so that they are ready when the first task comes.
  let running = start();
  const workers = () => {
    if (running.length === 0) running = start();
    // A thread that came to an end, for want of memory for example, is replaced.
    running = running.map((thread) => (thread.hasEnded ? new Thread(shared) : thread));
    return running;
  };
  const close = async () => {
    const ended = running;
    running = [];
    await Promise.all(ended.map((worker) => worker.close()));
  };

  /** Has all threads take tasks from `tasks` until none is left, or one has failed. */
  const share = async <T extends Task>(
    tasks: Iterator<T>,
    done: (task: T, result: TaskResults[T['kind']]) => void,
  ) => {
    let failed = false;
    // A thread has its next task before its last result is looked at, so that it never waits for that.
    const work = async (worker: Thread) => {
      const startNext = () => {
        const { done, value: task } = failed ? { done: true } : tasks.next();
        return done === true ? undefined : { task: task as T, result: worker.run(task as T) };
      };
      for (let current = startNext(); current !== undefined; ) {
        const result = await current.result;
        const next = startNext();
        done(current.task, result);
        current = next;
      }
    };
    const ends = workers().map((worker) =>
      work(worker).catch((error: unknown) => {
        failed = true;
        throw error;
      }),
    );
    // A thread that is still at work would give its result to whoever asks it next.
    await Promise.allSettled(ends);
    await Promise.all(ends);
  };

  return {
    async listProducts(imagesDir) {
      const [worker] = workers() as [Thread, ...Thread[]];
      return await worker.run({ kind: 'list', imagesDir });
    },
    async scan(imagesDir, products, signal) {
      const tasks = batches(products, () => 1, scanBatch).map(
        (batch): Extract<Task, { kind: 'scan' }> => {
          return { kind: 'scan', imagesDir, products: batch };
        },
      );
      const results = new Map<Task, ScannedProduct[]>();
      const wanted = function* () {
        for (const task of tasks) {
          if (signal?.aborted === true) return;
          yield task;
        }
      };
      await share(wanted(), (task, result) => results.set(task, result));
      return tasks.flatMap((task) => results.get(task) ?? []);
    },
    async digest(imagesDir, jobs, { signal, onResults }) {
      const cost = (job: DigestJob) =>
        job.files.reduce((sum, file) => sum + file.size + digestBatch.perFile, 0);
      const largestFirst = jobs.toSorted((a, b) => cost(b) - cost(a));
      const stop = () => Atomics.store(shared.stop, 0, 1);
      Atomics.store(shared.stop, 0, 0);
      if (signal?.aborted === true) return;
      signal?.addEventListener('abort', stop, { once: true });
      const tasks = function* (): Generator<Extract<Task, { kind: 'digest' }>> {
        for (const batch of batches(largestFirst, cost, digestBatch.bytes)) {
          if (signal?.aborted === true) return;
          yield { kind: 'digest', imagesDir, jobs: batch };
        }
      };
      try {
        await share(tasks(), (_task, json) => {
          const results = JSON.parse(json) as DigestResult[];
          for (const { files } of results) filesRead += files.length;
          onResults(results);
        });
      } finally {
        signal?.removeEventListener('abort', stop);
      }
    },
    async inspect(request) {
      const [worker] = workers() as [Thread, ...Thread[]];
      return await worker.run({ kind: 'inspect', ...request });
    },
    bytesRead: () => Number(Atomics.load(shared.bytes, 0)),
    filesRead: () => filesRead,
    close,
  };
}

/** `items` in runs whose costs add up to at most `limit`, or that have one item. */
function batches<T>(items: readonly T[], cost: (item: T) => number, limit: number): T[][] {
  const all: T[][] = [];
  let batch: T[] = [];
  let sum = 0;
  for (const item of items) {
    const price = cost(item);
    if (batch.length > 0 && sum + price > limit) {
      all.push(batch);
      batch = [];
      sum = 0;
    }
    batch.push(item);
    sum += price;
  }
  if (batch.length > 0) all.push(batch);
  return all;
}

/** One worker thread, which does one task at a time. */
class Thread {
  readonly #worker: Worker;
  #settle: { resolve: (result: never) => void; reject: (error: Error) => void } | undefined;
  #failure: Error | undefined;

  constructor(workerData: Shared) {
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData,
      resourceLimits: { maxYoungGenerationSizeMb: youngGenerationMb },
    });
    this.#worker.on('message', (reply: Reply) => {
      const settle = this.#settle;
      this.#settle = undefined;
      if ('result' in reply) settle?.resolve(reply.result as never);
      else settle?.reject(Object.assign(reply.error, reply.code && { code: reply.code }));
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('a worker thread has ended')));
  }

  get hasEnded(): boolean {
    return this.#failure !== undefined;
  }

  run<T extends Task>(task: T): Promise<TaskResults[T['kind']]> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
      this.#worker.postMessage(task);
    });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#settle?.reject(this.#failure);
    this.#settle = undefined;
  }
}
