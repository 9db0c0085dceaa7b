/** What a daemon would tell its metrics, with every family in it. */
import type { MetricsSources } from '../../src/daemon/metrics.js';
import type { MirrorStatus } from '../../src/daemon/status.js';

/** A mirror that has been at work, and is redirected to. */
export function mirrorStatus(name: string, more: Partial<MirrorStatus> = {}): MirrorStatus {
  return {
    name,
    url: `https://${name}.example.org`,
    remote: `lxdadm@${name}.example.org:22`,
    schedule: '',
    state: 'synced',
    synced: '2026-01-02T03:04:05.500Z',
    lag: { versions: 0, seconds: 0 },
    counts: { files: 3, bytes: 4096, syncs: 2, failures: 1 },
    serving: { state: 'healthy', since: '2026-01-02T03:04:05.500Z', redirected: 7 },
    ...more,
  };
}

export function metricsSources(more: Partial<MetricsSources> = {}): MetricsSources {
  const requests = [{ method: 'GET', status: '2xx', count: 5 } as const];
  const counts = () => ({ requests, running: 1, connections: 2, sentBytes: 300 });
  return {
    pool: { bytesRead: () => 1000, filesRead: () => 10 },
    runner: { backlog: () => ({ changed: 1, settling: 2 }) },
    replication: { state: () => [mirrorStatus('eu')] },
    redirects: { counts: () => ({ redirected: new Map(), kept: 8 }) },
    schedule: {
      state: () => [
        {
          name: 'rescan',
          schedule: '* * * * *',
          state: 'idle',
          missed: 4,
          failures: 3,
          last: { at: '2026-01-02T03:04:05.000Z', ms: 5 },
        },
      ],
    },
    library: {
      counts: () => ({
        ...{ running: 2, publishing: 1, bytes: 500 },
        ended: { added: 4, refused: 3, cancelled: 2, failed: 1 },
      }),
    },
    api: { operations: () => ({ running: 1, success: 2, failure: 3, cancelled: 4 }) },
    trust: { clients: () => 6 },
    lookout: () => ({ state: () => ({ mode: 'events', folders: 12 }) }),
    health: () => ({ ok: true }),
    traffic: { https: { counts }, nginx: { counts } },
    listeners: { websocket: () => 8 },
    ...more,
  };
}
