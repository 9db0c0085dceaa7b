/**
 * TLS for the tests: a throw-away key with a certificate, and requests written to the socket as they are.
 */
import { connect, type TLSSocket } from 'node:tls';
import { generate } from 'selfsigned';

export interface TestCertificate {
  key: string;
  cert: string;
}

/** An EC P-256 pair for `localhost`, 127.0.0.1 and ::1, valid from now until `notAfter`: by default for a day. */
export async function createTestCertificate({
  notAfter = new Date(Date.now() + 86_400_000),
}: {
  notAfter?: Date;
} = {}): Promise<TestCertificate> {
  const pair = await generate([{ name: 'commonName', value: 'localhost' }], {
    keyType: 'ec',
    curve: 'P-256',
    notBeforeDate: new Date(Math.min(Date.now(), notAfter.getTime() - 60_000)),
    notAfterDate: notAfter,
    extensions: [
      {
        name: 'subjectAltName',
        altNames: [
          { type: 2, value: 'localhost' },
          { type: 7, ip: '127.0.0.1' },
          { type: 7, ip: '::1' },
        ],
      },
    ],
  });
  return { key: pair.private, cert: pair.cert };
}

/** What came back for a raw request. */
export interface RawResponse {
  /** 0 if the server closed the connection without a word. */
  status: number;
  /** Lower-case names. */
  headers: Record<string, string>;
  body: Buffer;
}

/** Opens a TLS connection that trusts any certificate; resolves when the handshake is done. */
export function connectTls(port: number): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, rejectUnauthorized: false };
    const socket = connect(options, () => resolve(socket));
    socket.once('error', reject);
  });
}

/** Sends bytes that no HTTP client would send, and reads until the server closes the connection. */
export async function rawRequest(port: number, request: string | Buffer): Promise<RawResponse> {
  const socket = await connectTls(port);
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.on('error', () => {});
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write(request);
  await closed;
  return parseResponse(Buffer.concat(chunks));
}

/** A GET for `target`, written to the wire as it is, on a connection of its own. */
export function rawGet(
  port: number,
  target: string,
  { method = 'GET', headers = {} }: { method?: string; headers?: Record<string, string> } = {},
): Promise<RawResponse> {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const head = `${method} ${target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n`;
  return rawRequest(port, Buffer.from(`${head}${lines.join('')}\r\n`, 'latin1'));
}

function parseResponse(bytes: Buffer): RawResponse {
  const end = bytes.indexOf('\r\n\r\n');
  const [first = '', ...lines] = bytes
    .subarray(0, Math.max(end, 0))
    .toString('latin1')
    .split('\r\n');
  const headers = lines.map((line) => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  return {
    status: Number(first.split(' ')[1] ?? 0),
    headers: Object.fromEntries(headers) as Record<string, string>,
    body: end < 0 ? bytes : bytes.subarray(end + 4),
  };
}
