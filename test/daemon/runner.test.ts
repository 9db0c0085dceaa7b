/** When the daemon runs the pipeline, over what, and what it does when a run fails. */
import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { createRunner, type RunActivity, type Runner } from '../../src/daemon/runner.js';
import { createPool } from '../../src/disk/pool.js';
import { ServerError } from '../../src/errors.js';
import type { Pipeline, RunOptions, RunResult } from '../../src/pipeline.js';
import { type LogEvent, memoryLog } from '../support/memory-log.js';

/** A run that has begun and waits for the test to end it. */
interface BegunRun {
  options: RunOptions;
  succeed(found?: { pending?: Map<string, number>; files?: number }): void;
  fail(error: Error): void;
}

/** A pipeline whose runs the test takes up and ends one by one. */
class StagedPipeline implements Pipeline {
  readonly begun: BegunRun[] = [];
  saves = 0;
  atOnce = 0;
  #pending = new Map<string, number>();
  #waiting: ((run: BegunRun) => void)[] = [];

  run(options: RunOptions = {}): Promise<RunResult> {
    this.atOnce++;
    assert.equal(this.atOnce, 1, 'runs overlap');
    return new Promise<RunResult>((resolve, reject) => {
      const begun: BegunRun = {
        options,
        succeed: ({ pending = new Map(), files = 0 } = {}) => {
          this.#pending = pending;
          resolve(resultOf(files));
        },
        fail: reject,
      };
      options.signal?.addEventListener('abort', () =>
        reject(new ServerError('INTERRUPTED', 'Interrupted')),
      );
      const taker = this.#waiting.shift();
      if (taker === undefined) this.begun.push(begun);
      else taker(begun);
    }).finally(() => {
      this.atOnce--;
    });
  }

  configure(): void {}

  learn(): void {}

  removed(): string[] {
    return [];
  }

  linking(): string[] {
    return [];
  }

  async generation(): Promise<undefined> {}

  async save(): Promise<void> {
    this.saves++;
  }

  pending(): Map<string, number> {
    return this.#pending;
  }

  /** The next run that begins. */
  next(): Promise<BegunRun> {
    const run = this.begun.shift();
    return run === undefined
      ? new Promise((resolve) => this.#waiting.push(resolve))
      : Promise.resolve(run);
  }
}

function resultOf(files: number): RunResult {
  const ms = { scan: 1, digest: 2, publish: 3 };
  const read = { files, bytes: files * 10 };
  return { products: 1, versions: 1, bytes: 1, read, published: [], problems: [], ms };
}

interface Stage {
  runner: Runner;
  pipeline: StagedPipeline;
  activities: RunActivity[];
  results: RunResult[];
  events: LogEvent[];
}

function stage(t: TestContext): Stage {
  const { log, events } = memoryLog();
  log.level = 'info';
  const pool = createPool({ threads: 1 });
  const pipeline = new StagedPipeline();
  const [activities, results]: [RunActivity[], RunResult[]] = [[], []];
  const runner = createRunner({
    pipeline,
    pool,
    log,
    onActivity: (activity) => activities.push(activity),
    onRun: (result) => results.push(result),
  });
  t.after(() => runner.close());
  return { runner, pipeline, activities, results, events };
}

describe('a run', () => {
  test('looks at what changed before it, at each place once', async (t) => {
    const { runner, pipeline, results } = stage(t);
    for (const folder of ['a/b/c/d', 'a/b', 'e/f/g/h', 'e/f/g/h']) runner.changed(folder);
    const run = await pipeline.next();
    assert.deepEqual(run.options.folders, ['a/b', 'e/f/g/h']);
    assert.equal(run.options.passing, true);
    assert.equal(run.options.rebuild, false);
    run.succeed();
    runner.changed('x');
    (await pipeline.next()).succeed();
    assert.equal(results.length, 1);
  });

  test('is followed by one over all that changed meanwhile', async (t) => {
    const { runner, pipeline } = stage(t);
    runner.changed('a');
    const first = await pipeline.next();
    runner.changed('b');
    runner.changed('c');
    first.succeed();
    const second = await pipeline.next();
    assert.deepEqual(second.options.folders, ['b', 'c']);
    second.succeed();
  });

  test('comes by itself when something has settled, for all that settles about then', async (t) => {
    const { runner, pipeline } = stage(t);
    runner.changed('a');
    const now = Date.now();
    const soon = [now + 30, now + 60] as const;
    const pending = new Map([
      ['p/a/b/c', soon[0]],
      ['q/a/b/c', soon[1]],
      ['r/a/b/c', now + 3_600_000],
    ]);
    (await pipeline.next()).succeed({ pending });
    const run = await pipeline.next();
    assert.deepEqual(run.options.folders?.toSorted(), ['p/a/b/c', 'q/a/b/c']);
    assert.ok(Date.now() >= soon[1]);
    run.succeed();
  });

  test('that fails is tried again over the same and what came since, and told once', async (t) => {
    const { runner, pipeline, activities, events } = stage(t);
    runner.changed('a');
    const hint = 'make room, then try again';
    (await pipeline.next()).fail(new ServerError('DISK_FULL', 'No room', { hint }));
    runner.changed('b');
    const second = await pipeline.next();
    const waiting = { doing: 'waiting', failure: `No room; ${hint}`, code: 'DISK_FULL' };
    assert.deepEqual(activities.at(-1), waiting);
    assert.deepEqual(second.options.folders?.toSorted(), ['a', 'b']);
    second.fail(new ServerError('DISK_FULL', 'No room', { hint }));
    runner.retry();
    const third = await pipeline.next();
    assert.deepEqual(third.options.folders?.toSorted(), ['a', 'b']);
    third.succeed();
    runner.changed('c');
    const fourth = await pipeline.next();
    assert.deepEqual(fourth.options.folders, ['c']);
    fourth.succeed();
    const told = events.map(({ msg, err }) => ({ msg, err }));
    const msg = 'cannot publish; it is tried again';
    assert.deepEqual(told, [
      { msg, err: { message: 'No room', hint } },
      { msg: 'publishing works again', err: undefined },
    ]);
  });

  test('that fails for another reason than before is told again', async (t) => {
    const { runner, pipeline, events } = stage(t);
    runner.changed('a');
    for (const reason of ['No room', 'No room', 'Not allowed']) {
      (await pipeline.next()).fail(new ServerError('IO', reason));
      while (pipeline.atOnce > 0) await nextTurn();
      runner.retry();
    }
    (await pipeline.next()).succeed();
    assert.deepEqual(
      events.flatMap(({ err }) => (err as Error | undefined)?.message ?? []),
      ['No room', 'Not allowed'],
    );
  });
});

describe('an update', () => {
  test('looks everywhere, once more after the settle time, and tells of both', async (t) => {
    const { runner, pipeline } = stage(t);
    const update = runner.update({ rebuild: true });
    const first = await pipeline.next();
    assert.deepEqual(first.options.folders, ['']);
    assert.equal(first.options.rebuild, true);
    first.succeed({ pending: new Map([['a/b/c/d', Date.now() + 20]]), files: 2 });
    const second = await pipeline.next();
    assert.deepEqual(second.options.folders, ['a/b/c/d']);
    assert.equal(second.options.rebuild, false);
    second.succeed({ files: 3 });
    const { read, ms } = await update;
    assert.deepEqual(read, { files: 5, bytes: 50 });
    assert.deepEqual(ms, { scan: 2, digest: 4, publish: 6 });
  });

  test('is not the run under way, which may have looked already', async (t) => {
    const { runner, pipeline } = stage(t);
    runner.changed('a');
    const running = await pipeline.next();
    const update = runner.update();
    running.succeed({ files: 1 });
    const own = await pipeline.next();
    assert.deepEqual(own.options.folders, ['']);
    own.succeed({ files: 7 });
    assert.equal((await update).read.files, 7);
  });

  test('that rebuilds and fails is tried again, and what is left of it is for the pipeline to know', async (t) => {
    const { runner, pipeline } = stage(t);
    const update = runner.update({ rebuild: true });
    const failed = assert.rejects(update, { code: 'IO' });
    (await pipeline.next()).fail(new ServerError('IO', 'Broken'));
    await failed;
    runner.retry();
    const again = await pipeline.next();
    assert.equal(again.options.rebuild, false);
    again.succeed();
  });

  test('that nobody waits for any more goes on', async (t) => {
    const { runner, pipeline, results } = stage(t);
    const leaving = new AbortController();
    const update = runner.update({ signal: leaving.signal });
    const run = await pipeline.next();
    leaving.abort();
    await assert.rejects(update, { code: 'INTERRUPTED' });
    run.succeed();
    runner.changed('a');
    (await pipeline.next()).succeed();
    assert.equal(results.length, 1);
  });
});

test('work of its own waits for the run under way, and runs wait for it', async (t) => {
  const { runner, pipeline } = stage(t);
  runner.changed('a');
  const running = await pipeline.next();
  const order: string[] = [];
  const own = runner.exclusively(async (publish) => {
    order.push('own');
    const [result, run] = await Promise.all([publish(), pipeline.next().then(end)]);
    assert.deepEqual(run.options.folders, ['']);
    assert.equal(run.options.passing, true);
    return result.read.files;
  });
  runner.changed('b');
  order.push('run');
  running.succeed();
  assert.equal(await own, 4);
  assert.deepEqual(order, ['run', 'own']);
  const next = await pipeline.next();
  assert.deepEqual(next.options.folders, ['b']);
  next.succeed();

  function end(run: BegunRun): BegunRun {
    run.succeed({ files: 4 });
    return run;
  }
});

test('what work of its own leaves to settle is looked at then', async (t) => {
  const { runner, pipeline } = stage(t);
  const own = runner.exclusively((publish) => publish());
  (await pipeline.next()).succeed({ pending: new Map([['a/b/c/d', Date.now() + 20]]) });
  await own;
  const next = await pipeline.next();
  assert.deepEqual(next.options.folders, ['a/b/c/d']);
  next.succeed();
});

test('work of its own that cannot publish is told, and its run is tried again', async (t) => {
  const { runner, pipeline, activities } = stage(t);
  const own = assert.rejects(
    runner.exclusively((publish) => publish()),
    { message: 'No room' },
  );
  (await pipeline.next()).fail(new ServerError('DISK_FULL', 'No room'));
  await own;
  const waiting = { doing: 'waiting', failure: 'No room', code: 'DISK_FULL' };
  assert.deepEqual(activities.at(-1), waiting);
  runner.retry();
  const again = await pipeline.next();
  assert.deepEqual(again.options.folders, ['']);
  again.succeed();
});

test('a run that waits for its turn does not begin after the end', async (t) => {
  const { runner, pipeline } = stage(t);
  let end = () => {};
  const own = runner.exclusively(
    () =>
      new Promise<void>((resolve) => {
        end = resolve;
      }),
  );
  runner.changed('a');
  // Until the run is due; nothing tells of that.
  await sleep(100);
  const closed = runner.close();
  end();
  await Promise.all([own, closed]);
  assert.equal(pipeline.begun.length, 0);
});

test('the end interrupts the run, keeps records, and whoever waits is told', async (t) => {
  const { runner, pipeline } = stage(t);
  const update = assert.rejects(runner.update(), { code: 'INTERRUPTED' });
  const run = await pipeline.next();
  await runner.close();
  await update;
  assert.equal(run.options.signal?.aborted, true);
  assert.equal(pipeline.saves, 1);
  await assert.rejects(runner.update(), { code: 'INTERRUPTED' });
});
