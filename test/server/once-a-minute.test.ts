import assert from 'node:assert/strict';
import { test } from 'node:test';
import { onceAMinute } from '../../src/server/once-a-minute.js';

test('what happens again within a minute is not said, what happens after it is', () => {
  const said: number[] = [];
  let now = 5;
  const say = onceAMinute(
    (at: number) => said.push(at),
    () => now,
  );
  for (now of [5, 6, 60_004, 60_005, 60_006, 120_004, 120_005]) say(now);
  assert.deepEqual(said, [5, 60_005, 120_005]);
});
