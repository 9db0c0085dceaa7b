/** Several things at once. */

/** Resolves when all have ended, with what they gave, and rejects then if one has failed. */
export async function allDone<T extends readonly unknown[] | []>(
  work: T,
): Promise<{ -readonly [Each in keyof T]: Awaited<T[Each]> }> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}

/** Calls `work` for each of `items`, `count` at a time. After a failure no more are begun. */
export async function inTurns<T>(
  items: readonly T[],
  count: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async () => {
    while (next < items.length && !failed) {
      try {
        await work(items[next++] as T);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const workers = Array.from({ length: Math.min(count, items.length) }, worker);
  const results = await Promise.allSettled(workers);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** What is to be rejected when a signal aborts. */
const waiting = new WeakMap<AbortSignal, Set<(reason: unknown) => void>>();

/**
 * `task`, or a rejection with the signal's reason where that comes first. All that run with one signal share one
 * listener: a signal looks through its listeners whenever one is added, and here are hundreds.
 */
export function untilAborted<T>(task: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return task;
  const rejects = waiting.get(signal) ?? listenTo(signal);
  return new Promise((resolve, reject) => {
    rejects.add(reject);
    task.then(resolve, reject).finally(() => rejects.delete(reject));
  });
}

function listenTo(signal: AbortSignal): Set<(reason: unknown) => void> {
  const rejects = new Set<(reason: unknown) => void>();
  waiting.set(signal, rejects);
  signal.addEventListener('abort', () => {
    for (const reject of rejects) reject(signal.reason);
  });
  return rejects;
}

/** Lets so many things go on at once, of so many bytes together; one alone may be larger than that. */
export function createBudget({ bytes, count }: { bytes: number; count: number }): {
  /** Resolves when there is room, with what is to be called in the end. */
  take(size: number): Promise<() => void>;
} {
  let usedBytes = 0;
  let used = 0;
  let wake = () => {};
  return {
    async take(size) {
      const cost = Math.min(size, bytes);
      while (used > 0 && (used >= count || usedBytes + cost > bytes)) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      used += 1;
      usedBytes += cost;
      return () => {
        used -= 1;
        usedBytes -= cost;
        wake();
      };
    },
  };
}
