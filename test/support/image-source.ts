/** A server that images are pulled from, as the test wants it: an LXD daemon to those who ask, or a liar. */
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';
import { createTestCertificate, type TestCertificate } from './tls.js';

export type Reply = (request: IncomingMessage, response: ServerResponse) => void;

export interface ImageSource {
  url: string;
  port: number;
  certificate: TestCertificate;
  /** Path and query of each request so far. */
  requests: string[];
  /** Path → what it is answered; anything else is 404. May be changed at any time. */
  replies: Record<string, Reply>;
}

/** Listens on 127.0.0.1 until the test ends. */
export async function startSource(
  t: Pick<TestContext, 'after'>,
  replies: Record<string, Reply> = {},
): Promise<ImageSource> {
  const certificate = await createTestCertificate();
  const server = createServer(certificate);
  const requests: string[] = [];
  const source = { certificate, requests, replies };
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const url = request.url ?? '';
    requests.push(url);
    const reply = source.replies[decodeURI(url.split('?')[0] ?? '')];
    (reply ?? lxdError(404, 'not found'))(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });
  const { port } = server.address() as AddressInfo;
  return Object.assign(source, { url: `https://127.0.0.1:${port}`, port });
}

export function jsonReply(value: unknown): Reply {
  return (_request, response) => {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(value));
  };
}

export function bytesReply(body: Buffer | string, headers: Record<string, string> = {}): Reply {
  return (_request, response) => {
    response.writeHead(200, headers);
    response.end(body);
  };
}

export function lxdError(status: number, error: string): Reply {
  return (_request, response) => {
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify({ type: 'error', error, error_code: status }));
  };
}
