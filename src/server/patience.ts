/**
 * How long a client may take. What it asks has to be here in time, body and all; a connection on which nothing moves
 * is cut. Neither holds for the time that our own work takes, nor the first for uploads.
 */
import type { Server as HttpServer, IncomingMessage, ServerResponse } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import type { Socket } from 'node:net';

export interface PatienceOptions {
  /** For the body of a request, in milliseconds. */
  requestMs: number;
  /** For a connection on which nothing moves, in milliseconds. */
  stallMs: number;
  /** Answers a request whose body is late, and cuts its connection. */
  onLate: (request: IncomingMessage, response: ServerResponse) => void;
}

export interface Patience {
  /** See {@link Visit.bePatient}. */
  bePatient(request: IncomingMessage, options?: { upload?: boolean }): void;
}

/** The newest request of a connection. */
interface Current {
  request: IncomingMessage;
  response: ServerResponse;
  /** Until the body has to be here. */
  deadline?: NodeJS.Timeout;
  patient: boolean;
  /** Whether it was our turn when nothing had moved the last time. */
  oursBefore: boolean;
}

/** Has a server keep to these times. Takes the place of `server.requestTimeout`. */
export function limitRequests(
  server: HttpServer | HttpsServer,
  options: PatienceOptions,
): Patience {
  const currents = new WeakMap<Socket, Current>();
  server.requestTimeout = 0;
  server.setTimeout(options.stallMs);
  server.on('timeout', (socket: Socket) => {
    const current = currents.get(socket);
    if (current?.patient && mayGoOn(current)) socket.setTimeout(options.stallMs);
    else socket.destroy();
  });
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    const current: Current = { request, response, patient: false, oursBefore: false };
    currents.set(request.socket, current);
    if (hasBody(request)) startDeadline(current, options);
  });
  return {
    bePatient(request, { upload = false } = {}) {
      const current = currents.get(request.socket);
      if (current?.request !== request) return;
      current.patient = true;
      if (!upload) return;
      clearTimeout(current.deadline);
      // What is left of the body when the answer is known is only passed over.
      current.response.once('finish', () => startDeadline(current, options));
    },
  };
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
}

function startDeadline(current: Current, { requestMs, onLate }: PatienceOptions): void {
  const { request, response } = current;
  if (request.complete || request.destroyed) return;
  current.deadline = setTimeout(() => {
    if (request.complete) return;
    if (response.headersSent) request.socket.destroy();
    else onLate(request, response);
  }, requestMs);
  const done = () => clearTimeout(current.deadline);
  request.once('close', done);
  request.socket.once('close', done);
}

/** The client has its whole time from when its turn comes, which may just have been. */
function mayGoOn(current: Current): boolean {
  const { oursBefore } = current;
  current.oursBefore = waitsForUs(current);
  return current.oursBefore || (oursBefore && !current.response.headersSent);
}

/** Whether it is our turn: all is here and the answer is not, or we do not take what is here. */
function waitsForUs({ request, response }: Current): boolean {
  if (response.headersSent) return false;
  return request.complete || request.readableLength >= request.readableHighWaterMark;
}
