/** File systems mounted for a test, which needs root. */
import type { TestContext } from 'node:test';
import { outcome, run } from './command.js';

/**
 * A function that mounts an empty file system at a folder, `size` (`16m`) large. Call this before the folder is made: what a test
 * leaves mounted is unmounted after it, and only what is set up later is cleared away later.
 */
export function mounting(
  t: Pick<TestContext, 'after'>,
): (folder: string, options?: { size?: string }) => Promise<void> {
  const points: string[] = [];
  t.after(async () => {
    // Most tests have unmounted it themselves.
    for (const point of points.reverse()) await outcome('umount', ['--lazy', point]);
  });
  return async (folder, { size = '50%' } = {}) => {
    await run('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'images', folder]);
    points.push(folder);
  };
}
