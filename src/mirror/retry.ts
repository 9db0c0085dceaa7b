/**
 * Tries again what has failed, later and later, for ever: a mirror may be away for a week. The pauses have jitter,
 * so that masters and mirrors that lost each other at the same moment do not come back at the same moment.
 */
import { type ErrorCode, ServerError } from '../errors.js';

/** What nothing but a new configuration, or someone's hand on the mirror, can mend. */
const lasting: readonly ErrorCode[] = ['MIRROR_AUTH', 'MIRROR_TAKEN', 'CONFIG'];
/** What is seldom mended soon. */
const slow: readonly ErrorCode[] = ['MIRROR_FULL', 'MIRROR_DENIED'];

export interface RetryOptions {
  /** Ends it all; what is under way has to end by the same signal. */
  signal: AbortSignal;
  /** From 0 up to 1. */
  random: () => number;
  /** Resolves after so many milliseconds, and rejects with the signal's reason when it aborts. */
  pause: (milliseconds: number, signal: AbortSignal) => Promise<void>;
  /** Is told what has failed, and in how many milliseconds it is tried again; never, where that is `undefined`. */
  onFailure?: (error: unknown, options: { after: number | undefined; failures: number }) => void;
  /** The first pause at most, in milliseconds. Default: 1,000. */
  first?: number;
  /** The longest pause, in milliseconds. Default: 5 minutes. */
  longest?: number;
}

/** What an attempt can tell. */
export interface Attempt {
  /** It has got somewhere: the next pause is a first one. */
  progress(): void;
}

/**
 * Gives what `attempt` resolves to in the end.
 *
 * @throws what `attempt` throws where that is no ServerError, for that is a bug of ours, or where the signal has
 *   aborted; the signal's reason.
 */
export async function retry<T>(
  attempt: (about: Attempt) => Promise<T>,
  options: RetryOptions,
): Promise<T> {
  const { signal, random, pause, onFailure = () => {} } = options;
  let failures = 0;
  const progress = () => {
    failures = 0;
  };
  for (;;) {
    signal.throwIfAborted();
    try {
      return await attempt({ progress });
    } catch (error) {
      if (signal.aborted || !(error instanceof ServerError)) throw error;
      failures += 1;
      const after = pauseAfter(error, { ...options, failures, random });
      onFailure(error, { after, failures });
      if (after === undefined) return await aborted(signal);
      await pause(after, signal);
    }
  }
}

/**
 * How long to wait after so many failures in a row, in milliseconds: from half of what is due up to all of it, and
 * that doubles with each. `undefined` where waiting does not help.
 */
export function pauseAfter(
  { code }: ServerError,
  {
    failures,
    random,
    first = 1000,
    longest = 5 * 60_000,
  }: Pick<RetryOptions, 'random' | 'first' | 'longest'> & { failures: number },
): number | undefined {
  if (lasting.includes(code)) return undefined;
  const due = slow.includes(code) ? longest : Math.min(longest, first * 2 ** (failures - 1));
  return Math.round(due * (1 + random()) * 0.5);
}

/** Rejects when `signal` aborts. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const end = () => reject(signal.reason);
    if (signal.aborted) end();
    else signal.addEventListener('abort', end, { once: true });
  });
}
