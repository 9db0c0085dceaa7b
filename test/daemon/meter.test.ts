import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createMeter } from '../../src/daemon/meter.js';

test('a steady flow has its rate, whenever it is looked at', () => {
  const steps = fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 60 });
  fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 1000 }), (pauses, perMs) => {
      let now = 0;
      const meter = createMeter(() => now);
      meter.note(0);
      for (const pause of pauses) {
        now += pause;
        meter.note(now * perMs);
      }
      const rate = meter.rate();
      if (now < 250) assert.equal(rate, undefined);
      else assert.equal(rate, perMs * 1000);
    }),
  );
});

test('what was long ago does not count', () => {
  let now = 0;
  const meter = createMeter(() => now);
  for (; now <= 60_000; now += 1000) meter.note(0);
  for (let done = 5000; now <= 75_000; now += 1000, done += 5000) meter.note(done);
  now -= 1000;
  assert.equal(meter.rate(), 5000);
});

test('what begins anew is measured anew', () => {
  let now = 0;
  const meter = createMeter(() => now);
  meter.note(0);
  now += 1000;
  meter.note(1_000_000);
  meter.note(0);
  assert.equal(meter.rate(), undefined);
  now += 1000;
  meter.note(10);
  assert.equal(meter.rate(), 10);
});
