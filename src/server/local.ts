/**
 * The services over plain HTTP on a unix socket, for the nginx of this machine. It is trusted to say who asks: who
 * may open the socket, which is the owner and the group of its file, speaks for any client.
 */
import { X509Certificate } from 'node:crypto';
import { chown } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { setTimeout } from 'node:timers/promises';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import { answerClientError, logRequests, offerUpgrades, trackConnections } from './connections.js';
import { addressIn } from './forwarded.js';
import { groupNumber } from './groups.js';
import { createOpenFiles } from './open-files.js';
import { limitRequests } from './patience.js';
import { failed, sendText } from './responses.js';
import { trackResponses } from './running.js';
import type { HttpService, Visitor } from './service.js';
import type { Traffic } from './traffic.js';
import { createPieceBudget } from './transfer.js';
import { listenAtSocket, localPath } from './unix-socket.js';

export interface LocalServerLimits {
  /** For the head of a request, in milliseconds. Default: 15,000. */
  headersMs: number;
  /** For the body of a request, uploads aside, in milliseconds. Default: 30,000. */
  requestMs: number;
  /** For a connection on which nothing moves, in milliseconds. Default: 60,000. */
  stallMs: number;
  /** Connections at once; more are dropped. Default: 1024. */
  connections: number;
  /** Files open for downloads at once. Default: 1024. */
  downloads: number;
}

export interface LocalServerOptions {
  /** Absolute. The socket is `http.sock` in it. */
  runDir: string;
  services: readonly HttpService[];
  /** The group that may use the socket. Default, and where this host has no such group: that of this process. */
  group?: string;
  log: Logger;
  limits?: Partial<LocalServerLimits>;
  /** Counts what goes over it. Default: nothing does. */
  traffic?: Traffic;
}

export interface LocalServer {
  /** Of the socket. */
  path: string;
  /** Removes the socket; what is under way may go on for `graceMs` milliseconds. Default: 3000. */
  close(options?: { graceMs?: number }): Promise<void>;
}

/**
 * Listens at `<runDir>/http.sock`, mode 0660, as the control socket does.
 *
 * @throws ServerError BUSY, CONFIG, DENIED or IO
 */
export async function createLocalServer(options: LocalServerOptions): Promise<LocalServer> {
  const { services, log } = options;
  const limits = limitsOf(options.limits);
  const server = createServer({
    headersTimeout: limits.headersMs,
    connectionsCheckingInterval: Math.min(5000, limits.headersMs),
  });
  const running = trackResponses(server, 'connection');
  const cut = trackConnections(server, { connections: limits.connections, log });
  logRequests(server, log);
  options.traffic?.follow(server, 'connection');
  const serviceOf = (request: IncomingMessage) => services.find((each) => each.claims(request));
  const onLate = (request: IncomingMessage, response: ServerResponse) => {
    const problem = { status: 408, text: 'This request took too long.' };
    serviceOf(request)?.refuse({ request, response }, problem) ?? response.destroy();
  };
  const patience = limitRequests(server, { ...limits, onLate });
  const files = createOpenFiles({ most: limits.downloads, log });
  const budget = createPieceBudget();
  server.on('clientError', answerClientError);
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const exchange = { request, response, budget, log };
    const service = serviceOf(request);
    if (service === undefined) return notFound(exchange);
    const bePatient = patience.bePatient.bind(undefined, request);
    const visit = { ...exchange, visitor: visitorOf(request), files, bePatient };
    service.answer(visit).catch((error: unknown) => failed(exchange, error));
  });
  offerUpgrades(server, { services, visitorOf });

  const path = localPath(options.runDir);
  const owned = (made: string) => giveTo(options.group ?? '', made, log);
  const listening = listenAtSocket(path, (made) => listen(server, made), { owned });
  const place = await listening.catch((error: unknown) => {
    // It may listen already, at a place that it was not to stay at.
    server.close();
    throw error;
  });
  let closed: Promise<void> | undefined;
  return {
    path,
    close: async ({ graceMs = 3000 } = {}) => {
      closed ??= new Promise((resolve) => server.close(() => resolve()));
      const done = new AbortController();
      const grace = setTimeout(graceMs, undefined, { signal: done.signal }).catch(() => {});
      try {
        await place.remove();
        await Promise.race([running.idle(), grace, closed]);
      } finally {
        done.abort();
        cut();
        await closed;
      }
    },
  };
}

function limitsOf(given: Partial<LocalServerLimits> = {}): LocalServerLimits {
  const times = { headersMs: 15_000, requestMs: 30_000, stallMs: 60_000 };
  return { ...times, connections: 1024, downloads: 1024, ...given };
}

/** Lets a group have the socket: without it nginx is not let in, and all else goes on. */
async function giveTo(group: string, path: string, log: Logger): Promise<void> {
  const gid = await groupNumber(group);
  if (gid === undefined) return;
  try {
    await chown(path, process.getuid?.() ?? -1, gid);
  } catch (err) {
    // In a namespace that does not have this group nobody can be of it.
    if (systemCode(err) === 'EINVAL') return;
    const hint = `have the user of this process join the group, or set server.socket_group`;
    log.warn({ group, err, hint }, 'the group of nginx cannot be given the socket');
  }
}

function listen(server: ReturnType<typeof createServer>, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

function notFound(exchange: { request: IncomingMessage; response: ServerResponse }): void {
  sendText(exchange, { status: 404, text: 'Nothing is published here.' });
}

/** Who asks, as nginx says. On any other listener these headers are worth nothing. */
function visitorOf({ headers }: IncomingMessage): Visitor {
  const address = headers['x-real-ip'] ?? lastOf(headers['x-forwarded-for']);
  const certificate = certificateIn(headers['x-ssl-cert']?.toString());
  return {
    address: addressIn(address?.toString()) ?? '',
    ...(certificate !== undefined && { certificate }),
  };
}

/** Those before it are what the client said. */
function lastOf(forwardedFor: string | string[] | undefined): string | undefined {
  return forwardedFor?.toString().split(',').at(-1);
}

/** What nginx's `$ssl_client_escaped_cert` holds. */
function certificateIn(header: string | undefined): Visitor['certificate'] {
  if (header === undefined || header === '') return undefined;
  try {
    return new X509Certificate(decodeURIComponent(header)).raw;
  } catch {
    return 'unreadable';
  }
}
