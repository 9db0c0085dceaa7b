/** Keeps what the daemon can tell of itself: over the control socket, and in a line to the service manager. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Problem } from '../catalog/tree.js';
import type { Pool } from '../disk/pool.js';
import type { RunResult } from '../pipeline.js';
import type { HealthCheck } from './health.js';
import type { Lookout } from './lookout.js';
import type { Redirector } from './redirects.js';
import type { Replication } from './replication.js';
import type { RunActivity, Runner } from './runner.js';
import type { Schedule } from './schedule.js';
import type { ServiceManager } from './service-manager.js';
import {
  type Activity,
  type DaemonStatus,
  type HeldBack,
  type MirrorStatus,
  mostHeld,
  mostPublications,
  type Publication,
} from './status.js';

export interface ReporterOptions {
  version: string;
  root: string;
  pool: Pick<Pool, 'bytesRead'>;
  manager: ServiceManager;
}

/** The parts of the daemon that know more. */
export interface Sources {
  runner: Pick<Runner, 'pending'>;
  /** Absent until the tree is watched. */
  lookout?: Pick<Lookout, 'state'>;
  serving: { state: () => DaemonStatus['server'] };
  schedule: Pick<Schedule, 'state'>;
  replication: Pick<Replication, 'state'>;
  redirects: Pick<Redirector, 'serving'>;
  /** Absent: nothing is told of it. */
  health?: Pick<HealthCheck, 'state'>;
}

/** How far work is, for whoever asked for it. */
export interface Progress {
  stage: Activity['doing'] | 'settle';
  /** For `digest`: how many bytes are to be read, and are read. */
  bytes: number;
  done: number;
}

export interface Reporter {
  activity(activity: RunActivity): void;
  ran(result: RunResult): void;
  /** A mirror has become another than it was. */
  mirrorsChanged(): void;
  attach(sources: Sources): void;
  status(): DaemonStatus;
  progress(): Progress;
  /** The state in one line. */
  line(): string;
}

/** How finely pauses are measured, in milliseconds. */
const resolution = 10;
/** From how many bytes on reading takes long. */
const longReading = 256 * 1024 * 1024;

export function createReporter({ version, root, pool, manager }: ReporterOptions): Reporter {
  const started = new Date().toISOString();
  const pauses = monitorEventLoopDelay({ resolution });
  pauses.enable();
  let sources: Sources | undefined;
  let activity: Omit<Activity, 'bytes'> = { doing: 'starting', since: started };
  let reading = { from: 0, total: 0 };
  let last: RunResult | undefined;
  const publications: Publication[] = [];

  const bytes = () => ({ done: pool.bytesRead() - reading.from, total: reading.total });
  const line = () => {
    const mirrors = sources?.replication.state() ?? [];
    return lineOf(activity, { bytes: reading.total, last, mirrors });
  };

  return {
    activity(now) {
      activity = { doing: now.doing, since: new Date().toISOString() };
      if (now.doing === 'waiting') activity.detail = now.failure;
      if (now.doing === 'digest') reading = { from: pool.bytesRead(), total: now.bytes };
      // What is over in a moment is not worth a message to the service manager.
      const isLong = now.doing === 'digest' && now.bytes >= longReading;
      if (isLong || now.doing === 'waiting' || now.doing === 'idle') manager.status(line());
    },
    ran(result) {
      last = result;
      const at = new Date().toISOString();
      if (result.published.length > 0) {
        const { scan, digest, publish } = result.ms;
        const ms = Math.round(scan + digest + publish);
        const { products, versions, read } = result;
        publications.unshift({ at, ms, products, versions, bytes: read.bytes });
        publications.length = Math.min(publications.length, mostPublications);
      }
      manager.status(line());
    },
    mirrorsChanged() {
      if (last !== undefined) manager.status(line());
    },
    attach(parts) {
      sources = parts;
    },
    status() {
      if (sources === undefined) throw new Error('the daemon has not started');
      const { runner, lookout, serving, schedule, replication, redirects, health } = sources;
      const { products = 0, versions = 0, bytes: stored = 0, problems = [] } = last ?? {};
      const pending = runner.pending();
      return {
        version,
        pid: process.pid,
        started,
        root,
        ready: last !== undefined,
        activity: activity.doing === 'digest' ? { ...activity, bytes: bytes() } : activity,
        ...(health && { health: health.state() }),
        catalogue: { products, versions, bytes: stored },
        publications: [...publications],
        held: problems.slice(0, mostHeld).map((problem) => heldBack(problem, pending)),
        heldCount: problems.length,
        watching: lookout?.state() ?? { mode: 'events', folders: 0 },
        server: serving.state(),
        jobs: schedule.state(),
        mirrors: replication.state().map((mirror) => withServing(mirror, redirects)),
        process: {
          memory: process.memoryUsage.rss(),
          longestPauseMs: Math.max(0, Math.round(pauses.max / 1e6) - resolution),
        },
      };
    },
    progress() {
      const { doing } = activity;
      if (doing === 'digest') return { stage: doing, bytes: bytes().total, done: bytes().done };
      // Whoever waits while there is nothing to do waits for versions to settle.
      return { stage: doing === 'idle' ? 'settle' : doing, bytes: 0, done: 0 };
    },
    line,
  };
}

/** The status of a mirror with how it answers clients. */
export function withServing(
  mirror: MirrorStatus,
  redirects: Pick<Redirector, 'serving'>,
): MirrorStatus {
  const serving = redirects.serving(mirror.name);
  return { ...mirror, ...(serving && { serving }) };
}

function lineOf(
  { doing, detail }: Omit<Activity, 'bytes'>,
  {
    bytes,
    last,
    mirrors,
  }: {
    bytes: number;
    last: RunResult | undefined;
    mirrors: readonly Pick<MirrorStatus, 'state'>[];
  },
): string {
  if (doing === 'waiting') return `Cannot publish: ${detail}`;
  if (doing === 'digest') return `Reading ${Math.ceil(bytes / 2 ** 20)} MiB`;
  if (last === undefined) return 'Starting';
  const held = last.problems.length > 0 ? `; ${last.problems.length} held back` : '';
  const failing = mirrors.filter(({ state }) => state === 'waiting' || state === 'stopped').length;
  const lost = failing > 0 ? `; ${failing} of ${mirrors.length} mirrors failing` : '';
  return `Published: ${last.products} products, ${last.versions} versions${held}${lost}`;
}

function heldBack(problem: Problem, pending: ReadonlyMap<string, number>): HeldBack {
  const product = problem.path.split('/').slice(0, 4).join('/');
  const time = pending.get(product);
  const waits = problem.code === 'settling' || problem.code === 'changed';
  if (time === undefined || !waits) return problem;
  return { ...problem, until: new Date(time).toISOString() };
}
