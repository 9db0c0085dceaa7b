import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { formatCount, formatSize } from '../../../src/pages/figures.js';
import { changed, type Mirror, type Status } from '../../../src/pages/status/status.js';
import {
  activityOf,
  formatAge,
  formatDuration,
  formatSpan,
  formatTime,
  isFailing,
  jobText,
  lagText,
  servingOf,
  stateOf,
  verdictOf,
  workText,
} from '../../../src/pages/status/words.js';
import { statusValues } from '../../support/status-values.js';

const now = Date.UTC(2026, 0, 1);
const ago = (seconds: number) => new Date(now - seconds * 1000).toISOString();

/** The page's types fit what the daemon tells. */
const well: Status = statusValues({ now, mirrors: 3, held: 0 });
const [good, syncing] = well.mirrors;
assert.ok(good && syncing);
const calm: Status = { ...well, mirrors: [good] };

for (const [seconds, text] of [
  [0, '0 s'],
  [59.9, '59 s'],
  [60, '1 min'],
  [119, '1 min'],
  [3600, '1 h'],
  [7500, '2 h 5 min'],
  [36_060, '10 h'],
  [90_000, '1 d 1 h'],
  [864_000, '10 d'],
  [-5, '0 s'],
] as const) {
  test(`${seconds} seconds are ${text}`, () => assert.equal(formatSpan(seconds), text));
}

test('figures are written as people read them', () => {
  assert.deepEqual([0, 1023, 1024, 150 * 1024, 2 ** 60].map(formatSize), [
    ...['0 B', '1023 B', '1.0 KiB', '150 KiB', '1024 PiB'],
  ]);
  assert.deepEqual([0, 999, 1000, 1_234_567].map(formatCount), ['0', '999', '1,000', '1,234,567']);
  assert.deepEqual([0, 850.4, 1000, 90_000].map(formatDuration), [
    '0 ms',
    '850 ms',
    '1.0 s',
    '1 min',
  ]);
  assert.equal(formatTime(now), '2026-01-01 00:00:00 UTC');
});

test('an age is told from both sides of now', () => {
  assert.equal(formatAge(ago(4), now), 'just now');
  assert.equal(formatAge(ago(300), now), '5 min ago');
  assert.equal(formatAge(ago(-300), now), 'in 5 min');
  assert.equal(formatAge('nonsense', now), 'at an unknown time');
});

test('a lag goes on while nothing new is heard, and none does not begin', () => {
  const at = now - 30_000;
  assert.equal(lagText({ lag: { versions: 2, seconds: 10 } }, { at, now }), '2 versions, 40 s');
  assert.equal(lagText({ lag: { versions: 0, seconds: 0 } }, { at, now }), '');
  assert.equal(lagText({ lag: { seconds: 10 } }, { at: now + 5000, now }), '10 s');
});

test('work is told with what is known of it', () => {
  assert.ok(syncing.work);
  const text = '12 of 40 files, 3.0 GiB of 8.0 GiB, 93.1 MiB/s, 47 s left';
  assert.equal(workText(syncing.work), text);
  const none = { done: 0, total: 0 };
  assert.equal(workText({ stage: 'look', files: none, bytes: none }), '');
});

test('mirrors and how they serve have words and moods; what is not known here has its own name', () => {
  assert.deepEqual(stateOf({ state: 'stopped' }), { text: 'Stopped', mood: 'bad' });
  assert.deepEqual(stateOf({ state: 'dancing' as Mirror['state'] }), {
    text: 'dancing',
    mood: 'plain',
  });
  const serving = { since: ago(1), ms: 12, redirected: 1204 };
  assert.match(servingOf({ ...serving, state: 'healthy' }).text, /within 12 ms; 1,204 requests/);
  assert.equal(servingOf({ ...serving, state: 'failing' }).mood, 'bad');
  assert.match(servingOf({ ...serving, state: 'unknown' }).text, /Not tried yet/);
  assert.equal(isFailing({ state: 'synced', serving: { ...serving, state: 'failing' } }), true);
  assert.equal(isFailing({ state: 'syncing' }), false);
  assert.equal(isFailing({ state: 'syncing', failure: { at: ago(1), message: 'x' } }), true);
});

test('jobs say when, how it went, and what they missed', () => {
  const job = { name: 'verify', schedule: '0 4 * * *', state: 'idle', missed: 0 } as const;
  const last = { at: ago(3600), ms: 1500 };
  assert.equal(
    jobText({ ...job, next: ago(-60), last }, now),
    'next in 1 min; last 1 h ago, took 1.5 s',
  );
  assert.equal(jobText({ ...job, schedule: '', missed: 1 }, now), 'never; missed once');
  assert.equal(
    jobText({ ...job, state: 'running', missed: 3 }, now),
    'running now; missed 3 times',
  );
});

describe('how all is', () => {
  const failing = { ...good, state: 'waiting' };
  const job = { name: 'verify', schedule: '', state: 'idle', missed: 0 };
  const failed = { ...job, last: { at: ago(1), ms: 1, failure: 'x' } };
  for (const [status, text, mood] of [
    [calm, 'All is well.', 'good'],
    [{ ...calm, mirrors: [] }, 'All is well.', 'good'],
    [{ ...calm, ready: false }, 'The daemon is looking at the tree for the first time.', 'plain'],
    [
      { ...calm, activity: { doing: 'waiting', since: ago(1) } },
      'New images cannot be published.',
      'bad',
    ],
    [{ ...calm, mirrors: [failing] }, 'The mirror fails.', 'bad'],
    [{ ...calm, mirrors: [failing, failing] }, 'All mirrors fail.', 'bad'],
    [{ ...calm, mirrors: [failing, good] }, '1 of 2 mirrors fails.', 'bad'],
    [{ ...calm, heldCount: 1200 }, '1,200 held back.', 'warn'],
    [{ ...calm, jobs: [failed] }, '1 job failed.', 'warn'],
    [
      { ...calm, mirrors: [failing, failing, good], heldCount: 2 },
      '2 of 3 mirrors fail; 2 held back.',
      'bad',
    ],
  ] as const) {
    test(text, () => assert.deepEqual(verdictOf(status as Status), { text, mood }));
  }

  test('until the tree has been looked at, idle is no state', () => {
    assert.equal(activityOf({ ...calm, ready: false }).text, 'Starting');
    assert.deepEqual(activityOf(calm), { text: 'Idle', mood: 'good' });
  });
});

test('changes take the place of members, and null takes them away', () => {
  const next = changed({ ...well, published: 1 } as never, { published: null, heldCount: 5 });
  assert.equal(next.heldCount, 5);
  assert.ok(!('published' in next));
  assert.equal(next.version, well.version);
});

test('spans and sizes have words for every number', () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1e12, noNaN: true }), (value) => {
      assert.match(formatSpan(value), /^\d+ (?:d|h|min|s)(?: [1-9]\d? (?:h|min))?$/);
      assert.match(formatSize(Math.floor(value)), /^[\d.]{1,6} (?:B|[KMGTP]iB)$/);
    }),
  );
});
