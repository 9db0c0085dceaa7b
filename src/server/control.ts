/**
 * The daemon's control socket: commands for whoever may use it, which is the owner and the group of its file.
 * A call is `POST /v1/<command>` with the arguments as JSON. The answer is a JSON object a line: `{event}` for
 * each progress report, then one `{result}` or `{error}`.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmod, link, lstat, mkdir, rename, rm, unlink } from 'node:fs/promises';
import type { Server, ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { ServerError, systemCode, systemText } from '../errors.js';
import type { Logger } from '../log.js';
import { mostPathBytes, socketPath, type Told } from './control-client.js';

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
  if (Buffer.byteLength(path) > mostPathBytes) throw tooLong(path);
  const limits = limitsOf(options.limits);
  const calls = new Set<Call>();
  const app = createApp(options, { calls, limits });
  const sockets = trackSockets(app.server);
  try {
    const inode = await listenAt(app, { path, runDir: options.runDir });
    return { path, close: () => close(app, { path, inode, calls, sockets, limits }) };
  } catch (error) {
    await app.close();
    throw error instanceof ServerError ? error : listenError(path, error);
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

/**
 * The socket gets its name when it has its mode already: it is made in a folder that nobody else may enter.
 * @returns its inode.
 */
async function listenAt(
  app: App,
  { path, runDir }: { path: string; runDir: string },
): Promise<number> {
  await mkdir(runDir, { recursive: true, mode: 0o755 });
  // As short as the name of the socket, for its path must not become longer.
  const folder = join(runDir, `.c${randomBytes(3).toString('hex')}`);
  await mkdir(folder, { mode: 0o700 });
  const made = join(folder, 's');
  try {
    await app.listen({ path: made });
    await chmod(made, 0o660);
    await linkInPlace(made, { path, aside: join(folder, 'o') });
    return (await lstat(made)).ino;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Gives the socket `made` its name. Of two that try at once, one succeeds. */
async function linkInPlace(
  made: string,
  { path, aside }: { path: string; aside: string },
): Promise<void> {
  for (let attempt = 0; attempt < 10; attempt++) {
    try {
      return await link(made, path);
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error;
    }
    const found = await whatIs(path);
    if (found === 'other') throw inTheWay(path);
    if (found === 'living') break;
    if (found === 'stale') await removeStale(path, aside);
  }
  throw new ServerError('BUSY', `Another daemon listens at ${path}`, {
    hint: 'stop it first, or set paths.run to a folder of its own',
  });
}

async function whatIs(path: string): Promise<'living' | 'stale' | 'other' | 'nothing'> {
  try {
    if (!(await lstat(path)).isSocket()) return 'other';
    return (await isAlive(path)) ? 'living' : 'stale';
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 'nothing';
    throw error;
  }
}

/** Takes a stale socket away; one that has come to life in its place meanwhile gets its name back. */
async function removeStale(path: string, aside: string): Promise<void> {
  try {
    await rename(path, aside);
  } catch (error) {
    // Another process was faster.
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  if (await isAlive(aside)) await link(aside, path);
  await unlink(aside);
}

/** Whether a process listens there, be it that it does not answer. */
async function isAlive(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch (error) {
    if (['ECONNREFUSED', 'ENOENT'].includes(systemCode(error) ?? '')) return false;
    // Its queue is full: there is one.
    if (systemCode(error) === 'EAGAIN') return true;
    throw error;
  } finally {
    socket.destroy();
  }
}

function tooLong(path: string): ServerError {
  const message = `The path of the control socket is too long: ${path} has ${Buffer.byteLength(path)} bytes, ${mostPathBytes} are the most`;
  return new ServerError('CONFIG', message, { hint: 'set paths.run to a shorter path' });
}

function inTheWay(path: string): ServerError {
  return new ServerError('IO', `Cannot listen at ${path}: what is there is no socket`, {
    hint: 'move it away, or set paths.run to another folder',
  });
}

function listenError(path: string, cause: unknown): ServerError {
  const denied = ['EACCES', 'EPERM', 'EROFS'].includes(systemCode(cause) ?? '');
  return new ServerError(
    denied ? 'DENIED' : 'IO',
    `Cannot listen at ${path}: ${systemText(cause)}`,
    { hint: 'set paths.run to a folder that this user may write', cause },
  );
}

interface Closing extends Calls {
  path: string;
  inode: number;
  sockets: Set<Socket>;
}

async function close(app: App, { path, inode, ...rest }: Closing): Promise<void> {
  try {
    await removeOwn(path, inode);
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

/** Removes the socket, unless another daemon's stands there by now. */
async function removeOwn(path: string, inode: number): Promise<void> {
  try {
    if ((await lstat(path)).ino === inode) await unlink(path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw listenError(path, error);
  }
}
