/** Work that a running daemon does for a command, and the command itself where there is none. */
import { ServerError } from '../errors.js';
import { callDaemon } from '../server/control-client.js';
import type { Command } from './command.js';
import { createProgress } from './progress.js';

export interface DaemonWork<T> {
  /** The command of the control socket, with its arguments. */
  command: string;
  args: object;
  /** What a stage is called on the terminal. */
  stageName: (stage: string) => string;
  /** Does the work in this process, under the lock of the root. */
  self: () => Promise<T>;
}

/** {@link callDaemonOrSelf}, with a bar that shows how much has been read. */
export async function byDaemonOrSelf<T>(
  command: Command,
  { stageName, ...work }: DaemonWork<T>,
): Promise<T> {
  let now: ProgressEvent = { stage: '', bytes: 0, done: 0 };
  const progress = await createProgress({ terminal: command.terminal, bytesRead: () => now.done });
  const onEvent = (event: unknown) => {
    const next = event as ProgressEvent;
    const isOther = next.stage !== now.stage || next.bytes !== now.bytes;
    now = { ...next, done: 0 };
    if (isOther) progress.stage(stageName(next.stage), next.bytes);
    now.done = next.done;
  };
  const self = async () => {
    // It has a bar of its own.
    progress.stop();
    return await work.self();
  };
  try {
    return await callDaemonOrSelf(command, { ...work, self, onEvent });
  } finally {
    progress.stop();
  }
}

/**
 * Has the daemon do the work. Without a daemon, or where it serves another root or may not be called, the work is
 * done here: the lock of the root tells whether that is allowed.
 *
 * @throws ServerError of the daemon, or of `work.self`
 */
export async function callDaemonOrSelf<T>(
  { config, signal }: Command,
  work: Omit<DaemonWork<T>, 'stageName'> & {
    /** Is told of progress. */
    onEvent?: (event: unknown) => void;
    /** What the daemon is sent beside the arguments, from its beginning. */
    stream?: () => AsyncIterable<Uint8Array>;
  },
): Promise<T> {
  const { self, ...call } = work;
  let refusal: ServerError | undefined;
  try {
    const answer = await callDaemon<T>({ runDir: config.paths.run, signal, ...call });
    if (answer !== undefined) return answer.result;
  } catch (error) {
    if (!isOf(error, 'BUSY', 'DENIED')) throw error;
    refusal = error;
  }
  try {
    return await self();
  } catch (error) {
    // It is the daemon of this root after all, so its refusal says more.
    throw isOf(error, 'BUSY') && refusal?.code === 'DENIED' ? refusal : error;
  }
}

function isOf(error: unknown, ...codes: ServerError['code'][]): error is ServerError {
  return error instanceof ServerError && codes.includes(error.code);
}

/** What the daemon tells while it works: of `bytes` that the stage has to read, `done` are read. */
export interface ProgressEvent {
  stage: string;
  bytes: number;
  done: number;
}
