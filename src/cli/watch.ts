/** `watch`: the daemon, which publishes whatever lands in the tree. */
import { runDaemon } from '../daemon/daemon.js';
import { exitCodes } from '../errors.js';
import type { Command } from './command.js';

/** Watches until the command is told to end. */
export async function watch(command: Command): Promise<number> {
  await runDaemon(command);
  return exitCodes.done;
}
