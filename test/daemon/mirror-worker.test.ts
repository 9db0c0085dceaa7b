/** When a mirror is synced, and what becomes of failures; a host with a clock of its own, and syncs that the test ends. */
import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { createMirrorWorker, type MirrorWorkerOptions } from '../../src/daemon/mirror-worker.js';
import { ServerError } from '../../src/errors.js';
import type { Generation } from '../../src/mirror/generation.js';
import type {
  MirrorCheck,
  Replicator,
  SyncOptions,
  SyncResult,
  VerifyOptions,
} from '../../src/mirror/replicate.js';
import { simulateHost } from '../support/clock.js';
import { generationOf } from '../support/image-generations.js';
import { memoryLog } from '../support/memory-log.js';

const start = new Date('2026-01-01T00:00:00Z');
const second = 1000;
const minute = 60_000;
const hour = 60 * minute;

const [one, two] = [generationOf({ 'a/x/1': 'one' }), generationOf({ 'a/x/1': 'two' })];

/** What was asked of the mirror, and how it went on. */
interface Call {
  options: SyncOptions;
  succeed(result?: Partial<SyncResult>): void;
  fail(error: unknown): void;
}

interface Setup {
  calls: Call[];
  checks: VerifyOptions[];
  /** When it was only looked at. */
  looks: number[];
  /** Whether such looks fail. */
  blind(now: boolean): void;
  worker: ReturnType<typeof createMirrorWorker>;
  /** The last call, which goes on. */
  current(): Call;
  /** Whether verifications from now on go on until they are broken off. */
  hang(now: boolean): void;
  publish(generation: Generation): void;
  logged(): { msg: string; [field: string]: unknown }[];
  pass(milliseconds: number): Promise<void>;
  setClock(milliseconds: number): void;
}

function setUp(
  t: Pick<TestContext, 'after'>,
  {
    generation = one,
    ...options
  }: Partial<MirrorWorkerOptions> & { generation?: Generation | null } = {},
): Setup {
  const host = simulateHost(start);
  const calls: Call[] = [];
  const checks: VerifyOptions[] = [];
  let newest = generation ?? undefined;
  let hangs = false;
  const looks: number[] = [];
  let isSure = false;
  let isBlind = false;
  const replicator: Replicator = {
    sync: (wanted, given = {}) =>
      new Promise((resolve, reject) => {
        given.signal?.addEventListener('abort', () => reject(given.signal?.reason));
        const succeed = (result: Partial<SyncResult> = {}) =>
          resolve({
            generation: wanted().id,
            sent: { files: 1, bytes: 10 },
            adopted: 0,
            removed: 0,
            again: undefined,
            ...result,
          });
        calls.push({ options: given, succeed, fail: reject });
      }),
    async verify(_wanted, given = {}) {
      checks.push(given);
      if (hangs)
        await new Promise((_, reject) => {
          given.signal?.addEventListener('abort', () => reject(given.signal?.reason));
        });
      const damage = [{ path: 'images/a', reason: 'it is not there' }];
      return { files: 1, bytes: 1, damage, extra: [], repaired: false } as MirrorCheck;
    },
    lag: () => 7,
    async recall(_wanted, { signal } = {}) {
      looks.push(performance.now());
      signal?.throwIfAborted();
      if (isBlind) throw down();
      isSure = true;
    },
    holds: () => isSure,
    sample: () => undefined,
    doubt() {
      isSure = false;
    },
    isSure: () => isSure,
  };
  const { log, events } = memoryLog();
  const worker = createMirrorWorker({
    ...{ name: 'eu', replicator, newest: () => newest, scheduled: false, log, random: () => 1 },
    ...options,
  });
  t.after(async () => {
    await worker.close();
    host.restore();
  });
  return {
    calls,
    checks,
    looks,
    blind(now) {
      isBlind = now;
    },
    worker,
    current: () => calls.at(-1) as Call,
    hang(now) {
      hangs = now;
    },
    publish(next) {
      newest = next;
      worker.published();
    },
    logged: () => events.map(({ time: _time, ...fields }) => fields),
    pass: host.pass,
    setClock: host.setClock,
  };
}

const down = () => new ServerError('MIRROR_DOWN', 'Mirror eu: gone', { hint: 'bring it back' });

describe('a mirror', () => {
  test('waits until there is something to have', async (t) => {
    const { calls, publish, worker, pass } = setUp(t, { generation: null });
    await pass(hour);
    assert.equal(calls.length, 0);
    await assert.rejects(worker.sync(), { code: 'NOT_INITIALISED' });
    await assert.rejects(worker.verify({ repair: false }), { code: 'NOT_INITIALISED' });
    publish(one);
    await pass(1);
    assert.equal(calls.length, 1);
  });

  test('is synced with each publication, and looked at closely at first and each hour', async (t) => {
    const { calls, current, publish, worker, pass } = setUp(t);
    await pass(1);
    assert.equal(worker.status().state, 'syncing');
    assert.equal(current().options.inspect, true, 'nobody knows what happened while we were away');
    current().succeed();
    const synced = new Date(Date.now() + 1).toISOString();
    await pass(1);
    assert.deepEqual(worker.status(), {
      state: 'synced',
      generation: one.id,
      synced,
      lag: { versions: 0, seconds: 0 },
      counts: { files: 0, bytes: 0, syncs: 1, failures: 0 },
    });
    publish(two);
    await pass(1);
    assert.equal(current().options.inspect, false);
    current().succeed();
    await pass(hour - minute);
    assert.equal(calls.length, 2);
    await pass(minute);
    assert.equal(calls.length, 3);
    assert.equal(current().options.inspect, true);
  });

  test('is looked at once more where a connection was lost, for the mirror may do later what it was asked', async (t) => {
    const { calls, current, worker, pass } = setUp(t);
    await pass(1);
    worker.lost();
    current().succeed();
    await pass(29 * second);
    assert.equal(calls.length, 1);
    await pass(2 * second);
    assert.equal(calls.length, 2);
    assert.equal(current().options.inspect, true);
    current().succeed();
    await pass(hour - minute);
    assert.equal(calls.length, 2, 'once is enough');
  });

  test('is synced once more for what is published while it is synced', async (t) => {
    const { calls, current, publish, pass } = setUp(t);
    await pass(1);
    publish(two);
    current().succeed({ generation: one.id });
    await pass(1);
    assert.equal(calls.length, 2);
  });

  test('is synced when a file is due to be removed, also where the clock is set', async (t) => {
    const { calls, current, pass, setClock } = setUp(t, { inspectEvery: 1000 * hour });
    await pass(1);
    current().succeed({ again: Date.now() + 5 * hour });
    await pass(5 * hour - second);
    assert.equal(calls.length, 1);
    await pass(2 * second);
    assert.equal(calls.length, 2);
    current().succeed({ again: Date.now() + 5 * hour });
    await pass(second);
    setClock(5 * hour);
    await pass(10 * minute);
    assert.equal(calls.length, 3);
  });

  test('that fails is tried again later and later, told of once, and counted from anew when it gets on', async (t) => {
    const { calls, current, worker, logged, pass } = setUp(t);
    await pass(1);
    for (const pause of [1, 2, 4, 8]) {
      current().fail(down());
      const after = new Date(Date.now() + 1 + pause * second).toISOString();
      await pass(1);
      const { state, failure, next } = worker.status();
      assert.deepEqual(
        [state, failure?.message, failure?.hint],
        ['waiting', 'Mirror eu: gone', 'bring it back'],
      );
      assert.equal(next, after);
      const before = calls.length;
      await pass(pause * second - 2);
      assert.equal(calls.length, before);
      await pass(2);
      assert.equal(calls.length, before + 1);
    }
    const told = logged().map(({ msg }) => msg);
    assert.deepEqual(told, ['cannot bring the mirror up to date; it is tried again']);
    const progress = { stage: 'send', files: { done: 1, total: 9 }, bytes: { done: 5, total: 9 } };
    current().options.onProgress?.(progress as never);
    assert.deepEqual(worker.status().work, progress);
    current().fail(down());
    await pass(1);
    await pass(second);
    assert.equal(calls.length, 6, 'it got on, so the pause is a first one');
    current().succeed();
    await pass(1);
    assert.equal(worker.status().failure, undefined);
  });

  test('lags from the publication that it does not have, through failures and a restart', async (t) => {
    const { current, publish, worker, pass } = setUp(t);
    await pass(1);
    current().succeed();
    await pass(hour / 2);
    publish(two);
    await pass(1);
    current().fail(down());
    await pass(20 * second);
    assert.deepEqual(worker.status().lag, { versions: 7, seconds: 20 });
    const { behind, generation } = worker.state();
    assert.deepEqual([generation, behind], [one.id, '2026-01-01T00:30:00.001Z']);
    publish(one);
    assert.equal(worker.status().lag.seconds, 0, 'what it lacked has been taken back');
  });

  test('lags where it has lost what it had', async (t) => {
    const { calls, current, worker, pass } = setUp(t);
    await pass(1);
    current().succeed();
    while (calls.length === 1) await pass(minute);
    current().fail(new ServerError('MIRROR_FULL', 'No room'));
    await pass(1);
    await pass(2 * second);
    assert.deepEqual(worker.status().lag, { versions: 7, seconds: 2 });
  });

  test('is not said to be behind, nor in sync, before it is known what there is to have', async (t) => {
    const kept = { generation: one.id, synced: start.toISOString() };
    const { current, worker, publish, pass } = setUp(t, { generation: null, kept });
    worker.published();
    await pass(minute);
    assert.deepEqual(
      [worker.status().state, worker.status().lag, worker.state()],
      ['unknown', { seconds: 0 }, kept],
    );
    publish(one);
    await pass(1);
    current().succeed();
    await pass(1);
    assert.equal(worker.status().state, 'synced');
  });

  test('that only a hand can help waits for one', async (t) => {
    const refused = new ServerError('MIRROR_AUTH', 'Mirror eu: refused', { hint: 'let it in' });
    const { calls, current, publish, worker, logged, pass } = setUp(t);
    await pass(1);
    current().fail(refused);
    await pass(1);
    publish(two);
    await pass(48 * hour);
    assert.equal(calls.length, 1);
    assert.deepEqual([worker.status().state, worker.status().next], ['stopped', undefined]);
    assert.deepEqual(
      logged().map(({ level, msg }) => [level, msg]),
      [[50, 'the mirror waits for somebody to see to it']],
    );
    worker.retry();
    await pass(1);
    assert.equal(calls.length, 2);
  });

  test('is looked at closely where it was not as it was believed to be', async (t) => {
    const { current, publish, pass } = setUp(t);
    await pass(1);
    current().succeed();
    await pass(1);
    publish(two);
    await pass(1);
    current().fail(new ServerError('MIRROR_DAMAGED', 'a folder is a file', { hint: 'h' }));
    await pass(2 * second);
    assert.equal(current().options.inspect, true);
  });

  test('whose file has changed here is tried with the next publication, and nobody is warned', async (t) => {
    const { calls, current, publish, logged, pass } = setUp(t);
    await pass(1);
    for (let count = 0; count < 5; count++) {
      current().fail(new ServerError('SOURCE_CHANGED', 'it has changed', { hint: 'h' }));
      await pass(20 * second);
    }
    current().fail(new ServerError('SOURCE_CHANGED', 'it has changed', { hint: 'h' }));
    await pass(1);
    const before = calls.length;
    publish(two);
    await pass(1);
    assert.equal(calls.length, before + 1);
    assert.deepEqual(logged(), []);
  });

  test('is not given up for a fault of ours, which is logged with its stack', async (t) => {
    const { calls, current, logged, pass } = setUp(t);
    await pass(1);
    current().fail(new TypeError('undefined is no function'));
    await pass(5 * minute + second);
    assert.equal(calls.length, 2);
    const { err } = logged()[0] as unknown as { err: { stack: string } };
    assert.match(err.stack, /mirror-worker\.test/);
  });
});

describe('a mirror with hours of its own', () => {
  test('is synced at these alone', async (t) => {
    const { calls, current, publish, worker, pass } = setUp(t, { scheduled: true });
    publish(two);
    await pass(hour);
    assert.equal(calls.length, 0);
    worker.due();
    await pass(1);
    current().succeed({ again: Date.now() + minute });
    await pass(hour);
    publish(one);
    await pass(hour);
    assert.equal(calls.length, 1);
    assert.equal(worker.status().state, 'behind');
  });

  test('is tried again for an hour', async (t) => {
    const { calls, current, worker, logged, pass } = setUp(t, { scheduled: true });
    worker.due();
    for (let passed = 0; passed < 3 * hour; passed += second) {
      await pass(second);
      const { state } = worker.status();
      if (state === 'syncing') current().fail(down());
    }
    const tried = calls.length;
    assert.ok(tried > 10 && tried < 30, `${tried} times`);
    assert.equal(worker.status().next, undefined);
    assert.equal(logged().at(-1)?.msg, 'the mirror is tried again at its next hour');
    worker.due();
    await pass(1);
    assert.equal(calls.length, tried + 1);
  });
});

test('a mirror with hours of its own is behind once damage was found on it', async (t) => {
  const { current, worker, pass } = setUp(t, { scheduled: true });
  worker.due();
  await pass(1);
  current().succeed();
  await pass(1);
  assert.equal(worker.status().state, 'synced');
  await worker.verify({ repair: false });
  await pass(2 * second);
  const { state, lag } = worker.status();
  assert.deepEqual([state, lag], ['behind', { versions: 7, seconds: 2 }]);
  worker.due();
  await pass(1);
  current().succeed();
  await pass(1);
  assert.deepEqual(worker.status().lag, { versions: 0, seconds: 0 });
});

describe('a mirror with hours of its own that has failed at one', () => {
  test('is tried at once when somebody has seen to it, not at the next hour', async (t) => {
    const { calls, current, worker, pass } = setUp(t, { scheduled: true });
    worker.due();
    await pass(1);
    current().fail(down());
    await pass(1);
    worker.retry();
    await pass(1);
    assert.equal(calls.length, 2);
    current().fail(new ServerError('MIRROR_AUTH', 'refused'));
    await pass(1);
    worker.retry();
    await pass(1);
    assert.equal(calls.length, 3);
    current().fail(new ServerError('MIRROR_AUTH', 'refused'));
    await pass(2 * hour);
    worker.retry();
    await pass(hour);
    assert.equal(calls.length, 3, 'its hour is long over');
  });

  test('for a file that has changed here is tried with the next publication', async (t) => {
    const { calls, current, publish, worker, pass } = setUp(t, { scheduled: true });
    worker.due();
    await pass(1);
    current().fail(new ServerError('SOURCE_CHANGED', 'images/a has changed'));
    await pass(1);
    publish(two);
    await pass(1);
    assert.equal(calls.length, 2);
    current().succeed();
    await pass(1);
    publish(one);
    await pass(hour);
    assert.equal(calls.length, 2);
  });

  test('is tried again for an hour since it last got on', async (t) => {
    const { calls, current, worker, pass } = setUp(t, { scheduled: true });
    worker.due();
    await pass(5 * hour);
    const counts = { files: { done: 1, total: 9 }, bytes: { done: 5, total: 9 } };
    current().options.onProgress?.({ stage: 'send', ...counts });
    current().fail(down());
    await pass(2 * second);
    assert.equal(calls.length, 2);
  });
});

describe('somebody who asks', () => {
  test('gets the result of a sync that began after that, and looks at everything', async (t) => {
    const { calls, current, worker, pass } = setUp(t, { scheduled: true });
    const asked = worker.sync({ takeOver: true });
    await pass(1);
    assert.deepEqual([current().options.inspect, current().options.takeOver], [true, true]);
    const later = worker.sync();
    current().succeed({ removed: 3 });
    assert.equal((await asked).removed, 3);
    await pass(1);
    assert.equal(calls.length, 2);
    assert.equal(current().options.takeOver, false);
    current().fail(down());
    await assert.rejects(later, { code: 'MIRROR_DOWN' });
  });

  test('can go away, and the sync goes on', async (t) => {
    const { current, worker, pass } = setUp(t);
    const leaving = new AbortController();
    const asked = worker.sync({ signal: leaving.signal });
    await pass(1);
    leaving.abort();
    await assert.rejects(asked, { code: 'INTERRUPTED' });
    current().succeed();
    await pass(1);
    assert.equal(worker.status().state, 'synced');
  });

  test('verifies when no sync is under way, and damage is looked into by the next one', async (t) => {
    const { calls, checks, current, worker, pass } = setUp(t);
    await pass(1);
    const asked = worker.verify({ repair: false });
    await pass(1);
    assert.equal(checks.length, 0);
    current().succeed();
    const { damage } = await asked;
    assert.equal(damage.length, 1);
    await pass(1);
    assert.equal(calls.length, 2);
    assert.equal(current().options.inspect, true);
  });

  test('verifies for ten seconds at least, then what is due goes first', async (t) => {
    const { calls, checks, current, hang, publish, worker, pass } = setUp(t);
    await pass(1);
    current().succeed();
    hang(true);
    const asked = worker.verify({ repair: false });
    await pass(second);
    assert.equal(worker.status().state, 'verifying');
    publish(two);
    await pass(8 * second);
    assert.deepEqual([checks.length, calls.length], [1, 1]);
    await pass(2 * second);
    assert.equal(calls.length, 2);
    assert.equal(worker.status().state, 'syncing');
    hang(false);
    current().succeed();
    await asked;
    assert.equal(checks.length, 2);
    assert.equal(checks[1]?.verified, checks[0]?.verified, 'it goes on where it was');
  });

  test('makes way as well where the verification began when the sync was waiting already', async (t) => {
    const { calls, checks, current, hang, publish, worker, pass } = setUp(t);
    await pass(1);
    current().succeed();
    hang(true);
    const asked = [worker.verify({ repair: false }), worker.verify({ repair: false })];
    await pass(second);
    publish(two);
    await pass(11 * second);
    assert.deepEqual([checks.length, calls.length], [2, 1]);
    await pass(11 * second);
    assert.equal(calls.length, 2);
    hang(false);
    current().succeed();
    await Promise.all(asked);
  });

  test('makes way with a verification that mends as soon as that reads', async (t) => {
    const { calls, checks, current, hang, publish, worker, pass } = setUp(t);
    await pass(1);
    current().succeed();
    hang(true);
    const asked = worker.verify({ repair: true });
    await pass(second);
    const counts = { files: { done: 0, total: 1 }, bytes: { done: 0, total: 1 } };
    checks[0]?.onProgress?.({ stage: 'look', ...counts });
    publish(two);
    await pass(15 * second);
    assert.equal(calls.length, 1);
    checks[0]?.onProgress?.({ stage: 'check', ...counts });
    await pass(10 * second);
    assert.equal(calls.length, 2);
    hang(false);
    current().succeed();
    await asked;
  });

  test('brings to its end what a verification has begun to mend', async (t) => {
    const { checks, current, hang, publish, worker, pass } = setUp(t);
    await pass(1);
    current().succeed();
    hang(true);
    const leaving = new AbortController();
    const asked = worker.verify({ repair: true, signal: leaving.signal });
    await pass(second);
    const counts = { files: { done: 0, total: 1 }, bytes: { done: 0, total: 1 } };
    checks[0]?.onProgress?.({ stage: 'send', ...counts });
    publish(two);
    await pass(minute);
    assert.equal(worker.status().state, 'verifying');
    const refused = assert.rejects(asked, (error) => error === leaving.signal.reason);
    leaving.abort();
    await refused;
    await pass(1);
    assert.equal(worker.status().state, 'syncing');
    current().succeed();
  });

  test('is told when the daemon ends', async (t) => {
    const { worker, pass } = setUp(t);
    const asked = worker.sync();
    const refused = assert.rejects(asked, { code: 'INTERRUPTED' });
    await pass(1);
    await worker.close();
    await refused;
  });
});

describe('what is sent to a mirror, and known of it', () => {
  test('counts what is sent as it is sent, also where that fails in the end', async (t) => {
    const { current, worker, pass } = setUp(t);
    await pass(1);
    current().options.onSending?.({ files: 0, bytes: 300 });
    assert.deepEqual(worker.status().counts, { files: 0, bytes: 300, syncs: 0, failures: 0 });
    current().options.onSending?.({ files: 1, bytes: 0 });
    current().fail(down());
    await pass(1);
    assert.deepEqual(worker.status().counts, { files: 1, bytes: 300, syncs: 0, failures: 1 });
    await pass(minute);
    current().succeed({ sent: { files: 9, bytes: 9 } });
    await pass(1);
    assert.deepEqual(worker.status().counts, { files: 1, bytes: 300, syncs: 1, failures: 1 });
  });

  test('that is in doubt is looked at closely and mended at once', async (t) => {
    const { calls, current, worker, looks, pass } = setUp(t);
    await pass(1);
    current().succeed();
    await pass(1);
    worker.doubt();
    await pass(1);
    assert.equal(calls.length, 2);
    assert.equal(current().options.inspect, true);
    assert.equal(looks.length, 0, 'the sync looks');
  });

  test('with hours of its own is only looked at meanwhile: where nothing is known, and in doubt', async (t) => {
    const { calls, worker, looks, pass } = setUp(t, { scheduled: true });
    await pass(1);
    worker.recall();
    worker.recall();
    await pass(1);
    assert.equal(looks.length, 1);
    worker.recall();
    await pass(1);
    assert.equal(looks.length, 1, 'it is known by now');
    worker.doubt();
    await pass(1);
    assert.equal(looks.length, 2);
    assert.equal(calls.length, 0);
  });

  test('that cannot be looked at out of hours is left alone for five minutes', async (t) => {
    const { worker, looks, blind, logged, pass } = setUp(t, { scheduled: true });
    blind(true);
    worker.recall();
    await pass(1);
    worker.recall();
    await pass(4 * minute);
    worker.recall();
    await pass(1);
    assert.equal(looks.length, 1);
    await pass(minute);
    worker.recall();
    await pass(1);
    assert.equal(looks.length, 2);
    assert.deepEqual(logged(), []);
  });
});

test('whatever happens, the mirror has the newest in the end', async () => {
  const event = fc.oneof(
    fc.record({ kind: fc.constantFrom('publish', 'retry', 'ask', 'succeed') }),
    fc.record({
      kind: fc.constant('fail'),
      code: fc.constantFrom('MIRROR_DOWN', 'MIRROR_FULL', 'SOURCE_CHANGED'),
    }),
    fc.record({ kind: fc.constant('pass'), ms: fc.integer({ min: 1, max: 400_000 }) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(event, { maxLength: 30 }), async (events) => {
      const ends: (() => Promise<void> | void)[] = [];
      const site = setUp({ after: (end) => void ends.push(end as () => Promise<void>) });
      try {
        let generation: Generation = one;
        const isRunning = () => site.worker.status().state === 'syncing';
        for (const happening of events) {
          await site.pass(1);
          const { kind } = happening;
          if (kind === 'publish') {
            generation = generation === one ? two : one;
            site.publish(generation);
          } else if (kind === 'retry') site.worker.retry();
          else if (kind === 'ask') site.worker.sync().catch(() => {});
          else if ('ms' in happening) await site.pass(happening.ms);
          else if (isRunning() && 'code' in happening) {
            site
              .current()
              .fail(new ServerError(happening.code as 'MIRROR_DOWN', 'no', { hint: 'h' }));
          } else if (isRunning()) site.current().succeed();
        }
        for (let count = 0; count < 3; count++) {
          await site.pass(6 * minute);
          if (isRunning()) site.current().succeed();
        }
        await site.pass(1);
        assert.equal(site.worker.status().generation, generation.id);
        assert.equal(site.worker.status().state, 'synced');
      } finally {
        for (const end of ends) await end();
      }
    }),
    { numRuns: 60 },
  );
});
