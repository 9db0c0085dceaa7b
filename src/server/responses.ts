/**
 * Writes the answers: documents, files, and one line of text for everything else.
 */
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { systemText } from '../errors.js';
import type { Logger } from '../log.js';
import { type ByteRange, isNotModified, requestedRange, type Validators } from './conditions.js';
import type { OpenFile } from './image-files.js';
import { loggedPath } from './request-path.js';
import {
  type ByteSource,
  fileSource,
  memorySource,
  type PieceBudget,
  transfer,
} from './transfer.js';

/** A request and what is needed to answer it. */
export interface Exchange {
  request: IncomingMessage;
  response: ServerResponse;
  budget: PieceBudget;
  log: Logger;
}

/** What a body is: its length, its validators, and the head of a whole 200 answer. */
export interface Content extends Validators {
  /** Bytes. */
  size: number;
  headers: OutgoingHttpHeaders;
}

/** The content whose head says all this; to be made once for what is sent often. */
export function createContent(
  { size, etag, lastModified }: Validators & { size: number },
  headers: OutgoingHttpHeaders,
): Content {
  const own = { ETag: etag, 'Last-Modified': lastModified, 'Content-Length': size };
  return { size, etag, lastModified, headers: { ...headers, ...own } };
}

/** Answers with one line of text; a failure to send it is the client's own. */
export function sendText(
  { request, response }: Pick<Exchange, 'request' | 'response'>,
  { status, text, headers }: { status: number; text: string; headers?: OutgoingHttpHeaders },
): void {
  const body = `${text}\n`;
  response.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    ...headers,
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}

const smallBody = 64 * 1024;

/** Answers with bytes in memory, whole, unless the client has them. */
export async function sendBytes(
  exchange: Exchange,
  { bytes, content }: { bytes: Buffer; content: Content },
): Promise<void> {
  if (answeredFromCache(exchange, content)) return;
  const { request, response } = exchange;
  if (bytes.length > smallBody) {
    const range = { start: 0, end: bytes.length - 1 };
    await sendBody(exchange, memorySource(bytes), { status: 200, headers: content.headers, range });
    return;
  }
  response.writeHead(200, content.headers);
  response.end(request.method === 'HEAD' ? undefined : bytes);
}

/** Answers with a file, or the range of it that is asked for, and closes it. */
export async function sendFile(
  exchange: Exchange,
  { handle, content }: OpenFile & { content: Content },
): Promise<void> {
  try {
    if (answeredFromCache(exchange, content)) return;
    const body = rangedBody(exchange.request, content);
    if (body === undefined) return sendUnsatisfiable(exchange, content.size);
    const result = await sendBody(exchange, fileSource(handle), body);
    if (result === 'short') reportShort(exchange);
  } finally {
    await handle.close();
  }
}

/** Answers with all of a source, which no client has in a cache. */
export async function sendSource(
  exchange: Exchange,
  source: ByteSource & { size: number },
  headers: OutgoingHttpHeaders,
): Promise<void> {
  const range = { start: 0, end: source.size - 1 };
  const whole = { status: 200, headers: { ...headers, 'Content-Length': source.size }, range };
  if ((await sendBody(exchange, source, whole)) === 'short') reportShort(exchange);
}

function answeredFromCache({ request, response }: Exchange, content: Content): boolean {
  if (!isNotModified(request.headers, content)) return false;
  const {
    'Content-Type': _type,
    'Content-Encoding': _encoding,
    'Content-Length': _length,
    ...headers
  } = content.headers;
  response.writeHead(304, headers);
  response.end();
  return true;
}

interface Body {
  status: number;
  headers: OutgoingHttpHeaders;
  range: ByteRange;
}

/** Only a GET has ranges (RFC 9110, section 14.2). */
function rangedBody(
  request: IncomingMessage,
  { size, headers, ...content }: Content,
): Body | undefined {
  const whole = { status: 200, headers, range: { start: 0, end: size - 1 } };
  if (request.method !== 'GET') return whole;
  const range = requestedRange(request.headers, { size, ...content });
  if (range === undefined) return whole;
  if (range === 'unsatisfiable') return undefined;
  const part = `bytes ${range.start}-${range.end}/${size}`;
  const length = range.end - range.start + 1;
  const partHeaders = { ...headers, 'Content-Range': part, 'Content-Length': length };
  return { status: 206, headers: partHeaders, range };
}

function sendUnsatisfiable(exchange: Exchange, size: number): void {
  sendText(exchange, {
    status: 416,
    text: `This file has ${size} bytes: the range lies outside of it.`,
    headers: { 'Content-Range': `bytes */${size}`, 'Accept-Ranges': 'bytes' },
  });
}

async function sendBody(
  { request, response, budget }: Exchange,
  source: ByteSource,
  { status, headers, range }: Body,
) {
  const length = range.end - range.start + 1;
  response.writeHead(status, headers);
  if (request.method === 'HEAD' || length === 0) return void response.end();
  return transfer(response, source, { start: range.start, length, budget });
}

function reportShort({ request, response, log }: Exchange): void {
  response.destroy();
  log.error(
    { path: loggedPath(request) },
    'A file became shorter while it was sent; the download was cut',
  );
}

/** Reports our failure to answer, and answers 500 if the head is not yet written, else cuts the connection. */
export function failed(exchange: Exchange, error: unknown): void {
  const { request, response, log } = exchange;
  log.error({ path: loggedPath(request), err: error }, 'Cannot answer a request');
  if (response.headersSent) response.destroy();
  else sendText(exchange, { status: 500, text: `This cannot be read: ${systemText(error)}.` });
}
