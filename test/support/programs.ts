/** Programs that a test needs beside Node: absent ones skip it with a reason, or fail it where CI demands all. */
import { missingPrograms } from './command.js';

/** The environment for programs of the system's, some of which stand in sbin. */
export const systemEnv = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };

/**
 * Options for a test or suite that runs these programs: `test('…', needs('nginx'), …)`.
 * With REQUIRE_TESTS=1 it is never skipped, so that a missing program fails it.
 */
export function needs(...programs: string[]): { skip: string | false } {
  return { skip: process.env.REQUIRE_TESTS !== '1' && missingPrograms(...programs) };
}

/** As {@link needs}, for what only root may do, as mounting or giving files away. */
export function needsRoot(...programs: string[]): { skip: string | false } {
  if (process.getuid?.() === 0 || process.env.REQUIRE_TESTS === '1') return needs(...programs);
  return { skip: 'needs root' };
}
