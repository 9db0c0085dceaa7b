/**
 * A small server around the uploads, for their tests: HTTPS, and of the API what clients need to bring an image.
 * Whoever shows a certificate is trusted, unless it is told otherwise. There are no events: an answer waits until
 * its operation has ended.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { ServerError } from '../../src/errors.js';
import type { Logger } from '../../src/log.js';
import type { Caller, Operation } from '../../src/server/lxd/exchange.js';
import { createOperations, type OperationsStore } from '../../src/server/lxd/operations.js';
import {
  createUploads,
  type Uploads,
  type UploadsOptions,
} from '../../src/server/lxd/uploads/uploads.js';
import { userText } from '../../src/server/lxd/user-text.js';
import { createFolderLibrary, type FolderLibrary } from './folder-library.js';
import { memoryLog } from './memory-log.js';
import { createTestCertificate, type TestCertificate } from './tls.js';

export interface UploadSite {
  url: string;
  port: number;
  certificate: TestCertificate;
  library: FolderLibrary;
  operations: OperationsStore;
  uploads: Uploads;
  /** `METHOD path?query` of each request so far. */
  requests: string[];
  close(): Promise<void>;
}

export interface UploadSiteOptions extends Partial<Omit<UploadsOptions, 'operations'>> {
  /** For the uploads; it exists. */
  folder: string;
  /** In place of the address that the client has. */
  address?: string;
  /** In place of trust for every certificate. */
  judge?: (certificate: Buffer | undefined) => Pick<Caller, 'client' | 'refusal' | 'isTrusted'>;
}

/** Listens on 127.0.0.1. */
export async function startUploadSite(options: UploadSiteOptions): Promise<UploadSite> {
  const { folder, address, judge = trustAll, ...given } = options;
  const log: Logger = given.log ?? memoryLog().log;
  const certificate = await createTestCertificate();
  const library = createFolderLibrary(folder);
  const operations = createOperations({ log });
  const requests: string[] = [];
  const server = createServer({ ...certificate, requestCert: true, rejectUnauthorized: false });
  // No connection ends but by what is tested.
  server.keepAliveTimeout = 0;
  const self = () => ({ addresses: [`127.0.0.1:${port}`], fingerprints: [digest(certificate)] });
  const uploads = createUploads({ library, operations, log, self, ...given });

  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    requests.push(`${request.method} ${request.url}`);
    const controller = new AbortController();
    response.once('close', () => controller.abort(new Error('The client went away')));
    void answer(request, { signal: controller.signal })
      .catch((error: unknown) => failure(error))
      .then(({ status, body }) => {
        // Clients ask for the connection to be closed; done before they have sent all, it costs them the answer.
        if (!request.complete) response.setHeader('Connection', 'keep-alive');
        response.writeHead(status, { 'Content-Type': 'application/json' });
        response.end(JSON.stringify(body));
      });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  async function answer(request: IncomingMessage, { signal }: { signal: AbortSignal }) {
    const { pathname, searchParams } = new URL(request.url ?? '', 'https://localhost');
    const shown = (request.socket as TLSSocket).getPeerX509Certificate()?.raw;
    const caller = { ...judge(shown), address: address ?? request.socket.remoteAddress ?? '' };
    if (`${request.method} ${pathname}` === 'POST /1.0/images') {
      const { headers } = request;
      const call = { caller, params: {}, query: searchParams, headers, body: request, signal };
      const result = await uploads.post(call);
      if (result.kind !== 'operation') throw new Error('uploads answer with operations');
      return operationReply(result.operation, searchParams.has('at-once'));
    }
    request.resume();
    const [, id, wait] = /^\/1\.0\/operations\/([^/]+)(\/wait)?$/.exec(pathname) ?? [];
    if (id !== undefined) {
      if (wait) await operations.get(id)?.ended(signal);
      if (request.method === 'DELETE') await operations.cancel(id);
      const found = operations.get(id);
      if (found === undefined) return failure(new ServerError('IMAGE_MISSING', 'not found'));
      return sync(found.view());
    }
    if (pathname === '/') return sync(['/1.0']);
    if (pathname === '/1.0') return sync(about(caller));
    if (pathname === '/1.0/images/aliases' && request.method === 'GET') return sync([]);
    if (pathname === '/1.0/images/aliases') return sync({});
    return failure(new ServerError('IMAGE_MISSING', 'not found'));
  }

  return {
    url: `https://127.0.0.1:${port}`,
    ...{ port, certificate, library, operations, uploads, requests },
    close: async () => {
      await uploads.close();
      await operations.close();
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

export function trustAll(certificate: Buffer | undefined): Pick<Caller, 'client'> {
  if (certificate === undefined) return {};
  return {
    client: { name: 'client', fingerprint: createHash('sha256').update(certificate).digest('hex') },
  };
}

/** SHA-256 of a certificate's DER. */
export function digest({ cert }: TestCertificate): string {
  const base64 = cert.replace(/-----[^-]+-----|\s/g, '');
  return createHash('sha256').update(Buffer.from(base64, 'base64')).digest('hex');
}

function about({ client }: Caller) {
  const auth = client === undefined ? 'untrusted' : 'trusted';
  return { api_version: '1.0', api_status: 'stable', api_extensions: [], auth, public: false };
}

function sync(metadata: unknown) {
  const success = { type: 'sync', status: 'Success', status_code: 200, error: '' };
  return { status: 200, body: { ...success, operation: '', error_code: 0, metadata } };
}

async function operationReply(operation: Operation, atOnce: boolean) {
  if (operation.view().class === 'task' && !atOnce) await operation.ended();
  const created = { type: 'async', status: 'Operation created', status_code: 100 };
  const path = `/1.0/operations/${operation.id}`;
  return { status: 202, body: { ...created, operation: path, metadata: operation.view() } };
}

const statuses: Partial<Record<ServerError['code'], number>> = {
  FORBIDDEN: 403,
  IMAGE_MISSING: 404,
  IMAGE_EXISTS: 409,
  TOO_LARGE: 413,
  IMAGE_INVALID: 400,
  BUSY: 503,
};

function failure(error: unknown) {
  const status = (error instanceof ServerError && statuses[error.code]) || 500;
  const text = error instanceof ServerError ? userText(error) : String(error);
  return { status, body: { type: 'error', error: text, error_code: status } };
}
