/**
 * Runs the pipeline whenever something has changed or settled: one run at a time, each over what came
 * together meanwhile. A run that fails is tried again, later each time, and loses nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool } from '../disk/pool.js';
import { type ErrorCode, ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Pipeline, RunOptions, RunResult, Stage } from '../pipeline.js';
import { createAlarm } from './alarm.js';
import { createChanges } from './changes.js';
import { createTurns } from './turns.js';
import { createWaiters } from './waiters.js';

export interface RunnerOptions {
  pipeline: Pipeline;
  /** The threads of the pipeline; they are given up while there is nothing to do. */
  pool: Pool;
  log: Logger;
  /** Is told what is being done, whenever that changes. */
  onActivity: (activity: RunActivity) => void;
  /** Is told of every run that came to its end. */
  onRun: (result: RunResult) => void;
}

/** `waiting`: the last run failed with `failure`, and is tried again. */
export type RunActivity =
  | { doing: 'idle' }
  | { doing: Exclude<Stage, 'settle'>; bytes: number }
  | { doing: 'waiting'; failure: string; code?: ErrorCode };

export interface UpdateRequest {
  /** Reads every file again. */
  rebuild?: boolean;
  /** Does not wait for what is fresh to settle. */
  passing?: boolean;
  /** Ends the waiting, not the work. */
  signal?: AbortSignal;
}

export interface Runner {
  /** Something may have changed in a folder below the images folder; '' is all of it. */
  changed(folder: string): void;
  /**
   * Looks everywhere now, and again when what is fresh has settled.
   *
   * @throws ServerError as the pipeline does, or INTERRUPTED.
   */
  update(request?: UpdateRequest): Promise<RunResult>;
  /**
   * Publishes what has changed in `folder` now; for whoever changed it, and left it whole.
   *
   * @throws ServerError as the pipeline does, or INTERRUPTED.
   */
  publish(folder: string): Promise<RunResult>;
  /** Does `work` while no run is under way; it is given a run of its own, over everything. */
  exclusively<T>(work: (publish: () => Promise<RunResult>) => Promise<T>): Promise<T>;
  /** Tries at once what failed and waits to be tried again. */
  retry(): void;
  /** Products that are looked at again by themselves, and when, in milliseconds since 1970. */
  pending(): Map<string, number>;
  /** How much there is to look at: folders that have changed, and products that settle. Costs nothing to ask. */
  backlog(): { changed: number; settling: number };
  /** Ends the run under way, keeps what was read, and starts no other. */
  close(): Promise<void>;
}

/** How long to let changes come together before a run, in milliseconds. */
const gatherMs = 25;
/** How long a version that has settled waits for others that settle just after it, in milliseconds. */
const settleTogetherMs = 200;
/** Between runs over a flood of changes there is twice the time of a run, but at most this, in milliseconds. */
const rest = { factor: 2, most: 200 };
/** How long to wait after a failure, in milliseconds: at first, and at most. */
const retry = { first: 1000, most: 30_000 };
/** How long records wait to be kept on the disk, and how long threads wait for work, in milliseconds. */
const saveMs = 30_000;
const idleMs = 10_000;
/** Clocks that jump must not put off a second look for longer than this, in milliseconds. */
const longestPending = 24 * 3_600_000;

export function createRunner(options: RunnerOptions): Runner {
  const { pipeline, pool, log, onActivity, onRun } = options;
  const changes = createChanges();
  const ending = new AbortController();
  const alarm = createAlarm();
  const waiters = createWaiters<RunResult>();
  let rebuild = false;
  /** When the first of the changes came, and until when there is no run for them. */
  let changedAt = 0;
  let restUntil = 0;
  let retryAt: number | undefined;
  let failures = 0;
  /** What the last failure said. */
  let lastFailure: string | undefined;
  let saveAt: number | undefined;
  let closePoolAt: number | undefined;
  let deadlines: ReadonlyMap<string, number> = new Map();
  let settledAt = Infinity;
  const turns = createTurns();

  const changed = (folder: string) => {
    if (changes.isEmpty()) changedAt = performance.now();
    changes.add(folder);
    alarm.wake();
  };

  const working = loop();
  return {
    changed,
    async update({ rebuild: all = false, passing = false, signal } = {}) {
      rebuild ||= all;
      retryAt = undefined;
      changed('');
      const result = await waiters.wait(undefined, signal);
      const fresh = deadlinesOf(pipeline.pending());
      if (passing || fresh.size === 0) return result;
      // What has to be left alone now has settled then, or was changed again since.
      await until(latestOf(fresh), signal);
      for (const path of fresh.keys()) changed(path);
      return together(result, await waiters.wait(undefined, signal));
    },
    publish(folder) {
      retryAt = undefined;
      restUntil = 0;
      changed(folder);
      return waiters.wait(undefined);
    },
    // The loop waits meanwhile, and does not know of what this leaves to do.
    exclusively: (work) =>
      turns.take(() => work(() => runPipeline({ folders: [''] }).finally(() => alarm.wake()))),
    retry() {
      retryAt = undefined;
      alarm.wake();
    },
    pending: () => pipeline.pending(),
    backlog: () => ({ changed: changes.size(), settling: deadlines.size }),
    async close() {
      ending.abort();
      alarm.wake();
      await working;
      await turns.idle();
      await pipeline.save();
      waiters.end();
      await pool.close();
    },
  };

  async function loop(): Promise<void> {
    while (!ending.signal.aborted) {
      const now = performance.now();
      if (now >= nextRunAt()) await turns.take(run);
      else if (now >= (saveAt ?? Infinity)) await turns.take(save);
      else if (now >= (closePoolAt ?? Infinity)) await turns.take(releaseThreads);
      else await alarm.at(Math.min(nextRunAt(), saveAt ?? Infinity, closePoolAt ?? Infinity));
    }
  }

  /** When to run next, by `performance.now()`. */
  function nextRunAt(): number {
    if (retryAt !== undefined) return retryAt;
    const ofChanges = changes.isEmpty() ? Infinity : Math.max(changedAt + gatherMs, restUntil);
    return Math.min(ofChanges, settledAt);
  }

  async function run(): Promise<void> {
    // It may have waited for its turn.
    if (ending.signal.aborted) return;
    const began = performance.now();
    const everything = rebuild;
    for (const [path, time] of deadlines) if (time <= began) changes.add(path);
    const folders = changes.take();
    rebuild = false;
    const asking = waiters.all();
    try {
      const result = await runPipeline({ folders, rebuild: everything });
      for (const waiter of asking) waiter.resolve(result);
    } catch (error) {
      if (ending.signal.aborted) return;
      for (const waiter of asking) waiter.reject(error);
    } finally {
      const ended = performance.now();
      restUntil = ended + Math.min(rest.factor * (ended - began), rest.most);
    }
  }

  /** One run, which is tried again where it fails. @throws ServerError as the pipeline does. */
  async function runPipeline(
    where: Required<Pick<RunOptions, 'folders'>> & Pick<RunOptions, 'rebuild'>,
  ): Promise<RunResult> {
    try {
      const result = await pipeline.run({
        ...where,
        passing: true,
        signal: ending.signal,
        onStage: (stage, bytes) => {
          if (stage !== 'settle') onActivity({ doing: stage, bytes });
        },
      });
      succeeded(result);
      return result;
    } catch (error) {
      for (const folder of where.folders) changed(folder);
      if (!ending.signal.aborted) failed(error);
      throw error;
    } finally {
      closePoolAt = performance.now() + idleMs;
      deadlines = deadlinesOf(pipeline.pending());
      settledAt = togetherAt(deadlines);
    }
  }

  function succeeded(result: RunResult): void {
    if (failures > 0) log.info({ failures }, 'publishing works again');
    retryAt = undefined;
    failures = 0;
    lastFailure = undefined;
    saveAt ??= performance.now() + saveMs;
    onActivity({ doing: 'idle' });
    onRun(result);
  }

  function failed(error: unknown): void {
    const wait = Math.min(retry.first * 2 ** failures, retry.most);
    failures++;
    retryAt = performance.now() + wait;
    const { message, hint, code } = tellingOf(error);
    const failure = hint === undefined ? message : `${message}; ${hint}`;
    onActivity({ doing: 'waiting', failure, ...(code && { code }) });
    // The same failure is told once more only when it has lasted for long.
    const isNews = message !== lastFailure || failures % 20 === 0;
    lastFailure = message;
    if (isNews) log.error({ err: error }, 'cannot publish; it is tried again');
  }

  async function save(): Promise<void> {
    saveAt = undefined;
    await pipeline.save();
  }

  async function releaseThreads(): Promise<void> {
    closePoolAt = undefined;
    await pool.close();
  }

  /** Waits until `time` of `performance.now()`. @throws ServerError INTERRUPTED. */
  async function until(time: number, signal: AbortSignal | undefined): Promise<void> {
    const signals = signal === undefined ? [ending.signal] : [ending.signal, signal];
    await sleep(Math.max(time - performance.now(), 0), undefined, {
      signal: AbortSignal.any(signals),
    }).catch((cause: unknown) => {
      throw ended(cause);
    });
  }
}

/** Times of the clock on the wall as times of `performance.now()`, which never jumps. */
function deadlinesOf(pending: ReadonlyMap<string, number>): Map<string, number> {
  const [wall, now] = [Date.now(), performance.now()];
  // Timers count whole milliseconds of another clock, and may so be one too early.
  const wait = (time: number) => Math.min(Math.max(time - wall, 0) + 2, longestPending);
  return new Map([...pending].map(([path, time]) => [path, now + wait(time)]));
}

/** When the first deadline is over, and those that follow it closely. */
function togetherAt(deadlines: ReadonlyMap<string, number>): number {
  let first = Infinity;
  for (const time of deadlines.values()) first = Math.min(first, time);
  let last = first;
  for (const time of deadlines.values()) {
    if (time <= first + settleTogetherMs) last = Math.max(last, time);
  }
  return last;
}

function latestOf(deadlines: ReadonlyMap<string, number>): number {
  // There can be more than a call takes arguments.
  return [...deadlines.values()].reduce((latest, time) => Math.max(latest, time), 0);
}

/** What two runs in a row have found and done. */
function together(first: RunResult, second: RunResult): RunResult {
  const read = {
    files: first.read.files + second.read.files,
    bytes: first.read.bytes + second.read.bytes,
  };
  const published = [...new Set([...first.published, ...second.published])];
  const ms = {
    scan: first.ms.scan + second.ms.scan,
    digest: first.ms.digest + second.ms.digest,
    publish: first.ms.publish + second.ms.publish,
  };
  return { ...second, read, published, ms };
}

function tellingOf(error: unknown): Pick<ServerError, 'message' | 'hint'> & { code?: ErrorCode } {
  if (error instanceof ServerError) return error;
  return { message: error instanceof Error ? error.message : String(error), hint: undefined };
}

function ended(cause?: unknown): ServerError {
  return new ServerError('INTERRUPTED', 'Interrupted', { cause });
}
