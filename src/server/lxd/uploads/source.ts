/** The server that an image is pulled from: HTTPS with its certificate known, and no answer that it likes. */
import { createHash, X509Certificate } from 'node:crypto';
import { type LookupAddress, lookup as lookUpName } from 'node:dns';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { isIP, type LookupFunction } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { networkText, ServerError } from '../../../errors.js';
import { mayConnect } from './addresses.js';
import { chunksOf, textOf } from './body.js';

/** What this server is to others, so that it does not pull from itself. */
export interface Self {
  /** `host:port`, as clients are told them. */
  addresses: readonly string[];
  /** Of the certificates that clients meet here, the proxy's as well: SHA-256 of the DER, lower-case hexadecimal. */
  fingerprints: readonly string[];
}

export interface SourceLimits {
  /** For the connection, with TLS. */
  connectMs: number;
  /** From the request to the headers of the answer. */
  headersMs: number;
  /** Without a byte of the answer. */
  stallMs: number;
}

export interface SourceOptions {
  /** `https://host[:port]`, with a path for simplestreams. */
  server: string;
  /** PEM: the one certificate that the server must have. '' for one that the system's authorities vouch for. */
  certificate: string;
  self: Self;
  /** Whether whoever asks for the pull is on this host. */
  here: boolean;
  limits: SourceLimits;
  signal: AbortSignal;
}

export interface Source {
  /** As errors name it. */
  readonly name: string;
  /** A document of at most `most` bytes. @throws ServerError IO, INTERRUPTED, IMAGE_INVALID */
  json(path: string, options: { most: number; query?: Record<string, string> }): Promise<unknown>;
  /**
   * A file, which the caller reads to its end or closes.
   *
   * @throws ServerError IO for no connection, no good answer, and nothing in time
   */
  file(path: string, options?: { query?: Record<string, string> }): Promise<SourceFile>;
}

export interface SourceFile {
  contentType: string;
  /** As the server calls it. */
  filename: string | undefined;
  body: AsyncIterable<Buffer>;
  close(): void;
}

const agent = 'lxd-image-server';
const mostHeaderBytes = 16_384;
const mostErrorBytes = 65_536;
const longestError = 300;

/** @throws ServerError IMAGE_INVALID for an address or certificate that is none; IO for this server itself */
export function openSource(options: SourceOptions): Source {
  const url = serverUrl(options.server);
  const pinned = options.certificate === '' ? undefined : readCertificate(options.certificate);
  const name = url.origin;
  const connection = { ...options, url, pinned };
  const file: Source['file'] = async (path, { query = {} } = {}) => {
    const target = new URL(url);
    target.pathname = `${url.pathname.replace(/\/$/, '')}${path}`;
    target.search = new URLSearchParams(query).toString();
    const response = await get(target, await connect(connection), options);
    // Whoever reads hears of it; between two reads nobody does.
    response.on('error', () => {});
    const close = () => void response.destroy();
    const { stallMs } = options.limits;
    const body = chunksOf(response, {
      stallMs,
      signal: options.signal,
      sender: `The source ${name}`,
    });
    if (response.statusCode === 200) {
      return {
        contentType: response.headers['content-type'] ?? '',
        filename: named(response),
        body,
        close,
      };
    }
    try {
      throw await refusal(response.statusCode ?? 0, { name, body });
    } finally {
      close();
    }
  };
  const json: Source['json'] = async (path, { most, query = {} }) => {
    const { body, close } = await file(path, { query });
    try {
      return JSON.parse(await textOf(body, { most, what: `The answer of ${name}` }));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new ServerError('IO', `The source ${name} answers with something that is not JSON`);
    } finally {
      close();
    }
  };
  return { name, json, file };
}

function serverUrl(server: string): URL {
  const url = URL.canParse(server) ? new URL(server) : undefined;
  if (url?.protocol === 'https:' && url.username === '' && url.hostname !== '') return url;
  throw new ServerError(
    'IMAGE_INVALID',
    `Cannot pull from ${JSON.stringify(server.slice(0, 200))}`,
    {
      hint: 'the source must be an address of the form https://host:port',
    },
  );
}

/** The DER of a PEM certificate. */
function readCertificate(pem: string): Buffer {
  try {
    return new X509Certificate(pem).raw;
  } catch (cause) {
    throw new ServerError('IMAGE_INVALID', 'The certificate of the source cannot be read', {
      cause,
    });
  }
}

interface Connection extends SourceOptions {
  url: URL;
  pinned: Buffer | undefined;
}

/**
 * A TLS connection to the server that was meant, before a byte of the request was sent: that has a secret in it.
 * The texts of its errors have what makes clients of both ages go on to the next address of the source.
 */
async function connect(connection: Connection): Promise<TLSSocket> {
  const { url, self, signal, limits, pinned, here } = connection;
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const port = Number(url.port || 443);
  signal.throwIfAborted();
  if (self.addresses.includes(`${url.hostname}:${port}`)) throw cannotConnect(url, thisServer);
  if (isIP(host) !== 0 && !mayConnect(host, { here })) throw cannotConnect(url, notAllowed);
  const socket = connectTls({
    host,
    port,
    lookup: lookupWithin({ here }),
    // A pinned certificate is compared as a whole, which says more than any authority.
    rejectUnauthorized: pinned === undefined,
    ...(isIP(host) === 0 ? { servername: host } : {}),
  });
  try {
    await secured(socket, { ms: limits.connectMs, signal });
    const certificate = socket.getPeerX509Certificate()?.raw;
    if (certificate === undefined) throw new Error('it shows no certificate');
    if (self.fingerprints.includes(sha256(certificate))) throw new Error(thisServer);
    if (pinned !== undefined && !pinned.equals(certificate)) {
      throw new Error('it has another certificate than the one that the client named');
    }
    return socket;
  } catch (error) {
    socket.destroy();
    if (signal.aborted) throw signal.reason;
    throw cannotConnect(url, networkText(error), error);
  }
}

const thisServer = 'it is this server itself';
const notAllowed = 'a source on this address is open only to clients on the same host';

function secured(
  socket: TLSSocket,
  { ms, signal }: { ms: number; signal: AbortSignal },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no connection within ${ms / 1000} s`)), ms);
    const onAbort = () => reject(signal.reason);
    const settled = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
    };
    signal.addEventListener('abort', onAbort);
    // Stays, so that a later error of the connection finds a listener.
    socket.on('error', reject);
    socket.once('close', () => reject(new Error('the connection was closed')));
    socket.once('secureConnect', resolve);
    socket.once('secureConnect', settled).once('close', settled);
  });
}

/** Looks names up as ever, and leaves out the addresses that a pull may not connect to. */
function lookupWithin({ here }: { here: boolean }): LookupFunction {
  return (hostname, options, done) => {
    lookUpName(hostname, { ...options, all: true }, (error, found: LookupAddress[]) => {
      if (error) return done(error, []);
      const allowed = found.filter(({ address }) => mayConnect(address, { here }));
      const [first] = allowed;
      if (first === undefined) return done(new Error(notAllowed), []);
      if (options.all) return done(null, allowed);
      done(null, first.address, first.family);
    });
  };
}

async function get(
  url: URL,
  socket: TLSSocket,
  { limits, signal }: SourceOptions,
): Promise<IncomingMessage> {
  const request = httpRequest(url, {
    createConnection: () => socket,
    protocol: 'http:',
    headers: { 'User-Agent': agent, Accept: '*/*' },
    maxHeaderSize: mostHeaderBytes,
    signal,
  });
  const timer = setTimeout(() => {
    request.destroy(new Error(`no answer within ${limits.headersMs / 1000} s`));
  }, limits.headersMs);
  try {
    return await new Promise<IncomingMessage>((resolve, reject) => {
      request.once('response', resolve).on('error', reject);
      // All that comes of an answer that takes the connection for another protocol.
      request.once('close', () => reject(new Error('it answers in no way that is known here')));
      request.end();
    });
  } catch (cause) {
    socket.destroy();
    signal.throwIfAborted();
    const why = networkText(cause);
    throw new ServerError('IO', `The source ${url.origin} does not answer: ${why}`, { cause });
  } finally {
    clearTimeout(timer);
  }
}

async function refusal(
  status: number,
  { name, body }: { name: string; body: AsyncIterable<Buffer> },
): Promise<ServerError> {
  if (status >= 300 && status < 400) {
    return new ServerError(
      'IO',
      `The source ${name} answers with a redirect, which is not followed`,
    );
  }
  const text = await textOf(body, { most: mostErrorBytes, what: `The answer of ${name}` });
  return new ServerError(
    status === 404 ? 'IMAGE_MISSING' : 'IO',
    `The source ${name} refuses: ${errorText(text) ?? `status ${status}`}`,
  );
}

/** The text of an error of the LXD API; nothing of any other answer. */
function errorText(json: string): string | undefined {
  try {
    const { type, error } = JSON.parse(json) as Record<string, unknown>;
    if (type !== 'error' || typeof error !== 'string' || error === '') return undefined;
    return error.replace(/[^\x20-\x7e]/g, '?').slice(0, longestError);
  } catch {
    return undefined;
  }
}

function named({ headers }: IncomingMessage): string | undefined {
  return /;\s*filename="?([^";]{1,255})/i.exec(headers['content-disposition'] ?? '')?.[1];
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function cannotConnect({ origin }: URL, why: string, cause?: unknown): ServerError {
  return new ServerError(
    'IO',
    `Unable to connect to ${origin}: ${why}. Cannot connect to the source`,
    {
      ...(cause === undefined ? {} : { cause }),
      hint: 'check core.https_address there, or use --mode=push or --mode=relay',
    },
  );
}
