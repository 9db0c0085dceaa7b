/** A private certificate authority, as a site has one of its own. */
import { isIP } from 'node:net';
import { generate, type SelfsignedOptions } from 'selfsigned';
import type { TestCertificate } from './tls.js';

export interface IssueOptions {
  /** Host names and addresses. Default: `localhost`, 127.0.0.1 and ::1. */
  names?: readonly string[];
  /** Default: now, and in a day. */
  notBefore?: Date;
  notAfter?: Date;
}

export interface Authority {
  /** PEM. */
  cert: string;
  /** Signs a certificate for a server. */
  issue(options?: IssueOptions): Promise<TestCertificate>;
}

const day = 86_400_000;

export async function createAuthority(): Promise<Authority> {
  const own = await make('authority of a test', {
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    ],
  });
  return {
    cert: own.cert,
    issue: ({ names = ['localhost', '127.0.0.1', '::1'], notBefore, notAfter } = {}) =>
      make('server of a test', {
        ca: own,
        ...(notBefore && { notBeforeDate: notBefore }),
        ...(notAfter && { notAfterDate: notAfter }),
        extensions: [
          { name: 'basicConstraints', cA: false },
          { name: 'extKeyUsage', serverAuth: true },
          {
            name: 'subjectAltName',
            altNames: names.map((name) =>
              isIP(name) === 0 ? { type: 2, value: name } : { type: 7, ip: name },
            ),
          },
        ],
      }),
  };
}

async function make(name: string, options: SelfsignedOptions): Promise<TestCertificate> {
  const pair = await generate([{ name: 'commonName', value: name }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
    notBeforeDate: new Date(),
    notAfterDate: new Date(Date.now() + day),
    ...options,
  });
  return { key: pair.private, cert: pair.cert };
}
