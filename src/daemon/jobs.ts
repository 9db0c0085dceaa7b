/** What the daemon does at set hours. */
import type { Config } from '../config.js';
import { createPool } from '../disk/pool.js';
import { ServerError } from '../errors.js';
import { type Logger, logFirst } from '../log.js';
import { type Damage, verifyLiving } from '../verify.js';
import type { KeptLibrary } from './library.js';
import type { Lookout } from './lookout.js';
import type { Runner } from './runner.js';
import type { Job } from './schedule.js';

export interface JobsOptions {
  config: Pick<Config, 'paths' | 'schedule'>;
  runner: Pick<Runner, 'update'>;
  lookout: Pick<Lookout, 'resync'>;
  library: Pick<KeptLibrary, 'prune'>;
  /** The rules in force now. */
  retention: () => Config['retention'];
  /** Has the embedded server be as the configuration has it. */
  refresh: () => Promise<void>;
  log: Logger;
}

/** The cron expressions of the daemon's jobs, by name. */
export function hoursOf({ schedule }: Pick<Config, 'schedule'>): Record<string, string> {
  return { rescan: schedule.rescan, verify: schedule.verify, prune: schedule.prune };
}

/** The jobs, with the hours of the configuration. */
export function createJobs(options: JobsOptions): Job[] {
  const hours = hoursOf(options.config);
  const work: Record<string, Job['run']> = {
    rescan: (signal) => rescan(options, signal),
    verify: (signal) => verify(options, signal),
    prune: () => prune(options),
  };
  return Object.entries(work).map(([name, run]) => ({ name, cron: hours[name] ?? '', run }));
}

/** The safety net: looks everywhere, in case a change went unnoticed, and after the server. */
async function rescan(options: JobsOptions, signal: AbortSignal): Promise<void> {
  await options.lookout.resync();
  await options.runner.update({ passing: true, signal });
  await options.refresh();
}

/** Reads what is published again, with one thread, so that everything else goes on. */
async function verify(
  { config: { paths }, runner, log }: JobsOptions,
  signal: AbortSignal,
): Promise<void> {
  const pool = createPool({ threads: 1 });
  try {
    const publish = () => runner.update({ passing: true, signal });
    const { files, bytes, damage } = await verifyLiving({ paths, pool, signal }, publish);
    const each = ({ path, reason }: Damage) => log.error({ path, reason }, 'damaged');
    logFirst(damage, { log, each, rest: '… and more; "lxd-image-server verify" lists them' });
    log.info({ files, bytes, damaged: damage.length }, 'verified');
    if (damage.length === 0) return;
    throw new ServerError('DAMAGED', `${damage.length} damaged, among them ${damage[0]?.path}`, {
      hint: 'upload the damaged files again, or take them out with "lxd-image-server verify --repair"',
    });
  } finally {
    await pool.close();
  }
}

/** Takes out what has had its time. */
async function prune({ library, retention, log }: JobsOptions): Promise<void> {
  const { length: versions } = await library.prune(retention());
  log.info({ versions }, 'pruned');
}
