/**
 * The embedded HTTPS server: what is published, to anyone, and nothing else.
 * This file makes it, has it listen, and closes it; public-tree.ts says what it answers.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { createSecureContext } from 'node:tls';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { createDocuments } from './documents.js';
import { capacityOf, listenOn, parseListen, urlOf } from './listen.js';
import { onceAMinute } from './once-a-minute.js';
import { createPublicTree, type PublicTree } from './public-tree.js';
import { type Exchange, failed, sendText } from './responses.js';
import { type Running, trackResponses } from './running.js';
import { createPieceBudget } from './transfer.js';

/** How long, in milliseconds, the server waits for a client, and how much it does at once. */
export interface ServerLimits {
  /** For the TLS handshake. Default: 10,000. */
  handshakeMs: number;
  /** For the head of a request. Default: 15,000. */
  headersMs: number;
  /** For a whole request. Default: 30,000. */
  requestMs: number;
  /** For the next request on a connection. Default: 30,000. */
  keepAliveMs: number;
  /** For a client that takes no byte of its download. Default: 60,000. */
  stallMs: number;
  /** Connections at once; more are dropped. Default: by the limit of open files. */
  connections: number;
  /** Files open for downloads at once; more get 503. Default: by the limit of open files. */
  downloads: number;
}

/** PEM. */
export interface Certificate {
  key: Buffer | string;
  cert: Buffer | string;
}

export interface ImageServerOptions {
  /** `127.0.0.1:8443`, `[::1]:8443`, or `:8443` for all addresses. */
  listen: string;
  /** Absolute; holds `index.html`. */
  root: string;
  /** Absolute, in the root. */
  imagesDir: string;
  /** Absolute; holds `index.json`, `images.json` and the `.gz` of each. */
  streamsDir: string;
  certificate: Certificate;
  log: Logger;
  limits?: Partial<ServerLimits>;
}

export interface CloseOptions {
  /** How long downloads may run on, in milliseconds, before they are cut. Default: 3000. */
  graceMs?: number;
  /**
   * Whether every connection may end by itself in that time, those too that have asked for nothing yet: their
   * next request is answered, and told to be the last. Default: no, the end of the last download is the end.
   */
  gently?: boolean;
}

/** A server that listens. */
export interface ImageServer {
  /** For a client on this machine. */
  url: string;
  address: AddressInfo;
  /**
   * Shows this certificate in handshakes from now on; connections go on as they are.
   * @throws ServerError TLS where it cannot be used; then the old one stays.
   */
  useCertificate(certificate: Certificate): void;
  /** Accepts nothing new from the moment it is called. Called again, it can shorten the grace. */
  close(options?: CloseOptions): Promise<void>;
}

/**
 * Starts the server; it listens when this resolves.
 *
 * @throws ServerError CONFIG, TLS, BUSY, DENIED or IO, each saying what stands in the way
 */
export async function createImageServer(options: ImageServerOptions): Promise<ImageServer> {
  const address = parseListen(options.listen);
  const limits = limitsOf(options.limits);
  const documents = createDocuments({ dir: options.streamsDir, log: options.log });
  const tree = createPublicTree({ ...options, documents, downloads: limits.downloads });
  const app = createApp(options, limits);
  const running = trackResponses(app.server);
  const cut = trackConnections(app.server, { limits, log: options.log });
  logRequests(app.server, options.log);
  addRoutes(app, { tree, running, log: options.log });
  await listenOn(app, address);
  const listening = app.server.address() as AddressInfo;
  const close = createClose(app, { idle: running.idle, cut });
  const useCertificate = (certificate: Certificate) =>
    app.server.setSecureContext(usable(certificate));
  return { url: urlOf(listening), address: listening, useCertificate, close };
}

function limitsOf(given: Partial<ServerLimits> = {}): ServerLimits {
  return {
    handshakeMs: 10_000,
    headersMs: 15_000,
    requestMs: 30_000,
    keepAliveMs: 30_000,
    stallMs: 60_000,
    ...capacityOf(),
    ...given,
  };
}

type App = FastifyInstance<Server>;

function createApp({ certificate }: ImageServerOptions, limits: ServerLimits): App {
  const https = {
    ...usable(certificate),
    ALPNProtocols: ['http/1.1', 'http/1.0'],
    handshakeTimeout: limits.handshakeMs,
    headersTimeout: limits.headersMs,
    connectionsCheckingInterval: Math.min(5000, limits.headersMs),
  };
  return Fastify({
    https,
    connectionTimeout: limits.stallMs,
    keepAliveTimeout: limits.keepAliveMs,
    requestTimeout: limits.requestMs,
    bodyLimit: 1024,
    exposeHeadRoutes: false,
    // A client that asks on while the server closes is answered, and told to go.
    return503OnClosing: false,
    clientErrorHandler: answerClientError,
    frameworkErrors: (error, _request, reply) => answerError(error, reply),
  }) as unknown as App;
}

/** What TLS needs to know of a certificate. @throws ServerError TLS where key and certificate do not fit */
function usable({ key, cert }: Certificate) {
  const context = { key, cert, minVersion: 'TLSv1.2' as const };
  try {
    createSecureContext(context);
    return context;
  } catch (cause) {
    const hint = 'give a PEM key and the certificate made for it, or run "lxd-image-server init"';
    throw new ServerError('TLS', 'Cannot use the TLS key and certificate', { hint, cause });
  }
}

function addRoutes(
  app: App,
  { tree, running, log }: { tree: PublicTree; running: Running; log: Logger },
): void {
  const budget = createPieceBudget();
  const answer = (request: FastifyRequest, reply: FastifyReply) => {
    reply.hijack();
    const exchange = { request: request.raw, response: reply.raw, budget, log };
    const admission = running.admit(request.raw.socket);
    if (admission === 'ignore') return;
    if (admission === 'refuse') return refusePipelined(exchange);
    tree(exchange).catch((error: unknown) => failed(exchange, error));
  };
  app.route({ method: ['GET', 'HEAD'], url: '/*', handler: answer });
  app.route({ method: otherMethods(app), url: '/*', onRequest: refuseMethod, handler: answer });
  app.setNotFoundHandler(refuseMethod);
  app.setErrorHandler((error: Error, _request, reply) => answerError(error, reply));
}

function refusePipelined(exchange: Exchange): void {
  sendText(exchange, {
    status: 503,
    text: 'Too many requests at once on this connection: wait for the answers.',
    headers: { Connection: 'close' },
  });
}

function otherMethods(app: App): string[] {
  return app.supportedMethods.filter((method) => method !== 'GET' && method !== 'HEAD');
}

async function refuseMethod(request: FastifyRequest, reply: FastifyReply): Promise<void> {
  reply.hijack();
  sendText(
    { request: request.raw, response: reply.raw },
    {
      status: 405,
      text: 'This server is read only here: use GET or HEAD.',
      headers: { Allow: 'GET, HEAD', Connection: 'close' },
    },
  );
}

function answerError(error: Error & { statusCode?: number }, reply: FastifyReply): void {
  const status = error.statusCode ?? 500;
  const text = status < 500 ? 'This request is not understood.' : 'The server failed.';
  reply.code(status).type('text/plain; charset=utf-8').send(`${text}\n`);
}

const clientErrors: Record<string, string> = {
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
};

/** Answers what Node could not read as HTTP; without a finished handshake nothing can be said. */
function answerClientError(error: Error & { code?: string }, socket: Socket): void {
  const code = error.code ?? '';
  const isHttp = code.startsWith('HPE_') || code in clientErrors;
  if (!isHttp || !socket.writable) return void socket.destroy();
  const status = clientErrors[code] ?? '400 Bad Request';
  const body = `${status}\n`;
  const head = `HTTP/1.1 ${status}\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\n`;
  socket.end(`${head}Connection: close\r\n\r\n${body}`, () => socket.destroy());
}

/** One event for each request, when its response has ended or was cut, while the log's level asks for it. */
function logRequests(server: Server, log: Logger): void {
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    if (log.level !== 'debug' && log.level !== 'trace') return;
    const started = performance.now();
    const { socket, method, url } = request;
    const sentBefore = socket.bytesWritten;
    response.once('close', () => {
      const bytes = socket.bytesWritten - sentBefore;
      const ms = Math.round(performance.now() - started);
      const fields = { method, path: url, status: response.statusCode, bytes, ms };
      log.debug({ ...fields, complete: response.writableFinished }, 'Request');
    });
  });
}

/** Keeps to the limit of connections; returns what cuts every one, those in their handshake too. */
function trackConnections(
  server: Server,
  { limits: { connections }, log }: { limits: ServerLimits; log: Logger },
): () => void {
  const sockets = new Set<Socket>();
  const dropped = 'Too many connections at once; new ones are dropped';
  server.maxConnections = connections;
  server.on(
    'drop',
    onceAMinute(() => log.warn({ connections }, dropped)),
  );
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  return () => {
    for (const socket of sockets) socket.destroy();
  };
}

function createClose(
  app: App,
  { idle, cut }: { idle: Running['idle']; cut: () => void },
): ImageServer['close'] {
  let closed: Promise<void> | undefined;
  return async ({ graceMs = 3000, gently = false } = {}) => {
    // Here rather than in Fastify, which takes its time: the port is free when this call returns.
    app.server.close();
    closed ??= app.close();
    const done = new AbortController();
    const grace = setTimeout(graceMs, undefined, { signal: done.signal }).catch(() => {});
    await Promise.race([gently ? closed : idle(), grace, closed]);
    done.abort();
    cut();
    await closed;
  };
}
