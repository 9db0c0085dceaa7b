/** Takes over a changed configuration while everything goes on; one that is refused changes nothing. */
import { isDeepStrictEqual } from 'node:util';
import type { Config } from '../config.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Pipeline } from '../pipeline.js';
import type { Serving } from '../server/following.js';
import { hoursOf } from './jobs.js';
import type { KeptLibrary } from './library.js';
import type { DaemonApi } from './lxd-api.js';
import type { Redirector } from './redirects.js';
import type { Replication } from './replication.js';
import type { Reporter } from './report.js';
import type { Runner } from './runner.js';
import type { Schedule } from './schedule.js';
import type { ServiceManager } from './service-manager.js';
import type { Trusting } from './trusting.js';
import { createTurns } from './turns.js';

export interface ReloaderOptions {
  config: Config;
  log: Logger;
  /** After its abort nothing is taken over any more. */
  signal: AbortSignal;
  reload: (accept: (config: Config) => Promise<void>) => Promise<Config>;
  manager: ServiceManager;
  reporter: Reporter;
  serving: Serving;
  schedule: Schedule;
  runner: Pick<Runner, 'changed'>;
  pipeline: Pick<Pipeline, 'configure'>;
  replication: Pick<Replication, 'apply'>;
  redirects: Pick<Redirector, 'apply'>;
  trust: Pick<Trusting, 'refresh'>;
  library: Pick<KeptLibrary, 'configure'>;
  api: Pick<DaemonApi, 'follow'>;
  /** Has nginx know whether clients are redirected; never rejects. */
  tellNginx: () => Promise<void>;
}

export interface Reloader {
  /**
   * Reads the configuration again, one call at a time.
   *
   * @returns the keys that have changed, as the file names them: `publish.settle`.
   * @throws ServerError where the configuration is broken, or asks for what takes a restart; then the old one
   *   stays in force.
   */
  reload(): Promise<string[]>;
  /** Has the server listen where that failed before, and take a certificate that was renewed. */
  refresh(): Promise<void>;
  /** The configuration in force. */
  config(): Config;
}

export function createReloader(options: ReloaderOptions): Reloader {
  const {
    log,
    signal,
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
    tellNginx,
  } = options;
  let { config } = options;
  const turns = createTurns();

  const accept = async (next: Config) => {
    // A server that is opened after all others have ended would keep the process.
    if (signal.aborted) throw new ServerError('INTERRUPTED', 'The daemon is ending');
    refuseRestart(changedKeys(config, next));
    // The only part that can fail comes first.
    await serving.apply(next);
    schedule.change(hoursOf(next));
    await replication.apply(next);
    await redirects.apply(next);
    // Soon: a mirror whose address leads back here is recognised only by what nginx passes on.
    await tellNginx();
    library.configure(next);
    await api.follow(next.server);
    // Somebody may have mended the file, or put another in its place.
    await trust.refresh();
    if (isDeepStrictEqual(config.publish, next.publish)) return;
    pipeline.configure(next.publish);
    runner.changed('');
  };
  const reloadOnce = async () => {
    await manager.reloading();
    try {
      const before = config;
      await options.reload(async (next) => {
        await accept(next);
        config = next;
      });
      const changed = changedKeys(before, config);
      log.info({ changed }, 'configuration read again');
      return changed;
    } finally {
      manager.ready(reporter.line());
    }
  };
  return {
    reload: () => turns.take(reloadOnce),
    refresh: () =>
      turns.take(async () => {
        await tellNginx();
        await api.follow(config.server);
        await serving.apply(config);
      }),
    config: () => config,
  };
}

/** What the daemon cannot change while it holds locks and watches folders. */
function refuseRestart(changed: readonly string[]): void {
  const paths = changed.filter((key) => key.startsWith('paths.'));
  if (paths.length === 0) return;
  throw new ServerError('CONFIG', `${paths.join(', ')} cannot change while the daemon runs`, {
    hint: 'restart it: systemctl restart lxd-image-server',
  });
}

/** The keys of two levels that differ, as the file spells them, in order. */
export function changedKeys(before: Config, after: Config): string[] {
  const keys = new Set<string>();
  for (const table of Object.keys({ ...before, ...after }) as (keyof Config)[]) {
    if (table === 'mirrors') {
      if (!isDeepStrictEqual(before.mirrors, after.mirrors)) keys.add('mirrors');
      continue;
    }
    const [old, now] = [before[table], after[table]] as Record<string, unknown>[];
    for (const key of Object.keys({ ...old, ...now })) {
      if (!isDeepStrictEqual(old?.[key], now?.[key])) keys.add(`${table}.${underscored(key)}`);
    }
  }
  return [...keys].sort();
}

/** `tlsCert` as the file has it: `tls_cert`. */
function underscored(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
