/** What the daemon tells over HTTP: its status with the last day of every mirror, and what of it is sent on live. */
import type { Monitored } from '../server/monitor/contract.js';
import type { Recorder } from './history.js';
import type { Reporter } from './report.js';
import type { FullStatus, LiveStatus, MirrorStatus } from './status.js';

export interface MonitorOptions {
  reporter: Pick<Reporter, 'status'>;
  recorder: Pick<Recorder, 'days'>;
  metrics: Monitored['metrics'];
  health: Monitored['health'];
  /** Milliseconds since 1970. Default: Date.now. */
  now?: () => number;
}

/** How old what changes always may be, in milliseconds, while nothing else changes. */
const staleMs = 30_000;
/** Times that a clock tells anew each time differ by less than this, in milliseconds, where they are the same. */
const sameMs = 2000;

export function createMonitor(options: MonitorOptions): Monitored {
  const { reporter, recorder, metrics, health, now = Date.now } = options;
  let last: { status: LiveStatus; lasting: string; time: number } | undefined;

  /** The status as it is now. */
  function full(time: number): LiveStatus {
    return { ...reporter.status(), at: new Date(time).toISOString() };
  }

  return {
    status: (): FullStatus => ({ ...full(now()), days: recorder.days() }),
    live(): LiveStatus {
      const time = now();
      const status = steadied(full(time), last?.status);
      const lasting = JSON.stringify(lastingOf(status));
      const isFresh = last !== undefined && Math.abs(time - last.time) < staleMs;
      if (last !== undefined && isFresh && lasting === last.lasting) return last.status;
      last = { status, lasting, time };
      return status;
    },
    metrics,
    health,
  };
}

/** With the times of `before` where they are the same. */
function steadied(status: LiveStatus, before: LiveStatus | undefined): LiveStatus {
  const known = new Map(before?.mirrors.map(({ name, next }) => [name, next]));
  const mirrors = status.mirrors.map((mirror) => {
    const next = known.get(mirror.name);
    return next !== undefined && isSame(next, mirror.next) ? { ...mirror, next } : mirror;
  });
  return { ...status, mirrors };
}

function isSame(time: string, other: string | undefined): boolean {
  return other !== undefined && Math.abs(Date.parse(time) - Date.parse(other)) < sameMs;
}

/** What does not change by itself all the time. */
function lastingOf({ at, process, mirrors, ...status }: LiveStatus) {
  return { ...status, mirrors: mirrors.map(lastingOfMirror) };
}

function lastingOfMirror({ lag, counts, serving, ...mirror }: MirrorStatus) {
  const { ms, redirected, ...answers } = serving ?? {};
  // How long it lags follows from when it began to.
  return { ...mirror, answers, lag: { ...lag, seconds: lag.seconds > 0 } };
}
