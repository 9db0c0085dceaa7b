/**
 * A mirror that rides out short interruptions: sshd is restarted, a connection is cut. What was under way is done
 * again, so that a sync need not start over; what lasts longer is for its owner, who tries whole syncs again.
 *
 * Most operations can simply be done twice. Two cannot, for an answer that is lost leaves open whether they were
 * done:
 * - `rename`: where `from` is there still, it is done again. Where it has gone, `to` may have been replaced, or
 *   someone may have removed `from`; the names do not tell, and to guess would let the documents name a file with
 *   the content of another. Only of a file from the staging folder, which is named by its SHA-256, can it be known,
 *   by reading `to` back; of all others MIRROR_DOWN is passed on, and so it is where `to` has other content.
 * - `link`: done again it fails where it had been done before. Then `to`, which was free, is there: that is taken
 *   for success. For failure it must not be taken: whoever then copied to `to` would write over `from`.
 *
 * What is counted stays true: what `onBytes` was told of bytes that have to be sent or read again is taken back by
 * a negative count.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type ErrorCode, ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type {
  HashOptions,
  Mirror,
  MirrorOptions,
  PutOptions,
  PutSource,
  RenameOptions,
  Renaming,
} from './mirror.js';
import { stagingFolder, stagingPath } from './names.js';
import { folderOf } from './paths.js';
import { allDone, untilAborted } from './together.js';

/** What nothing but a new configuration, or someone's hand on the mirror, can mend. */
const lasting: readonly ErrorCode[] = ['MIRROR_AUTH', 'MIRROR_TAKEN', 'CONFIG'];
/** What is seldom mended soon: the first pause is longer by so much. */
const slow: readonly ErrorCode[] = ['MIRROR_FULL', 'MIRROR_DENIED'];
const slowFactor = 5;

/** The pauses of one interruption, in milliseconds; with their jitter they take about 12 s together. */
const pauses = { first: 750, longest: 5000 };

export interface RetryOptions {
  /** Is told when operations were under way on a connection that was lost: the far side may do them yet. */
  onLost?: () => void;
  log: Pick<Logger, 'debug'>;
  /** How often something is tried in all while nothing gets anywhere. Default: 6. */
  attempts?: number;
  /** For how long something is tried again while nothing gets anywhere, in milliseconds. Default: 15,000. */
  patience?: number;
  /** From 0 up to 1. Default: chance. */
  random?: () => number;
  /** Resolves after so many milliseconds, and rejects when the signal aborts. Default: a timer. */
  pause?: (milliseconds: number, signal: AbortSignal) => Promise<void>;
  /** Milliseconds. Default: the clock. */
  now?: () => number;
}

/**
 * `mirror`, whose operations are tried again where they fail with MIRROR_DOWN. All of them share one pause, and one
 * login at its end, however many were under way. Its {@link Mirror.close} closes `mirror`.
 */
export function withRetry(mirror: Mirror, options: RetryOptions): Mirror {
  const { ride, noteGain, close } = createInterruptions(mirror, options);

  return {
    parallel: mirror.parallel,
    capabilities: (given) => ride(given, () => mirror.capabilities(given)),
    stat: (path, given) => ride(given, () => mirror.stat(path, given)),
    list: (path, given) => ride(given, () => mirror.list(path, given)),
    read: (path, given) => ride(given, () => mirror.read(path, given)),
    hash,
    put,
    write: (path, pieces, given) => ride(given, () => mirror.write(path, pieces, given)),
    rename: (from, to, given) => rename({ from, to }, given),
    renameInOrder,
    link,
    copy: (from, to, given) => ride(given, () => mirror.copy(from, to, given)),
    remove: (path, given) => ride(given, () => mirror.remove(path, given)),
    makeFolder: (path, given) => ride(given, () => mirror.makeFolder(path, given)),
    removeFolder: (path, given) => ride(given, () => mirror.removeFolder(path, given)),
    sync: (path, given) => ride(given, () => mirror.sync(path, given)),
    space: (given) => ride(given, () => mirror.space(given)),
    close,
  };

  function hash(path: string, given: HashOptions = {}) {
    let counted = 0;
    const count = (bytes: number) => {
      counted += bytes;
      given.onBytes?.(bytes);
    };
    return ride(given, () => {
      if (counted > 0) count(-counted);
      return mirror.hash(path, { ...given, onBytes: count });
    });
  }

  async function put(source: PutSource, path: string, given: PutOptions = {}) {
    let sent = 0;
    /** How far it has come, as told by `onStart` and `onBytes`; `undefined` before the start. */
    let reached: number | undefined;
    let furthest = 0;
    return await ride(given, async () => {
      const { start } = await mirror.put(source, path, {
        ...given,
        // What has been acknowledged lies in a file that was begun as `given` demands.
        resume: sent > 0 || (given.resume ?? true),
        onStart(offset) {
          if (reached === undefined) given.onStart?.(offset);
          else if (reached !== offset) given.onBytes?.(offset - reached);
          reached = offset;
          furthest = Math.max(furthest, offset);
        },
        onBytes(count) {
          sent += count;
          reached = (reached ?? 0) + count;
          // What is sent again is no progress: else one that is always cut in the same place would go on for ever.
          if (reached > furthest) noteGain();
          furthest = Math.max(furthest, reached);
          given.onBytes?.(count);
        },
      });
      return { start, sent };
    });
  }

  /** @param since what a first attempt failed with, where there was one that may have done it all the same */
  async function rename(
    { from, to }: Renaming,
    given?: RenameOptions,
    since?: ServerError,
  ): Promise<void> {
    /** Whether it was done all the same; then only its folder may be left to sync. */
    const isDone = async () => {
      const isThere = await hasContentOf(from, to, given);
      if (isThere && given?.sync === true) await mirror.sync(folderOf(to), given);
      return isThere;
    };
    const failure = await ride(given, async ({ lost = since }) => {
      const mayBeDone = lost !== undefined;
      if (mayBeDone && (await mirror.stat(from, given)) === undefined) {
        return (await isDone()) ? undefined : lost;
      }
      try {
        await mirror.rename(from, to, given);
      } catch (error) {
        // Or has it been done since that look?
        if (!mayBeDone || !isOf(error, 'MIRROR_MISSING')) throw error;
        return (await isDone()) ? undefined : error;
      }
      return undefined;
    });
    if (failure !== undefined) throw failure;
  }

  /** What an interruption has left undone of the steps is done name by name. */
  async function renameInOrder(
    steps: readonly (readonly Renaming[])[],
    given?: MirrorOptions,
  ): Promise<void> {
    let lost: ServerError;
    try {
      return await mirror.renameInOrder(steps, given);
    } catch (error) {
      if (!isOf(error, 'MIRROR_DOWN')) throw error;
      lost = error;
      options.onLost?.();
    }
    for (const step of steps) {
      await allDone(step.map((each) => rename(each, { ...given, sync: true }, lost)));
    }
  }

  /** Whether `to` has what `from` was named after. */
  async function hasContentOf(from: string, to: string, given?: MirrorOptions): Promise<boolean> {
    const name = from.slice(stagingFolder.length + 1);
    if (from !== stagingPath(name)) return false;
    return (await mirror.hash(to, { signal: given?.signal }))?.sha256 === name;
  }

  function link(from: string, to: string, given?: MirrorOptions): Promise<boolean> {
    return ride(given, async ({ lost }) => {
      const isLinked = await mirror.link(from, to, given);
      if (isLinked || lost === undefined) return isLinked;
      return (await mirror.stat(to, given)) !== undefined;
    });
  }
}

/** What an operation knows of its earlier attempts. */
interface Attempt {
  /** What the last of them failed with. */
  lost: ServerError | undefined;
}

/** Failures in a row, between which nothing got anywhere. */
interface Failures {
  count: number;
  last: ServerError;
  /** From when on nothing is tried again. */
  until: number;
}

/** A mirror that is lost, and those who wait for it. */
interface Interruption {
  over: Promise<void>;
  waiting: number;
  ending: AbortController;
}

/** Lets operations wait for the return of a mirror, all together. */
function createInterruptions(mirror: Mirror, options: RetryOptions) {
  const { log, onLost = () => {}, attempts = 6, patience = 15_000, random = Math.random } = options;
  const { now = () => performance.now(), pause = pauseByTimer } = options;
  let current: Interruption | undefined;
  let isClosed = false;
  /** How often something has got somewhere: where many fail at once, each has to wait until it is its turn. */
  let gains = 0;

  return { ride, noteGain, close };

  function noteGain(): void {
    gains += 1;
  }

  /** Gives what `attempt` resolves to in the end. Nothing is tried while others wait for the mirror's return. */
  async function ride<T>(
    given: MirrorOptions | undefined,
    attempt: (about: Attempt) => Promise<T>,
  ): Promise<T> {
    const signal = given?.signal;
    let lost: ServerError | undefined;
    let failures: Failures | undefined;
    let gainsBefore = gains;
    for (;;) {
      signal?.throwIfAborted();
      if (current !== undefined) await join(current, signal);
      try {
        const result = await attempt({ lost });
        noteGain();
        return result;
      } catch (error) {
        if (!isOf(error, 'MIRROR_DOWN')) throw error;
        lost = error;
        onLost();
        failures = oneMore(gains === gainsBefore ? failures : undefined, error);
        gainsBefore = gains;
        signal?.throwIfAborted();
        // Those who failed at the same moment join the first.
        current ??= begin(error);
      }
    }
  }

  /** @throws ServerError `last` where it is not tried again */
  function oneMore(before: Failures | undefined, last: ServerError): Failures {
    const { count = 0, until = now() + patience } = before ?? {};
    const failures = { count: count + 1, last, until };
    if (isClosed || failures.count >= attempts || now() >= until) throw last;
    return failures;
  }

  function begin(error: ServerError): Interruption {
    const ending = new AbortController();
    const over = comeBack(error, ending.signal);
    // Those who wait are told.
    over.catch(() => {});
    return { over, waiting: 0, ending };
  }

  async function join(interruption: Interruption, signal: AbortSignal | undefined): Promise<void> {
    interruption.waiting += 1;
    try {
      await untilAborted(interruption.over, signal);
    } finally {
      interruption.waiting -= 1;
      if (interruption.waiting === 0) {
        interruption.ending.abort();
        current = undefined;
      }
    }
  }

  /** Resolves when the mirror answers; rejects with the last failure where it does not, or nobody waits any more. */
  async function comeBack(error: ServerError, signal: AbortSignal): Promise<void> {
    for (let failures = oneMore(undefined, error); ; ) {
      const { last, count } = failures;
      const after = pauseAfter(last, { failures: count, random, ...pauses }) ?? 0;
      log.debug({ reason: last.message, after }, 'the mirror is lost and tried again');
      try {
        await pause(after, signal);
        await mirror.capabilities({ signal });
        return;
      } catch (error) {
        if (signal.aborted) throw last;
        if (!isOf(error, 'MIRROR_DOWN')) throw error;
        failures = oneMore(failures, error);
      }
    }
  }

  async function close(): Promise<void> {
    isClosed = true;
    current?.ending.abort();
    await Promise.allSettled([current?.over]);
    await mirror.close();
  }
}

/**
 * How long to wait after so many failures in a row, in milliseconds: from half of what is due up to all of it, and
 * that doubles with each. The jitter keeps masters and mirrors that lost each other at the same moment from coming
 * back at the same moment. `undefined` where waiting does not help.
 */
export function pauseAfter(
  { code }: ServerError,
  options: {
    /** At least 1. */
    failures: number;
    /** From 0 up to 1. */
    random: () => number;
    /** The first pause at most, in milliseconds. Default: 1,000. */
    first?: number;
    /** The longest pause, in milliseconds. Default: 5 minutes. */
    longest?: number;
  },
): number | undefined {
  const { failures, random, first = 1000, longest = 5 * 60_000 } = options;
  if (lasting.includes(code)) return undefined;
  const begin = slow.includes(code) ? first * slowFactor : first;
  const due = Math.min(longest, begin * 2 ** (failures - 1));
  return Math.round(due * (1 + random()) * 0.5);
}

async function pauseByTimer(milliseconds: number, signal: AbortSignal): Promise<void> {
  await delay(milliseconds, undefined, { signal });
}

function isOf(error: unknown, code: ErrorCode): error is ServerError {
  return error instanceof ServerError && error.code === code;
}
