/**
 * The last day of every mirror, in steps of ten minutes: how much was sent, and how far it was behind. In memory, and in
 * a file now and then; nothing is decided by it. The steps begin at full ten minutes of the clock on the wall.
 */
import type { KeptDay, MirrorDays } from '../disk/mirror-days.js';
import type { MirrorDay, MirrorStatus } from './status.js';

/** Steps of a day. */
export const daySteps = 144;
/** Length of a step in seconds. */
export const stepSeconds = 600;
const stepMs = stepSeconds * 1000;
/** How many steps a mirror may be away from the configuration until its day is forgotten. */
const longestAway = 1;

/** What of a mirror's status is looked at. */
export type Sample = Pick<MirrorStatus, 'name' | 'state' | 'lag' | 'counts'>;

interface Step {
  bytes: number;
  lag: number | null;
}

interface Day {
  /** By the number of the step since 1970; a step that is not there is one of which nothing is known. */
  steps: Map<number, Step>;
  /** What {@link Sample.counts} said last. */
  counted: number;
  /** The step in which the mirror was there last; `undefined` before the first. */
  seen: number | undefined;
}

export interface History {
  /** Takes in how the mirrors are at `now`, milliseconds since 1970. Mirrors that are not among them are forgotten. */
  take(mirrors: readonly Sample[], now: number): void;
  /** The days of these mirrors, up to `now`. */
  days(names: readonly string[], now: number): MirrorDay[];
  /** What is worth keeping for the next process. */
  kept(): KeptDay[];
}

/** A history that begins with what an earlier process has kept. */
export function createHistory(kept: readonly KeptDay[] = []): History {
  const days = new Map(kept.map((day) => [day.name, dayFrom(day)] as const));
  /** The step of the last call. */
  let current = Math.max(...kept.map(({ first, bytes }) => first + bytes.length - 1));

  /** The step of `now`. A clock that is corrected by a little stays where it was: what is known remains true. */
  function stepAt(now: number): number {
    const step = Math.floor(now / stepMs);
    if (step === current - 1 && now > current * stepMs - stepMs / 2) return current;
    current = step;
    return step;
  }

  return {
    take(mirrors, now) {
      const step = stepAt(now);
      for (const mirror of mirrors) note(dayOf(mirror.name), mirror, step);
      forget(step);
    },
    days(names, now) {
      const last = stepAt(now);
      return names.map((name) => view(name, days.get(name)?.steps, last));
    },
    kept: () => [...days].map(([name, day]) => keep(name, day)),
  };

  function dayOf(name: string): Day {
    const day = days.get(name) ?? { steps: new Map<number, Step>(), counted: 0, seen: undefined };
    days.set(name, day);
    return day;
  }

  function forget(step: number): void {
    for (const [name, day] of days) {
      day.seen ??= step;
      if (Math.abs(step - day.seen) > longestAway) days.delete(name);
      // What lies ahead is of a clock that was wrong.
      for (const each of day.steps.keys()) {
        if (each <= step - daySteps || each > step) day.steps.delete(each);
      }
    }
  }
}

function dayFrom({ first, bytes, lag }: KeptDay): Day {
  const steps = bytes.map((sent, index): [number, Step] => {
    return [first + index, { bytes: sent, lag: lag[index] ?? null }];
  });
  return { steps: new Map(steps), counted: 0, seen: undefined };
}

function note(day: Day, { state, lag, counts }: Sample, number: number): void {
  const bytes = counts?.bytes ?? 0;
  // A mirror that was begun anew counts from 0.
  const sent = bytes < day.counted ? bytes : bytes - day.counted;
  const seconds = state === 'unknown' && lag.seconds === 0 ? null : lag.seconds;
  const step = day.steps.get(number) ?? { bytes: 0, lag: null };
  const longest = seconds === null ? step.lag : Math.max(seconds, step.lag ?? 0);
  day.steps.set(number, { bytes: step.bytes + sent, lag: longest });
  day.counted = bytes;
  day.seen = number;
}

function view(name: string, steps: Day['steps'] | undefined, last: number): MirrorDay {
  const first = last - daySteps + 1;
  const all = Array.from({ length: daySteps }, (_, index) => steps?.get(first + index));
  return {
    name,
    start: new Date(first * stepMs).toISOString(),
    step: stepSeconds,
    bytes: all.map((step) => step?.bytes ?? 0),
    lag: all.map((step) => step?.lag ?? null),
  };
}

function keep(name: string, { steps }: Day): KeptDay {
  const numbers = [...steps.keys()];
  const first = Math.min(...numbers);
  const length = numbers.length === 0 ? 0 : Math.max(...numbers) - first + 1;
  const all = Array.from({ length }, (_, index) => steps.get(first + index));
  return {
    name,
    first: length === 0 ? 0 : first,
    bytes: all.map((step) => step?.bytes ?? 0),
    lag: all.map((step) => step?.lag ?? null),
  };
}

export interface RecorderOptions {
  /** Where days outlast the process. */
  store: MirrorDays;
  /** How the mirrors are. */
  mirrors: () => readonly Sample[];
  /** How often that is asked, in milliseconds. Default: 10,000. */
  everyMs?: number;
}

export interface Recorder {
  /** The days of all mirrors, as of now. */
  days(): MirrorDay[];
  /** Keeps what it has. */
  close(): Promise<void>;
}

/** Has a history take in the mirrors for as long as the process runs. */
export async function createRecorder(options: RecorderOptions): Promise<Recorder> {
  const { store, mirrors, everyMs = 10_000 } = options;
  const history = createHistory(await store.load());
  let savedIn = stepNow();
  let saving: Promise<void> = Promise.resolve();
  const look = (now: readonly Sample[]) => history.take(now, Date.now());
  const timer = setInterval(() => {
    look(mirrors());
    if (stepNow() === savedIn) return;
    savedIn = stepNow();
    save();
  }, everyMs);

  function save(): void {
    const days = history.kept();
    if (days.length > 0) saving = saving.then(() => store.save(days));
  }

  return {
    days() {
      const now = mirrors();
      look(now);
      return history.days(
        now.map(({ name }) => name),
        Date.now(),
      );
    },
    async close() {
      clearInterval(timer);
      look(mirrors());
      save();
      await saving;
    },
  };
}

function stepNow(): number {
  return Math.floor(Date.now() / stepMs);
}
