/**
 * Jobs at their hours: never two at once, and an hour at which one could not run is reported.
 *
 * node-cron reads the expressions and finds the next hours; starting jobs is done here. Its own runner (4.6)
 * notices a clock that was set forward only when its timer ends, up to a day later, and then goes through
 * every hour in between, be it years of them, while nothing else runs. After a clock was set back it stands
 * still until the old time comes again. And it knows of one task only, so it cannot let one wait for another.
 *
 * Hours are in the time zone of the host. An hour that daylight saving leaves out does not come on that day;
 * one that it brings twice comes the second time only, so what runs every ten minutes pauses for an hour.
 * Where day of the month and weekday are both given, both must fit.
 */
import { createTask, type ScheduledTask } from 'node-cron';
import type { Logger } from '../log.js';
import type { JobStatus } from './status.js';

export interface Job {
  name: string;
  /** A cron expression as `isCronExpression` takes it; '' is never. */
  cron: string;
  /** Ends early once the signal is aborted. What it throws is logged, and shown in the status. */
  run: (signal: AbortSignal) => Promise<void>;
}

export interface Schedule {
  /**
   * Takes over changed cron expressions, by name of job; a job that is queued or running goes on.
   *
   * @throws Error where a name is unknown or an expression is none, and then nothing is changed
   */
  change(crons: Record<string, string>): void;
  state(): JobStatus[];
  /** Starts nothing more, aborts the running job's signal and waits for it. */
  close(): Promise<void>;
}

/**
 * How many milliseconds pass at most until the clock is looked at. It may be set, or stand still while the
 * host sleeps; timers do not see that.
 */
const longestWait = 10_000;

/** A job that starts so many milliseconds after its hour is still in time. */
const tolerance = 10_000;

/**
 * A clock set back by less milliseconds is waited for. Further back hours come again, but none until a job's
 * last start is so long ago.
 */
const setBack = 60_000;

/** How many hours of a job are known ahead. Of more that pass at once, this many count as missed. */
const hoursAhead = 64;

const late = 'this process was held up, the host was asleep, or the clock was set';

/** Starts the schedule. @throws Error where an expression is none. */
export function createSchedule(options: { jobs: Job[]; log: Logger }): Schedule {
  return new JobSchedule(options.jobs, options.log);
}

/** The hours of one cron expression. */
interface Times {
  cron: string;
  /** `undefined`: they never come. */
  task: ScheduledTask | undefined;
  /** The next ones, in milliseconds since 1970, the soonest first. */
  hours: number[];
}

interface Entry {
  job: Job;
  times: Times;
  state: JobStatus['state'];
  /** By the clock that is never set, that of `performance.now()`. */
  begun: number;
  last?: NonNullable<JobStatus['last']>;
  missed: number;
  failures: number;
}

class JobSchedule implements Schedule {
  readonly #log: Logger;
  readonly #entries: Entry[];
  readonly #queue: Entry[] = [];
  readonly #closing = new AbortController();
  #working: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** The latest time that the clock has shown, since it was last found set back. */
  #latest = Date.now();

  constructor(jobs: Job[], log: Logger) {
    this.#log = log;
    this.#entries = jobs.map((job) => ({
      job,
      times: this.#timesOf(job.name, job.cron),
      state: 'idle',
      begun: Number.NEGATIVE_INFINITY,
      missed: 0,
      failures: 0,
    }));
    this.#wait();
  }

  change(crons: Record<string, string>): void {
    const changes = Object.entries(crons).map(([name, cron]) => {
      const entry = this.#entries.find(({ job }) => job.name === name);
      if (entry === undefined) throw new Error(`There is no job "${name}"`);
      return { entry, cron };
    });
    const made = changes
      .filter(({ entry, cron }) => entry.times.cron !== cron)
      .map(({ entry, cron }) => ({ entry, times: this.#timesOf(entry.job.name, cron) }));
    for (const { entry, times } of made) {
      void entry.times.task?.destroy();
      entry.times = times;
    }
    this.#wait();
  }

  state(): JobStatus[] {
    return this.#entries.map(({ job, times, state, last, missed, failures }) => {
      const [next] = times.hours;
      return {
        name: job.name,
        schedule: times.cron,
        state,
        ...(next === undefined ? {} : { next: isoTime(next) }),
        ...(last === undefined ? {} : { last: { ...last } }),
        missed,
        failures,
      };
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    clearTimeout(this.#timer);
    for (const entry of this.#queue.splice(0)) entry.state = 'idle';
    for (const { times } of this.#entries) await times.task?.destroy();
    await this.#working;
  }

  #timesOf(name: string, cron: string): Times {
    const task = cron === '' ? undefined : createTask(cron, () => {});
    const hours = nextHours(task);
    if (cron !== '' && hours.length === 0) {
      this.#log.warn({ job: name, cron }, 'the hour of a job never comes');
    }
    return { cron, task, hours };
  }

  /** Looks at the clock when the next hour comes, and now and then before. */
  #wait(): void {
    clearTimeout(this.#timer);
    if (this.#closing.signal.aborted) return;
    const soonest = Math.min(...this.#entries.map(({ times }) => times.hours[0] ?? Infinity));
    const wait = Math.min(Math.max(0, soonest - Date.now()), longestWait);
    this.#timer = setTimeout(() => this.#look(), wait);
  }

  #look(): void {
    const now = Date.now();
    if (now < this.#latest - setBack) {
      this.#log.warn({ from: isoTime(this.#latest), to: isoTime(now) }, 'the clock was set back');
      for (const entry of this.#entries) startAnew(entry, now);
      this.#latest = now;
    }
    this.#latest = Math.max(this.#latest, now);
    for (const entry of this.#entries) this.#passTo(entry, now);
    this.#wait();
  }

  /** Does what is due for the hours of `entry` up to `now`. */
  #passTo(entry: Entry, now: number): void {
    const passed = entry.times.hours.filter((hour) => hour <= now);
    const last = passed.at(-1);
    if (last === undefined) return;
    entry.times.hours = laterHours(entry.times, now);
    const isLate = now - last > tolerance;
    const gone = isLate ? passed : passed.slice(0, -1);
    if (gone.length > 0) this.#miss(entry, gone, late);
    if (entry.state === 'idle') this.#enqueue(entry);
    else if (!isLate) this.#miss(entry, [last], `it is still ${entry.state}`);
  }

  #miss(entry: Entry, hours: number[], reason: string): void {
    entry.missed += hours.length;
    const [first, last] = [hours[0] ?? 0, hours.at(-1) ?? 0];
    const fields = {
      job: entry.job.name,
      scheduled: isoTime(first),
      ...(hours.length > 1 ? { until: isoTime(last), times: hours.length } : {}),
      reason,
    };
    this.#log.warn(fields, 'a job was missed');
  }

  #enqueue(entry: Entry): void {
    entry.state = 'queued';
    this.#queue.push(entry);
    this.#working ??= this.#work();
  }

  async #work(): Promise<void> {
    for (let entry = this.#queue.shift(); entry !== undefined; entry = this.#queue.shift()) {
      await this.#run(entry);
    }
    this.#working = undefined;
  }

  async #run(entry: Entry): Promise<void> {
    const { signal } = this.#closing;
    const { name } = entry.job;
    const at = isoTime(Date.now());
    entry.begun = performance.now();
    const took = () => Math.round(performance.now() - entry.begun);
    entry.state = 'running';
    try {
      await entry.job.run(signal);
      entry.last = { at, ms: took() };
      this.#log.debug({ job: name, ms: took() }, 'a job is done');
    } catch (error) {
      const failure = error instanceof Error ? error.message : String(error);
      entry.last = { at, ms: took(), failure };
      if (signal.aborted) this.#log.info({ job: name, err: error }, 'a job was broken off');
      else {
        entry.failures += 1;
        this.#log.error({ job: name, err: error }, 'a job failed');
      }
    }
    entry.state = 'idle';
  }
}

/** Those that come after now. None where node-cron finds none within a hundred years. */
function nextHours(task: ScheduledTask | undefined): number[] {
  if (task === undefined) return [];
  try {
    return task.getNextRuns(hoursAhead).map((date) => date.getTime());
  } catch {
    return [];
  }
}

/** Forgets the hours of a clock that was set back, for those that it shows from `now` on. */
function startAnew({ times, begun }: Entry, now: number): void {
  const pause = setBack - (performance.now() - begun);
  times.hours = nextHours(times.task).filter((hour) => hour >= now + pause);
}

/** The known hours after `now`, and further ones where only few are left. */
function laterHours({ task, hours }: Times, now: number): number[] {
  const known = hours.filter((hour) => hour > now);
  if (known.length > hoursAhead / 2) return known;
  const last = known.at(-1) ?? now;
  return known.concat(nextHours(task).filter((hour) => hour > last));
}

function isoTime(time: number): string {
  return new Date(time).toISOString();
}
