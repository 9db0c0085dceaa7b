/**
 * daemon/ is what the service runs, for years: it watches the tree, publishes, serves, and answers commands.
 * This file puts its parts together, in the order in which they start, and ends them.
 */
import { once } from 'node:events';
import type { Config } from '../config.js';
import { acquireLock } from '../disk/lock.js';
import { createPool } from '../disk/pool.js';
import type { Logger } from '../log.js';
import { ownWordHeader } from '../mirror/probe.js';
import { createPipeline, type RunResult } from '../pipeline.js';
import { createControlServer } from '../server/control.js';
import type { Serving } from '../server/following.js';
import { createSelfCheck } from '../server/self-check.js';
import type { HttpService } from '../server/service.js';
import { createCommands } from './commands.js';
import { createFront } from './front.js';
import { createHealth } from './health.js';
import { createJobs } from './jobs.js';
import { createJournal } from './journal.js';
import { createLibrary, type KeptLibrary } from './library.js';
import { createLookout, type Lookout } from './lookout.js';
import { createDaemonApi } from './lxd-api.js';
import { createMetrics, type MetricsSources } from './metrics.js';
import { openMonitoring } from './monitoring.js';
import { createRedirector } from './redirects.js';
import { createReloader, type Reloader } from './reload.js';
import { createReplication } from './replication.js';
import { createReporter, withServing } from './report.js';
import { createRunner, type RunActivity, type Runner } from './runner.js';
import { createSchedule } from './schedule.js';
import { createServiceManager } from './service-manager.js';
import { openTrusting } from './trusting.js';

export interface DaemonOptions {
  config: Config;
  /** Of the program. */
  version: string;
  /** Where the program has its pages, absolute. */
  pagesDir: string;
  log: Logger;
  /** Ends the daemon. */
  signal: AbortSignal;
  /** Reads the configuration again, and has the log follow it once `accept` has taken it. @throws ServerError. */
  reload: (accept: (config: Config) => Promise<void>) => Promise<Config>;
  /** Has `listener` called when the daemon is to read its configuration again. */
  onHangup: (listener: () => void) => void;
}

/** How long the service may take to start before it counts as started, in milliseconds: reading goes on. */
const longestStart = 10_000;
/** How long downloads may run on when the daemon ends, in milliseconds. */
const downloadsMs = 3000;

/**
 * Runs until `options.signal` aborts.
 *
 * @throws ServerError where it cannot start: BUSY where another process has the root or the control socket,
 *   NOT_INITIALISED, CONFIG, DENIED or IO.
 */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  const { signal, log } = options;
  const ends: (() => Promise<unknown>)[] = [];
  try {
    await start(options, (end) => void ends.unshift(end));
    if (!signal.aborted) await once(signal, 'abort');
  } finally {
    for (const end of ends) await doEnd(end, log);
  }
  log.info('ended');
}

/** Does `end`; where that fails the others are done all the same, or their threads would keep the process. */
async function doEnd(end: () => Promise<unknown>, log: Logger): Promise<void> {
  try {
    await end();
  } catch (err) {
    log.error({ err }, 'a part of the daemon did not end properly');
  }
}

/** Starts everything; `atEnd` takes what is to be done at the end, the last first. */
async function start(options: DaemonOptions, atEnd: AtEnd): Promise<void> {
  const { config, log, signal } = options;
  const { paths } = config;
  const lock = await acquireLock(paths.root);
  atEnd(() => lock.release());
  const manager = createServiceManager({ log });
  atEnd(() => manager.close());

  const pool = createPool();
  const pipeline = createPipeline({
    paths,
    publish: config.publish,
    pagesDir: options.pagesDir,
    pool,
    log,
  });
  const journal = createJournal(log);
  atEnd(async () => journal.close());
  const reporter = createReporter({ version: options.version, root: paths.root, pool, manager });
  const replication = createReplication({
    paths,
    generation: () => pipeline.generation(),
    log,
    onChange: reporter.mirrorsChanged,
  });
  const selfCheck = createSelfCheck(ownWordHeader);
  const redirects = createRedirector({ replication, ownWord: selfCheck.word, log });
  // Each is needed by those before it only once it is there.
  const parts: {
    library?: KeptLibrary;
    lookout?: Lookout;
    reloader?: Reloader;
    serving?: Serving;
    metered?: MetricsSources;
  } = {};
  const health = createHealth({
    paths,
    sources: () => ({ ...parts, listen: configuration().server.listen }),
    signal,
  });
  atEnd(() => health.close());
  const metrics = createMetrics({
    version: options.version,
    sources: () => {
      if (parts.metered === undefined) throw new Error('the daemon has not started');
      return parts.metered;
    },
  });
  const onRun = (result: RunResult) => {
    reporter.ran(result);
    journal.ran(result);
    metrics.ran(result);
    void parts.library?.ran();
    replication.published().catch((err: unknown) => {
      log.error({ err }, 'cannot tell the mirrors what was published');
    });
  };
  // In force now: it changes while the daemon runs.
  const configuration = () => parts.reloader?.config() ?? config;
  const trust = await openTrusting({ paths, server: () => configuration().server, log });
  atEnd(() => trust.close());
  const onActivity = (activity: RunActivity) => {
    health.activity(activity);
    metrics.activity(activity);
    reporter.activity(activity);
  };
  const runner = createRunner({ pipeline, pool, log, onActivity, onRun });
  const library = createLibrary({ config, pipeline, runner, log });
  parts.library = library;
  const api = createDaemonApi({
    ...{ root: paths.root, version: options.version, configuration },
    ...{ library, callers: trust, log },
  });
  const monitoring = await openMonitoring({
    ...{ stateDir: paths.state, configuration, reporter, replication, callers: trust, log },
    ...{ health: health.state, metrics: metrics.text, pagesDir: options.pagesDir },
  });
  // What is answered beside the published tree: over HTTPS, and to the nginx of this machine.
  const services: readonly HttpService[] = [selfCheck.service, api.service, monitoring.service];
  const front = createFront({ paths, configuration, services, redirects, log });
  const { serving, traffic } = front;
  parts.serving = serving;
  const together = [
    ...[runner.close, library.close, redirects.close, replication.close, api.close],
    () => front.close({ graceMs: downloadsMs }),
  ];
  atEnd(() => Promise.all(together.map((end) => doEnd(end, log))));
  // Before the mirrors end: it keeps how they were.
  atEnd(() => monitoring.close());
  await library.sweep();

  const retention = () => configuration().retention;
  const jobs = createJobs({
    config,
    runner,
    lookout: { resync: async () => parts.lookout?.resync() },
    library,
    retention,
    refresh: async () => parts.reloader?.refresh(),
    log,
  });
  const schedule = createSchedule({ jobs, log });
  atEnd(() => schedule.close());
  const reloader = createReloader({
    ...options,
    manager,
    reporter,
    serving,
    schedule,
    runner,
    pipeline,
    replication,
    redirects,
    trust,
    library,
    api,
    tellNginx: front.tellNginx,
  });
  parts.reloader = reloader;
  reporter.attach({ runner, serving, schedule, replication, redirects, health });
  parts.metered = {
    ...{ pool, runner, redirects, schedule, library, api, trust, traffic },
    replication: {
      state: () => replication.state().map((mirror) => withServing(mirror, redirects)),
    },
    lookout: () => parts.lookout,
    health: health.state,
    listeners: { websocket: api.service.listeners, sse: monitoring.service.listeners },
  };
  const commands = createCommands({
    paths,
    reporter,
    runner,
    replication,
    trust,
    library,
    retention,
    reload: reloader.reload,
    log,
  });
  const control = await createControlServer({ runDir: paths.run, commands, log });
  atEnd(() => control.close());
  // Reading can take hours, and the service is of use all that time.
  const timer = setTimeout(() => manager.ready(reporter.line()), longestStart);
  atEnd(async () => clearTimeout(timer));
  // What is published already is served while the tree is looked at.
  await reloader.refresh().catch((err: unknown) => {
    log.error({ err }, 'cannot serve over HTTPS; everything else goes on, and it is tried again');
  });
  await front.openToNginx();
  await replication.apply(config);
  await redirects.apply(config);
  await front.tellNginx();

  const { changed: onChange, retry: onReturn } = runner;
  const lookout = await createLookout({ images: paths.images, onChange, onReturn, log });
  parts.lookout = lookout;
  atEnd(() => lookout.close());
  reporter.attach({ runner, serving, schedule, replication, redirects, health, lookout });
  options.onHangup(() => {
    reloader.reload().catch((err: unknown) => {
      log.error({ err }, 'configuration refused; the old one stays');
    });
  });
  atEnd(() => manager.stopping('Ending'));
  await firstRun({ runner, log, signal });
  clearTimeout(timer);
  manager.ready(reporter.line());
}

/** Takes what is to be done at the end of the daemon. */
type AtEnd = (end: () => Promise<unknown>) => void;

/** Looks at everything; resolves when that is done, or has failed or was interrupted. */
async function firstRun({
  runner,
  log,
  signal,
}: Pick<DaemonOptions, 'log' | 'signal'> & { runner: Runner }): Promise<void> {
  await runner.update({ passing: true, signal }).then(
    ({ products, versions, ms }) => log.info({ products, versions, ms }, 'ready'),
    // Failures are logged and tried again by the runner.
    () => undefined,
  );
}
