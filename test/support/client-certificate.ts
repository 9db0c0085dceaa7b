/** Certificates as clients have them. */
import { X509Certificate } from 'node:crypto';
import { generate } from 'selfsigned';

export interface TestClient {
  /** PEM. */
  cert: string;
  key: string;
  der: Buffer;
  /** SHA-256 of the DER, lower-case hexadecimal. */
  fingerprint: string;
}

/** A pair of its own. `from` and `until` are in milliseconds since 1970. Default: from yesterday for ten years. */
export async function createClient({
  from = Date.now() - 86_400_000,
  until = Date.now() + 3650 * 86_400_000,
} = {}): Promise<TestClient> {
  const pair = await generate([{ name: 'commonName', value: 'user@laptop' }], {
    keyType: 'ec',
    curve: 'P-256',
    notBeforeDate: new Date(from),
    notAfterDate: new Date(until),
  });
  const { raw, fingerprint256 } = new X509Certificate(pair.cert);
  const fingerprint = fingerprint256.replaceAll(':', '').toLowerCase();
  return { cert: pair.cert, key: pair.private, der: raw, fingerprint };
}
