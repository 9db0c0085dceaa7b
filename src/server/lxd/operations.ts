/**
 * The operations of the API: what clients started, how far it is, and for a while how it ended.
 */
import { randomUUID } from 'node:crypto';
import { ServerError } from '../../errors.js';
import type { Logger } from '../../log.js';
import type { Operation, OperationOptions, Operations, OperationView } from './exchange.js';
import { isSameSecret } from './secrets.js';
import { userText } from './user-text.js';

export interface OperationsLimits {
  /** Under way at once; {@link Operations.begin} throws BUSY for more. Default: 1000. */
  running: number;
  /** Ended ones that can still be read; the oldest goes first. Default: 1000. */
  ended: number;
  /** How long they can be read, in milliseconds. Default: 10 minutes. */
  endedMs: number;
  /** How long a token is good for, in milliseconds; then it is cancelled. Default: a day. */
  tokenMs: number;
  /** Between two reports of progress to those who listen, in milliseconds. Default: 200. */
  reportMs: number;
}

export interface OperationsOptions {
  log: Logger;
  limits?: Partial<OperationsLimits>;
}

export interface OperationCounts {
  running: number;
  success: number;
  failure: number;
  cancelled: number;
}

export interface OperationsStore extends Operations {
  /** The oldest first. */
  list(): Operation[];
  /** How many are under way, and how many have ended so far, and how. */
  counts(): OperationCounts;
  /**
   * Has the work of one abort, or ends a token; where it has ended, nothing is done.
   * @returns when it has ended
   */
  cancel(id: string, signal?: AbortSignal): Promise<void>;
  /** Whether this is the secret that the operation began with. */
  opensWith(id: string, secret: string): boolean;
  /**
   * Has `listener` told of every operation that begins or ends, and now and then of progress.
   * @returns what ends that
   */
  listen(listener: (view: OperationView) => void): () => void;
  /** Ends all, and waits for their work. None can begin any more. */
  close(): Promise<void>;
}

/** Makes the store of operations; it holds timers until it is closed. */
export function createOperations({ log, limits: given }: OperationsOptions): OperationsStore {
  const limits = limitsOf(given);
  const running = new Map<string, Task>();
  const ended = new Map<string, Task>();
  const listeners = new Set<(view: OperationView) => void>();
  const counts = { success: 0, failure: 0, cancelled: 0 };
  let closed = false;
  const find = (id: string) => running.get(id) ?? ended.get(id);

  return {
    begin,
    end: (id, how) => running.get(id)?.end(how === 'success' ? { metadata: {} } : cancelled()),
    get: find,
    counts: () => ({ running: running.size, ...counts }),
    list: () => [...ended.values(), ...running.values()].sort(byAge),
    cancel: async (id, signal) => {
      const task = running.get(id);
      task?.cancel(cancelled());
      await task?.ended(signal);
    },
    opensWith: (id, secret) => {
      const expected = find(id)?.secret;
      return expected !== undefined && isSameSecret(expected, secret);
    },
    listen: (listener) => {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    close: async () => {
      closed = true;
      const tasks = [...running.values()];
      for (const task of tasks) task.cancel(serverEnds());
      await Promise.all(tasks.map((task) => task.ended()));
      for (const task of ended.values()) task.forget();
      ended.clear();
    },
  };

  function begin(options: OperationOptions): Operation {
    if (closed) throw new ServerError('INTERRUPTED', serverEnds().err);
    if (running.size >= limits.running) throw tooMany();
    const task = createTask(options, { limits, log, onChange: tell, onEnd: keep });
    running.set(task.id, task);
    tell(task);
    task.start();
    return task;
  }

  function tell(task: Task): void {
    const view = task.view();
    for (const listener of listeners) listener(view);
  }

  function keep(task: Task): void {
    running.delete(task.id);
    ended.set(task.id, task);
    const { status } = task.view();
    counts[status === 'Success' ? 'success' : status === 'Failure' ? 'failure' : 'cancelled'] += 1;
    task.forgetAfter(limits.endedMs, () => ended.delete(task.id));
    for (const [id, oldest] of ended) {
      if (ended.size <= limits.ended) break;
      oldest.forget();
      ended.delete(id);
    }
    tell(task);
  }
}

function limitsOf(given: Partial<OperationsLimits> = {}): OperationsLimits {
  const minute = 60_000;
  const times = { endedMs: 10 * minute, tokenMs: 24 * 60 * minute, reportMs: 200 };
  return { running: 1000, ended: 1000, ...times, ...given };
}

function tooMany(): ServerError {
  return new ServerError('BUSY', 'Too many operations are under way', {
    hint: 'try again when some have ended',
  });
}

const byAge = (a: Task, b: Task) => a.number - b.number;

/** How an operation ends. Clients take one without `err` for a success, whatever its status is. */
type Ending = { metadata: Record<string, unknown> } | { cancelled: boolean; err: string };

const cancelled = () => ({ cancelled: true, err: 'This operation was cancelled' });
const serverEnds = () => ({
  cancelled: true,
  err: 'The server ends: try again when it is back',
});

interface Task extends Operation {
  /** The order in which they began. */
  readonly number: number;
  readonly secret: string | undefined;
  /** Begins with the work, once whoever started it has it. */
  start(): void;
  /** Aborts the work; `why` is its end unless it succeeds all the same. */
  cancel(why: Ending): void;
  end(how: Ending): void;
  forgetAfter(ms: number, forget: () => void): void;
  /** Clears the timer. */
  forget(): void;
}

interface TaskOptions {
  limits: OperationsLimits;
  log: Logger;
  onChange: (task: Task) => void;
  onEnd: (task: Task) => void;
}

let tasksSoFar = 0;

function createTask(options: OperationOptions, { limits, log, onChange, onEnd }: TaskOptions) {
  const { work } = options;
  const controller = new AbortController();
  const done = createSwitch();
  const now = () => new Date().toISOString();
  const view = firstView(options, now());
  let cancelledAs: Ending | undefined;
  let toldAt = performance.now();
  let timer: NodeJS.Timeout | undefined;
  tasksSoFar += 1;

  const task: Task = {
    id: view.id,
    number: tasksSoFar,
    secret: options.secret,
    view: () => structuredClone(view),
    ended: (signal) => untilAborted(done.on, signal),
    start: () => {
      if (work === undefined) timer = setTimeout(() => task.cancel(cancelled()), limits.tokenMs);
      else queueMicrotask(() => void run(work));
    },
    cancel: (why) => {
      cancelledAs ??= why;
      controller.abort();
      if (work === undefined) task.end(why);
    },
    end: (how) => {
      if (view.status !== 'Running') return;
      Object.assign(view, lastView(view, how), { updated_at: now() });
      clearTimeout(timer);
      onEnd(task);
      done.turn();
    },
    forgetAfter: (ms, forget) => {
      timer = setTimeout(forget, ms);
    },
    forget: () => clearTimeout(timer),
  };
  return task;

  async function run(job: NonNullable<OperationOptions['work']>): Promise<void> {
    try {
      const metadata = await job({ signal: controller.signal, tell });
      task.end({ metadata: metadata ?? {} });
    } catch (error) {
      const reason = userText(error);
      task.end(cancelledAs ?? { cancelled: false, err: reason });
      if (cancelledAs !== undefined) return;
      const operation = options.description;
      if (error instanceof ServerError) log.warn({ operation, reason }, 'an operation failed');
      else log.error({ operation, err: error }, 'an operation failed');
    }
  }

  function tell(metadata: Record<string, unknown>): void {
    if (view.status !== 'Running') return;
    view.metadata = { ...view.metadata, ...structuredClone(metadata) };
    view.updated_at = now();
    if (performance.now() - toldAt < limits.reportMs) return;
    toldAt = performance.now();
    onChange(task);
  }
}

function firstView(options: OperationOptions, now: string): OperationView {
  return {
    id: randomUUID(),
    class: options.class ?? 'task',
    description: options.description,
    created_at: now,
    updated_at: now,
    status: 'Running',
    status_code: 103,
    resources: structuredClone(options.resources ?? null),
    metadata: structuredClone(options.metadata ?? null),
    may_cancel: true,
    err: '',
    location: 'none',
  };
}

function lastView({ metadata }: OperationView, how: Ending): Partial<OperationView> {
  if ('metadata' in how) {
    const all = { ...metadata, ...structuredClone(how.metadata) };
    const success = { status: 'Success', status_code: 200, may_cancel: false } as const;
    return { ...success, metadata: Object.keys(all).length === 0 ? null : all };
  }
  const failure = { err: how.err, may_cancel: false };
  if (how.cancelled) return { ...failure, status: 'Cancelled', status_code: 401 };
  return { ...failure, status: 'Failure', status_code: 400 };
}

/** Resolves with `promise` or when `signal` aborts. */
async function untilAborted(promise: Promise<void>, signal?: AbortSignal): Promise<void> {
  if (signal === undefined) return promise;
  if (signal.aborted) return;
  const aborted = createSwitch();
  signal.addEventListener('abort', aborted.turn);
  await Promise.race([promise, aborted.on]);
  signal.removeEventListener('abort', aborted.turn);
}

/** A promise, and what resolves it. */
function createSwitch(): { on: Promise<void>; turn: () => void } {
  let turn = () => {};
  const on = new Promise<void>((resolve) => {
    turn = resolve;
  });
  return { on, turn };
}
