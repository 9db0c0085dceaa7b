/** Waiting for what no event tells of. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';

/** Far longer than anything takes, in milliseconds: what never comes fails the test in place of holding it up. */
const patience = 60_000;

/** Waits until `isTrue`; fails as something that is `what` where that takes for ever. */
export async function eventually(
  what: string,
  isTrue: () => boolean | Promise<boolean>,
): Promise<void> {
  const end = performance.now() + patience;
  while (!(await isTrue())) {
    assert.ok(performance.now() < end, `never: ${what}`);
    await sleep(20);
  }
}
