import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type TestContext, test } from 'node:test';
import { ServerError } from '../../../src/errors.js';
import type { Operation, OperationView } from '../../../src/server/lxd/exchange.js';
import { createOperations, type OperationsLimits } from '../../../src/server/lxd/operations.js';
import { memoryLog } from '../../support/memory-log.js';

function makeOperations(t: TestContext, limits: Partial<OperationsLimits> = {}) {
  const { log, events } = memoryLog();
  const operations = createOperations({ log, limits });
  t.after(() => operations.close());
  return { operations, events };
}

/** Runs until it is cancelled. */
const endless = async ({ signal }: { signal: AbortSignal }): Promise<undefined> => {
  if (!signal.aborted) await once(signal, 'abort');
  throw new ServerError('INTERRUPTED', 'aborted');
};

const statusOf = (operation: Operation | undefined) => {
  const { status, status_code, err, may_cancel } = operation?.view() ?? {};
  return { status, status_code, err, may_cancel };
};

test('an operation succeeds with what its work returns, beside what was known before', async (t) => {
  const { operations } = makeOperations(t);
  const resources = { images: ['/1.0/images/abc'] };
  const operation = operations.begin({
    description: 'Importing an image',
    resources,
    metadata: { size: '1' },
    work: async ({ tell }) => {
      tell({ download_progress: 'rootfs: 42%' });
      return { fingerprint: 'abc' };
    },
  });
  assert.deepEqual(statusOf(operation), {
    status: 'Running',
    status_code: 103,
    err: '',
    may_cancel: true,
  });
  await operation.ended();
  const view = operation.view();
  assert.deepEqual(statusOf(operation), {
    status: 'Success',
    status_code: 200,
    err: '',
    may_cancel: false,
  });
  assert.deepEqual(view.metadata, {
    size: '1',
    download_progress: 'rootfs: 42%',
    fingerprint: 'abc',
  });
  assert.deepEqual([view.class, view.location, view.resources], ['task', 'none', resources]);
  assert.equal(new Date(view.created_at).toISOString(), view.created_at);
  assert.ok(view.updated_at >= view.created_at);
});

test('whoever begins an operation has it before its work starts', async (t) => {
  const { operations } = makeOperations(t);
  let begun: Operation | undefined;
  let known: Operation | undefined;
  begun = operations.begin({
    description: 'x',
    work: async () => {
      known = begun;
      return undefined;
    },
  });
  await begun.ended();
  assert.equal(known, begun);
  assert.equal(begun.view().metadata, null);
});

const failures: { error: unknown; err: string; level: number }[] = [
  { error: new ServerError('IMAGE_INVALID', 'Bad image'), err: 'Bad image', level: 40 },
  {
    error: new ServerError('DISK_FULL', 'Disk full', { hint: 'make room' }),
    err: 'Disk full: make room',
    level: 40,
  },
  { error: new TypeError('x is not y'), err: 'The server failed: its log says why', level: 50 },
];

for (const { error, err, level } of failures) {
  test(`a failure reads "${err}"`, async (t) => {
    const { operations, events } = makeOperations(t);
    const work = () => Promise.reject(error);
    const operation = operations.begin({ description: 'x', work });
    await operation.ended();
    assert.deepEqual(statusOf(operation), {
      status: 'Failure',
      status_code: 400,
      err,
      may_cancel: false,
    });
    assert.deepEqual(
      events.map((event) => [event.level, event.msg]),
      [[level, 'an operation failed']],
    );
  });
}

test('work that throws at once fails its operation, not whoever began it', async (t) => {
  const { operations } = makeOperations(t);
  const work = () => {
    throw new ServerError('IO', 'no');
  };
  const operation = operations.begin({ description: 'x', work });
  await operation.ended();
  assert.equal(operation.view().err, 'no');
});

test('what is cancelled aborts, ends as cancelled, and says so', async (t) => {
  const { operations, events } = makeOperations(t);
  const operation = operations.begin({ description: 'x', work: endless });
  await operations.cancel(operation.id);
  assert.deepEqual(statusOf(operation), {
    status: 'Cancelled',
    status_code: 401,
    err: 'This operation was cancelled',
    may_cancel: false,
  });
  await operations.cancel(operation.id);
  await operations.cancel('unknown');
  assert.equal(events.length, 0);
});

test('work that is done when it is cancelled has succeeded', async (t) => {
  const { operations } = makeOperations(t);
  const work = async ({ signal }: { signal: AbortSignal }) => {
    await once(signal, 'abort');
    return { fingerprint: 'abc' };
  };
  const operation = operations.begin({ description: 'x', work });
  await Promise.resolve();
  await operations.cancel(operation.id);
  assert.equal(operation.view().status, 'Success');
});

test('a token runs until it is ended, cancelled or too old', async (t) => {
  const { operations } = makeOperations(t, { tokenMs: 20 });
  const token = () => operations.begin({ class: 'token', description: 'x' });
  const [used, dropped, old] = [token(), token(), token()];
  operations.end(used.id, 'success');
  operations.end(dropped.id, 'cancelled');
  operations.end(dropped.id, 'success');
  operations.end('unknown', 'success');
  await old.ended();
  const ends = [used, dropped, old].map((each) => each.view().status);
  assert.deepEqual(ends, ['Success', 'Cancelled', 'Cancelled']);
});

test('waiting ends with the operation or with the signal', async (t) => {
  const { operations } = makeOperations(t);
  const operation = operations.begin({ description: 'x', work: endless });
  const patience = new AbortController();
  const waiting = operation.ended(patience.signal);
  patience.abort();
  await waiting;
  await operation.ended(AbortSignal.abort());
  assert.equal(operation.view().status, 'Running');
  const until = operation.ended(new AbortController().signal);
  await operations.cancel(operation.id, AbortSignal.abort());
  await until;
  assert.equal(operation.view().status, 'Cancelled');
});

test('a secret opens the operation that began with it and no other', async (t) => {
  const { operations } = makeOperations(t);
  const secret = 's'.repeat(64);
  const { id } = operations.begin({ class: 'token', description: 'x', secret });
  const open = operations.begin({ class: 'token', description: 'x' });
  assert.ok(operations.opensWith(id, secret));
  for (const wrong of ['', 's', `${secret}s`, 'S'.repeat(64)]) {
    assert.equal(operations.opensWith(id, wrong), false, wrong);
  }
  assert.equal(operations.opensWith(open.id, ''), false);
  assert.equal(operations.opensWith(open.id, 'undefined'), false);
  assert.equal(operations.opensWith('unknown', secret), false);
});

test('ended operations are kept for a while, the newest of them', async (t) => {
  const { operations } = makeOperations(t, { ended: 2, endedMs: 60_000 });
  const made = Array.from({ length: 4 }, () =>
    operations.begin({ class: 'token', description: 'x' }),
  );
  for (const { id } of made) operations.end(id, 'success');
  const running = operations.begin({ class: 'token', description: 'x' });
  const kept = operations.list().map(({ id }) => id);
  assert.deepEqual(kept, [made[2]?.id, made[3]?.id, running.id]);
  assert.equal(operations.get(made[1]?.id ?? ''), undefined);
  assert.equal(operations.get(made[3]?.id ?? ''), made[3]);
});

test('ended operations are forgotten when their time is over', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { operations } = makeOperations(t, { endedMs: 1000 });
  const { id } = operations.begin({ class: 'token', description: 'x' });
  operations.end(id, 'success');
  t.mock.timers.tick(999);
  assert.equal(operations.get(id)?.view().status, 'Success');
  t.mock.timers.tick(1);
  assert.equal(operations.get(id), undefined);
});

test('only so many are under way at once', async (t) => {
  const { operations } = makeOperations(t, { running: 1 });
  const first = operations.begin({ description: 'x', work: endless });
  assert.throws(() => operations.begin({ description: 'x' }), { code: 'BUSY' });
  await operations.cancel(first.id);
  operations.begin({ class: 'token', description: 'x' });
});

test('listeners hear of beginning, progress and end, and progress only now and then', async (t) => {
  const { operations } = makeOperations(t, { reportMs: 0 });
  const rare = makeOperations(t, { reportMs: 3_600_000 }).operations;
  for (const [store, progress] of [
    [operations, ['10%', '20%']],
    [rare, []],
  ] as const) {
    const heard: OperationView[] = [];
    const stop = store.listen((view) => heard.push(view));
    const operation = store.begin({
      description: 'x',
      work: async ({ tell }) => {
        tell({ progress: '10%' });
        tell({ progress: '20%' });
        return undefined;
      },
    });
    await operation.ended();
    stop();
    store.begin({ class: 'token', description: 'unheard' });
    assert.deepEqual(
      heard.map(({ status, metadata }) => [status, metadata?.progress]),
      [['Running', undefined], ...progress.map((each) => ['Running', each]), ['Success', '20%']],
    );
  }
});

test('what others do with a view changes nothing', async (t) => {
  const { operations } = makeOperations(t);
  const metadata = { list: ['a'] };
  const operation = operations.begin({ class: 'token', description: 'x', metadata });
  metadata.list.push('b');
  const view = operation.view();
  assert.ok(Array.isArray(view.metadata?.list));
  view.metadata.list.push('c');
  view.status = 'Failure';
  assert.deepEqual(operation.view().metadata, { list: ['a'] });
  assert.equal(operation.view().status, 'Running');
});

test('at the end all abort and are waited for, and nothing begins any more', async () => {
  const operations = createOperations(memoryLog());
  const heard: string[] = [];
  operations.listen(({ status, err }) => heard.push(`${status} ${err}`));
  let tidied = false;
  const operation = operations.begin({
    description: 'x',
    work: async ({ signal }) => {
      await once(signal, 'abort');
      await new Promise((resolve) => setImmediate(resolve));
      tidied = true;
      throw signal.reason;
    },
  });
  const token = operations.begin({ class: 'token', description: 'x' });
  await Promise.resolve();
  await operations.close();
  const why = 'The server ends: try again when it is back';
  assert.ok(tidied);
  assert.deepEqual([operation.view().err, token.view().err], [why, why]);
  assert.equal(heard.filter((each) => each === `Cancelled ${why}`).length, 2);
  assert.throws(() => operations.begin({ description: 'x' }), { code: 'INTERRUPTED' });
});

test('operations are counted, those that run and those that have ended by how', async (t) => {
  const { operations } = makeOperations(t, { ended: 1 });
  const begin = (work: typeof endless) => operations.begin({ description: 'x', work });
  const good = begin(async () => undefined);
  const bad = begin(async () => {
    throw new ServerError('IO', 'no');
  });
  const running = begin(endless);
  await Promise.all([good.ended(), bad.ended()]);
  assert.deepEqual(operations.counts(), { running: 1, success: 1, failure: 1, cancelled: 0 });
  await operations.cancel(running.id);
  assert.deepEqual(operations.counts(), { running: 0, success: 1, failure: 1, cancelled: 1 });
});
