/** What the user sees of a pull. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createProgress } from '../../../../src/server/lxd/uploads/progress.js';

function progressOf(
  total: number,
  steps: [ms: number, part: 'metadata' | 'rootfs', bytes: number][],
) {
  let time = 0;
  const told: string[] = [];
  const tell = (metadata: { download_progress: string }) =>
    void told.push(metadata.download_progress);
  const progress = createProgress({ total, tell, now: () => time });
  for (const [ms, part, bytes] of steps) {
    time += ms;
    progress.add(part, bytes);
  }
  return told;
}

test('progress is told each second, and at the end, in per cent of all parts', () => {
  const told = progressOf(10_000_000, [
    [1000, 'metadata', 1000],
    [500, 'rootfs', 999_000],
    [500, 'rootfs', 1_000_000],
    [2000, 'rootfs', 2_199_999],
    [1, 'rootfs', 5_800_001],
  ]);
  assert.deepEqual(told, [
    'metadata: 0% (1.00kB/s)',
    'rootfs: 20% (1.00MB/s)',
    'rootfs: 41% (1.05MB/s)',
    'rootfs: 100% (2.50MB/s)',
  ]);
});

test('progress is told in bytes where nobody knows how many there will be', () => {
  assert.deepEqual(progressOf(0, [[2000, 'rootfs', 3_000_000]]), ['rootfs: 3.00MB (1.50MB/s)']);
});

test('progress stays at all where more comes than was told', () => {
  assert.deepEqual(progressOf(10, [[1000, 'rootfs', 20]]), ['rootfs: 100% (20.00B/s)']);
});
