/**
 * The daemon's control socket: commands for whoever may use it, which is the owner and the group of its file.
 * A call is `POST /v1/<command>` with the arguments as JSON. The answer is a JSON object a line: `{event}` for
 * each progress report, then one `{result}` or `{error}`.
 */
import { once } from 'node:events';
import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { socketPath, type Told } from './control-client.js';
import { noSchemas } from './schemas.js';
import { listenAtSocket, type SocketPlace } from './unix-socket.js';

export interface ControlCall {
  /** What the caller sent; {} where it sent nothing. Not checked. */
  args: unknown;
  /** Aborts when the caller goes away, and when the server closes. */
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
  /** How long to wait for a whole call, in milliseconds. Default: 10,000. */
  requestMs: number;
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
  const defaults = { body: 65_536, connections: 64, requestMs: 10_000, stallMs: 30_000 };
  return { ...defaults, graceMs: 1000, ...given };
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
    requestTimeout: limits.requestMs,
    maxRequestsPerSocket: 1,
    bodyLimit: limits.body,
    schemaController: noSchemas,
    frameworkErrors: (error, _request, reply) => refuse(error, reply),
  }) as unknown as App;
  app.server.maxConnections = limits.connections;
  app.post('/v1/:command', async (request: FastifyRequest, reply: FastifyReply) => {
    const { command: name } = request.params as { command: string };
    const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
    reply.hijack();
    const controller = new AbortController();
    const run = command ?? (() => Promise.reject(unknownCommand(name)));
    const done = answer(reply.raw, {
      args: request.body ?? {},
      controller,
      run,
      onUnexpected: (err) => log.error({ command: name, err }, 'a control command failed'),
      stallMs: limits.stallMs,
    });
    const call = { controller, done };
    calls.add(call);
    await done.finally(() => calls.delete(call));
  });
  app.setNotFoundHandler((request, reply) => refuse(unknownCommand(request.url), reply));
  app.setErrorHandler((error: Error, _request, reply) => refuse(error, reply));
  return app;
}

interface Answer {
  args: unknown;
  controller: AbortController;
  run: ControlCommand;
  onUnexpected: (error: unknown) => void;
  stallMs: number;
}

/** Runs a command and sends what it says. Never rejects, whatever becomes of the command and of the caller. */
async function answer(response: ServerResponse, options: Answer): Promise<void> {
  const { args, controller, run, onUnexpected, stallMs } = options;
  const closed = once(response, 'close').then(() => controller.abort());
  response.writeHead(200, { 'Content-Type': 'application/x-ndjson', Connection: 'close' });
  // The caller sees at once that someone is at work.
  response.flushHeaders();
  const report = (event: unknown) => {
    if (response.writable && !response.writableNeedDrain) response.write(line({ event }));
  };
  let told: string;
  try {
    told = line({ result: (await run({ args, signal: controller.signal, report })) ?? null });
  } catch (error) {
    if (!(error instanceof ServerError)) onUnexpected(error);
    told = line({ error: errorOf(error) });
  }
  response.socket?.setTimeout(stallMs);
  response.end(told);
  await closed;
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
  for (const { controller } of calls) controller.abort();
  const done = new AbortController();
  const grace = setTimeout(limits.graceMs, undefined, { signal: done.signal }).catch(() => {});
  await Promise.race([Promise.all([...calls].map((call) => call.done)), grace]);
  done.abort();
  for (const socket of sockets) socket.destroy();
  await closed;
}
