/** How the soak measures and judges. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { watch } from 'node:fs';
import { open } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { temporaryFolder } from '../support/temporary.js';
import { descriptorKinds, flatnessOf, measure, type Sample } from './samples.js';

/** A sample every tenth of an hour of a day; `memory` tells that of an hour. */
function day(memory: (hour: number) => number): Sample[] {
  return Array.from({ length: 240 }, (_unused, index) => {
    const hour = index / 10;
    return { hour, memory: memory(hour), descriptors: 20, watches: 100 };
  });
}

describe('memory is', () => {
  test('flat where it grows in the first tenth only', () => {
    const samples = day((hour) => Math.min(100 + hour * 50, 200));
    assert.deepEqual(flatnessOf(samples, 24), { early: 200, late: 200, slope: 0, growth: 0 });
  });

  test('not flat where it goes on growing', () => {
    const { early, late, slope, growth } = flatnessOf(
      day((hour) => 100 + hour),
      24,
    );
    assert.deepEqual([early, late], [103.6, 121.6]);
    assert.ok(Math.abs(slope - 1) < 1e-9, `${slope}`);
    assert.ok(Math.abs(growth - (24 * 0.9) / 103.6) < 1e-9, `${growth}`);
  });

  test('flat where it only goes up and down', () => {
    const { slope } = flatnessOf(
      day((hour) => 100 + (Math.round(hour * 10) % 2)),
      24,
    );
    assert.ok(Math.abs(slope) < 1e-3, `${slope}`);
  });
});

test('the descriptors of a process are counted, and told apart', async (t) => {
  const file = `${await temporaryFolder(t)}/left-open`;
  const handle = await open(file, 'w');
  t.after(() => handle.close());
  const stdio = ['ignore', 'ignore', 'ignore', handle.fd] as const;
  const child = spawn('sleep', ['600'], { stdio: [...stdio] });
  t.after(() => child.kill('SIGKILL'));
  const { descriptors, watches } = await measure(child.pid as number);
  const kinds = await descriptorKinds(child.pid as number);
  assert.equal(kinds[file], 1);
  const sum = Object.values(kinds).reduce((all, count) => all + count, 0);
  assert.deepEqual([descriptors, watches], [sum, 0]);
});

test('inotify watches are counted', async (t) => {
  const [one, other] = [await temporaryFolder(t), await temporaryFolder(t)];
  const before = (await measure(process.pid)).watches;
  for (const folder of [one, other]) {
    const watcher = watch(folder);
    t.after(() => watcher.close());
  }
  assert.equal((await measure(process.pid)).watches, before + 2);
});
