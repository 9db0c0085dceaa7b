/** Which certificates of mirrors' web servers are believed: as a careful client would, and this host's own. */
import { X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { createSecureContext, rootCertificates, type SecureContext } from 'node:tls';
import { ServerError, systemCode, systemText } from '../errors.js';

export interface Authorities {
  /**
   * Believes the system's authorities, the server's certificate in the file `own`, and those in the file `tlsCa`, as
   * they are at each call, for all of them are renewed.
   *
   * @throws ServerError TLS where `tlsCa` cannot be read
   */
  contextFor(files: { own: string; tlsCa?: string | undefined }): Promise<SecureContext>;
}

/** Where Debian keeps the authorities that the system trusts. */
const systemBundle = '/etc/ssl/certs/ca-certificates.crt';
/** Each holds all authorities of the system. */
const mostContexts = 64;

/** @param options.bundle PEM file. Default: the system's; where that is not there, the authorities that Node has. */
export function createAuthorities({
  bundle = systemBundle,
}: {
  bundle?: string;
} = {}): Authorities {
  let system: { version: string; certificates: Promise<readonly string[]> } | undefined;
  /** By the version of the system's, and the other certificates. */
  const contexts = new Map<string, SecureContext>();
  return {
    async contextFor({ own, tlsCa }) {
      const version = await versionOf(bundle);
      if (system?.version !== version) {
        contexts.clear();
        system = { version, certificates: readSystem(bundle) };
      }
      const base = await system.certificates;
      // Where there is none that can be read, clients meet none either.
      const ours = await readFile(own, 'utf8')
        .then(certificatesIn)
        .catch(() => []);
      const theirs = tlsCa === undefined ? [] : await readAuthorities(tlsCa);
      const more = [...new Set([...ours, ...theirs])];
      const key = [version, ...more].join('');
      const known = contexts.get(key);
      if (known !== undefined) return known;
      // A certificate that an authority has signed may be trusted by itself.
      const context = createSecureContext({
        ca: [...base, ...more],
        allowPartialTrustChain: true,
        // LXD and Incus take nothing less.
        minVersion: 'TLSv1.3',
      });
      if (contexts.size >= mostContexts) contexts.clear();
      contexts.set(key, context);
      return context;
    },
  };
}

/** Changes with the file. */
async function versionOf(file: string): Promise<string> {
  try {
    const { ino, size, mtimeNs } = await stat(file, { bigint: true });
    return [ino, size, mtimeNs].join();
  } catch {
    return 'none';
  }
}

async function readSystem(bundle: string): Promise<readonly string[]> {
  try {
    return [await readFile(bundle, 'utf8')];
  } catch {
    return rootCertificates;
  }
}

async function readAuthorities(file: string): Promise<string[]> {
  let cause: unknown;
  try {
    const found = certificatesIn(await readFile(file, 'utf8'));
    if (found.length > 0) return found;
  } catch (error) {
    cause = error;
  }
  const isUnread = systemCode(cause)?.startsWith('E') && !systemCode(cause)?.startsWith('ERR_');
  const why = isUnread ? systemText(cause) : 'there is no certificate in it that can be read';
  throw new ServerError('TLS', `Cannot read ${file}: ${why}`, {
    hint: 'tls_ca of a mirror names a file with certificates (PEM) that this service may read',
    cause,
  });
}

const pem = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;

/** Each certificate of a PEM text. @throws Error where one cannot be read */
function certificatesIn(text: string): string[] {
  return [...text.matchAll(pem)].map(([block]) => new X509Certificate(block).toString());
}
