/** The images, kept by a command as the daemon keeps them, where there is no daemon. */
import { createLibrary, type KeptLibrary } from '../daemon/library.js';
import { createRunner } from '../daemon/runner.js';
import { createPool } from '../disk/pool.js';
import { createPipeline } from '../pipeline.js';
import type { Command } from './command.js';
import { withLock } from './update.js';

/**
 * Does `work` on the images while this process holds the lock of the root, and publishes what that changes.
 *
 * @throws ServerError as the pipeline does, BUSY where another process has the lock, or of `work`
 */
export async function withLibrary<T>(
  { config, pagesDir, log }: Command,
  work: (library: KeptLibrary) => Promise<T>,
): Promise<T> {
  const { paths, publish } = config;
  return await withLock(paths.root, async () => {
    const pool = createPool();
    const pipeline = createPipeline({ paths, publish, pagesDir, pool, log });
    const runner = createRunner({ pipeline, pool, log, onActivity: () => {}, onRun: () => {} });
    const library = createLibrary({ config, pipeline, runner, log });
    try {
      // Of an import that was killed.
      await library.sweep();
      await runner.update({ passing: true });
      const result = await work(library);
      // Where there never is a daemon, nobody else deletes what was taken out long ago.
      await library.ran();
      return result;
    } finally {
      await Promise.all([library.close(), runner.close()]);
    }
  });
}
