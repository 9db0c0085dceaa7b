/**
 * The embedded HTTPS server: what is published, to anyone, and nothing else.
 * This file makes it, has it listen, and closes it; public-tree.ts says what it answers.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { createSecureContext, type TLSSocket } from 'node:tls';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { answerClientError, logRequests, offerUpgrades, trackConnections } from './connections.js';
import { createDocuments, type Documents } from './documents.js';
import { createForwarded, type Origin } from './forwarded.js';
import { capacityOf, listenOn, parseListen, urlOf } from './listen.js';
import { createOpenFiles, type OpenFiles } from './open-files.js';
import { limitRequests, type Patience } from './patience.js';
import { createPublicTree, type PublicTree } from './public-tree.js';
import type { Redirects } from './redirects.js';
import { type Exchange, failed, sendText } from './responses.js';
import { type Running, trackResponses } from './running.js';
import { noSchemas } from './schemas.js';
import type { HttpService, Visitor } from './service.js';
import type { Traffic } from './traffic.js';
import { createPieceBudget } from './transfer.js';

/** How long, in milliseconds, the server waits for a client, and how much it does at once. */
export interface ServerLimits {
  /** For the TLS handshake. Default: 10,000. */
  handshakeMs: number;
  /** For the head of a request. Default: 15,000. */
  headersMs: number;
  /** For the body of a request, uploads aside. Default: 30,000. */
  requestMs: number;
  /** For the next request on a connection. Default: 30,000. */
  keepAliveMs: number;
  /** For a client that takes no byte of its download, or sends none of its upload. Default: 60,000. */
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
  /** What it answers beside the published tree. With any, clients may show certificates. Default: none. */
  services?: readonly HttpService[];
  /** Where clients are sent for image files. Default: nowhere. */
  redirects?: Redirects | undefined;
  /** Networks (CIDR) of proxies that are believed whom they ask for, as they are now. Default: none. */
  trustedProxies?: (() => readonly string[]) | undefined;
  /** Those of `streamsDir`, where others read them too. Default: its own. */
  documents?: Documents | undefined;
  /** Counts what goes over it. Default: nothing does. */
  traffic?: Traffic;
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
  const { log, services = [], redirects, trustedProxies = () => noProxies } = options;
  const documents = options.documents ?? createDocuments({ dir: options.streamsDir, log });
  const files = createOpenFiles({ most: limits.downloads, log });
  const { root, imagesDir } = options;
  const originOf = createForwarded(trustedProxies);
  const clientOf = (request: IncomingMessage) => originOf(request).address;
  const tree = createPublicTree({ root, imagesDir, documents, files, redirects, clientOf });
  const visitorOf = createVisitorOf(originOf);
  const app = createApp(options, limits);
  const running = trackResponses(app.server, 'secureConnection');
  const cut = trackConnections(app.server, { connections: limits.connections, log });
  logRequests(app.server, log);
  options.traffic?.follow(app.server, 'secureConnection');
  const onLate = (request: IncomingMessage, response: ServerResponse) =>
    refuse({ request, response }, { services, status: 408, text: 'This request took too long.' });
  const patience = limitRequests(app.server, { ...limits, onLate });
  addRoutes(app, { tree, running, log, services, files, patience, visitorOf });
  offerUpgrades(app.server, { services, visitorOf });
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

function createApp(options: ImageServerOptions, limits: ServerLimits): App {
  const { certificate, services = [] } = options;
  const https = {
    ...usable(certificate),
    // Clients' certificates sign themselves: what one is worth is for the services to say.
    requestCert: services.length > 0,
    rejectUnauthorized: false,
    ALPNProtocols: ['http/1.1', 'http/1.0'],
    handshakeTimeout: limits.handshakeMs,
    headersTimeout: limits.headersMs,
    connectionsCheckingInterval: Math.min(5000, limits.headersMs),
  };
  return Fastify({
    https,
    keepAliveTimeout: limits.keepAliveMs,
    bodyLimit: 1024,
    exposeHeadRoutes: false,
    schemaController: noSchemas,
    // A client that asks on while the server closes is answered, and told to go.
    return503OnClosing: false,
    clientErrorHandler: answerClientError,
    frameworkErrors: (error, request, reply) => answerError(error, { request, reply, services }),
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

interface Parts {
  tree: PublicTree;
  running: Running;
  log: Logger;
  services: readonly HttpService[];
  files: OpenFiles;
  patience: Patience;
  visitorOf: (request: IncomingMessage) => Visitor;
}

const noProxies: readonly string[] = [];

function addRoutes(app: App, parts: Parts): void {
  const { tree, running, log, services, files, patience, visitorOf } = parts;
  const budget = createPieceBudget();
  const answer = (request: FastifyRequest, reply: FastifyReply, fallback: Fallback = tree) => {
    reply.hijack();
    const exchange = { request: request.raw, response: reply.raw, budget, log };
    const admission = running.admit(request.raw.socket);
    if (admission === 'ignore') return;
    if (admission === 'refuse') return refusePipelined(exchange);
    const service = services.find((each) => each.claims(request.raw));
    const bePatient = patience.bePatient.bind(undefined, request.raw);
    const done =
      service?.answer({ ...exchange, visitor: visitorOf(request.raw), files, bePatient }) ??
      fallback(exchange);
    done.catch((error: unknown) => failed(exchange, error));
  };
  const change = async (request: FastifyRequest, reply: FastifyReply) =>
    answer(request, reply, refuseMethod);
  const handler = (request: FastifyRequest, reply: FastifyReply) => answer(request, reply);
  app.route({ method: ['GET', 'HEAD'], url: '/*', handler });
  // Before the body is read: that is for whoever answers.
  app.route({ method: otherMethods(app), url: '/*', onRequest: change, handler });
  app.setNotFoundHandler(change);
  app.setErrorHandler((error: Error, request, reply) =>
    answerError(error, { request, reply, services }),
  );
}

type Fallback = (exchange: Exchange) => Promise<void>;

/** Who asks over TLS. */
function createVisitorOf(originOf: (request: IncomingMessage) => Origin): Parts['visitorOf'] {
  return (request) => {
    const certificate = (request.socket as TLSSocket).getPeerX509Certificate()?.raw;
    return { ...originOf(request), ...(certificate !== undefined && { certificate }) };
  };
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

async function refuseMethod(exchange: Exchange): Promise<void> {
  sendText(exchange, {
    status: 405,
    text: 'This server is read only here: use GET or HEAD.',
    headers: { Allow: 'GET, HEAD', Connection: 'close' },
  });
}

function answerError(
  error: Error & { statusCode?: number },
  {
    request,
    reply,
    services,
  }: { request: FastifyRequest; reply: FastifyReply; services: readonly HttpService[] },
): void {
  const status = error.statusCode ?? 500;
  const text = status < 500 ? 'This request is not understood.' : 'The server failed.';
  reply.hijack();
  refuse({ request: request.raw, response: reply.raw }, { services, status, text });
}

/** Says what is wrong with a request in the way of whoever it is for, as the last on its connection. */
function refuse(
  exchange: Pick<Exchange, 'request' | 'response'>,
  problem: { services: readonly HttpService[]; status: number; text: string },
): void {
  const { services, status, text } = problem;
  const service = services.find((each) => each.claims(exchange.request));
  if (service !== undefined) service.refuse(exchange, { status, text });
  else sendText(exchange, { status, text, headers: { Connection: 'close' } });
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
