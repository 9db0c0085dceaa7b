/** What the daemon tells over HTTP, put together: to whom, and where the page is. */
import { fileURLToPath } from 'node:url';
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
  /** In force now. */
  configuration: () => Pick<Config, 'server'>;
  reporter: Pick<Reporter, 'status'>;
  replication: Pick<Replication, 'state'>;
  callers: Pick<Callers, 'judge'>;
  /** Default: whether the tree has been looked at. */
  health?: () => Health;
  /** Default: what program this is. */
  metrics?: () => Promise<MetricsText>;
  log: Logger;
}

export interface Monitoring {
  /** For whatever serves HTTP. */
  service: MonitorService;
  /** To be called while the mirrors are there; who listens is told no more. */
  close(): Promise<void>;
}

const page = fileURLToPath(new URL('../../pages/status.html', import.meta.url));

export async function openMonitoring(options: MonitoringOptions): Promise<Monitoring> {
  const { configuration, reporter, replication, callers, log } = options;
  const store = createMirrorDays({ stateDir: options.stateDir, log });
  const recorder = await createRecorder({ store, mirrors: replication.state });
  const monitored = createMonitor({
    ...{ reporter, recorder },
    metrics: options.metrics ?? (async () => metricsOf(reporter)),
    health: options.health ?? (() => healthOf(reporter)),
  });
  const service = createMonitorService({
    ...{ monitored, page, log },
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

function healthOf(reporter: Pick<Reporter, 'status'>): Health {
  const { ready } = reporter.status();
  return ready ? { ok: true } : { ok: false, reason: 'the tree has not been looked at yet' };
}

function metricsOf(reporter: Pick<Reporter, 'status'>): MetricsText {
  const { version } = reporter.status();
  const lines = [
    '# HELP lxd_image_server_info The program.',
    '# TYPE lxd_image_server_info gauge',
    `lxd_image_server_info{version=${JSON.stringify(version)}} 1`,
  ];
  return { contentType: 'text/plain; version=0.0.4', text: `${lines.join('\n')}\n` };
}
