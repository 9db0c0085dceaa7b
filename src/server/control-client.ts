/**
 * The caller's side of the control socket; `control.ts` is the daemon's.
 */

import { once } from 'node:events';
import { lstat, readFile } from 'node:fs/promises';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { type ErrorCode, errorCodes, ServerError, systemCode, systemText } from '../errors.js';
import { mostPathBytes } from './unix-socket.js';

/** The content type of a call that brings more than its arguments; see `control.ts`. */
export const streamType = 'application/x-lxd-image-server-stream';

/** A line of the answer to a call. */
export interface Told {
  event?: unknown;
  result?: unknown;
  /** `code` is one of {@link errorCodes}, or another one for a failure of the daemon itself. */
  error?: { code: string; message: string; hint?: string };
}

/** Where the daemon with this folder listens. */
export function socketPath(runDir: string): string {
  return join(runDir, 'control.sock');
}

export interface CallOptions {
  /** Absolute. */
  runDir: string;
  command: string;
  /** Default: {}. */
  args?: object;
  /**
   * Gives what is sent beside them, once the daemon has begun with the work; its pieces must not change once they were
   * handed over. What it throws ends the call.
   */
  stream?: () => AsyncIterable<Uint8Array>;
  signal?: AbortSignal;
  /** Is told of progress. */
  onEvent?: (event: unknown) => void;
  /** How long the daemon may take to begin with the work, in milliseconds. Default: 10,000. */
  beginMs?: number;
  /** The most bytes of a result. Default: 64 MiB. */
  mostBytes?: number;
}

/**
 * Has the daemon carry out a command, however long that takes.
 *
 * @returns `undefined` where no daemon listens
 * @throws the ServerError that the daemon answers with; DENIED where this user may not call it; BUSY where it is
 *   called too often at once; IO where it does not answer, goes away or answers with something else; INTERRUPTED;
 *   whatever `options.stream` throws
 */
export async function callDaemon<T>(options: CallOptions): Promise<{ result: T } | undefined> {
  const path = socketPath(options.runDir);
  // Nobody can listen there; see createControlServer.
  if (Buffer.byteLength(path) > mostPathBytes) return undefined;
  const begun = await begin(path, options);
  if (begun === undefined) return undefined;
  const { call, response } = begun;
  let failure: { error: unknown } | undefined;
  const sending = send(call, options.stream).catch((error: unknown) => {
    failure = { error };
    call.destroy();
  });
  try {
    return await answerOf<T>(response, { path, ...options });
  } catch (error) {
    throw failure === undefined || options.signal?.aborted === true ? error : failure.error;
  } finally {
    response.destroy();
    if (options.stream !== undefined) call.destroy();
    await sending;
  }
}

/** Sends what goes with a call, until it is over. Rejects with what `stream` throws. */
async function send(call: ClientRequest, stream: CallOptions['stream']): Promise<void> {
  if (stream === undefined) return;
  for await (const chunk of stream()) {
    if (call.destroyed) return;
    if (!call.write(chunk)) await drained(call);
  }
  call.end();
}

/** Resolves when there is room for more, or nothing more can be sent. */
async function drained(call: ClientRequest): Promise<void> {
  const over = new AbortController();
  const until = (event: string) => once(call, event, { signal: over.signal });
  try {
    if (!call.destroyed) await Promise.race([until('drain'), until('close')]);
  } catch {
    // An error of the connection: the answer tells.
  } finally {
    over.abort();
  }
}

/** What the daemon answers. */
async function answerOf<T>(
  response: IncomingMessage,
  {
    path,
    onEvent = () => {},
    mostBytes = 64 * 1024 * 1024,
    signal,
  }: CallOptions & { path: string },
): Promise<{ result: T }> {
  try {
    for await (const text of linesOf(response, mostBytes)) {
      const told = parseTold(text);
      if (told?.error !== undefined) throw toldError(told.error);
      if (told !== undefined && 'result' in told) return { result: told.result as T };
      if (told === undefined || !('event' in told)) throw notOurs(path);
      onEvent(told.event);
    }
  } catch (error) {
    if (signal?.aborted === true) throw interrupted(error);
    throw error instanceof ServerError || systemCode(error) === undefined ? error : wentAway(error);
  }
  throw wentAway();
}

/** Sends the call, without its stream; resolves when the daemon has begun with it. */
function begin(
  path: string,
  options: CallOptions,
): Promise<{ call: ClientRequest; response: IncomingMessage } | undefined> {
  const { command, args = {}, stream, signal, beginMs = 10_000 } = options;
  const body = JSON.stringify(args);
  return new Promise((resolve, reject) => {
    const call = request({
      socketPath: path,
      path: `/v1/${encodeURIComponent(command)}`,
      method: 'POST',
      headers:
        stream === undefined
          ? { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }
          : { 'Content-Type': streamType },
      agent: false,
      ...(signal && { signal }),
    });
    const timer = setTimeout(() => call.destroy(silent()), beginMs);
    call.once('close', () => clearTimeout(timer));
    call.once('response', (response) => {
      clearTimeout(timer);
      resolve({ call, response });
    });
    call.on('error', (error) => {
      if (signal?.aborted === true) reject(interrupted(error));
      else if (isAbsent(error)) resolve(undefined);
      else callError(path, error).then(reject, reject);
    });
    if (stream === undefined) call.end(body);
    else call.write(`${body}\n`);
  });
}

const isAbsent = (error: Error) =>
  ['ENOENT', 'ENOTDIR', 'ECONNREFUSED'].includes(systemCode(error) ?? '');

async function callError(path: string, cause: Error): Promise<ServerError> {
  if (cause instanceof ServerError) return cause;
  switch (systemCode(cause)) {
    case 'EACCES':
    case 'EPERM': {
      const group = await groupOf(path);
      const message = `May not use the control socket ${path} of the daemon: ${systemText(cause)}`;
      const hint = `run the command as root, or as a member of ${group}`;
      return new ServerError('DENIED', message, { hint, cause });
    }
    case 'EAGAIN':
      return new ServerError('BUSY', 'The daemon is called too often at once', {
        hint: 'try again in a moment',
        cause,
      });
    default: {
      const message = `Cannot call the daemon at ${path}: ${systemText(cause)}`;
      return new ServerError('IO', message, { hint: 'try again in a moment', cause });
    }
  }
}

/** `the group "www-data"`, of that file; in general terms where its folder does not let us look. */
async function groupOf(path: string): Promise<string> {
  try {
    const { gid } = await lstat(path);
    const groups = (await readFile('/etc/group', 'utf8')).split('\n');
    const found = groups.map((each) => each.split(':')).find(([, , id]) => id === String(gid));
    return `the group ${JSON.stringify(found?.[0] ?? gid)}`;
  } catch {
    return 'the group that owns it';
  }
}

/** The lines of an answer. @throws ServerError IO for one that is too long */
async function* linesOf(response: IncomingMessage, mostBytes: number): AsyncGenerator<string> {
  let pieces: Buffer[] = [];
  let length = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      yield Buffer.concat([...pieces, chunk.subarray(from, end)]).toString('utf8');
      pieces = [];
      length = 0;
      from = end + 1;
    }
    pieces.push(chunk.subarray(from));
    length += chunk.length - from;
    if (length > mostBytes) {
      throw new ServerError('IO', `The daemon answers with more than ${mostBytes} bytes`);
    }
  }
}

function parseTold(text: string): Told | undefined {
  try {
    const told: unknown = JSON.parse(text);
    return typeof told === 'object' && told !== null ? told : undefined;
  } catch {
    return undefined;
  }
}

/** The error as it was thrown in the daemon. */
function toldError({ code, message, hint }: NonNullable<Told['error']>): ServerError {
  const known = errorCodes.find((each): each is ErrorCode => each === code) ?? 'IO';
  return new ServerError(known, String(message), hint === undefined ? {} : { hint: String(hint) });
}

function notOurs(path: string): ServerError {
  return new ServerError('IO', `What listens at ${path} is no daemon of this server`, {
    hint: 'set paths.run to a folder of its own',
  });
}

function silent(): ServerError {
  return new ServerError('IO', 'The daemon does not answer', {
    hint: 'see its log, and restart it, for example with "systemctl restart lxd-image-server"',
  });
}

function wentAway(cause?: unknown): ServerError {
  return new ServerError('IO', 'The daemon ended in the middle of the work', {
    hint: 'see its log, and try again',
    ...(cause !== undefined && { cause }),
  });
}

function interrupted(cause: unknown): ServerError {
  return new ServerError('INTERRUPTED', 'Interrupted', { cause });
}
