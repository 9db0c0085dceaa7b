/**
 * Whether a mirror's SSH server is the one it should be: fingerprints and known_hosts files (sshd(8),
 * "SSH_KNOWN_HOSTS FILE FORMAT").
 */
import { createHash, createHmac, randomBytes } from 'node:crypto';
import { chmod, mkdir, open, readFile, realpath, rename, rm, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { ServerError, systemCode, systemText } from '../errors.js';
import type { HostPort } from '../units.js';

/** One line of a known_hosts file that names a key. */
export interface KnownHost {
  /** Counted from 1. */
  line: number;
  marker: 'revoked' | 'cert-authority' | undefined;
  /** Names, with wildcards and negations, or one hash `|1|salt|hash`. */
  patterns: string[];
  /** The key as the protocol carries it. */
  key: Buffer;
}

export interface KnownHosts {
  hosts: KnownHost[];
  /** Lines that say nothing, with the reason. */
  problems: { line: number; reason: string }[];
}

/** What a server showed. */
export interface HostKey {
  /** As the protocol carries it. */
  key: Buffer;
  /** `ssh-ed25519` */
  type: string;
  /** `SHA256:…`, as `ssh-keygen -l` prints it. */
  fingerprint: string;
}

/** Who is asked for, and what tells that it is them. */
export interface TrustedMirror {
  name: string;
  remote: HostPort;
  /** A fingerprint; then no file is read. */
  hostKey?: string;
  /** A known_hosts file in place of the user's and the system's. */
  knownHosts?: string;
}

/** How to find out whether a server is the right one. */
export interface HostTrust {
  /** Host key algorithms to ask for, best first; the next list where a key of the last is not accepted. */
  attempts: string[][];
  /** Why `key` is not accepted: a ServerError MIRROR_AUTH; `undefined` where it is. */
  judge(key: Buffer): ServerError | undefined;
}

/** The kinds of key, best first, with the signatures that servers make with them. */
const signatures: Record<string, string[]> = {
  'ssh-ed25519': ['ssh-ed25519'],
  'ecdsa-sha2-nistp256': ['ecdsa-sha2-nistp256'],
  'ecdsa-sha2-nistp384': ['ecdsa-sha2-nistp384'],
  'ecdsa-sha2-nistp521': ['ecdsa-sha2-nistp521'],
  'ssh-rsa': ['rsa-sha2-512', 'rsa-sha2-256'],
};
const allTypes = Object.keys(signatures);

/** Every host key algorithm that is accepted, best first. */
export const hostKeyAlgorithms = allTypes.flatMap((type) => signatures[type] ?? []);

/** `key` with what people call it. @param key as the protocol carries it */
export function describeHostKey(key: Buffer): HostKey {
  const length = key.length < 4 ? 0 : key.readUInt32BE(0);
  const type = key.subarray(4, 4 + Math.min(length, 64)).toString('latin1');
  const digest = createHash('sha256').update(key).digest('base64').replace(/=+$/, '');
  return { key, type, fingerprint: `SHA256:${digest}` };
}

/** Reads a known_hosts file. Pure. */
export function parseKnownHosts(text: string): KnownHosts {
  const hosts: KnownHost[] = [];
  const problems: KnownHosts['problems'] = [];
  for (const [index, raw] of text.split('\n').entries()) {
    const words = raw.trim().split(/[ \t]+/);
    if (words[0] === '' || words[0]?.startsWith('#')) continue;
    const read = parseWords(words);
    if (typeof read === 'string') problems.push({ line: index + 1, reason: read });
    else hosts.push({ ...read, line: index + 1 });
  }
  return { hosts, problems };
}

function parseWords(words: string[]): Omit<KnownHost, 'line'> | string {
  const marker = words[0]?.startsWith('@') ? words.shift()?.slice(1) : undefined;
  if (marker !== undefined && marker !== 'revoked' && marker !== 'cert-authority') {
    return `unknown marker @${marker}`;
  }
  const [names = '', type, base64 = ''] = words;
  if (type === undefined || base64 === '') return 'not a host, a type and a key';
  if (!/^[A-Za-z\d+/]+={0,2}$/.test(base64)) return 'the key is not base64';
  const key = Buffer.from(base64, 'base64');
  if (describeHostKey(key).type !== type) return `the key is not of the type ${type}`;
  return { marker, patterns: names.split(','), key };
}

/** Whether a line speaks of the host that ssh calls `name`: `host`, or `[host]:port`. Pure. */
export function namesHost({ patterns }: Pick<KnownHost, 'patterns'>, name: string): boolean {
  const wanted = name.toLowerCase();
  const [first = ''] = patterns;
  if (first.startsWith('|')) return patterns.length === 1 && isHashOf(first, wanted);
  let found = false;
  for (const pattern of patterns) {
    const negated = pattern.startsWith('!');
    if (!matches(negated ? pattern.slice(1) : pattern, wanted)) continue;
    if (negated) return false;
    found = true;
  }
  return found;
}

function isHashOf(text: string, name: string): boolean {
  const [, version, salt, hash] = text.split('|');
  if (version !== '1' || salt === undefined || hash === undefined) return false;
  const made = createHmac('sha1', Buffer.from(salt, 'base64')).update(name).digest();
  return made.equals(Buffer.from(hash, 'base64'));
}

/** `*` stands for any characters, `?` for one. */
function matches(pattern: string, name: string): boolean {
  const source = pattern
    .toLowerCase()
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replace(/\*+/g, '.*')
    .replace(/\?/g, '.');
  return new RegExp(`^${source}$`).test(name);
}

/** The names that ssh looks a host up by, the closest first. */
function namesOf({ host, port }: HostPort): [string, ...string[]] {
  return port === 22 ? [host] : [`[${host}]:${port}`, host];
}

/** What is said of a host in `files`. */
interface Known {
  trusted: KnownHost[];
  revoked: KnownHost[];
  authorities: KnownHost[];
}

/** What `files` say of `remote`. As ssh does, a name without the port counts where there is none with it. */
function knownOf(files: KnownHosts[], remote: HostPort): Known {
  const all = files.flatMap(({ hosts }) => hosts);
  const names = namesOf(remote);
  const of = (marker: KnownHost['marker'], name: string) =>
    all.filter((host) => host.marker === marker && namesHost(host, name));
  const firstOf = (marker: KnownHost['marker']) =>
    names.map((name) => of(marker, name)).find((found) => found.length > 0) ?? [];
  return {
    trusted: firstOf(undefined),
    revoked: names.flatMap((name) => of('revoked', name)),
    authorities: firstOf('cert-authority'),
  };
}

/** Where keys that were accepted are written down: see {@link recordHostKey}. */
export function knownHostsFile(
  mirror: Pick<TrustedMirror, 'knownHosts'>,
  options: { home?: string } = {},
): string {
  return mirror.knownHosts ?? join(options.home ?? homedir(), '.ssh', 'known_hosts');
}

export interface TrustOptions {
  /** The user's folder. Default: that of whoever runs this. */
  home?: string;
  /** The system's file. Default: /etc/ssh/ssh_known_hosts. */
  systemFile?: string;
}

/**
 * What is known of a mirror's host key: `hostKey`, else the file `knownHosts`, else the user's and the system's.
 * @throws ServerError MIRROR_AUTH for a file that is there and cannot be read
 */
export async function loadHostTrust(
  mirror: TrustedMirror,
  options: TrustOptions = {},
): Promise<HostTrust> {
  if (mirror.hostKey !== undefined) return pinned(mirror, mirror.hostKey);
  const { systemFile = '/etc/ssh/ssh_known_hosts' } = options;
  const user = knownHostsFile(mirror, options);
  const files = mirror.knownHosts === undefined ? [user, systemFile] : [user];
  const texts = await Promise.all(files.map(readIfThere));
  return fromKnown(mirror, knownOf(texts.map(parseKnownHosts), mirror.remote));
}

/** The type is not in a fingerprint, so keys of every type are asked for until one has it. */
function pinned(mirror: TrustedMirror, fingerprint: string): HostTrust {
  const wanted = fingerprint.replace(/=+$/, '');
  return {
    attempts: allTypes.map((type) => signatures[type] ?? []),
    judge: (key) => {
      const seen = describeHostKey(key);
      if (seen.fingerprint === wanted) return undefined;
      return refusal(mirror, seen, {
        message: `has another host key than host_key says: ${wanted}`,
        hint: `if that is right, set host_key = "${seen.fingerprint}"`,
      });
    },
  };
}

function fromKnown(mirror: TrustedMirror, { trusted, revoked, authorities }: Known): HostTrust {
  const types = trusted.map(({ key }) => describeHostKey(key).type);
  const first = allTypes.filter((type) => types.includes(type));
  const rest = allTypes.filter((type) => !types.includes(type));
  const command = `lxd-image-server mirror trust ${mirror.name}`;
  return {
    attempts: [[...first, ...rest].flatMap((type) => signatures[type] ?? [])],
    judge: (key) => {
      const seen = describeHostKey(key);
      const isKey = (host: KnownHost) => host.key.equals(key);
      if (revoked.some(isKey)) {
        return refusal(mirror, seen, {
          message: 'has a host key that is marked as revoked',
          hint: 'give the mirror a new host key, or remove the line with @revoked',
        });
      }
      if (trusted.some(isKey)) return undefined;
      if (trusted.length > 0) {
        return refusal(mirror, seen, {
          message: `has another host key than the known ${types.join(', ')}`,
          hint: `someone may stand in between; if the key is right, run: ${command}`,
        });
      }
      const note =
        authorities.length === 0
          ? ''
          : ` (the certificate authority of line ${authorities[0]?.line} is not made use of)`;
      return refusal(mirror, seen, {
        message: `has a host key that is not known${note}`,
        hint: `compare it with the mirror's own, then run: ${command}`,
      });
    },
  };
}

function refusal(
  { name, remote }: TrustedMirror,
  { type, fingerprint }: HostKey,
  { message, hint }: { message: string; hint: string },
): ServerError {
  const [place] = namesOf(remote);
  const text = `Mirror ${name}: ${place} ${message}; seen: ${type} ${fingerprint}`;
  return new ServerError('MIRROR_AUTH', text, { hint });
}

async function readIfThere(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (systemCode(cause) === 'ENOENT') return '';
    throw fileError('read', file, cause);
  }
}

function fileError(verb: string, file: string, cause: unknown): ServerError {
  const text = `Cannot ${verb} the known hosts in ${file}: ${systemText(cause)}`;
  return new ServerError('MIRROR_AUTH', text, {
    hint: 'name a file of your own with known_hosts, or set host_key',
    cause,
  });
}

/**
 * Writes down in the known_hosts file `file` that `key` is the one of `remote`, in place of every other key that
 * the file has for just that host. Whoever reads it meanwhile, or after a crash, finds the old content or the new.
 *
 * @throws ServerError MIRROR_AUTH where the file cannot be written
 */
export async function recordHostKey(
  file: string,
  { remote, key }: { remote: HostPort; key: Buffer },
): Promise<void> {
  const before = await readIfThere(file);
  try {
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    await replaceFile(file, withHostKey(before, { remote, key }));
  } catch (cause) {
    throw fileError('write', file, cause);
  }
}

/** The text of a known_hosts file in which `key` is the only one of `remote`. Pure. */
export function withHostKey(
  text: string,
  { remote, key }: { remote: HostPort; key: Buffer },
): string {
  const [name] = namesOf({ ...remote, host: remote.host.toLowerCase() });
  const lines = text
    .split('\n')
    .map((line) => withoutName(line, name))
    .filter((line) => line !== undefined);
  while (lines.at(-1) === '') lines.pop();
  const { type } = describeHostKey(key);
  return [...lines, `${name} ${type} ${key.toString('base64')}`, ''].join('\n');
}

/** A line without the plain or hashed `name`; `undefined` where nothing else is in it. Lines with markers stay. */
function withoutName(line: string, name: string): string | undefined {
  const [names = '', ...rest] = line.trim().split(/[ \t]+/);
  if (names === '' || names.startsWith('#') || names.startsWith('@')) return line;
  const patterns = names.split(',');
  const others = patterns.filter(
    (pattern) =>
      pattern.toLowerCase() !== name && !(pattern.startsWith('|') && isHashOf(pattern, name)),
  );
  if (others.length === patterns.length) return line;
  const positive = others.some((pattern) => !pattern.startsWith('!'));
  return positive ? [others.join(','), ...rest].join(' ') : undefined;
}

async function replaceFile(file: string, text: string): Promise<void> {
  const target = await realpath(file).catch(() => file);
  const mode = await stat(target).then(
    (found) => found.mode & 0o777,
    () => 0o600,
  );
  const temporary = `${target}.${randomBytes(3).toString('hex')}`;
  try {
    const handle = await open(temporary, 'wx', mode);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await chmod(temporary, mode);
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
