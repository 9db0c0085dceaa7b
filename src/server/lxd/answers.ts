/** How answers of the API look on the wire: the envelope of LXD's and Incus's REST API. */
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { type ErrorCode, ServerError } from '../../errors.js';
import type { Answer } from './exchange.js';
import { userText } from './user-text.js';

interface Wire {
  request: IncomingMessage;
  response: ServerResponse;
}

/** Sends what a route answers. */
export function sendAnswer(wire: Wire, answer: Answer): void {
  if (answer.kind === 'operation') sendOperation(wire, answer);
  else if (answer.kind === 'sync') sendSync(wire, answer);
}

function sendSync(wire: Wire, answer: Extract<Answer, { kind: 'sync' }>): void {
  const { metadata, status = 200, location, etag } = answer;
  const body = {
    ...{ type: 'sync', status: 'Success', status_code: 200 },
    ...{ operation: '', error_code: 0, error: '', metadata: metadata ?? null },
  };
  sendJson(wire, {
    status,
    body,
    headers: {
      ...(location !== undefined && { Location: location }),
      ...(etag !== undefined && { ETag: etag }),
    },
  });
}

function sendOperation(wire: Wire, { operation }: Extract<Answer, { kind: 'operation' }>): void {
  const location = `/1.0/operations/${operation.id}`;
  const body = {
    ...{ type: 'async', status: 'Operation created', status_code: 100 },
    ...{ operation: location, error_code: 0, error: '', metadata: operation.view() },
  };
  sendJson(wire, { status: 202, body, headers: { Location: location } });
}

/** Sends an error, with the status of its kind. */
export function sendError(wire: Wire, error: unknown): void {
  sendProblem(wire, { status: statusOf(error), text: userText(error) });
}

/** Sends an error that clients show word for word. */
export function sendProblem(
  wire: Wire,
  { status, text, headers = {} }: { status: number; text: string; headers?: OutgoingHttpHeaders },
): void {
  const body = { type: 'error', error: text, error_code: status, metadata: null };
  sendJson(wire, { status, body, headers });
}

function sendJson(
  { request, response }: Wire,
  { status, body, headers }: { status: number; body: unknown; headers: OutgoingHttpHeaders },
): void {
  const bytes = Buffer.from(`${JSON.stringify(body)}\n`);
  if (!request.complete && !response.shouldKeepAlive) closeAfterBody({ request, response });
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': bytes.length,
    // What is told depends on who asks, and changes.
    'Cache-Control': 'no-store',
    ...headers,
  });
  response.end(request.method === 'HEAD' ? undefined : bytes);
}

/** A client that still sends would lose the answer with the connection: what it sends is passed over first. */
function closeAfterBody({ request, response }: Wire): void {
  response.shouldKeepAlive = true;
  request.once('end', () => request.socket.end());
}

const statuses: Partial<Record<ErrorCode, number>> = {
  USAGE: 400,
  IMAGE_INVALID: 400,
  FORBIDDEN: 403,
  DENIED: 403,
  UPLOADS_OFF: 403,
  NOT_FOUND: 404,
  IMAGE_MISSING: 404,
  ALIAS_MISSING: 404,
  IMAGE_EXISTS: 409,
  ALIAS_EXISTS: 409,
  CHANGED: 412,
  TOO_LARGE: 413,
  BUSY: 503,
  INTERRUPTED: 503,
  DISK_FULL: 507,
};

/** The HTTP status for what a route throws; 500 where neither the caller nor the moment is to blame. */
export function statusOf(error: unknown): number {
  if (!(error instanceof ServerError)) return 500;
  return statuses[error.code] ?? 500;
}
