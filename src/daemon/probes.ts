/**
 * Which mirrors answer clients: each is tried again and again, at times of its own, so that hundreds of them are not
 * tried at once.
 */
import type { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { createSlots, type Slots } from '../mirror/slots.js';
import { createAlarm } from './alarm.js';
import type { MirrorServing } from './status.js';
import { asServerError, tellingOf } from './telling.js';

/** What is probed; a mirror for which this has changed begins anew. */
export interface Probed {
  name: string;
  url: string;
  /** As the configuration has it. */
  tlsCa?: string | undefined;
}

export interface ProbesOptions<File> {
  /** Tries a mirror once, with a file that it is to have. @throws ServerError where it does not answer as it should */
  probe: (
    mirror: Probed,
    options: { file: File | undefined; signal: AbortSignal },
  ) => Promise<{ ms: number }>;
  /** A file that the mirror is believed to have, another each time; `undefined` where it has none. */
  sample: (name: string) => File | undefined;
  /** Whether it is still believed to have it. */
  holds: (name: string, file: File) => boolean;
  /** Is told that a file was not found that had to be there. */
  missing: (name: string) => void;
  /** Is told that a mirror answers of which no file is known. */
  unknown: (name: string) => void;
  log: Logger;
  /** How many are tried at the same time at most. Default: 64. */
  most?: number;
  /** From 0 up to 1. Default: Math.random. */
  random?: () => number;
}

export interface Probes {
  /** Has just these mirrors tried, each every `interval` milliseconds at most; those that are as before go on. */
  apply(mirrors: readonly Probed[], options: { interval: number }): Promise<void>;
  /** Whether clients can be sent there: it answers, and has shown that it has what it should. A look-up. */
  isUsable(name: string): boolean;
  /** `undefined` for one that is not tried. */
  state(name: string): Omit<MirrorServing, 'redirected'> | undefined;
  /** Ends what is under way. */
  close(): Promise<void>;
}

/** How long after a failure it is tried again, in milliseconds. */
const soon = 2000;
/** So many failures in a row are no accident. */
const isFailure = 2;
/** So many intervals after the last good answer it counts for nothing, and this many milliseconds at least. */
const lastingIntervals = 3;
const lastingMs = 15_000;
/** How often one mirror may be said to lack something, in milliseconds. */
const doubtPause = 600_000;
/** The time between two is shorter than the interval by up to this part of it, so that they do not fall into step. */
const jitter = 0.2;

interface Prober {
  mirror: Probed;
  wake(): void;
  state(): Omit<MirrorServing, 'redirected'>;
  isUsable(): boolean;
  close(): Promise<void>;
}

export function createProbes<File>(options: ProbesOptions<File>): Probes {
  const probers = new Map<string, Prober>();
  const slots = createSlots(options.most ?? 64);
  let interval = 10_000;

  return {
    async apply(mirrors, given) {
      const hasChanged = given.interval !== interval;
      interval = given.interval;
      const wanted = new Map(mirrors.map((mirror) => [mirror.name, mirror]));
      const gone = [...probers.values()].filter(({ mirror }) => {
        const next = wanted.get(mirror.name);
        return next?.url !== mirror.url || next.tlsCa !== mirror.tlsCa;
      });
      for (const { mirror } of gone) probers.delete(mirror.name);
      for (const mirror of mirrors) {
        const known = probers.get(mirror.name);
        if (known === undefined) probers.set(mirror.name, begin(mirror));
        // What it waits for may be hours away.
        else if (hasChanged) known.wake();
      }
      await Promise.all(gone.map((prober) => prober.close()));
    },
    isUsable: (name) => probers.get(name)?.isUsable() ?? false,
    state: (name) => probers.get(name)?.state(),
    async close() {
      const all = [...probers.values()];
      probers.clear();
      await Promise.all(all.map((prober) => prober.close()));
    },
  };

  function begin(mirror: Probed): Prober {
    return createProber(mirror, { ...options, slots, interval: () => interval });
  }
}

interface ProberOptions<File> extends ProbesOptions<File> {
  slots: Slots;
  interval: () => number;
}

/** Tries one mirror until it is closed. */
function createProber<File>(mirror: Probed, options: ProberOptions<File>): Prober {
  const { name } = mirror;
  const { probe, sample, holds, missing, unknown, log, slots, interval } = options;
  const { random = Math.random } = options;
  const ending = new AbortController();
  const alarm = createAlarm();
  let state: MirrorServing['state'] = 'unknown';
  let since = new Date().toISOString();
  let ms: number | undefined;
  let failure: ServerError | undefined;
  let failures = 0;
  let answered = Number.NEGATIVE_INFINITY;
  /** Whether it has shown a file that it had to have; an address can be that of another server. */
  let isProven = false;
  /** What was not found, until it is, or is not believed to be there any more. */
  let lacking: File | undefined;
  let doubtAt = Number.NEGATIVE_INFINITY;

  const working = loop();
  return {
    mirror,
    wake: alarm.wake,
    state: () => ({
      state,
      since,
      ...(ms !== undefined && { ms }),
      ...(failure && { failure: tellingOf(failure) }),
    }),
    isUsable() {
      const age = performance.now() - answered;
      return isProven && state === 'healthy' && age < lasting();
    },
    async close() {
      ending.abort();
      alarm.wake();
      await working;
    },
  };

  function lasting(): number {
    return Math.max(lastingIntervals * interval(), lastingMs);
  }

  async function loop(): Promise<void> {
    // The first come one after the other too, but soon: till then it gets no clients.
    let at = performance.now() + random() * Math.min(soon, interval());
    while (!ending.signal.aborted) {
      if (performance.now() < at) {
        await alarm.at(at);
        // Woken: the interval is another.
        at = Math.min(at, performance.now() + pause());
        continue;
      }
      await slots(tryOnce);
      at = performance.now() + pause();
    }
  }

  function pause(): number {
    const usual = interval() * (1 - jitter * random());
    return failures > 0 && state !== 'failing' ? Math.min(soon, usual) : usual;
  }

  async function tryOnce(): Promise<void> {
    if (ending.signal.aborted) return;
    const file = lacking !== undefined && holds(name, lacking) ? lacking : sample(name);
    if (file === undefined) unknown(name);
    try {
      const result = await probe(mirror, { file, signal: ending.signal });
      if (!ending.signal.aborted) succeeded(result, file);
    } catch (error) {
      if (ending.signal.aborted) return;
      const known = asServerError(error);
      if (isOfFile(known)) miss(file);
      failed(known, error);
    }
  }

  /** Now and then only: what a look at it says may not be what its web server shows. */
  function miss(file: File | undefined): void {
    lacking = file;
    if (performance.now() < doubtAt) return;
    doubtAt = performance.now() + doubtPause;
    missing(name);
  }

  function succeeded(result: { ms: number }, file: File | undefined): void {
    ({ ms } = result);
    answered = performance.now();
    // Until it is known again what it has, there is nothing to judge it by.
    if (lacking !== undefined && file === undefined) return;
    lacking = undefined;
    isProven ||= file !== undefined;
    failures = 0;
    if (state !== 'healthy') {
      const again = state === 'failing' ? ' again' : '';
      log.info({ mirror: name, ms }, `the mirror answers clients${again}`);
      become('healthy');
    }
    failure = undefined;
  }

  function failed(error: ServerError, err: unknown): void {
    failures += 1;
    const isOther = failure?.message !== error.message;
    failure = error;
    // Where it is not what it should be, waiting does not help.
    const isSure = error.code === 'CONFIG' || failures >= isFailure;
    if (!isSure) return;
    if (state !== 'failing') {
      become('failing');
      log.warn({ mirror: name, err }, 'no clients are sent to the mirror: it does not serve them');
    } else if (isOther) log.debug({ mirror: name, err }, 'the mirror fails in another way');
    // It has to show again what it has.
    isProven = false;
  }

  function become(next: MirrorServing['state']): void {
    state = next;
    since = new Date().toISOString();
  }
}

function isOfFile({ code }: ServerError): boolean {
  return code === 'MIRROR_MISSING' || code === 'MIRROR_DAMAGED';
}
