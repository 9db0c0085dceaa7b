/** The connections of a server: how many there are, what comes over them, and what is no HTTP. */
import type { Server as HttpServer, IncomingMessage } from 'node:http';
import { ServerResponse } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { Logger } from '../log.js';
import { onceAMinute } from './once-a-minute.js';
import { loggedPath } from './request-path.js';
import type { HttpService, Visitor } from './service.js';

export type AnyServer = HttpServer | HttpsServer;

const clientErrors: Record<string, string> = {
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
};

/** Answers what Node could not read as HTTP; without a finished handshake nothing can be said. */
export function answerClientError(error: Error & { code?: string }, socket: Socket): void {
  const code = error.code ?? '';
  const isHttp = code.startsWith('HPE_') || code in clientErrors;
  if (!isHttp || !socket.writable) return void socket.destroy();
  const status = clientErrors[code] ?? '400 Bad Request';
  const body = `${status}\n`;
  const head = `HTTP/1.1 ${status}\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\n`;
  socket.end(`${head}Connection: close\r\n\r\n${body}`, () => socket.destroy());
}

/** One event for each request, when its response has ended or was cut, while the log's level asks for it. */
export function logRequests(server: AnyServer, log: Logger): void {
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    if (log.level !== 'debug' && log.level !== 'trace') return;
    const started = performance.now();
    const { socket, method } = request;
    const sentBefore = socket.bytesWritten;
    response.once('close', () => {
      const bytes = socket.bytesWritten - sentBefore;
      const ms = Math.round(performance.now() - started);
      const fields = { method, path: loggedPath(request), status: response.statusCode, bytes, ms };
      log.debug({ ...fields, complete: response.writableFinished }, 'Request');
    });
  });
}

/** Keeps to the limit of connections; returns what cuts every one, those in their handshake too. */
export function trackConnections(
  server: AnyServer,
  { connections, log }: { connections: number; log: Logger },
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

/**
 * Offers requests to change the protocol to the services. Where none takes one, it is answered as if it asked for
 * nothing of the kind, which HTTP allows (RFC 9110, section 7.8).
 */
export function offerUpgrades(
  server: AnyServer,
  options: {
    services: readonly HttpService[];
    visitorOf: (request: IncomingMessage) => Visitor;
  },
): void {
  const { services, visitorOf } = options;
  // With a listener Node has no other way for them.
  if (services.length === 0) return;
  server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    const service = services.find((each) => each.claims(request));
    const visitor = visitorOf(request);
    if (service?.upgrade?.({ request, socket, head, visitor }) === true) return;
    answerOnce(server, request, socket);
  });
}

function answerOnce(server: AnyServer, request: IncomingMessage, socket: Socket): void {
  socket.on('error', () => {});
  // Node leaves a connection alone that asks for another protocol: nobody would hear that nothing moves on it.
  socket.on('timeout', () => server.emit('timeout', socket));
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(socket);
  response.once('finish', () => socket.destroySoon());
  server.emit('request', request, response);
}

/** An address as people write it: IPv4 also where it came in over IPv6, and without the zone of a link. */
export function plainAddress(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/s, '');
}
