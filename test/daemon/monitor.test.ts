/** What of the status is sent on live, and when. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createMonitor } from '../../src/daemon/monitor.js';
import type { DaemonStatus, LiveStatus, MirrorStatus } from '../../src/daemon/status.js';

const mirror: MirrorStatus = {
  ...{ name: 'eu', url: 'https://eu.example.org', remote: 'x@eu.example.org:22', schedule: '' },
  ...{ state: 'waiting', lag: { versions: 2, seconds: 5 } },
  counts: { files: 1, bytes: 1, syncs: 1, failures: 1 },
  serving: { state: 'healthy', since: '2026-01-01T00:00:00.000Z', ms: 3, redirected: 7 },
  next: '2026-01-01T01:00:00.000Z',
};

const idle: DaemonStatus = {
  ...{ version: '1', pid: 1, started: '2026-01-01T00:00:00.000Z', root: '/srv', ready: true },
  activity: { doing: 'idle', since: '2026-01-01T00:00:00.000Z' },
  catalogue: { products: 0, versions: 0, bytes: 0 },
  ...{ publications: [], held: [], heldCount: 0, jobs: [] },
  watching: { mode: 'events', folders: 0 },
  server: { reason: 'none' },
  mirrors: [mirror],
  process: { memory: 1, longestPauseMs: 0 },
};

function setUp() {
  const now = { time: Date.UTC(2026, 0, 1), status: idle };
  const monitor = createMonitor({
    reporter: { status: () => now.status },
    recorder: { days: () => [] },
    metrics: async () => ({ contentType: '', text: '' }),
    health: () => ({ ok: true }),
    now: () => now.time,
  });
  const live = () => monitor.live() as LiveStatus;
  /** Time goes by, and the mirror becomes another. */
  const pass = (ms: number, changes: Partial<MirrorStatus> = {}) => {
    const [before = mirror] = now.status.mirrors;
    now.time += ms;
    now.status = { ...now.status, mirrors: [{ ...before, ...changes }] };
  };
  return { now, monitor, live, pass };
}

test('what changes all the time is nothing new for half a minute', () => {
  const { now, live, pass } = setUp();
  const first = live();
  assert.equal(first.at, '2026-01-01T00:00:00.000Z');
  pass(10_000, { lag: { versions: 2, seconds: 15 }, counts: undefined as never });
  now.status = { ...now.status, process: { memory: 99, longestPauseMs: 70 } };
  pass(10_000, { serving: { ...mirror.serving, ms: 9, redirected: 100 } as never });
  pass(9_999, { next: '2026-01-01T01:00:01.000Z' });
  assert.equal(live(), first);
  pass(1);
  const { mirrors, process, at } = live();
  assert.deepEqual([mirrors[0]?.lag.seconds, process.memory], [15, 99]);
  assert.equal(at, '2026-01-01T00:00:30.000Z');
});

for (const [what, change] of Object.entries({
  'a state': { state: 'syncing' },
  'progress of work': {
    work: { stage: 'send', files: { done: 1, total: 2 }, bytes: { done: 1, total: 2 } },
  },
  'a lag that is over': { lag: { versions: 2, seconds: 0 } },
  'the versions that lack': { lag: { versions: 3, seconds: 5 } },
  'another time for the next try': { next: '2026-01-01T01:00:02.000Z' },
  'a mirror that does not answer': { serving: { ...mirror.serving, state: 'failing' } },
} as Record<string, Partial<MirrorStatus>>)) {
  test(`${what} is told at once`, () => {
    const { live, pass } = setUp();
    const first = live();
    pass(1, change);
    const next = live();
    assert.notEqual(next, first);
    assert.deepEqual(next.mirrors, [{ ...mirror, ...change }]);
    assert.equal(live(), next);
  });
}

test('a publication is told at once; the whole status has the days as well', () => {
  const { now, monitor, live } = setUp();
  const first = live();
  const at = '2026-01-01T00:00:01.000Z';
  const publications = [{ at, ms: 5, products: 1, versions: 1, bytes: 7 }];
  now.status = { ...now.status, publications };
  assert.notEqual(live(), first);
  assert.deepEqual(live().publications, publications);
  assert.ok(!('days' in live()));
  assert.deepEqual((monitor.status() as { days: unknown }).days, []);
});

test('after a clock was set back it is not an hour until something is told', () => {
  const { now, live } = setUp();
  const first = live();
  now.time -= 3_600_000;
  assert.notEqual(live(), first);
});
