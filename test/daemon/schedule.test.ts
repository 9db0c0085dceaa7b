import assert from 'node:assert/strict';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { describe, type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { createSchedule, type Job } from '../../src/daemon/schedule.js';
import type { JobStatus } from '../../src/daemon/status.js';
import { ServerError } from '../../src/errors.js';
import { simulateHost } from '../support/clock.js';
import { memoryLog } from '../support/memory-log.js';
import { source, startModule } from '../support/module.js';

const minute = 60_000;
const hour = 60 * minute;
const year = 365 * 24 * hour;
const timeLimit = { timeout: 60_000 };

/** A day without a change of time in any zone, at half a minute past five. */
const start = new Date(2026, 0, 14, 5, 0, 30);
/** The same day, `minutes` after five. */
const at = (minutes: number) => new Date(2026, 0, 14, 5, minutes).toISOString();

/** A job that runs until it is told to end, and what it has been through. */
interface Tracked extends Job {
  /** When it was started. */
  starts: string[];
  signals: AbortSignal[];
  /** Ends the run that is under way. */
  end(error?: Error): void;
}

/** Without `open`, each run ends at once. */
function tracked(name: string, cron: string, { open = false } = {}): Tracked {
  const starts: string[] = [];
  const signals: AbortSignal[] = [];
  let end: (error?: Error) => void = () => {};
  const run = (signal: AbortSignal) => {
    starts.push(new Date().toISOString());
    signals.push(signal);
    if (!open) return Promise.resolve();
    return new Promise<void>((resolve, reject) => {
      end = (error) => (error === undefined ? resolve() : reject(error));
    });
  };
  return { name, cron, run, starts, signals, end: (error) => end(error) };
}

function simulate(t: Pick<TestContext, 'after'>, jobs: Job[], from = start) {
  const host = simulateHost(from);
  t.after(() => host.restore());
  const { log, events } = memoryLog();
  const schedule = createSchedule({ jobs, log });
  const stateOf = (name: string) => {
    const found = schedule.state().find((job) => job.name === name);
    assert.ok(found);
    return found;
  };
  /** What was logged, without what every event has. */
  const logged = () => events.map(({ time: _time, ...fields }) => fields);
  return { ...host, schedule, stateOf, logged };
}

/** One run of a property. */
async function course(jobs: Job[], live: (host: ReturnType<typeof simulate>) => Promise<void>) {
  let restore = () => {};
  const after = (end: () => void) => {
    restore = end;
  };
  try {
    await live(simulate({ after: after as TestContext['after'] }, jobs));
  } finally {
    restore();
  }
}

const settled = () => new Promise(setImmediate);

describe('a job', timeLimit, () => {
  test('runs at each of its hours', async (t) => {
    const job = tracked('rescan', '*/15 * * * *');
    const { pass, schedule, logged } = simulate(t, [job]);
    assert.deepEqual(schedule.state(), [
      {
        name: 'rescan',
        schedule: '*/15 * * * *',
        state: 'idle',
        next: at(15),
        missed: 0,
        failures: 0,
      },
    ]);
    await pass(hour);
    assert.deepEqual(job.starts, [at(15), at(30), at(45), at(60)]);
    const [{ last, ...state } = {} as JobStatus] = schedule.state();
    assert.deepEqual(state, {
      name: 'rescan',
      schedule: '*/15 * * * *',
      state: 'idle',
      next: at(75),
      missed: 0,
      failures: 0,
    });
    assert.deepEqual(Object.keys(last ?? {}), ['at', 'ms']);
    assert.equal(last?.at, at(60));
    assert.deepEqual(logged(), []);
    await schedule.close();
  });

  test('runs at hours that are months away', async (t) => {
    const job = tracked('prune', '0 12 1 4 *');
    const { block, setClock, schedule } = simulate(t, [job], new Date(2026, 2, 31, 11));
    await block(24 * hour);
    setClock(59 * minute);
    await block(minute);
    assert.deepEqual(job.starts, [new Date(2026, 3, 1, 12).toISOString()]);
    assert.equal(schedule.state()[0]?.next, new Date(2027, 3, 1, 12).toISOString());
    await schedule.close();
  });

  test('never runs where it has no expression', async (t) => {
    const job = tracked('verify', '');
    const { pass, schedule } = simulate(t, [job]);
    await pass(2 * hour);
    assert.deepEqual(job.starts, []);
    assert.deepEqual(schedule.state(), [
      { name: 'verify', schedule: '', state: 'idle', missed: 0, failures: 0 },
    ]);
    await schedule.close();
  });

  test('waits while another runs', async (t) => {
    const [first, second] = ['first', 'second'].map((name) =>
      tracked(name, '*/15 * * * *', { open: true }),
    ) as [Tracked, Tracked];
    const { pass, schedule, stateOf } = simulate(t, [first, second]);
    await pass(20 * minute);
    assert.deepEqual([first.starts, second.starts], [[at(15)], []]);
    assert.deepEqual([stateOf('first').state, stateOf('second').state], ['running', 'queued']);
    first.end();
    await settled();
    assert.deepEqual([first.starts.length, second.starts.length], [1, 1]);
    assert.deepEqual([stateOf('first').state, stateOf('second').state], ['idle', 'running']);
    second.end();
    await schedule.close();
  });

  test('is missed where it still runs or waits when its hour comes again', async (t) => {
    const running = tracked('long', '*/15 * * * *', { open: true });
    const waiting = tracked('short', '*/20 * * * *');
    const { pass, schedule, stateOf, logged } = simulate(t, [running, waiting]);
    await pass(40 * minute);
    const missed = { level: 40, msg: 'a job was missed' };
    assert.deepEqual(logged(), [
      { ...missed, job: 'long', scheduled: at(30), reason: 'it is still running' },
      { ...missed, job: 'short', scheduled: at(40), reason: 'it is still queued' },
    ]);
    assert.deepEqual([stateOf('long').missed, stateOf('short').missed], [1, 1]);
    running.end();
    await settled();
    assert.deepEqual(waiting.starts.length, 1);
    await pass(5 * minute);
    assert.deepEqual(running.starts, [at(15), at(45)]);
    running.end();
    await schedule.close();
  });

  for (const kind of ['rejects', 'throws']) {
    test(`that ${kind} is logged, shown, and runs again`, async (t) => {
      const failure = new ServerError('DISK_FULL', 'the disk is full');
      const run = () => {
        if (kind === 'throws') throw failure;
        return Promise.reject(failure);
      };
      const { pass, schedule, stateOf, logged } = simulate(t, [
        { name: 'prune', cron: '*/15 * * * *', run },
      ]);
      await pass(30 * minute);
      const event = {
        level: 50,
        job: 'prune',
        err: { message: 'the disk is full' },
        msg: 'a job failed',
      };
      assert.deepEqual(logged(), [event, event]);
      assert.equal(stateOf('prune').last?.failure, 'the disk is full');
      assert.equal(stateOf('prune').last?.at, at(30));
      assert.equal(stateOf('prune').failures, 2);
      await schedule.close();
    });
  }

  test('never runs beside another, and each of its hours is a run or a miss', async () => {
    const durations = fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 60, maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(fc.tuple(durations, durations, durations), async (plans) => {
        let running = 0;
        const starts = [0, 0, 0];
        const jobs = plans.map((plan, index) => ({
          name: String(index),
          cron: `*/${index + 1} * * * *`,
          run: async () => {
            assert.equal(running, 0);
            running += 1;
            const seconds = plan[(starts[index] as number)++] as number;
            await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
            running -= 1;
          },
        }));
        await course(jobs, async ({ pass, schedule, logged }) => {
          await pass(hour);
          for (const [index, { missed, state }] of schedule.state().entries()) {
            const begun = (starts[index] as number) + (state === 'queued' ? 1 : 0);
            assert.equal(begun + missed, 60 / (index + 1));
          }
          const closing = schedule.close();
          await pass(300_000);
          await closing;
          assert.ok(logged().every(({ msg }) => msg === 'a job was missed'));
        });
      }),
      { numRuns: 10 },
    );
  });
});

describe('hours that passed unseen', timeLimit, () => {
  const late = 'this process was held up, the host was asleep, or the clock was set';

  for (const kind of ['the clock is set forward', 'the process is blocked'] as const) {
    test(`are missed and made up for once where ${kind}`, async (t) => {
      const job = tracked('rescan', '*/15 * * * *');
      const { pass, block, setClock, schedule, stateOf, logged } = simulate(t, [job]);
      await pass(minute);
      if (kind === 'the process is blocked') await block(3 * hour);
      else setClock(3 * hour);
      await pass(10_000);
      assert.equal(job.starts.length, 1);
      assert.deepEqual(logged(), [
        {
          level: 40,
          job: 'rescan',
          scheduled: at(15),
          until: at(180),
          times: 12,
          reason: late,
          msg: 'a job was missed',
        },
      ]);
      assert.equal(stateOf('rescan').missed, 12);
      await pass(15 * minute);
      assert.deepEqual(job.starts.slice(1), [at(195)]);
      await schedule.close();
    });
  }

  test('are missed before one that is still in time', async (t) => {
    const job = tracked('rescan', '*/15 * * * *');
    const { block, schedule, stateOf, logged } = simulate(t, [job]);
    await block(30 * minute - 25_000);
    assert.deepEqual(job.starts, [new Date(2026, 0, 14, 5, 30, 5).toISOString()]);
    assert.equal(stateOf('rescan').missed, 1);
    const [event] = logged();
    assert.equal(event?.scheduled, at(15));
    await schedule.close();
  });

  test('are all counted where the last miss was long ago', async (t) => {
    const job = tracked('rescan', '* * * * *');
    const { pass, block, schedule, stateOf } = simulate(t, [job]);
    await pass(40 * minute);
    await block(50 * minute);
    assert.equal(job.starts.length, 41);
    assert.equal(stateOf('rescan').missed, 50);
    await schedule.close();
  });

  test('are not forgotten where a change leaves them as they are', async (t) => {
    const job = tracked('rescan', '*/15 * * * *');
    const { pass, setClock, schedule, stateOf } = simulate(t, [job]);
    setClock(3 * hour);
    schedule.change({ rescan: '*/15 * * * *' });
    await pass(10_000);
    assert.equal(job.starts.length, 1);
    assert.equal(stateOf('rescan').missed, 12);
    await schedule.close();
  });

  test('do not start a job again that runs', async (t) => {
    const job = tracked('verify', '*/15 * * * *', { open: true });
    const { pass, setClock, schedule, stateOf } = simulate(t, [job]);
    await pass(15 * minute);
    setClock(hour);
    await pass(minute);
    assert.equal(stateOf('verify').missed, 4);
    job.end();
    await settled();
    assert.equal(job.starts.length, 1);
    await schedule.close();
  });

  test('may be decades, which cost no more', async (t) => {
    const job = tracked('rescan', '* * * * *');
    const { pass, setClock, schedule, stateOf, logged } = simulate(t, [job]);
    setClock(50 * year);
    await pass(10_000);
    assert.equal(job.starts.length, 1);
    assert.equal(stateOf('rescan').missed, 64);
    assert.equal(logged().length, 1);
    await pass(3 * minute);
    assert.equal(job.starts.length, 4);
    await schedule.close();
  });
});

describe('a clock that is set back', timeLimit, () => {
  test('by hours stops nothing', async (t) => {
    const job = tracked('rescan', '*/15 * * * *');
    const { pass, setClock, schedule, logged, stateOf } = simulate(t, [job]);
    await pass(2 * hour);
    assert.equal(job.starts.length, 8);
    setClock(-2 * hour);
    await pass(hour);
    assert.deepEqual(job.starts.slice(8), [at(15), at(30), at(45), at(60)]);
    assert.equal(stateOf('rescan').next, at(75));
    const messages = logged().map(({ msg }) => msg);
    assert.deepEqual(messages, ['the clock was set back']);
    await schedule.close();
  });

  test('by seconds brings no hour twice', async (t) => {
    const job = tracked('rescan', '* * * * *');
    const { pass, setClock, schedule, logged } = simulate(t, [job]);
    await pass(35_000);
    for (let turn = 0; turn < 5; turn++) {
      setClock(-50_000);
      await pass(minute + 50_000);
    }
    assert.deepEqual(job.starts, [1, 2, 3, 4, 5, 6].map(at));
    assert.deepEqual(logged(), []);
    await schedule.close();
  });

  test('by any time, however often, never brings two runs within a minute', async () => {
    const steps = fc.array(
      fc.record({ back: fc.integer({ min: 0, max: 200 }), wait: fc.integer({ min: 1, max: 200 }) }),
      { maxLength: 10 },
    );
    await fc.assert(
      fc.asyncProperty(steps, async (changes) => {
        // The seconds that really went by.
        let passed = 0;
        const starts: number[] = [];
        const run = async () => void starts.push(passed);
        await course([{ name: 'a', cron: '* * * * *', run }], async (host) => {
          const goOn = async (seconds: number) => {
            for (let second = 0; second < seconds; second++) {
              passed += 1;
              await host.pass(1000);
            }
          };
          for (const { back, wait } of changes) {
            host.setClock(-back * 1000);
            await goOn(wait);
          }
          await goOn(200);
          await host.schedule.close();
        });
        const gaps = starts.slice(1).map((time, index) => time - (starts[index] as number));
        assert.ok(
          gaps.every((gap) => gap >= 60),
          gaps.join(),
        );
        assert.ok(passed - (starts.at(-1) ?? 0) <= 60);
      }),
      { numRuns: 30 },
    );
  });
});

describe('a change', timeLimit, () => {
  test('brings other hours, and leaves a running job alone', async (t) => {
    const [changed, kept] = [
      tracked('changed', '*/15 * * * *', { open: true }),
      tracked('kept', '0 * * * *'),
    ];
    const { pass, schedule, stateOf, logged } = simulate(t, [changed, kept]);
    await pass(15 * minute);
    schedule.change({ changed: '*/20 * * * *', kept: '0 * * * *' });
    assert.equal(stateOf('changed').state, 'running');
    assert.equal(stateOf('changed').next, at(20));
    assert.equal(stateOf('changed').schedule, '*/20 * * * *');
    assert.equal(changed.signals[0]?.aborted, false);
    changed.end();
    await pass(20 * minute);
    assert.deepEqual(changed.starts, [at(15), at(20)]);
    changed.end();
    schedule.change({ changed: '' });
    assert.equal(stateOf('changed').next, undefined);
    await pass(hour);
    assert.deepEqual(changed.starts.length, 2);
    assert.deepEqual(kept.starts, [at(60)]);
    assert.deepEqual(logged(), []);
    await schedule.close();
  });

  test('brings hours to a schedule that had none', async (t) => {
    const job = tracked('verify', '');
    const { pass, schedule } = simulate(t, [job]);
    schedule.change({ verify: '30 * * * *' });
    await pass(hour);
    assert.deepEqual(job.starts, [at(30)]);
    await schedule.close();
  });

  for (const [wrong, message] of [
    [{ rescan: '0 * * * *', other: '0 * * * *' }, /There is no job "other"/],
    [{ rescan: '0 * * * *', verify: '0 0 30 2 *' }, /impossible/],
  ] as const) {
    test(`is refused whole where it must be: ${Object.values(wrong).at(-1)}`, async (t) => {
      const jobs = [tracked('rescan', '*/15 * * * *'), tracked('verify', '')];
      const { schedule, stateOf } = simulate(t, jobs);
      assert.throws(() => schedule.change(wrong), { message });
      assert.equal(stateOf('rescan').schedule, '*/15 * * * *');
      assert.equal(stateOf('rescan').next, at(15));
      await schedule.close();
    });
  }
});

describe('the end', timeLimit, () => {
  test('tells the running job, waits for it, and starts nothing more', async (t) => {
    const running = tracked('running', '*/15 * * * *', { open: true });
    const queued = tracked('queued', '*/15 * * * *');
    const { pass, schedule, stateOf, logged } = simulate(t, [running, queued]);
    await pass(15 * minute);
    let closed = false;
    const closing = schedule.close().then(() => {
      closed = true;
    });
    assert.equal(running.signals[0]?.aborted, true);
    await pass(hour);
    assert.equal(closed, false);
    assert.equal(stateOf('queued').state, 'idle');
    running.end(new Error('broken off'));
    await closing;
    await pass(hour);
    schedule.change({ queued: '*/5 * * * *' });
    await pass(hour);
    assert.deepEqual([running.starts.length, queued.starts.length], [1, 0]);
    assert.deepEqual(logged(), []);
  });
});

test('an end right after a change leaves no timer behind', timeLimit, async (t) => {
  const job = tracked('rescan', '*/15 * * * *');
  const { pass, schedule } = simulate(t, [job]);
  await pass(15 * minute - 35_000);
  schedule.change({});
  await schedule.close();
  await pass(hour);
  assert.deepEqual(job.starts, []);
});

/** Runs `code` in a process of its own and gives what it says as JSON. */
async function said(code: string): Promise<unknown> {
  const child = startModule(`
    import { createSchedule } from ${source('daemon/schedule.js')};
    const warnings = [];
    const log = { warn: (fields) => warnings.push(fields), debug() {}, error() {} };
    ${code}`);
  const [output, errors, [exitCode]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'exit'),
  ]);
  assert.equal(errors, '');
  assert.equal(exitCode, 0);
  return JSON.parse(output);
}

describe('by the real clock', timeLimit, () => {
  test('a job runs each second, blocked ones are missed, and the process ends', async () => {
    const result = await said(`
      const starts = [];
      let done;
      const ended = new Promise((resolve) => { done = resolve; });
      const run = async () => {
        starts.push(Date.now());
        const until = performance.now() + 3500;
        if (starts.length === 1) while (performance.now() < until);
        if (starts.length === 3) done();
      };
      const schedule = createSchedule({ jobs: [{ name: 'a', cron: '* * * * * *', run }], log });
      await ended;
      await schedule.close();
      const seconds = starts.map((start) => Math.floor((start - starts[0]) / 1000));
      const [{ missed }] = schedule.state();
      console.log(JSON.stringify({ runs: starts.length, blocked: seconds[1] >= 3, warnings, missed }));
    `);
    const { runs, blocked, warnings, missed } = result as {
      runs: number;
      blocked: boolean;
      warnings: { times?: number }[];
      missed: number;
    };
    assert.equal(runs, 3);
    assert.equal(blocked, true);
    // The hours of the blocked seconds but the last, which is still in time.
    const reported = warnings.reduce((sum, { times = 1 }) => sum + times, 0);
    assert.equal(missed, reported);
    assert.ok(missed >= 2);
  });
});

describe('daylight saving', timeLimit, () => {
  const cases = [
    {
      what: 'leaves out the hour that does not exist',
      now: '2026-03-28T20:00:00Z',
      crons: { '30 2 * * *': '2026-03-30T00:30:00.000Z', '0 3 29 3 *': '2026-03-29T01:00:00.000Z' },
    },
    {
      what: 'brings the hour that exists twice the second time',
      now: '2026-10-24T23:51:00Z',
      crons: {
        '30 2 * * *': '2026-10-25T01:30:00.000Z',
        '*/10 * * * *': '2026-10-25T01:00:00.000Z',
      },
    },
    {
      what: 'brings that hour once',
      now: '2026-10-25T01:31:00Z',
      crons: { '30 2 * * *': '2026-10-26T01:30:00.000Z' },
    },
  ];
  for (const { what, now, crons } of cases) {
    test(what, async () => {
      const next = await said(`
        process.env.TZ = 'Europe/Berlin';
        const RealDate = Date;
        globalThis.Date = class extends RealDate {
          constructor(...args) { super(...(args.length > 0 ? args : ['${now}'])); }
          static now() { return RealDate.parse('${now}'); }
        };
        const jobs = ${JSON.stringify(Object.keys(crons))}.map((cron) => ({ name: cron, cron }));
        const schedule = createSchedule({ jobs, log });
        await schedule.close();
        console.log(JSON.stringify(schedule.state().map(({ name, next }) => [name, next])));
      `);
      assert.deepEqual(next, Object.entries(crons));
    });
  }

  test('can leave out all hours of a job, which is logged', async () => {
    const result = await said(`
      process.env.TZ = 'Europe/Berlin';
      const jobs = [{ name: 'prune', cron: '30 2 25-31 3 0' }];
      const schedule = createSchedule({ jobs, log });
      await schedule.close();
      console.log(JSON.stringify({ warnings, state: schedule.state() }));
    `);
    assert.deepEqual(result, {
      warnings: [{ job: 'prune', cron: '30 2 25-31 3 0' }],
      state: [{ name: 'prune', schedule: '30 2 25-31 3 0', state: 'idle', missed: 0, failures: 0 }],
    });
  });
});
