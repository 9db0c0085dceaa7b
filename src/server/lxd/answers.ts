/** How answers of the API look on the wire: the envelope of LXD's and Incus's REST API. */
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { type ErrorCode, ServerError } from '../../errors.js';
import { sendSource } from '../responses.js';
import type { Visit } from '../service.js';
import { memorySource } from '../transfer.js';
import type { Answer } from './exchange.js';
import { userText } from './user-text.js';

interface Wire {
  request: IncomingMessage;
  response: ServerResponse;
}

/** Finds bytes that are being sent already in place of equal ones. */
type Share = (bytes: Buffer) => Buffer;

/** How many long answers are known: lists, whole and of addresses only. */
const mostShared = 4;
/** An answer that is longer goes in pieces, as files do. */
const longAnswer = 64 * 1024;

/**
 * Sends what routes answer. A list of thousands of images goes out piece by piece, and many clients that are slow to
 * take it share one copy.
 */
export function createAnswering(): (visit: Visit, answer: Answer) => Promise<void> {
  let recent: readonly Buffer[] = [];
  const share: Share = (bytes) => {
    const same = recent.find((each) => each.equals(bytes)) ?? bytes;
    recent = [same, ...recent.filter((each) => each !== same)].slice(0, mostShared);
    return same;
  };
  // Not async: it would keep what the answer was made of until the last byte of it is taken.
  return (visit, answer) => {
    if (answer.kind === 'sync') return sendSync(visit, answer, share);
    if (answer.kind === 'text') return sendText(visit, answer.metadata, share);
    if (answer.kind === 'operation') sendOperation(visit, answer);
    return Promise.resolve();
  };
}

function sendSync(
  visit: Visit,
  answer: Extract<Answer, { kind: 'sync' }>,
  share: Share,
): Promise<void> {
  const { metadata, status = 200, location, etag } = answer;
  const headers = {
    ...(location !== undefined && { Location: location }),
    ...(etag !== undefined && { ETag: etag }),
  };
  const bytes = bytesOf({ ...success, metadata: metadata ?? null });
  return sendBytes(visit, { status, bytes, headers }, share);
}

function sendText(visit: Visit, metadata: string, share: Share): Promise<void> {
  const head = JSON.stringify(success).slice(0, -1);
  const bytes = Buffer.from(`${head},"metadata":${metadata}}\n`);
  return sendBytes(visit, { status: 200, bytes, headers: {} }, share);
}

const success = {
  ...{ type: 'sync', status: 'Success', status_code: 200 },
  ...{ operation: '', error_code: 0, error: '' },
};

interface Sent {
  status: number;
  bytes: Buffer;
  headers: OutgoingHttpHeaders;
}

function sendBytes(visit: Visit, { status, bytes, headers }: Sent, share: Share): Promise<void> {
  if (bytes.length <= longAnswer) {
    sendJson(visit, { status, bytes, headers });
    return Promise.resolve();
  }
  const source = { ...memorySource(share(bytes)), size: bytes.length };
  return sendSource(visit, source, { ...jsonHeaders, ...headers });
}

function sendOperation(wire: Wire, { operation }: Extract<Answer, { kind: 'operation' }>): void {
  const location = `/1.0/operations/${operation.id}`;
  const body = {
    ...{ type: 'async', status: 'Operation created', status_code: 100 },
    ...{ operation: location, error_code: 0, error: '', metadata: operation.view() },
  };
  sendJson(wire, { status: 202, bytes: bytesOf(body), headers: { Location: location } });
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
  sendJson(wire, { status, bytes: bytesOf(body), headers });
}

const jsonHeaders = {
  'Content-Type': 'application/json',
  // What is told depends on who asks, and changes.
  'Cache-Control': 'no-store',
};

const bytesOf = (body: unknown) => Buffer.from(`${JSON.stringify(body)}\n`);

function sendJson({ request, response }: Wire, { status, bytes, headers }: Sent): void {
  if (!request.complete && !response.shouldKeepAlive) closeAfterBody({ request, response });
  response.writeHead(status, {
    ...jsonHeaders,
    'Content-Length': bytes.length,
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
