/** Those who wait for the same thing; each may go away before it comes. */
import { ServerError } from '../errors.js';

export interface Waiter<T, R> {
  /** What it has in mind. */
  request: R;
  resolve(value: T): void;
  reject(error: unknown): void;
}

export interface Waiters<T, R> {
  /** Waits for what somebody gives to all. @throws ServerError INTERRUPTED when `signal` aborts, or {@link end} is called. */
  wait(request: R, signal?: AbortSignal): Promise<T>;
  /** Those who wait now. */
  all(): Waiter<T, R>[];
  /** Sends everyone away, now and from now on. */
  end(): void;
}

export function createWaiters<T, R = undefined>(): Waiters<T, R> {
  const waiting = new Set<Waiter<T, R>>();
  let hasEnded = false;
  return {
    wait: (request, signal) =>
      new Promise((resolve, reject) => {
        const leave = () => waiter.reject(new ServerError('INTERRUPTED', 'Interrupted'));
        const settle = <V>(then: (value: V) => void) => {
          return (value: V) => {
            waiting.delete(waiter);
            signal?.removeEventListener('abort', leave);
            then(value);
          };
        };
        const waiter = { request, resolve: settle(resolve), reject: settle(reject) };
        waiting.add(waiter);
        signal?.addEventListener('abort', leave);
        if (signal?.aborted === true || hasEnded) leave();
      }),
    all: () => [...waiting],
    end() {
      hasEnded = true;
      for (const { reject } of waiting) reject(new ServerError('INTERRUPTED', 'Interrupted'));
    },
  };
}
