import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type ErrorCode, ServerError } from '../../src/errors.js';
import { pauseAfter, retry } from '../../src/mirror/retry.js';

const failure = (code: ErrorCode) => new ServerError(code, 'It has failed', { hint: 'wait' });

/** Options under which no time goes by, and the pauses that were asked for. */
function timeless(random = 0) {
  const pauses: number[] = [];
  const ending = new AbortController();
  const pause = async (milliseconds: number) => void pauses.push(milliseconds);
  return { pauses, ending, options: { signal: ending.signal, random: () => random, pause } };
}

/** Fails with each of `codes`, then succeeds. */
function failing(codes: readonly ErrorCode[]) {
  let calls = 0;
  return async () => {
    const code = codes[calls++];
    if (code !== undefined) throw failure(code);
    return calls;
  };
}

describe('what has failed', () => {
  test('is tried again, each time after twice as long, up to the longest pause', async () => {
    const { pauses, options } = timeless();
    const codes = Array.from({ length: 11 }, () => 'MIRROR_DOWN' as const);
    assert.equal(await retry(failing(codes), options), 12);
    const seconds = [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 150, 150];
    assert.deepEqual(
      pauses,
      seconds.map((each) => each * 1000),
    );
  });

  test('is tried again soon after it has got somewhere', async () => {
    const { pauses, options } = timeless();
    const attempt = failing(Array.from({ length: 6 }, () => 'MIRROR_DOWN' as const));
    let calls = 0;
    await retry(async ({ progress }) => {
      if (++calls === 5) progress();
      return await attempt();
    }, options);
    assert.deepEqual(pauses, [500, 1000, 2000, 4000, 500, 1000]);
  });

  test('is tried rarely where room or rights are missing', async () => {
    const { pauses, options } = timeless();
    await retry(failing(['MIRROR_FULL', 'MIRROR_DENIED']), options);
    assert.deepEqual(pauses, [150_000, 150_000]);
  });

  for (const code of ['MIRROR_AUTH', 'MIRROR_TAKEN'] as const) {
    test(`is left alone with ${code}, until someone ends it`, async () => {
      const { pauses, options, ending } = timeless();
      const told: unknown[] = [];
      const waiting = retry(failing([code]), {
        ...options,
        onFailure: (error, { after }) => {
          told.push((error as ServerError).code, after);
          setImmediate(() => ending.abort(new Error('a new configuration')));
        },
      });
      await assert.rejects(waiting, /a new configuration/);
      assert.deepEqual([pauses, told], [[], [code, undefined]]);
    });
  }

  test('is not tried again where it is a bug of ours, or the end has come', async () => {
    const { pauses, options, ending } = timeless();
    await assert.rejects(
      retry(async () => {
        throw new TypeError('a bug');
      }, options),
      TypeError,
    );
    const last = retry(async () => {
      ending.abort(new Error('the end'));
      throw failure('MIRROR_DOWN');
    }, options);
    await assert.rejects(last, /It has failed/);
    await assert.rejects(retry(failing([]), options), /the end/);
    assert.deepEqual(pauses, []);
  });
});

test('pauses are from half of what is due up to all of it, however often it has failed', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 100_000 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (failures, random) => {
        const due = Math.min(300_000, 1000 * 2 ** (failures - 1));
        const after = pauseAfter(failure('MIRROR_DOWN'), { failures, random: () => random });
        assert.ok(after !== undefined && after >= due / 2 && after <= due, String(after));
      },
    ),
  );
});
