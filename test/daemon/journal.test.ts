/** What the daemon logs of its runs. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { Problem, ProblemCode } from '../../src/catalog/tree.js';
import { createJournal } from '../../src/daemon/journal.js';
import type { RunResult } from '../../src/pipeline.js';
import { memoryLog } from '../support/memory-log.js';

function problem(path: string, code: ProblemCode = 'root-missing'): Problem {
  return { path, code, reason: `why ${path}`, cure: 'mend it' };
}

function resultOf(...problems: Problem[]): RunResult {
  const ms = { scan: 1, digest: 1, publish: 1 };
  const read = { files: 0, bytes: 0 };
  return { products: 0, versions: 0, bytes: 0, read, published: [], problems, ms };
}

/** A journal, and a function that gives the paths of the warnings since it was last called. */
function journal(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const now = t.mock.method(performance, 'now', () => time);
  let time = 0;
  const { log, events } = memoryLog();
  const { ran, close } = createJournal(log);
  t.after(() => {
    close();
    now.mock.restore();
  });
  const news = () => events.splice(0).map((event) => event.path ?? event.msg);
  const pass = (ms: number) => {
    time += ms;
    t.mock.timers.tick(ms);
  };
  return { ran, news, pass };
}

test('what was held back when the daemon started is told at once', (t) => {
  const { ran, news } = journal(t);
  ran(resultOf(problem('a'), problem('b', 'settling')));
  assert.deepEqual(news(), ['a']);
});

test('what comes later is told when it has stood for a while, and once', (t) => {
  const { ran, news, pass } = journal(t);
  ran(resultOf());
  ran(resultOf(problem('a')));
  pass(10_000);
  ran(resultOf(problem('a'), problem('b')));
  assert.deepEqual(news(), []);
  pass(5_002);
  assert.deepEqual(news(), ['a']);
  ran(resultOf(problem('a'), problem('b')));
  pass(10_000);
  assert.deepEqual(news(), ['b']);
  pass(60_000);
  assert.deepEqual(news(), []);
});

test('what was over before that is not told, and comes anew', (t) => {
  const { ran, news, pass } = journal(t);
  ran(resultOf());
  ran(resultOf(problem('a')));
  pass(10_000);
  ran(resultOf());
  pass(10_000);
  ran(resultOf(problem('a')));
  pass(14_000);
  assert.deepEqual(news(), []);
  pass(2_000);
  assert.deepEqual(news(), ['a']);
});

test('uploads under way are never told', (t) => {
  const { ran, news, pass } = journal(t);
  ran(resultOf(problem('a', 'uploading'), problem('b', 'settling'), problem('c', 'changed')));
  pass(3_600_000);
  assert.deepEqual(news(), []);
});

test('a hundred problems are told, and how many more there are', (t) => {
  const { ran, news } = journal(t);
  ran(resultOf(...Array.from({ length: 103 }, (_unused, number) => problem(`p${number}`))));
  const told = news();
  assert.equal(told.length, 101);
  assert.match(String(told.at(-1)), /^… and more/);
});
