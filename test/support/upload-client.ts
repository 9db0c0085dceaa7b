/** Requests to `POST /1.0/images`, made and broken as a test wants them. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { json } from 'node:stream/consumers';
import type { OperationView } from '../../src/server/lxd/exchange.js';
import type { TestCertificate } from './tls.js';
import type { UploadSite } from './upload-site.js';

export interface Reply {
  status: number;
  /** Of an error. */
  error: string | undefined;
  /** Of an operation, as it was when the answer was sent. */
  metadata: OperationView;
}

export interface Send {
  headers?: Record<string, string>;
  body?: Uint8Array | string | AsyncIterable<Uint8Array>;
  /** Shown to the server. */
  certificate?: TestCertificate | undefined;
  path?: string;
}

/** Sends a whole request. Whatever becomes of the body: the answer is what counts. */
export async function send(site: UploadSite, { body = '', ...about }: Send): Promise<Reply> {
  const { request, reply } = open(site, about);
  void write(request, body);
  return reply;
}

async function write(request: ClientRequest, body: NonNullable<Send['body']>): Promise<void> {
  if (typeof body === 'string' || body instanceof Uint8Array) return void request.end(body);
  const closed = new Promise((resolve) => request.once('close', resolve));
  for await (const chunk of body) {
    if (request.destroyed) return;
    if (!request.write(chunk)) await Promise.race([once(request, 'drain'), closed]);
  }
  request.end();
}

/** Begins a request, whose body the caller sends. */
export function open(
  { port }: Pick<UploadSite, 'port'>,
  { headers = {}, certificate, path = '/1.0/images' }: Omit<Send, 'body'>,
): { request: ClientRequest; reply: Promise<Reply> } {
  const outgoing = request({
    ...{ host: '127.0.0.1', port, path, method: 'POST', agent: false, headers },
    ...{ rejectUnauthorized: false, cert: certificate?.cert, key: certificate?.key },
  });
  const reply = new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve).on('error', reject);
  }).then(async (response) => {
    const body = (await json(response)) as Omit<Reply, 'status'>;
    return { ...body, status: response.statusCode ?? 0 };
  });
  reply.catch(() => {});
  return { request: outgoing, reply };
}

export const multipart = { 'Content-Type': 'multipart/form-data; boundary=B' };
export const plain = { 'Content-Type': 'application/octet-stream' };
export const jsonType = { 'Content-Type': 'application/json' };

/** A form with these parts, in this order. */
export function formOf(
  parts: readonly (readonly [name: string, content: string | Buffer])[],
): Buffer {
  const pieces = parts.flatMap(([name, content]) => [
    `--B\r\nContent-Disposition: form-data; name="${name}"; filename="${name}.file"\r\n\r\n`,
    content,
    '\r\n',
  ]);
  return Buffer.concat([...pieces, '--B--\r\n'].map((piece) => Buffer.from(piece as string)));
}

/** The fingerprint of an image of these files. */
export function fingerprintOf(...contents: readonly (string | Buffer)[]): string {
  const hash = createHash('sha256');
  for (const content of contents) hash.update(content);
  return hash.digest('hex');
}
