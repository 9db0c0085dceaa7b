/**
 * The TLS key and certificate that the embedded server and nginx share: made once, never overwritten.
 *
 * The certificate signs itself and is no authority (basicConstraints CA:FALSE, no keyUsage). Clients trust
 * exactly this one, pinned by LXD and Incus (servercerts/<remote>.crt) or put among the system's certificates,
 * and whoever steals its key cannot use it to vouch for other hosts.
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
  X509Certificate,
} from 'node:crypto';
import { link, mkdir, open, readFile, rm, stat } from 'node:fs/promises';
import { hostname, networkInterfaces } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { ServerError, systemCode, systemText } from '../errors.js';

/** Where the pair stands. Both files are PEM; the certificate's may hold a chain, ours first. */
export interface CertificateFiles {
  certFile: string;
  keyFile: string;
}

export interface CertificateOptions extends CertificateFiles {
  /** DNS names it is for, the main one first. Default: {@link hostNames}. */
  names?: string[];
  /** IP addresses it is for. Default: {@link hostAddresses}. */
  addresses?: string[];
  /** How long it is valid. Default: ten years. */
  days?: number;
}

export interface CertificatePair {
  cert: Buffer;
  key: Buffer;
}

const initHint = 'run lxd-image-server init';
const startOverHint = `put the right file there, or move both files away and ${initHint}`;

/**
 * Makes key (EC P-256, mode 0600) and certificate (mode 0644) where there are none; what is there stays.
 *
 * The key is written first, and a key that stands alone gets a certificate: so the next run mends what a crash
 * between the two left, and several runs at once end with one pair. Without a network.
 *
 * @returns whether this call made the certificate, and {@link certificateFingerprint} of the one in place
 * @throws {ServerError} TLS, for a certificate without its key, a pair that {@link readCertificate} refuses,
 *   a lone key of another kind, and where the files cannot be written
 */
export async function ensureCertificate(
  options: CertificateOptions,
): Promise<{ created: boolean; fingerprint: string }> {
  const { certFile, keyFile } = options;
  let created = false;
  if (!(await exists(certFile))) {
    if (!(await exists(keyFile))) await createFile(keyFile, newKey(), { mode: 0o600 });
    created = await createFile(certFile, await newCertificate(options), { mode: 0o644 });
  }
  const { cert } = await readCertificate({ certFile, keyFile });
  return { created, fingerprint: certificateFingerprint(cert) };
}

/**
 * The pair, ready for a TLS server. The key may be readable for its group, as Debian's ssl-cert group has it,
 * but not for everyone.
 *
 * @throws {ServerError} TLS, for a file that is missing, unreadable or not PEM, a key with a passphrase or open
 *   to everyone, and a pair that does not belong together
 */
export async function readCertificate(files: CertificateFiles): Promise<CertificatePair> {
  const { certFile, keyFile } = files;
  const cert = await readPem(certFile, { what: 'certificate', missingHint: initHint });
  const leaf = parsed(() => new X509Certificate(cert.toString('latin1')), noPem(certFile));
  const { key, object } = await readKey(keyFile, {
    missingHint: `put it back, or move ${certFile} away and ${initHint}`,
  });
  if (leaf.checkPrivateKey(object)) return { cert, key };
  throw new ServerError(
    'TLS',
    `The key ${keyFile} does not belong to the certificate ${certFile}`,
    {
      hint: startOverHint,
    },
  );
}

/** What clients meet. */
export interface ShownCertificate {
  pem: string;
  /** As {@link certificateFingerprint} has it. */
  fingerprint: string;
}

/**
 * The (first) certificate of a file whose key need not be readable.
 *
 * @throws {ServerError} TLS, for a file that is missing, unreadable or not PEM
 */
export async function readShownCertificate(certFile: string): Promise<ShownCertificate> {
  const cert = await readPem(certFile, { what: 'certificate', missingHint: initHint });
  const shown = () => ({
    pem: new X509Certificate(cert).toString(),
    fingerprint: certificateFingerprint(cert),
  });
  return parsed(shown, noPem(certFile));
}

/** SHA-256 of the (first) certificate's DER form, in hex: the fingerprint that LXD and Incus show. */
export function certificateFingerprint(cert: Buffer): string {
  return new X509Certificate(cert).fingerprint256.replaceAll(':', '').toLowerCase();
}

/** This host's names: fully qualified ones that /etc/hosts has, its own, localhost. */
export async function hostNames(): Promise<string[]> {
  const hosts = await readFile('/etc/hosts', 'utf8').catch(() => '');
  return [...qualifiedNames(hosts, hostname()), hostname(), 'localhost'];
}

/** The fully qualified forms of `host` on its lines of an /etc/hosts file: `host.example.org`. Pure. */
export function qualifiedNames(hosts: string, host: string): string[] {
  return hosts
    .split('\n')
    .flatMap((line) => line.replace(/#.*/, '').trim().split(/\s+/).slice(1))
    .filter((name) => name.startsWith(`${host}.`));
}

/** This host's addresses now, without link-local ones; the loopback ones are always among them. */
export function hostAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((entries) => entries ?? []);
  const reachable = all.map(({ address }) => address).filter((address) => !isLinkLocal(address));
  return [...reachable, '127.0.0.1', '::1'];
}

const isLinkLocal = (address: string) => /^(?:fe[89ab].:|169\.254\.)/i.test(address);

const isDnsName = (name: string) =>
  /^(?=.{1,253}$)(?:[\w-]{1,63}\.)*[\w-]{1,63}$/.test(name) && !/(?:^|\.)-|-(?:\.|$)/.test(name);

function newKey(): string {
  return generateKeyPairSync('ec', {
    namedCurve: 'P-256',
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  }).privateKey;
}

const day = 86_400_000;

/** A certificate for the key that stands in `options.keyFile`, as PEM. */
async function newCertificate(options: CertificateOptions): Promise<string> {
  const { keyFile, days = 3650, addresses = hostAddresses() } = options;
  const names = (options.names ?? (await hostNames())).filter(isDnsName);
  const keyPair = await p256Pair(keyFile);
  // Loaded here, because whoever only reads a pair need not wait for it.
  const { default: selfsigned } = await import('selfsigned');
  const { cert } = await selfsigned.generate(
    [{ name: 'commonName', value: (names[0] ?? 'localhost').slice(0, 64) }],
    {
      keyPair,
      keyType: 'ec',
      curve: 'P-256',
      algorithm: 'sha256',
      // A day back, for clients whose clocks lag.
      notBeforeDate: new Date(Date.now() - day),
      notAfterDate: new Date(Date.now() + days * day),
      extensions: [
        { name: 'basicConstraints', cA: false, critical: true },
        { name: 'extKeyUsage', serverAuth: true },
        {
          name: 'subjectAltName',
          altNames: [
            ...[...new Set(names)].map((value) => ({ type: 2 as const, value })),
            ...[...new Set(addresses)].map((ip) => ({ type: 7 as const, ip })),
          ],
        },
      ],
    },
  );
  return cert.endsWith('\n') ? cert : `${cert}\n`;
}

async function p256Pair(keyFile: string): Promise<{ privateKey: string; publicKey: string }> {
  const { object } = await readKey(keyFile, { missingHint: initHint });
  if (object.asymmetricKeyDetails?.namedCurve !== 'prime256v1') {
    throw new ServerError(
      'TLS',
      `The key ${keyFile} has no certificate and is not an EC P-256 key`,
      {
        hint: `put its certificate beside it, or move the key away and ${initHint}`,
      },
    );
  }
  return {
    privateKey: object.export({ type: 'pkcs8', format: 'pem' }).toString(),
    publicKey: createPublicKey(object).export({ type: 'spki', format: 'pem' }).toString(),
  };
}

async function readKey(
  keyFile: string,
  options: { missingHint: string },
): Promise<{ key: Buffer; object: KeyObject }> {
  const key = await readPem(keyFile, { what: 'key', ...options });
  const { mode } = await stat(keyFile);
  if ((mode & 0o007) !== 0) {
    throw new ServerError('TLS', `The TLS key ${keyFile} is open to every user of this host`, {
      hint: `run chmod o= ${keyFile}, and make a new pair if others may have read it`,
    });
  }
  const object = parsed(() => createPrivateKey(key), {
    message: `${keyFile} holds no private key in PEM form without a passphrase`,
    hint: startOverHint,
  });
  return { key, object };
}

async function readPem(
  file: string,
  options: { what: string; missingHint: string },
): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    const missing = systemCode(cause) === 'ENOENT';
    const hint = missing ? options.missingHint : 'make it a file that this user may read';
    const message = `Cannot read the TLS ${options.what} ${file}: ${systemText(cause)}`;
    throw new ServerError('TLS', message, { hint, cause });
  }
}

const noPem = (certFile: string) => ({
  message: `${certFile} holds no certificate in PEM form`,
  hint: startOverHint,
});

function parsed<T>(parse: () => T, failure: { message: string; hint: string }): T {
  try {
    return parse();
  } catch (cause) {
    throw new ServerError('TLS', failure.message, { hint: failure.hint, cause });
  }
}

async function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    (error) => systemCode(error) !== 'ENOENT',
  );
}

/**
 * Puts a complete file at `path` unless something is there: a crash leaves either nothing or all of it.
 * @returns whether it did
 */
async function createFile(
  path: string,
  content: string,
  options: { mode: number },
): Promise<boolean> {
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path)}.${randomUUID()}.tmp`);
  try {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    await writeSynced(temporary, content, options);
    await link(temporary, path);
    await syncFolder(folder);
    return true;
  } catch (cause) {
    if (systemCode(cause) === 'EEXIST') return false;
    throw new ServerError('TLS', `Cannot write ${path}: ${systemText(cause)}`, {
      hint: 'run it as a user that may write there, or name another folder with --ssl-dir',
      cause,
    });
  } finally {
    await rm(temporary, { force: true }).catch(() => undefined);
  }
}

async function writeSynced(
  path: string,
  content: string,
  options: { mode: number },
): Promise<void> {
  const file = await open(path, 'wx', options.mode);
  try {
    await file.chmod(options.mode);
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
