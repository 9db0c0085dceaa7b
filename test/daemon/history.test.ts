/** The last day of mirrors, by clocks of all kinds. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  createHistory,
  createRecorder,
  daySteps,
  type Sample,
  stepSeconds,
} from '../../src/daemon/history.js';
import { createMirrorDays } from '../../src/disk/mirror-days.js';
import { memoryLog } from '../support/memory-log.js';
import { temporaryFolder } from '../support/temporary.js';

const stepMs = stepSeconds * 1000;
/** The beginning of a step. */
const start = Date.UTC(2026, 0, 2);

function sample(bytes: number, seconds: number, more: Partial<Sample> = {}): Sample {
  const counts = { files: 0, bytes, syncs: 0, failures: 0 };
  return { name: 'eu', state: 'synced', lag: { seconds }, counts, ...more };
}

/** The last steps of `eu`, the newest last. */
function last(history: ReturnType<typeof createHistory>, now: number, count: number) {
  const [day] = history.days(['eu'], now);
  assert.ok(day);
  return { bytes: day.bytes.slice(-count), lag: day.lag.slice(-count) };
}

describe('the day of a mirror', () => {
  test('has for each step what was sent in it, and the longest lag', () => {
    const history = createHistory();
    history.take([sample(100, 5)], start);
    history.take([sample(150, 30)], start + stepMs / 2);
    history.take([sample(150, 0)], start + stepMs - 1);
    history.take([sample(450, 7)], start + stepMs);
    const [day] = history.days(['eu'], start + stepMs);
    assert.ok(day);
    const first = new Date(start + (2 - daySteps) * stepMs).toISOString();
    assert.deepEqual([day.start, day.step], [first, stepSeconds]);
    assert.deepEqual([day.bytes.length, day.lag.length], [daySteps, daySteps]);
    const now = start + stepMs;
    assert.deepEqual(last(history, now, 3), { bytes: [0, 150, 300], lag: [null, 30, 7] });
  });

  test('says of what was before the start, and of a mirror that nobody has looked at, that it is not known', () => {
    const history = createHistory();
    history.take([sample(0, 0, { state: 'unknown' })], start);
    const [day] = history.days(['eu'], start);
    assert.deepEqual(new Set(day?.lag), new Set([null]));
    history.take([sample(0, 0)], start + 1);
    assert.deepEqual(last(history, start + 1, 2).lag, [null, 0]);
  });

  test('counts on where a mirror was begun anew and counts from 0', () => {
    const history = createHistory();
    history.take([sample(1000, 0)], start);
    history.take([sample(10, 0)], start + 1);
    history.take([sample(15, 0)], start + 2);
    assert.deepEqual(last(history, start + 2, 1).bytes, [1015]);
  });

  test('has a gap where the clock was set forward, or the host slept', () => {
    const history = createHistory();
    history.take([sample(10, 1)], start);
    history.take([sample(30, 2)], start + 3 * stepMs);
    const found = last(history, start + 3 * stepMs, 4);
    assert.deepEqual(found, { bytes: [10, 0, 0, 20], lag: [1, null, null, 2] });
  });

  test('forgets what is older than a day', () => {
    const history = createHistory();
    history.take([sample(10, 1)], start);
    history.take([sample(10, 1)], start + (daySteps - 1) * stepMs);
    assert.equal(history.days(['eu'], start + (daySteps - 1) * stepMs)[0]?.bytes[0], 10);
    history.take([sample(10, 1)], start + daySteps * stepMs);
    const [day] = history.days(['eu'], start + daySteps * stepMs);
    assert.deepEqual(new Set(day?.bytes), new Set([0]));
  });

  test('forgets what was of a clock far ahead, when that is set right', () => {
    const history = createHistory();
    history.take([sample(10, 1)], start);
    history.take([sample(30, 2)], start + 50 * stepMs);
    history.take([sample(35, 3)], start + stepMs);
    const found = last(history, start + stepMs, 2);
    assert.deepEqual(found, { bytes: [10, 5], lag: [1, 3] });
    const [day] = history.days(['eu'], start + 60 * stepMs);
    assert.equal(
      day?.bytes.reduce((sum, each) => sum + each),
      15,
    );
  });

  test('loses nothing to a clock that is set back by a little', () => {
    const history = createHistory();
    history.take([sample(10, 1)], start);
    history.take([sample(20, 2)], start - 2000);
    assert.deepEqual(last(history, start, 2), { bytes: [0, 20], lag: [null, 2] });
  });

  test('goes on where an earlier process ended', () => {
    const before = createHistory();
    before.take([sample(10, 1)], start);
    before.take([sample(30, 2)], start + 2 * stepMs);
    const history = createHistory(before.kept());
    history.take([sample(7, 0)], start + 2 * stepMs + 5000);
    const found = last(history, start + 2 * stepMs + 5000, 4);
    assert.deepEqual(found, { bytes: [0, 10, 0, 27], lag: [null, 1, null, 2] });
  });

  test('loses nothing to a clock that is set back by a little while no process runs', () => {
    const before = createHistory();
    before.take([sample(10, 1)], start);
    const history = createHistory(before.kept());
    history.take([sample(5, 2)], start - 2000);
    assert.deepEqual(last(history, start, 2), { bytes: [0, 15], lag: [null, 2] });
  });

  test('is forgotten with a mirror that stays away, and only then', () => {
    const history = createHistory();
    history.take([sample(10, 1)], start);
    history.take([], start + stepMs);
    assert.equal(history.kept().length, 1);
    history.take([], start + 2 * stepMs);
    assert.deepEqual(history.kept(), []);
  });
});

test('what was kept of a mirror that is configured no more is forgotten as well', () => {
  const before = createHistory();
  before.take([sample(10, 1)], start);
  const history = createHistory(before.kept());
  history.take([], start);
  assert.equal(history.kept().length, 1);
  history.take([], start + 2 * stepMs);
  assert.deepEqual(history.kept(), []);
});

test('whatever the clock does, a day has its length, and no more than what was sent', () => {
  const call = fc.record({
    jump: fc.oneof(
      fc.integer({ min: 0, max: 60_000 }),
      fc.integer({ min: -3 * stepMs, max: 3 * stepMs }),
      fc.integer({ min: -400 * stepMs, max: 400 * stepMs }),
    ),
    sent: fc.nat(1000),
    begunAnew: fc.boolean(),
    lag: fc.nat(10_000),
  });
  fc.assert(
    fc.property(fc.array(call, { maxLength: 60 }), (calls) => {
      let history = createHistory();
      let [now, counted, total, longest] = [start * 2, 0, 0, 0];
      for (const { jump, sent, begunAnew, lag } of calls) {
        now += jump;
        counted = begunAnew && sent < counted ? sent : counted + sent;
        total += sent;
        longest = Math.max(longest, lag);
        history.take([sample(counted, lag)], now);
        const [day] = history.days(['eu'], now);
        assert.ok(day && day.bytes.length === daySteps && day.lag.length === daySteps);
        assert.ok(day.bytes.every((each) => each >= 0));
        assert.ok(day.bytes.reduce((sum, each) => sum + each) <= total);
        assert.ok(day.lag.every((each) => each === null || each <= longest));
        // What has just been taken in is in the last step.
        assert.ok((day.bytes.at(-1) ?? 0) >= sent && (day.lag.at(-1) ?? -1) >= lag);
        const kept = history.kept();
        assert.ok(kept.every(({ bytes }) => bytes.length <= daySteps));
        if (sent % 7 !== 0) continue;
        history = createHistory(kept);
        assert.deepEqual(history.days(['eu'], now), [day]);
        counted = 0;
      }
    }),
  );
});

test('200 mirrors take no more memory after a year than after a day', () => {
  const history = createHistory();
  const mirrors = Array.from({ length: 200 }, (_, index) => sample(1, 1, { name: `m${index}` }));
  for (let step = 0; step < 365; step += 1) history.take(mirrors, start + step * 24 * stepMs);
  for (let step = 0; step < 300; step += 1) {
    history.take(mirrors, start + (365 * 24 + step) * stepMs);
  }
  const kept = history.kept();
  assert.equal(kept.length, 200);
  assert.deepEqual(new Set(kept.map(({ bytes }) => bytes.length)), new Set([daySteps]));
});

describe('the recorder', () => {
  test('keeps the day in the state folder when it ends, and the next one has it', async (t) => {
    const { log, events } = memoryLog();
    const store = createMirrorDays({ stateDir: await temporaryFolder(t), log });
    const recorder = await createRecorder({ store, mirrors: () => [sample(12, 3)] });
    await recorder.close();
    const next = await createRecorder({ store, mirrors: () => [sample(5, 0)] });
    t.after(() => next.close());
    const [day] = next.days();
    assert.equal(
      day?.bytes.reduce((sum, each) => sum + each),
      17,
    );
    assert.deepEqual(events, []);
  });

  test('looks at the mirrors by itself', async (t) => {
    const { log } = memoryLog();
    const store = createMirrorDays({ stateDir: await temporaryFolder(t), log });
    let asked = () => {};
    const askedTwice = new Promise<void>((resolve) => {
      let times = 0;
      asked = () => ++times === 2 && resolve();
    });
    const mirrors = () => {
      asked();
      return [sample(1, 1)];
    };
    const recorder = await createRecorder({ store, mirrors, everyMs: 5 });
    await askedTwice;
    await recorder.close();
  });

  test('writes nothing where there are no mirrors', async (t) => {
    const { log } = memoryLog();
    const store = createMirrorDays({ stateDir: await temporaryFolder(t), log });
    const saves: unknown[] = [];
    const save = async (days: unknown) => void saves.push(days);
    const recorder = await createRecorder({ store: { ...store, save }, mirrors: () => [] });
    await recorder.close();
    assert.deepEqual(saves, []);
  });
});
