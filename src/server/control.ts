/**
 * The daemon's control socket: commands for whoever may use it, which is the owner and the group of its file.
 * A call is `POST /v1/<command>` with the arguments as JSON. The answer is a JSON object a line: `{event}` for
 * each progress report, then one `{result}` or `{error}`.
 *
 * A call that brings more than arguments, as the files of an image, has a content type of its own: its body is the
 * arguments as one line of JSON, then bytes as they come. The answer begins before them, and may end before them.
 */
import { once } from 'node:events';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as setTimer } from 'node:timers';
import { setTimeout } from 'node:timers/promises';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { socketPath, streamType, type Told } from './control-client.js';
import { firstLine } from './control-stream.js';
import { chunksOf, drain } from './lxd/uploads/body.js';
import { noSchemas } from './schemas.js';
import { listenAtSocket, type SocketPlace } from './unix-socket.js';

export interface ControlCall {
  /** What the caller sent; {} where it sent nothing. Not checked. */
  args: unknown;
  /** What the caller sends beside them; its end is the caller's. Rejects where that breaks off, or falls silent. */
  stream?: AsyncIterable<Uint8Array>;
  /** Aborts when the caller goes away, and when the server closes; its reason is a ServerError. */
  signal: AbortSignal;
  /** Tells the caller of progress. A caller that does not keep up misses reports, never the result. */
  report: (event: unknown) => void;
}

/** @returns the result, as JSON can hold it. @throws ServerError, which the caller gets. */
export type ControlCommand = (call: ControlCall) => Promise<unknown>;

export interface ControlLimits {
  /** For the arguments, in bytes. Default: 65,536. */
  body: number;
  /** Connections at once; more are dropped. Default: 64. */
  connections: number;
  /** How long to wait for a whole call, but for what it streams, in milliseconds. Default: 10,000. */
  requestMs: number;
  /** For a caller that streams, between two pieces, in milliseconds. Default: 60,000. */
  silenceMs: number;
  /** What is read of a stream that nobody wants, for a caller that looks for the answer late. Default: 1 GiB, 5 s. */
  drain: { bytes: number; ms: number };
  /** For a caller that takes nothing of its result, in milliseconds. Default: 30,000. */
  stallMs: number;
  /** How long {@link ControlServer.close} waits for calls to end, in milliseconds. Default: 1000. */
  graceMs: number;
}

export interface ControlServerOptions {
  /** Absolute. The socket is `control.sock` in it. */
  runDir: string;
  commands: Record<string, ControlCommand>;
  log: Logger;
  limits?: Partial<ControlLimits>;
}

export interface ControlServer {
  /** Of the socket. */
  path: string;
  /** Removes the socket, aborts the calls in progress, and waits for them a moment. */
  close(): Promise<void>;
}

/**
 * Listens at `<runDir>/control.sock`, mode 0660; makes `runDir` where it is missing, and replaces a socket that
 * nobody listens at any more.
 *
 * @throws ServerError BUSY where another process answers there, CONFIG for a path that is too long, DENIED or IO
 */
export async function createControlServer(options: ControlServerOptions): Promise<ControlServer> {
  const path = socketPath(options.runDir);
  const limits = limitsOf(options.limits);
  const calls = new Set<Call>();
  const app = createApp(options, { calls, limits });
  const sockets = trackSockets(app.server);
  try {
    const place = await listenAtSocket(path, (made) => app.listen({ path: made }));
    return { path, close: () => close(app, { place, calls, sockets, limits }) };
  } catch (error) {
    await app.close();
    throw error;
  }
}

function limitsOf(given: Partial<ControlLimits> = {}): ControlLimits {
  const times = { requestMs: 10_000, silenceMs: 60_000, stallMs: 30_000, graceMs: 1000 };
  const drain = { bytes: 1024 ** 3, ms: 5000 };
  return { body: 65_536, connections: 64, ...times, drain, ...given };
}

/** A call in progress. */
interface Call {
  controller: AbortController;
  /** Resolves when the caller has the answer, or has gone. */
  done: Promise<void>;
}

interface Calls {
  calls: Set<Call>;
  limits: ControlLimits;
}

type App = FastifyInstance<Server>;

function createApp({ commands, log }: ControlServerOptions, { calls, limits }: Calls): App {
  const app = Fastify({
    http: {
      headersTimeout: limits.requestMs,
      connectionsCheckingInterval: Math.min(1000, limits.requestMs),
    },
    maxRequestsPerSocket: 1,
    bodyLimit: limits.body,
    schemaController: noSchemas,
    frameworkErrors: (error, _request, reply) => refuse(error, reply),
  }) as unknown as App;
  app.server.maxConnections = limits.connections;
  limitTime(app.server, limits.requestMs);
  app.addContentTypeParser(streamType, (_request, payload, done) => done(null, payload));
  app.post('/v1/:command', async (request: FastifyRequest, reply: FastifyReply) => {
    const { command: name } = request.params as { command: string };
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
    reply.hijack();
    const controller = new AbortController();
    const run = command ?? (() => Promise.reject(unknownCommand(name)));
    const options = {
      controller,
      onUnexpected: (err: unknown) => log.error({ command: name, err }, 'a control command failed'),
      limits,
    };
    const done = isStream(request.raw)
      ? answerStream(reply.raw, { ...options, run, body: request.raw })
      : answer(reply.raw, {
          ...options,
          run: (call) => run({ args: request.body ?? {}, ...call }),
        });
    const call = { controller, done };
    calls.add(call);
    await done.finally(() => calls.delete(call));
  });
  app.setNotFoundHandler((request, reply) => refuse(unknownCommand(request.url), reply));
  app.setErrorHandler((error: Error, _request, reply) => refuse(error, reply));
  return app;
}

function isStream({ headers }: IncomingMessage): boolean {
  return headers['content-type'] === streamType;
}

/** Cuts off callers whose call is not here in time. Streams may take longer: there silence counts. */
function limitTime(server: Server, requestMs: number): void {
  server.prependListener('request', (request: IncomingMessage) => {
    if (isStream(request)) return;
    const timer = setTimer(() => {
      if (!request.complete) request.socket.destroy();
    }, requestMs);
    request.once('close', () => clearTimeout(timer));
  });
}

interface Answer {
  controller: AbortController;
  run: (call: Omit<ControlCall, 'args' | 'stream'>) => Promise<unknown>;
  onUnexpected: (error: unknown) => void;
  limits: ControlLimits;
  /** Is waited for between the result and the end of the answer. */
  afterwards?: () => Promise<void>;
}

interface StreamAnswer extends Omit<Answer, 'run'> {
  run: ControlCommand;
  body: IncomingMessage;
}

/** As {@link answer}, with arguments and stream of `body`. */
async function answerStream(
  response: ServerResponse,
  { run, body, controller, limits, ...rest }: StreamAnswer,
): Promise<void> {
  const reading = new AbortController();
  const signal = AbortSignal.any([controller.signal, reading.signal]);
  const chunks = chunksOf(body, { stallMs: limits.silenceMs, signal, sender: 'The caller' });
  await answer(response, {
    ...rest,
    ...{ controller, limits },
    async run(call) {
      try {
        const { line, rest } = await firstLine(chunks, limits.body);
        return await run({ args: parseArgs(line), stream: rest, ...call });
      } finally {
        // Whoever still waits for a piece must not keep its timer running.
        reading.abort(new ServerError('INTERRUPTED', 'The call is over'));
        void chunks.return().catch(() => undefined);
      }
    },
    // A connection that is closed while something is still to be read may lose the answer.
    afterwards: () => (controller.signal.aborted ? Promise.resolve() : drain(body, limits.drain)),
  });
}

function parseArgs(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new ServerError('USAGE', 'The daemon does not understand this call: no JSON', { cause });
  }
}

/** Runs a command and sends what it says. Never rejects, whatever becomes of the command and of the caller. */
async function answer(response: ServerResponse, options: Answer): Promise<void> {
  const { controller, run, onUnexpected, limits, afterwards } = options;
  const closed = once(response, 'close').then(() => controller.abort(callerGone()));
  response.writeHead(200, { 'Content-Type': 'application/x-ndjson', Connection: 'close' });
  // The caller sees at once that someone is at work.
  response.flushHeaders();
  const report = (event: unknown) => {
    if (response.writable && !response.writableNeedDrain) response.write(line({ event }));
  };
  let told: string;
  try {
    told = line({ result: (await run({ signal: controller.signal, report })) ?? null });
  } catch (error) {
    if (!(error instanceof ServerError)) onUnexpected(error);
    told = line({ error: errorOf(error) });
  }
  response.socket?.setTimeout(limits.stallMs);
  if (afterwards !== undefined) {
    response.write(told);
    told = '';
    await Promise.race([afterwards(), closed]);
  }
  response.end(told);
  await closed;
}

function callerGone(): ServerError {
  return new ServerError('INTERRUPTED', 'The caller went away');
}

function ending(): ServerError {
  return new ServerError('IO', 'The daemon ended in the middle of the work', {
    hint: 'try again when it runs again',
  });
}

const line = (told: Told) => `${JSON.stringify(told)}\n`;

function errorOf(error: unknown): NonNullable<Told['error']> {
  if (error instanceof ServerError) {
    const { code, message, hint } = error;
    return { code, message, ...(hint !== undefined && { hint }) };
  }
  const text = error instanceof Error ? error.message : String(error);
  const hint = 'please report it, with what the log of the daemon says';
  return { code: 'UNEXPECTED', message: `The daemon failed unexpectedly: ${text}`, hint };
}

function unknownCommand(name: string): ServerError {
  return new ServerError('USAGE', `The running daemon does not know the command ${shown(name)}`, {
    hint: 'it is of another version: restart it, for example with "systemctl restart lxd-image-server"',
  });
}

const shown = (name: string) => JSON.stringify(name.slice(0, 100));

/** Answers what is no call. */
function refuse(error: Error & { statusCode?: number }, reply: FastifyReply): void {
  const known =
    error instanceof ServerError
      ? error
      : new ServerError('USAGE', `The daemon does not understand this call: ${error.message}`);
  reply
    .code(error.statusCode ?? 404)
    .header('Connection', 'close')
    .type('application/x-ndjson')
    .send(line({ error: errorOf(known) }));
}

function trackSockets(server: Server): Set<Socket> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  return sockets;
}

interface Closing extends Calls {
  place: SocketPlace;
  sockets: Set<Socket>;
}

async function close(app: App, { place, ...rest }: Closing): Promise<void> {
  try {
    await place.remove();
  } finally {
    await stopListening(app, rest);
  }
}

async function stopListening(
  app: App,
  { calls, sockets, limits }: Pick<Closing, 'calls' | 'sockets' | 'limits'>,
): Promise<void> {
  const closed = app.close();
  for (const { controller } of calls) controller.abort(ending());
  const done = new AbortController();
  const grace = setTimeout(limits.graceMs, undefined, { signal: done.signal }).catch(() => {});
  await Promise.race([Promise.all([...calls].map((call) => call.done)), grace]);
  done.abort();
  for (const socket of sockets) socket.destroy();
  await closed;
}
