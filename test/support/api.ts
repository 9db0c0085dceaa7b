/** The API on a server of its own, with images and trust in memory, and a client of it. */
import { X509Certificate } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import type { IncomingHttpHeaders } from 'node:http';
import { request as requestPlain } from 'node:http';
import { request as requestTls } from 'node:https';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createLxdApi, type LxdApi, type LxdApiOptions } from '../../src/server/lxd/api.js';
import { createOperations, type OperationsStore } from '../../src/server/lxd/operations.js';
import { createImageServer, type ImageServerOptions } from '../../src/server/server.js';
import {
  createMemoryCallers,
  createMemoryLibrary,
  type MemoryCallers,
  type MemoryLibrary,
} from './memory-library.js';
import { type LogEvent, memoryLog } from './memory-log.js';
import { temporaryFolder } from './temporary.js';
import { createTestCertificate, type TestCertificate } from './tls.js';

/** The parts of an API, before anything listens. */
export interface ApiParts {
  root: string;
  api: LxdApi;
  library: MemoryLibrary;
  callers: MemoryCallers;
  operations: OperationsStore;
  log: LxdApiOptions['log'];
  /** Warnings and errors so far. */
  events: LogEvent[];
}

/** Makes an API without images, for a tree of its own. It ends with the test. */
export async function makeApi(
  t: Pick<TestContext, 'after'>,
  options: Partial<LxdApiOptions> = {},
): Promise<ApiParts> {
  const root = await temporaryFolder(t);
  await mkdir(join(root, 'images'));
  const { log, events } = memoryLog();
  const library = createMemoryLibrary(root);
  const callers = createMemoryCallers();
  const operations = createOperations({ log });
  const api = createLxdApi({
    ...{ library, callers, operations, root, log },
    uploads: { post: async () => ({ kind: 'sync', metadata: 'uploaded' }) },
    about: () => ({ version: '1.2.3', addresses: [] }),
    ...options,
  });
  t.after(async () => {
    await operations.close();
    await api.close();
  });
  return { root, api, library, callers, operations, log, events };
}

export interface ApiServer extends ApiParts {
  port: number;
  server: TestCertificate & { der: Uint8Array };
  /** A certificate that `callers` trusts as `friend`, and one that nobody does. */
  friend: TestCertificate;
  stranger: TestCertificate;
}

/** Serves the API over TLS until the test is over. */
export async function serveApi(
  t: Pick<TestContext, 'after'>,
  options: { api?: Partial<LxdApiOptions>; server?: Partial<ImageServerOptions> } = {},
): Promise<ApiServer> {
  const certificate = await createTestCertificate();
  const about = () => ({ version: '1.2.3', certificate: certificate.cert, addresses: [] });
  const parts = await makeApi(t, { about, ...options.api });
  const server = await createImageServer({
    listen: '127.0.0.1:0',
    root: parts.root,
    imagesDir: join(parts.root, 'images'),
    streamsDir: join(parts.root, 'streams/v1'),
    ...{ certificate, log: parts.log, services: [parts.api] },
    ...options.server,
  });
  t.after(() => server.close({ graceMs: 0 }));
  const [friend, stranger] = await Promise.all([createTestCertificate(), createTestCertificate()]);
  parts.callers.trust('friend', new X509Certificate(friend.cert).raw);
  return {
    ...parts,
    ...{ port: server.address.port, friend, stranger },
    server: { ...certificate, der: new X509Certificate(certificate.cert).raw },
  };
}

export interface ApiRequest {
  method?: string;
  headers?: Record<string, string>;
  /** An object goes as JSON. */
  body?: object | string | Buffer;
  /** The certificate to show. */
  as?: TestCertificate;
}

export interface ApiResponse {
  status: number;
  headers: IncomingHttpHeaders;
  bytes: Buffer;
  /** What is in the envelope; throws where there is none. */
  envelope(): Envelope;
}

// biome-ignore lint/suspicious/noExplicitAny: tests look into it as they expect it to be
export type Envelope = Record<string, any>;

/**
 * Sends one request on a connection of its own.
 * @param place a port of this machine over TLS, or the path of a socket without
 */
export function ask(
  place: number | string,
  path: string,
  { method = 'GET', headers = {}, body, as }: ApiRequest = {},
): Promise<ApiResponse> {
  const sent = body === undefined || isBytes(body) ? body : JSON.stringify(body);
  // For some methods Node would send a body without a word of it.
  const length = sent === undefined ? {} : { 'Content-Length': Buffer.byteLength(sent) };
  return new Promise((resolve, reject) => {
    const where = typeof place === 'number' ? { port: place } : { socketPath: place };
    const start = typeof place === 'number' ? requestTls : requestPlain;
    const request = start(
      {
        ...{
          host: '127.0.0.1',
          ...where,
          path,
          method,
          headers: { ...length, ...headers },
          agent: false,
        },
        rejectUnauthorized: false,
        ...(as !== undefined && { key: as.key, cert: as.cert }),
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.once('error', reject);
        response.once('end', () => {
          const bytes = Buffer.concat(chunks);
          const envelope = () => JSON.parse(bytes.toString('utf8')) as Envelope;
          const { statusCode: status = 0, headers: found } = response;
          resolve({ status, headers: found, bytes, envelope });
        });
      },
    );
    request.once('error', reject);
    request.end(sent);
  });
}

const isBytes = (body: object | string | Buffer) =>
  typeof body === 'string' || Buffer.isBuffer(body);
