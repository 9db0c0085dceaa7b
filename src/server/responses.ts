/**
 * Writes the answers: documents, files, and one line of text for everything else.
 */
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { systemText } from '../errors.js';
import type { Logger } from '../log.js';
import { type ByteRange, isNotModified, requestedRange, type Validators } from './conditions.js';
import type { OpenFile } from './image-files.js';
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

/** Bytes with what the client and its caches may know about them. */
export interface Content extends Validators {
  /** Bytes. */
  size: number;
  headers: OutgoingHttpHeaders;
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

/** Answers with bytes in memory, whole, unless the client has them. */
export async function sendBytes(
  exchange: Exchange,
  { bytes, ...content }: Omit<Content, 'size'> & { bytes: Buffer },
): Promise<void> {
  if (answeredFromCache(exchange, content)) return;
  await sendBody(exchange, memorySource(bytes), {
    status: 200,
    headers: { ...validatorHeaders(content), ...content.headers },
    range: { start: 0, end: bytes.length - 1 },
  });
}

/** Answers with a file, or the range of it that is asked for, and closes it. */
export async function sendFile(
  exchange: Exchange,
  file: OpenFile,
  content: Content & { path: string },
): Promise<void> {
  try {
    if (answeredFromCache(exchange, content)) return;
    const body = rangedBody(exchange.request, content);
    if (body === undefined) return sendUnsatisfiable(exchange, content.size);
    const result = await sendBody(exchange, fileSource(file.handle), body);
    if (result === 'short') reportShort(exchange, content.path);
  } finally {
    await file.handle.close();
  }
}

function answeredFromCache(
  { request, response }: Exchange,
  content: Omit<Content, 'size'>,
): boolean {
  if (!isNotModified(request.headers, content)) return false;
  const { 'Content-Type': _type, 'Content-Encoding': _encoding, ...headers } = content.headers;
  response.writeHead(304, { ...validatorHeaders(content), ...headers });
  response.end();
  return true;
}

function validatorHeaders({ etag, lastModified }: Validators): OutgoingHttpHeaders {
  return { ETag: etag, 'Last-Modified': lastModified.toUTCString() };
}

interface Body {
  status: number;
  headers: OutgoingHttpHeaders;
  range: ByteRange;
}

/** Only a GET has ranges (RFC 9110, section 14.2). */
function rangedBody(request: IncomingMessage, content: Content): Body | undefined {
  const { size } = content;
  const headers = { ...validatorHeaders(content), 'Accept-Ranges': 'bytes', ...content.headers };
  const range = request.method === 'GET' ? requestedRange(request.headers, content) : undefined;
  if (range === 'unsatisfiable') return undefined;
  if (range === undefined) return { status: 200, headers, range: { start: 0, end: size - 1 } };
  const part = `bytes ${range.start}-${range.end}/${size}`;
  return { status: 206, headers: { ...headers, 'Content-Range': part }, range };
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
  response.writeHead(status, { ...headers, 'Content-Length': length });
  if (request.method === 'HEAD' || length === 0) return void response.end();
  return transfer(response, source, { start: range.start, length, budget });
}

function reportShort({ response, log }: Exchange, path: string): void {
  response.destroy();
  log.error({ path }, 'A file became shorter while it was sent; the download was cut');
}

/** Reports our failure to answer, and answers 500 if the head is not yet written, else cuts the connection. */
export function failed(exchange: Exchange, error: unknown): void {
  const { request, response, log } = exchange;
  log.error({ path: request.url, err: error }, 'Cannot answer a request');
  if (response.headersSent) response.destroy();
  else sendText(exchange, { status: 500, text: `This cannot be read: ${systemText(error)}.` });
}
