/** What the daemon tells of itself. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Problem } from '../../src/catalog/tree.js';
import { createReporter } from '../../src/daemon/report.js';
import { createServiceManager } from '../../src/daemon/service-manager.js';
import type { RunResult } from '../../src/pipeline.js';
import { memoryLog } from '../support/memory-log.js';

/** A run that held back `problems`. */
function runWith(problems: Problem[]): RunResult {
  const ms = { scan: 0, digest: 0, publish: 0 };
  return {
    ...{ products: 0, versions: 0, bytes: 0, published: [], problems, ms },
    read: { files: 0, bytes: 0 },
  };
}

test('a status says of what settles when, and goes through the products once for that', () => {
  const manager = createServiceManager({ log: memoryLog().log, env: {} });
  const pool = { bytesRead: () => 0 };
  const reporter = createReporter({ version: '1', root: '/srv', pool, manager });
  let asked = 0;
  reporter.attach({
    runner: {
      pending() {
        asked += 1;
        return new Map([['a/b/c/d', 1_000]]);
      },
    },
    lookout: { state: () => ({ mode: 'events', folders: 0 }) },
    serving: { state: () => ({ reason: 'none' }) },
    schedule: { state: () => [] },
    replication: { state: () => [] },
    redirects: { serving: () => undefined },
  });
  const of = (path: string, code: Problem['code']) => ({ path, code, reason: 'r', cure: 'c' });
  reporter.ran(
    runWith([of('a/b/c/d/1', 'settling'), of('a/b/c/d/2', 'empty'), of('x/b/c/d/1', 'settling')]),
  );
  const until = reporter.status().held.map((problem) => problem.until);
  assert.deepEqual(until, ['1970-01-01T00:00:01.000Z', undefined, undefined]);
  assert.equal(asked, 1);
});
