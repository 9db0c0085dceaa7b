/** What the daemon does at set hours. */
import type { Config } from '../config.js';
import type { Lookout } from './lookout.js';
import type { Runner } from './runner.js';
import type { Job } from './schedule.js';

export interface JobsOptions {
  config: Pick<Config, 'schedule'>;
  runner: Runner;
  lookout: Lookout;
}

/** The jobs of the daemon, with the hours of the configuration. */
export function createJobs({ config, runner, lookout }: JobsOptions): Job[] {
  return [
    {
      name: 'rescan',
      cron: config.schedule.rescan,
      /** The safety net: looks everywhere, in case a change went unnoticed. */
      async run(signal) {
        await lookout.resync();
        await runner.update({ passing: true, signal });
      },
    },
  ];
}
