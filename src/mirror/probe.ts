/** Tries a mirror the way clients use it, over HTTP or HTTPS: whether its web server has what was sent there. */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { SecureContext } from 'node:tls';
import { DocumentError, parseIndex } from '../catalog/published.js';
import { networkCode, networkText, ServerError } from '../errors.js';
import type { NamedFile } from './knowledge.js';

/** What is tried. */
export interface ProbeTarget {
  /** The mirror's name. */
  name: string;
  /** Where clients reach it: `http:` or `https:`. */
  url: string;
}

export interface ProbeOptions {
  /** A file that is to be there. Default: none. */
  file?: NamedFile | undefined;
  /** The authorities that are believed. @throws ServerError where they cannot be read */
  authorities: () => Promise<SecureContext>;
  /** What tells the server that asks from all others; see {@link ownWordHeader}. */
  ownWord: string;
  signal?: AbortSignal;
  /** For all of it, in milliseconds. Default: 5,000. */
  timeoutMs?: number;
}

export interface ProbeResult {
  /** How long the longer of the answers took to begin, with the connection where that was new, in milliseconds. */
  ms: number;
}

/**
 * The header of requests that has a word of this server's in it. Where this server gets such a request it was sent to
 * itself: it answers 421 with the same header, whatever was asked for.
 */
export const ownWordHeader = 'x-lxd-image-server-probe';

/** The largest `index.json` that is read, in bytes. */
const largestIndex = 2 ** 20;
const indexPath = 'streams/v1/index.json';

/**
 * Reads `index.json`, and asks for the head of a file. Follows no redirect.
 *
 * @throws ServerError MIRROR_MISSING or MIRROR_DAMAGED where it is the file that is not as it should be; CONFIG where
 *   the address leads to this server itself; TLS, MIRROR_DOWN or MIRROR_DENIED for all else; the reason of the signal.
 */
export async function probeMirror(
  target: ProbeTarget,
  { file, authorities, ownWord, signal, timeoutMs = 5000 }: ProbeOptions,
): Promise<ProbeResult> {
  const isSecure = new URL(target.url).protocol === 'https:';
  const context = isSecure ? await authorities() : undefined;
  // One connection for all, which is closed in the end.
  const settings = { keepAlive: true, maxSockets: 1 };
  const agent = context
    ? new HttpsAgent({ ...settings, secureContext: context })
    : new HttpAgent(settings);
  const late = AbortSignal.timeout(timeoutMs);
  const signals = signal === undefined ? [late] : [late, signal];
  const line: Line = { target, agent, ownWord, signal: AbortSignal.any(signals) };
  try {
    const first = await checkIndex(line);
    const second = file === undefined ? 0 : await checkFile(line, file);
    return { ms: Math.round(Math.max(first, second)) };
  } catch (error) {
    signal?.throwIfAborted();
    if (late.aborted) throw noAnswer(target, `nothing within ${timeoutMs / 1000} s`, error);
    throw error instanceof ServerError ? error : connectionFailed(target, error);
  } finally {
    agent.destroy();
  }
}

/** The address of a file of a mirror's. @param path relative to the root, of names that need no escapes */
export function mirrorUrl(url: string, path: string): string {
  return `${url.replace(/\/+$/, '')}/${path}`;
}

interface Line {
  target: ProbeTarget;
  agent: HttpAgent | HttpsAgent;
  ownWord: string;
  signal: AbortSignal;
}

/** @returns how long the answer took to begin */
async function checkIndex(line: Line): Promise<number> {
  const { target } = line;
  const { response, ms } = await ask(line, 'GET', indexPath);
  const fault = (why: string, hint: string) =>
    new ServerError('MIRROR_DENIED', `Mirror ${target.name}: ${urlOf(target, indexPath)} ${why}`, {
      hint,
    });
  const status = response.statusCode ?? 0;
  if (status !== 200) throw fault(statusText(response), statusHint(status));
  const text = await textOf(response);
  if (text === undefined) throw fault('is larger than 1 MiB', elsewhere);
  if (/^\s*</.test(text)) throw fault('is a web page, not a document', elsewhere);
  try {
    parseIndex(text);
  } catch (error) {
    if (!(error instanceof DocumentError)) throw error;
    throw fault(error.message, elsewhere);
  }
  return ms;
}

/** @returns how long the answer took to begin */
async function checkFile(line: Line, { path, size }: NamedFile): Promise<number> {
  const { target } = line;
  const { response, ms } = await ask(line, 'HEAD', path);
  response.resume();
  const status = response.statusCode ?? 0;
  const fault = (code: ServerError['code'], why: string) =>
    new ServerError(code, `Mirror ${target.name}: ${urlOf(target, path)} ${why}`, {
      hint: status >= 300 && status < 400 ? statusHint(status) : otherTree,
    });
  if (status !== 200) throw fault('MIRROR_MISSING', statusText(response));
  const length = response.headers['content-length'];
  if (length === undefined) throw fault('MIRROR_DAMAGED', 'is there, but its size is not told');
  if (Number(length) !== size) {
    throw fault('MIRROR_DAMAGED', `has a size of ${length}, what was sent there has ${size}`);
  }
  return ms;
}

const elsewhere = 'set url to where the web server of the mirror shows the root of the tree';
const otherTree =
  'let the web server at url show the very folder that root names; another server may answer there';

function statusText({ statusCode = 0, headers }: IncomingMessage): string {
  const { location } = headers;
  if (statusCode < 300 || statusCode >= 400) return `is answered with status ${statusCode}`;
  const where =
    location === undefined ? 'elsewhere' : `to ${JSON.stringify(location.slice(0, 200))}`;
  return `is redirected ${where} (status ${statusCode})`;
}

function statusHint(status: number): string {
  if (status >= 300 && status < 400) return 'set url to where the files themselves are';
  if (status === 401 || status === 403) return 'let its web server show the tree to everybody';
  if (status >= 500) return 'look at the log of its web server';
  return elsewhere;
}

function urlOf({ url }: ProbeTarget, path: string): string {
  return mirrorUrl(url, path);
}

async function ask(
  { target, agent, ownWord, signal }: Line,
  method: 'GET' | 'HEAD',
  path: string,
): Promise<{ response: IncomingMessage; ms: number }> {
  const began = performance.now();
  const url = new URL(urlOf(target, path));
  const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(url, {
    ...{ method, agent, signal, maxHeaderSize: 16_384 },
    headers: {
      'User-Agent': 'lxd-image-server',
      'Accept-Encoding': 'identity',
      // What stands between is to ask the mirror itself.
      'Cache-Control': 'no-cache',
      [ownWordHeader]: ownWord,
    },
  });
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request.once('response', resolve).on('error', reject);
    // All that comes of an answer that takes the connection for another protocol.
    request.once('close', () => reject(new Error('it answers in no way that is known here')));
    request.end();
  });
  // Whoever reads hears of it; between two reads nobody does.
  response.on('error', () => {});
  if (response.statusCode === 421 && response.headers[ownWordHeader] === ownWord) {
    throw new ServerError(
      'CONFIG',
      `Mirror ${target.name}: ${target.url} leads to this server itself`,
      { hint: "set url to the mirror's own address; clients would be sent in circles" },
    );
  }
  return { response, ms: performance.now() - began };
}

/** @returns `undefined` where it is longer than any index */
async function textOf(response: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > largestIndex) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function noAnswer(
  { name, url }: ProbeTarget,
  why: string,
  cause: unknown,
  hint = 'check network and firewall, and the web server of the mirror',
): ServerError {
  const text = `Mirror ${name}: no answer from ${new URL(url).origin}: ${why}`;
  return new ServerError('MIRROR_DOWN', text, { hint, cause });
}

const networkHints: Record<string, string> = {
  ENOTFOUND: 'check url of the mirror, and the name servers',
  EAI_AGAIN: 'check the name servers',
  ECONNREFUSED: 'check that the web server of the mirror runs, and the port in url',
};

/** What Node and OpenSSL say of certificates, in plain words, and the cure. */
const certificateTexts: Record<string, readonly [why: string, hint: string]> = {
  ...Object.fromEntries(
    [
      'DEPTH_ZERO_SELF_SIGNED_CERT',
      'SELF_SIGNED_CERT_IN_CHAIN',
      'UNABLE_TO_GET_ISSUER_CERT',
      'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'CERT_UNTRUSTED',
    ].map((code) => [
      code,
      [
        'it is of no authority that this host trusts',
        'name a file with it, or with its authority, as tls_ca of the mirror; clients have to trust it too',
      ] as const,
    ]),
  ),
  CERT_HAS_EXPIRED: ['it has expired', 'renew it on the mirror; clients refuse it as well'],
  CERT_NOT_YET_VALID: [
    'it is not valid yet',
    'check the clocks of this host and of the mirror; clients refuse it as well',
  ],
};

/** Answers of a server that does not speak TLS on that port. */
const noTls = /^ERR_SSL_(?:WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG)$|^EPROTO$/;

function connectionFailed(target: ProbeTarget, error: unknown): ServerError {
  const code = networkCode(error) ?? '';
  const { origin, hostname } = new URL(target.url);
  const untrusted = (why: string, hint: string) =>
    new ServerError(
      'TLS',
      `Mirror ${target.name}: the certificate of ${origin} is not accepted: ${why}`,
      { hint, cause: error },
    );
  const known = certificateTexts[code];
  if (known !== undefined) return untrusted(...known);
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return untrusted(
      `it is not for ${hostname}`,
      'set url to a name that its certificate has, or give the mirror a certificate for this name',
    );
  }
  if (error instanceof Error && /alert protocol version/.test(error.message)) {
    const hint = 'let its web server offer it: "ssl_protocols TLSv1.2 TLSv1.3;" in nginx';
    return noAnswer(target, 'it has no TLS 1.3, without which clients do not come', error, hint);
  }
  if (noTls.test(code)) {
    return noAnswer(target, 'it does not speak TLS there', error, 'check the port in url');
  }
  if (code.startsWith('HPE_')) {
    return noAnswer(target, 'what it says is not HTTP', error, 'check the port in url');
  }
  return noAnswer(target, networkText(error), error, networkHints[code]);
}
