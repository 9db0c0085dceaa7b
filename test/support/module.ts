/** Pieces of JavaScript that run in a process of their own, to be killed, counted or traced there. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';

/** The URL of a compiled source file, as a literal to import from: `disk/lock.js`. */
export function source(path: string): string {
  return JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);
}

/** Starts Node with `code` as an ES module. */
export function startModule(
  code: string,
  ...args: readonly string[]
): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, ['--input-type=module', '--eval', code, '--', ...args]);
}
