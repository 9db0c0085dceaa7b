import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  chartHeight,
  chartOf,
  chartWidth,
  hoursOf,
  summaryOf,
} from '../../../src/pages/status/chart.js';
import type { Day } from '../../../src/pages/status/status.js';

const start = '2026-01-01T00:00:00.000Z';

function day(bytes: number[], lag: (number | null)[], step = 600): Day {
  return { name: 'eu', start, step, bytes, lag };
}

test('bars stand on the ground, the highest fills the chart', () => {
  const { bars } = chartOf(day([0, 50, 100, 0], [0, 0, 0, 0]));
  assert.equal(bars, 'M72 40v-20h57.6v20zM144 40v-40h57.6v40z');
});

test('the least that was sent is seen', () => {
  assert.match(chartOf(day([1, 1e12], [0, 0])).bars, /^M0 40v-1h/);
});

test('the line has steps, and breaks where nothing is known', () => {
  const { line, gaps } = chartOf(day([0, 0, 0, 0], [60, null, 0, 30]));
  assert.equal(line, 'M0 0.5H72M144 39.5H216L216 20H288');
  assert.equal(gaps, 'M72 40v-40h72v40z');
});

test('a lag of some seconds does not look like one of hours', () => {
  assert.equal(chartOf(day([0], [6])).line, 'M0 35.6H288');
});

test('a day is told in one sentence', () => {
  assert.equal(summaryOf(day([0, 0], [null, null])), 'Nothing sent; not known for 20 min');
  assert.equal(summaryOf(day([0, 0], [0, 0])), 'Nothing sent; no lag');
  const text = summaryOf(day([600 * 1024, 600 * 2048], [null, 180]));
  assert.equal(text, '1.8 MiB sent, up to 2.0 KiB/s; lag up to 3 min; not known for 10 min');
});

test('the figures are by hours, the newest first, with the rest of an hour at the end', () => {
  const bytes = Array.from({ length: 8 }, () => 1024);
  const hours = hoursOf(day(bytes, [null, null, 1, 2, 3, null, 0, 5]));
  assert.deepEqual(hours, [
    { time: '00:20–01:20', sent: '6.0 KiB', lag: '5 s' },
    { time: '00:00–00:20', sent: '2.0 KiB', lag: 'not known' },
  ]);
});

test('whatever a day holds, all is drawn within the chart, and no hour is lost', () => {
  const step = fc.record({ bytes: fc.maxSafeNat(), lag: fc.option(fc.nat(10_000_000)) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150 }), (steps) => {
      const value = day(
        steps.map(({ bytes }) => bytes),
        steps.map(({ lag }) => lag),
      );
      const { bars, line, gaps, summary } = chartOf(value);
      for (const path of [bars, line, gaps]) assert.doesNotMatch(path, /NaN|Infinity|e/);
      for (const [, x, y] of line.matchAll(/[ML]([\d.]+) ([-\d.]+)/g)) {
        assert.ok(Number(x) <= chartWidth && Number(y) >= 0 && Number(y) <= chartHeight);
      }
      for (const [, up] of (bars + gaps).matchAll(/v-([\d.]+)h/g)) {
        assert.ok(Number(up) <= chartHeight && Number(up) > 0);
      }
      assert.doesNotMatch(summary, /NaN|undefined/);
      assert.equal(hoursOf(value).length, Math.ceil(steps.length / 6));
    }),
  );
});
