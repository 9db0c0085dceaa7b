/** `/metrics`: what is told to Prometheus. Read when it is asked for, so that nothing is kept twice. */
import {
  Counter,
  collectDefaultMetrics,
  Gauge,
  Histogram,
  type MetricValue,
  Registry,
} from 'prom-client';
import type { Pool } from '../disk/pool.js';
import type { RunResult } from '../pipeline.js';
import type { Health, MetricsText } from '../server/monitor/contract.js';
import type { Traffic } from '../server/traffic.js';
import type { KeptLibrary } from './library.js';
import type { Lookout } from './lookout.js';
import type { DaemonApi } from './lxd-api.js';
import {
  type Facts,
  type Family,
  families,
  prefix,
  publicationDuration,
} from './metric-families.js';
import type { Redirector } from './redirects.js';
import type { Replication } from './replication.js';
import type { RunActivity, Runner } from './runner.js';
import type { Schedule } from './schedule.js';
import type { Trusting } from './trusting.js';

/** The parts of the daemon that know. */
export interface MetricsSources {
  pool: Pick<Pool, 'bytesRead' | 'filesRead'>;
  runner: Pick<Runner, 'backlog'>;
  /** With how each mirror answers clients. */
  replication: Pick<Replication, 'state'>;
  redirects: Pick<Redirector, 'counts'>;
  schedule: Pick<Schedule, 'state'>;
  library: Pick<KeptLibrary, 'counts'>;
  api: Pick<DaemonApi, 'operations'>;
  trust: Pick<Trusting, 'clients'>;
  /** `undefined` until the tree is watched. */
  lookout: () => Pick<Lookout, 'state'> | undefined;
  health: () => Health;
  /** By listener. */
  traffic: Readonly<Record<string, Pick<Traffic, 'counts'>>>;
  /** How many clients listen to events, by protocol. */
  listeners: Readonly<Record<string, () => number>>;
}

export interface Metrics {
  /** A run has come to its end. */
  ran(result: RunResult): void;
  /** What is being done has changed. */
  activity(activity: RunActivity): void;
  /** All of them in Prometheus' text format. */
  text(): Promise<MetricsText>;
}

/** What Node tells under names that are against the conventions, at some cost, and that says little. */
const passedOver = ['active_handles', 'active_requests', 'active_resources'].flatMap((name) => [
  `nodejs_${name}`,
  `nodejs_${name}_total`,
]);

/** @param sources asked at each scrape, for they come one after the other. */
export function createMetrics(options: {
  version: string;
  sources: () => MetricsSources;
}): Metrics {
  const { version, sources } = options;
  const register = new Registry();
  const runs: Facts['runs'] = { done: 0, failed: 0, published: 0 };
  const held = new Map<string, number>();
  let stock: Facts['stock'];
  const durations = new Histogram({ ...publicationDuration, registers: [register] });
  const writers = families.map((family) => writerOf(family, register));
  collectDefaultMetrics({ register });
  for (const name of passedOver) register.removeSingleMetric(name);

  const facts = (): Facts => {
    const { pool, runner, replication, schedule, library, api, trust, ...parts } = sources();
    const { redirects, lookout, health, traffic, listeners } = parts;
    return {
      version,
      healthy: health().ok,
      ...{ runs, stock, held },
      digested: { files: pool.filesRead(), bytes: pool.bytesRead() },
      backlog: runner.backlog(),
      watchedFolders: lookout()?.state().folders ?? 0,
      jobs: schedule.state(),
      mirrors: replication.state(),
      unredirected: redirects.counts().kept,
      traffic: mapValues(traffic, (each) => each.counts()),
      uploads: library.counts(),
      operations: api.operations(),
      trustedClients: trust.clients(),
      listeners: mapValues(listeners, (count) => count()),
    };
  };

  return {
    ran({ products, versions, bytes, published, problems, ms }) {
      runs.done += 1;
      stock = { products, versions, bytes };
      for (const code of held.keys()) held.set(code, 0);
      for (const { code } of problems) held.set(code, (held.get(code) ?? 0) + 1);
      if (published.length === 0) return;
      runs.published += 1;
      runs.last = Date.now() / 1000;
      durations.observe((ms.scan + ms.digest + ms.publish) / 1000);
    },
    activity({ doing }) {
      if (doing === 'waiting') runs.failed += 1;
    },
    async text() {
      const now = facts();
      // In one go: another scrape at the same time finds all of it.
      for (const write of writers) write(now);
      return { contentType: register.contentType, text: await register.metrics() };
    },
  };
}

/**
 * Puts a family into `register`. @returns what brings it up to date
 *
 * The values are handed over as they are. Set one by one each would be looked up by its labels, twice the cost of the
 * rest; and what is gone would have to be removed.
 */
function writerOf(
  { name, help, type, labels = [], read }: Family,
  register: Registry,
): (facts: Facts) => void {
  const about = { name: prefix + name, help, labelNames: labels, registers: [register] };
  const metric = type === 'counter' ? new Counter(about) : new Gauge(about);
  const get = metric.get.bind(metric);
  let values: MetricValue<string>[] = [];
  metric.get = async () => ({ ...(await get()), values });
  return (facts) => {
    values = read(facts).map(([value, ...texts]) => ({ value, labels: labelled(labels, texts) }));
  };
}

function labelled(names: readonly string[], texts: readonly string[]): Record<string, string> {
  const all: Record<string, string> = {};
  for (const [at, name] of names.entries()) all[name] = texts[at] ?? '';
  return all;
}

function mapValues<T, R>(
  record: Readonly<Record<string, T>>,
  change: (value: T) => R,
): Record<string, R> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, change(value)]));
}
