/** What the daemon tells over HTTP, put together: to whom, and where the page is. */
import { join } from 'node:path';
import type { Config } from '../config.js';
import { createMirrorDays } from '../disk/mirror-days.js';
import type { Logger } from '../log.js';
import type { Callers } from '../server/lxd/contract.js';
import type { Health, MetricsText } from '../server/monitor/contract.js';
import { createMonitorService, type MonitorService } from '../server/monitor/service.js';
import { createRecorder } from './history.js';
import { createMonitor } from './monitor.js';
import type { Replication } from './replication.js';
import type { Reporter } from './report.js';

export interface MonitoringOptions {
  /** Absolute. */
  stateDir: string;
  /** Holds status.html; absolute. */
  pagesDir: string;
  /** In force now. */
  configuration: () => Pick<Config, 'server'>;
  reporter: Pick<Reporter, 'status'>;
  replication: Pick<Replication, 'state'>;
  callers: Pick<Callers, 'judge'>;
  health: () => Health;
  metrics: () => Promise<MetricsText>;
  log: Logger;
}

export interface Monitoring {
  /** For whatever serves HTTP. */
  service: MonitorService;
  /** To be called while the mirrors are there; who listens is told no more. */
  close(): Promise<void>;
}

export async function openMonitoring(options: MonitoringOptions): Promise<Monitoring> {
  const { configuration, reporter, replication, callers, health, metrics, log } = options;
  const store = createMirrorDays({ stateDir: options.stateDir, log });
  const recorder = await createRecorder({ store, mirrors: replication.state });
  const monitored = createMonitor({ reporter, recorder, health, metrics });
  const service = createMonitorService({
    ...{ monitored, log },
    page: join(options.pagesDir, 'status.html'),
    statusFrom: () => configuration().server.statusFrom,
    isTrusted: (certificate) => 'client' in callers.judge(certificate),
  });
  return {
    service,
    async close() {
      service.close();
      await recorder.close();
    },
  };
}
