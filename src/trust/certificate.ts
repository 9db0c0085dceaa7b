/** What is to be known of a client's certificate: which one it is, and when it is valid. */
import { createHash, X509Certificate } from 'node:crypto';
import { utcText } from './refusals.js';

export interface ClientCertificate {
  /** SHA-256 of the DER, lower-case hexadecimal. */
  fingerprint: string;
  /** When its validity ends, in milliseconds since 1970. */
  until: number;
}

/** The fingerprint that LXD and Incus show for a certificate. */
export function fingerprintOf(der: Uint8Array): string {
  return createHash('sha256').update(der).digest('hex');
}

/**
 * Reads what must be the DER of one certificate, and nothing else, that is valid at `now`.
 *
 * @returns the certificate, or what is wrong with it, to follow its subject: `expired on …`
 */
export function validCertificate(der: Uint8Array, now: number): ClientCertificate | string {
  const certificate = parse(der);
  if (certificate === undefined || Buffer.compare(certificate.raw, der) !== 0) {
    return 'cannot be read';
  }
  const from = Date.parse(certificate.validFrom);
  const until = Date.parse(certificate.validTo);
  if (Number.isNaN(from) || Number.isNaN(until)) return 'has dates that cannot be read';
  if (now < from) return `is not valid before ${utcText(from)}`;
  if (now > until) return `expired on ${utcText(until)}`;
  return { fingerprint: fingerprintOf(der), until };
}

/** The DER of the first certificate in a file, PEM or DER; `undefined` where there is none. */
export function certificateIn(file: Uint8Array): Buffer | undefined {
  return parse(file)?.raw;
}

function parse(bytes: Uint8Array): X509Certificate | undefined {
  try {
    return new X509Certificate(bytes);
  } catch {
    return undefined;
  }
}
