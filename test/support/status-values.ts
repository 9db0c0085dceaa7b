/** A status for the page, with something of everything. */
import type { FullStatus, MirrorDay, MirrorStatus } from '../../src/daemon/status.js';

const minute = 60_000;

export interface StatusValues {
  now?: number;
  mirrors?: number;
  held?: number;
}

/** One of a daemon with so many mirrors, of which some fail, and so many versions held back. */
export function statusValues({
  now = Date.now(),
  mirrors = 6,
  held = 3,
}: StatusValues = {}): FullStatus {
  const ago = (ms: number) => new Date(now - ms).toISOString();
  const all = Array.from({ length: mirrors }, (_, index) => mirrorValue(index, ago));
  return {
    at: ago(0),
    ...{ version: '1.0.0', pid: 4711, started: ago(4 * 86_400_000), ready: true },
    root: '/var/www/simplestreams',
    activity: { doing: 'idle', since: ago(3 * minute) },
    catalogue: { products: 42, versions: 512, bytes: 187 * 2 ** 30 },
    publications: Array.from({ length: mirrors === 0 ? 0 : 12 }, (_, index) => ({
      ...{ at: ago((3 + index * index * 17) * minute), ms: 840 + index * 311 },
      ...{ products: 42, versions: 512 - index, bytes: (index + 1) * 391 * 2 ** 20 },
    })),
    held: Array.from({ length: Math.min(held, 1000) }, (_, index) => ({
      path: `alpine/3.${index % 20}/amd64/default/202601${String(10 + (index % 20))}_12:00`,
      code: 'damaged' as const,
      reason: 'rootfs.squashfs is not as SHA256SUMS says',
      cure: 'copy the version again, or correct SHA256SUMS',
      ...(index % 3 === 0 && { until: ago(-20_000) }),
    })),
    heldCount: held,
    watching: { mode: 'events', folders: 1204 },
    server: { url: 'https://127.0.0.1:8443' },
    jobs: [
      {
        ...{ name: 'rescan', schedule: '0 3 * * *', state: 'idle', missed: 0 },
        ...{ next: ago(-5 * 60 * minute), last: { at: ago(19 * 60 * minute), ms: 5300 } },
      },
      { name: 'verify', schedule: '0 4 * * 0', state: 'running', missed: 2 },
      { name: 'prune', schedule: '', state: 'idle', missed: 0 },
    ],
    mirrors: all,
    process: { memory: 121 * 2 ** 20, longestPauseMs: 38 },
    days: all.map((mirror, index) => dayValue(mirror.name, { now, seed: index })),
  };
}

const names = ['amsterdam', 'boston', 'cape-town', 'dublin', 'edinburgh', 'frankfurt'];

function mirrorValue(index: number, ago: (ms: number) => string): MirrorStatus {
  const name = names[index] ?? `mirror-${index}`;
  const whole: MirrorStatus = {
    ...{ name, url: `https://${name}.images.example.org`, schedule: '' },
    remote: `images@${name}.example.org:22`,
    ...{ state: 'synced', synced: ago(2 * minute), lag: { versions: 0, seconds: 0 } },
    counts: { files: 812, bytes: 93 * 2 ** 30, syncs: 40, failures: 0 },
    serving: { state: 'healthy', since: ago(86_400_000), ms: 12, redirected: 18_204 },
  };
  const kind = index < 6 ? index : index % 40;
  if (kind === 1) {
    const work = {
      ...{ stage: 'send', files: { done: 12, total: 40 }, rate: 93.1 * 2 ** 20, secondsLeft: 47 },
      bytes: { done: 3 * 2 ** 30, total: 8 * 2 ** 30 },
    };
    return { ...whole, state: 'syncing', work, lag: { versions: 4, seconds: 95 } };
  }
  if (kind === 3) {
    const failure = {
      at: ago(7 * minute),
      message: `Mirror ${name}: The connection was refused`,
      hint: 'see to it that its SSH server runs and that no firewall is in the way',
    };
    return {
      ...{ ...whole, state: 'waiting', failure, next: ago(-40_000), synced: ago(9 * minute) },
      lag: { versions: 4, seconds: 480 },
      serving: {
        ...{ state: 'failing', since: ago(7 * minute), redirected: 18_204 },
        failure: { message: 'No answer within 5 s', hint: 'look whether its web server runs' },
      },
    };
  }
  if (kind === 4) {
    const { synced: _, serving: _serving, counts: _counts, ...fresh } = whole;
    return { ...fresh, state: 'unknown', lag: { seconds: 0 } };
  }
  if (kind === 5) {
    return {
      ...whole,
      state: 'behind',
      next: ago(-5 * 60 * minute),
      lag: { versions: 1, seconds: 4000 },
    };
  }
  return whole;
}

function dayValue(name: string, { now, seed }: { now: number; seed: number }): MirrorDay {
  const last = Math.floor(now / 600_000);
  const wave = (index: number) => Math.max(0, Math.sin((index + seed * 13) / (5 + seed)) - 0.55);
  return {
    name,
    start: new Date((last - 143) * 600_000).toISOString(),
    step: 600,
    bytes: Array.from({ length: 144 }, (_, index) =>
      seed === 4 ? 0 : Math.round(wave(index) * 8 * 2 ** 30),
    ),
    lag: Array.from({ length: 144 }, (_, index) => {
      if (seed === 4 || (seed === 2 && index < 50)) return null;
      if (seed === 3 && index > 142) return 480;
      return Math.round(wave(index - 1) * 180);
    }),
  };
}
