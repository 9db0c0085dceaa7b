/**
 * Keeps one mirror up to date, for as long as the daemon runs: syncs when something was published, when a file is due
 * to be removed and when somebody asks; tries again what has failed, later and later. It waits for no other mirror.
 */
import type { MirrorState } from '../disk/mirror-states.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Generation } from '../mirror/generation.js';
import type {
  MirrorCheck,
  NamedFile,
  Progress,
  Replicator,
  Sent,
  SyncResult,
} from '../mirror/replicate.js';
import { pauseAfter } from '../mirror/retry.js';
import { nothingVerified, type Verified } from '../mirror/verify-mirror.js';
import { createAlarm } from './alarm.js';
import { createMeter } from './meter.js';
import type { MirrorStatus, MirrorWork } from './status.js';
import { asServerError, tellingOf } from './telling.js';
import { createTurns } from './turns.js';
import { createWaiters } from './waiters.js';

export interface MirrorWorkerOptions {
  name: string;
  replicator: Replicator;
  /** What the mirror has to become; `undefined` until something has been published. */
  newest: () => Generation | undefined;
  /** It syncs only when it is told that its hour has come. */
  scheduled: boolean;
  /** What was known of it when this process started. */
  kept?: MirrorState | undefined;
  log: Logger;
  /** Is told when {@link MirrorWorker.state} or the failure has changed. */
  onChange?: () => void;
  /** From 0 up to 1. Default: Math.random. */
  random?: () => number;
  /** How often the tree of the mirror is looked at, in milliseconds. Default: an hour. */
  inspectEvery?: number;
}

export interface SyncRequest {
  /** Take over a mirror of another master. Default: no. */
  takeOver?: boolean;
  /** Ends the waiting, not the work. */
  signal?: AbortSignal;
}

export interface CheckRequest {
  repair: boolean;
  /** Ends the work. */
  signal?: AbortSignal;
}

export interface MirrorWorker {
  /** There is something newer. */
  published(): void;
  /** Its hour has come. */
  due(): void;
  /** Something was under way on a connection that was lost: the mirror may do it yet, after the next look at it. */
  lost(): void;
  /** Tries at once what has failed, also what waits for somebody to see to it. */
  retry(): void;
  /**
   * Looks at all of the mirror now, and brings it up to date.
   *
   * @throws ServerError as {@link Replicator.sync}; the worker goes on trying.
   */
  sync(request?: SyncRequest): Promise<SyncResult>;
  /** As {@link Replicator.holds}. */
  holds(file: NamedFile): boolean;
  /** As {@link Replicator.sample}. */
  sample(): NamedFile | undefined;
  /** Has the mirror looked at where nothing is known of it, though its hour has not come: its manifest, as a rule. */
  recall(): void;
  /** The mirror may be other than is known: it is looked at now, and mended when it may be. */
  doubt(): void;
  /** Reads the mirror back. @throws ServerError as {@link Replicator.verify}. */
  verify(request: CheckRequest): Promise<MirrorCheck>;
  status(): Omit<MirrorStatus, 'name' | 'url' | 'remote' | 'schedule'>;
  /** The part of the status that is cheap. */
  activity(): Pick<MirrorStatus, 'state' | 'work'>;
  /** What is to be kept for the next process. */
  state(): MirrorState;
  /** Ends what is under way. */
  close(): Promise<void>;
}

/** How long a mirror with hours of its own is tried again after one, in milliseconds. */
const longestHour = 3_600_000;
const hour = 3_600_000;
/** How long after that the mirror is looked at once more, in milliseconds. */
const secondLook = 30_000;
/** For how long a verification reads at least before it makes way, in milliseconds: it begins with a look at all. */
const shortestRead = 10_000;
/** How long after a look out of hours that has failed there is no other, in milliseconds. */
const lookPause = 300_000;
/** Waits for a time of the clock on the wall are cut, for it may be set; in milliseconds. */
const longestWait = 600_000;

export function createMirrorWorker(options: MirrorWorkerOptions): MirrorWorker {
  const { name, replicator, newest, scheduled, kept, log, onChange = () => {} } = options;
  const { random = Math.random, inspectEvery = hour } = options;
  const ending = new AbortController();
  const alarm = createAlarm();
  const meter = createMeter();
  const waiters = createWaiters<SyncResult, SyncRequest>();
  const turns = createTurns();
  let doing: 'syncing' | 'verifying' | undefined;
  let progress: Progress | undefined;

  /** Has a verification that is under way wait for what is due. */
  let makeWay = () => {};
  /** Whether a sync waits for its turn: a verification that begins before it has to make way as well. */
  let isWaiting = false;
  /** Ends what is under way. */
  let ongoing = new AbortController();

  let isDue = !scheduled;
  let isStopped = false;
  /** Whether the mirror may be other than it is believed to be. */
  let isDoubtful = false;
  let inspectAt = 0;
  let hasLost = false;
  /** Whether a look out of hours is under way, or waits for its turn; and when the next may be. */
  let isLooking = false;
  let lookAt = 0;
  /** Milliseconds since 1970; the others are of `performance.now()`. */
  let removeAt = Infinity;
  let retryAt: number | undefined;
  let giveUpAt = Infinity;
  let failures = 0;
  const counts = { files: 0, bytes: 0, syncs: 0, failures: 0 };
  let failure: { at: string; error: ServerError } | undefined;

  let { generation, synced } = kept ?? {};
  let behindSince = kept?.behind === undefined ? undefined : Date.parse(kept.behind);

  const working = loop();
  return {
    published() {
      const wanted = newest();
      if (wanted?.id === generation) behindSince = undefined;
      else if (wanted !== undefined) behindSince ??= Date.now();
      if (!scheduled) isDue = true;
      // What was in the way is out of it by this, as like as not.
      if (failure?.error.code === 'SOURCE_CHANGED' && retryAt !== undefined) retry();
      else alarm.wake();
    },
    due() {
      isDue = true;
      giveUpAt = performance.now() + longestHour;
      retryAt = undefined;
      alarm.wake();
    },
    lost() {
      hasLost = true;
    },
    retry,
    async sync(request = {}) {
      if (newest() === undefined) throw nothingPublished();
      const result = waiters.wait(request, request.signal);
      retry();
      return await result;
    },
    holds: replicator.holds,
    sample: replicator.sample,
    recall() {
      if (newest() !== undefined && !replicator.isSure()) lookOutOfHours();
    },
    doubt() {
      replicator.doubt();
      doubt();
      lookOutOfHours();
    },
    verify,
    status,
    activity,
    state: () => ({
      generation,
      synced,
      ...(behindSince !== undefined && { behind: isoTime(behindSince) }),
    }),
    async close() {
      ending.abort(new ServerError('INTERRUPTED', 'Interrupted'));
      ongoing.abort(ending.signal.reason);
      alarm.wake();
      await working;
      await turns.idle();
      waiters.end();
    },
  };

  function retry(): void {
    // With hours of its own it is tried only as long after one as it would be anyway.
    const isTried = retryAt !== undefined || (isStopped && performance.now() < giveUpAt);
    if (failure !== undefined && (!scheduled || isTried)) isDue = true;
    isStopped = false;
    retryAt = undefined;
    alarm.wake();
  }

  async function loop(): Promise<void> {
    while (!ending.signal.aborted) {
      const wait = nextWait();
      if (wait <= 0) {
        isWaiting = true;
        makeWay();
        await turns.take(sync);
      } else await alarm.at(performance.now() + Math.min(wait, longestWait));
    }
  }

  /** How long nothing has to be done, in milliseconds. */
  function nextWait(): number {
    if (newest() === undefined) return Infinity;
    if (waiters.all().length > 0) return 0;
    if (isStopped) return Infinity;
    if (retryAt !== undefined) return retryAt - performance.now();
    if (isDue) return 0;
    if (scheduled) return Infinity;
    return Math.min(removeAt - Date.now(), inspectAt - performance.now());
  }

  async function sync(): Promise<void> {
    isWaiting = false;
    const wanted = newest();
    if (wanted === undefined || ending.signal.aborted) return;
    const asking = waiters.all();
    const began = performance.now();
    const inspect = isDoubtful || asking.length > 0 || began >= inspectAt;
    const takeOver = asking.some(({ request }) => request.takeOver === true);
    isDue = false;
    retryAt = undefined;
    begin('syncing');
    let hasSent = false;
    const onProgress = (now: Progress) => {
      note(now);
      hasSent ||= now.stage === 'send' && now.files.done > 0;
    };
    try {
      const current = () => newest() ?? wanted;
      const { signal } = ongoing;
      const settings = { signal, inspect, takeOver, onProgress, onSending: count };
      const result = await replicator.sync(current, settings);
      if (inspect) inspectAt = performance.now() + inspectEvery;
      isDoubtful = false;
      succeeded(result, Math.round(performance.now() - began));
      for (const { resolve } of asking) resolve(result);
    } catch (error) {
      if (ending.signal.aborted) return;
      if (hasSent) {
        failures = 0;
        giveUpAt = performance.now() + longestHour;
      }
      failed(error);
      for (const { reject } of asking) reject(error);
    } finally {
      end();
    }
  }

  /** What becomes due meanwhile goes first: to read a mirror back can take a day. */
  async function verify(request: CheckRequest): Promise<MirrorCheck> {
    const verified = nothingVerified();
    for (;;) {
      const check = await turns.take(() => verifyOnce(request, verified));
      if (check !== undefined) return check;
    }
  }

  /** @returns `undefined` where it has made way for a sync */
  async function verifyOnce(
    { repair, signal }: CheckRequest,
    verified: Verified,
  ): Promise<MirrorCheck | undefined> {
    const wanted = newest();
    if (wanted === undefined) throw nothingPublished();
    if (ending.signal.aborted) throw ending.signal.reason;
    begin('verifying');
    const began = performance.now();
    const leaving = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const leave = () => {
      // What it has begun to mend it brings to its end; before it reads it cannot be told from that.
      if (!repair || progress?.stage === 'check') leaving.abort(new Error('something is due'));
      else timer = setTimeout(leave, shortestRead);
    };
    makeWay = () => {
      timer ??= setTimeout(leave, Math.max(0, began + shortestRead - performance.now()));
    };
    if (isWaiting) makeWay();
    const signals = [ongoing.signal, leaving.signal, ...(signal ? [signal] : [])];
    try {
      const settings = {
        ...{ signal: AbortSignal.any(signals), repair, verified },
        ...{ onProgress: note, onSending: count },
      };
      const check = await replicator.verify(() => newest() ?? wanted, settings);
      if (check.sync === undefined && check.damage.length > 0) doubt();
      else isDoubtful = false;
      if (check.sync !== undefined) succeeded(check.sync);
      return check;
    } catch (error) {
      if (leaving.signal.aborted && error === leaving.signal.reason) return undefined;
      throw error;
    } finally {
      clearTimeout(timer);
      makeWay = () => {};
      end();
    }
  }

  /** Has the next sync look closely; without hours of its own that is now. */
  function doubt(): void {
    isDoubtful = true;
    behindSince ??= Date.now();
    if (!scheduled) isDue = true;
    alarm.wake();
  }

  /** Without hours of its own a sync does that. */
  function lookOutOfHours(): void {
    if (!scheduled || isLooking || performance.now() < lookAt) return;
    isLooking = true;
    void turns.take(async () => {
      await lookNow();
      isLooking = false;
    });
  }

  async function lookNow(): Promise<void> {
    const wanted = newest();
    if (wanted === undefined || ending.signal.aborted) return;
    ongoing = new AbortController();
    try {
      await replicator.recall(() => newest() ?? wanted, { signal: ongoing.signal });
      if (!isLacking()) {
        isDoubtful = false;
        behindSince = undefined;
      }
      onChange();
    } catch (err) {
      lookAt = performance.now() + lookPause;
      // Its hour will tell, and tries again.
      if (!ending.signal.aborted) log.debug({ mirror: name, err }, 'cannot look at the mirror');
    }
  }

  function begin(what: 'syncing' | 'verifying'): void {
    // A signal of its own: one that lives for years would gather listeners.
    ongoing = new AbortController();
    doing = what;
    progress = undefined;
    meter.note(0);
  }

  function note(now: Progress): void {
    if (now.stage !== progress?.stage) meter.note(-1);
    progress = now;
    meter.note(now.bytes.done);
  }

  /** As it happens: a long transfer shows, and so does what was sent before a failure. */
  function count({ files, bytes }: Sent): void {
    counts.files += files;
    counts.bytes += bytes;
  }

  function end(): void {
    doing = undefined;
    progress = undefined;
    onChange();
  }

  function succeeded(result: SyncResult, ms?: number): void {
    const { sent, removed, again } = result;
    const isNews = result.generation !== generation || sent.files > 0 || removed > 0;
    const fields = { mirror: name, files: sent.files, bytes: sent.bytes, removed, ms };
    if (failure !== undefined) log.info({ ...fields, failures }, 'the mirror is up to date again');
    else if (isNews) log.info(fields, 'the mirror is up to date');
    else log.debug(fields, 'the mirror is up to date');
    counts.syncs += 1;
    failures = 0;
    failure = undefined;
    isStopped = false;
    retryAt = undefined;
    generation = result.generation;
    synced = isoTime(Date.now());
    removeAt = again ?? Infinity;
    if (hasLost) inspectAt = Math.min(inspectAt, performance.now() + secondLook);
    hasLost = false;
    if (newest()?.id === generation) behindSince = undefined;
    else if (!scheduled) isDue = true;
  }

  function failed(cause: unknown): void {
    const error = asServerError(cause);
    failures += 1;
    counts.failures += 1;
    if (isLacking()) behindSince ??= Date.now();
    isDoubtful ||= error.code === 'MIRROR_MISSING' || error.code === 'MIRROR_DAMAGED';
    const after = pauseAfter(error, { failures, random });
    isStopped = after === undefined;
    retryAt = after === undefined ? undefined : performance.now() + after;
    const isOver = scheduled && retryAt !== undefined && retryAt > giveUpAt;
    if (isOver) retryAt = undefined;
    // The same failure is told once more only when it has lasted for long.
    const isNews = isOver || error.message !== failure?.error.message || failures % 20 === 0;
    failure = { at: isoTime(Date.now()), error };
    if (!isNews) return;
    // What we have not foreseen is logged as it is.
    const fields = { mirror: name, err: cause, failures };
    if (error.code === 'SOURCE_CHANGED') log.debug(fields, 'a file has changed while it was sent');
    else if (isOver) log.warn(fields, 'the mirror is tried again at its next hour');
    else if (isStopped) log.error(fields, 'the mirror waits for somebody to see to it');
    else log.warn({ ...fields, after }, 'cannot bring the mirror up to date; it is tried again');
  }

  function status(): ReturnType<MirrorWorker['status']> {
    const wanted = newest();
    const isThere = wanted?.id === generation && failure === undefined && !isDoubtful;
    const versions = wanted && (isThere ? 0 : replicator.lag(wanted));
    const seconds =
      behindSince === undefined ? 0 : Math.max(0, Math.round((Date.now() - behindSince) / 1000));
    return {
      ...activity(),
      ...(generation !== undefined && { generation }),
      ...(synced !== undefined && { synced }),
      lag: { ...(versions !== undefined && { versions }), seconds },
      counts: { ...counts },
      ...(failure && { failure: { at: failure.at, ...tellingOf(failure.error) } }),
      ...(retryAt !== undefined && {
        next: isoTime(Date.now() + Math.max(0, retryAt - performance.now())),
      }),
    };
  }

  function activity(): Pick<MirrorStatus, 'state' | 'work'> {
    const work = progress && workOf(progress, meter.rate());
    return { state: stateNow(), ...(work && { work }) };
  }

  function stateNow(): MirrorStatus['state'] {
    if (doing !== undefined) return doing;
    if (isStopped) return 'stopped';
    if (failure !== undefined) return 'waiting';
    const wanted = newest();
    if (generation === undefined || wanted === undefined) return 'unknown';
    return wanted.id === generation && !isDoubtful ? 'synced' : 'behind';
  }

  /** Whether the mirror is known to lack something: also what it had before and has lost. */
  function isLacking(): boolean {
    const wanted = newest();
    if (wanted === undefined) return false;
    return wanted.id !== generation || (replicator.lag(wanted) ?? 0) > 0;
  }
}

function workOf({ stage, files, bytes }: Progress, rate: number | undefined): MirrorWork {
  const left = bytes.total - bytes.done;
  return {
    stage,
    files: { ...files },
    bytes: { ...bytes },
    ...(rate !== undefined && { rate: Math.round(rate) }),
    ...(rate !== undefined && rate > 0 && { secondsLeft: Math.ceil(left / rate) }),
  };
}

function nothingPublished(): ServerError {
  return new ServerError('NOT_INITIALISED', 'Nothing has been published yet', {
    hint: 'wait until the daemon has looked at the tree; "lxd-image-server status" tells',
  });
}

function isoTime(time: number): string {
  return new Date(time).toISOString();
}
