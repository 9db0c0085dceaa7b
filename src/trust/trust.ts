/**
 * trust/ knows who may upload: client certificates, pinned under a name, and the tokens that let new ones in.
 * This file has what can be asked and done; `keeper.ts` keeps it.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import { createAttempts } from './attempts.js';
import { type ClientCertificate, fingerprintOf, validCertificate } from './certificate.js';
import { createKeeper, type Keeper } from './keeper.js';
import {
  badLifetime,
  badName,
  foreignToken,
  hasToken,
  nameTaken,
  nobody,
  notAToken,
  notTrusted,
  notValid,
  sameCertificate,
  tooManyTokens,
  unreadable,
  uselessCertificate,
  uselessFile,
  uselessToken,
  utcText,
} from './refusals.js';
import { formatToken, parseToken, type ReceivedToken } from './token.js';
import { namePattern, type StoredClient, type StoredToken, type Trusted } from './trust-file.js';

export interface TrustOptions {
  /** Where it is kept, absolute. */
  file: string;
  /** Replaces the file's content, at once and for good, with mode 0600. @throws ServerError */
  write: (file: string, text: string) => Promise<void>;
  /** The fingerprint of the certificate that clients meet. @throws ServerError */
  serverFingerprint: () => Promise<string>;
  log: Logger;
  /** In milliseconds since 1970. Default: the host's clock. */
  now?: () => number;
}

/** Who it is; the server's contract has the same. */
export interface Client {
  name: string;
  /** Of its certificate: SHA-256 of the DER, lower-case hexadecimal. */
  fingerprint: string;
}

export interface InvitationWish {
  name: string;
  /** How long the token is good, in milliseconds: up to {@link longestLife}. */
  lifetime: number;
  /** `host:port`, in the order in which the client tries them. */
  addresses: readonly string[];
}

/** A token, to be told once: its secret is kept nowhere. */
export interface Invitation {
  name: string;
  token: string;
  /** What the token says of this server. */
  fingerprint: string;
  addresses: readonly string[];
  /** ISO 8601. */
  expires: string;
}

/** Who is trusted, and which tokens have not been used. */
export interface TrustList {
  clients: readonly StoredClient[];
  tokens: readonly Pick<StoredToken, 'name' | 'added' | 'expires'>[];
}

/** What a name stood for. */
export interface Removed {
  name: string;
  /** Fingerprints. */
  clients: readonly string[];
  /** How many that could still be used. */
  tokens: number;
}

export interface Trust {
  /** What the certificate of a caller, DER, is worth: who it is, or why it counts for nothing and what to do. */
  judge(certificate: Uint8Array): { client: Client } | { refusal: string };
  /**
   * Trusts the certificate of whoever brings a token, which is then used up. One that is trusted already stays who
   * it is, whatever it brings.
   *
   * @param offer.address IP address; the one that has brought too many wrong tokens is not listened to for a while
   * @throws ServerError FORBIDDEN with what is wrong and how to get another; DENIED, DISK_FULL or IO
   */
  admit(offer: { token: string; certificate: Uint8Array; address: string }): Promise<Client>;
  /**
   * Makes a token for one client.
   *
   * @throws ServerError USAGE for a name that is taken or none, and for a lifetime that is none; TLS; and as
   *   {@link Trust.list} and `options.write`
   */
  invite(wish: InvitationWish): Promise<Invitation>;
  /** Trusts a certificate, DER. @throws ServerError as {@link Trust.invite}; USAGE for one that is of no use */
  add(wish: { name: string; certificate: Uint8Array }): Promise<StoredClient>;
  /** @throws ServerError DAMAGED, DENIED or IO, where the file cannot be read */
  list(): Promise<TrustList>;
  /** How many clients are trusted, by what was read last. */
  clients(): number;
  /** Trusts the client of that name no more, and none of its tokens. @throws ServerError USAGE where there is none */
  remove(name: string): Promise<Removed>;
  /** Reads the file again; where that fails, what was known stays, and the log says why. */
  refresh(): Promise<void>;
  /** Keeps what is only in memory: who was seen last. */
  close(): Promise<void>;
}

/** Of a token, in milliseconds: a year. */
export const longestLife = 366 * 86_400_000;

/** Makes it with what `options.file` says. A file of no use is logged: nobody is trusted until it is mended. */
export async function openTrust(options: TrustOptions): Promise<Trust> {
  const { file, write, log, now = Date.now, serverFingerprint } = options;
  const keeper = createKeeper({ file, write, log, now });
  const parts: Parts = { keeper, serverFingerprint, log, now };
  const admit = createAdmission(parts);
  const refresh = async () => {
    await keeper.read().catch((err: unknown) => log.error({ err }, 'cannot read who is trusted'));
  };
  await keeper.inTurn(refresh);
  return {
    judge: (certificate) => judge(certificate, parts),
    admit: (offer) => keeper.inTurn(() => admit(offer)),
    invite: (wish) => keeper.inTurn(() => invite(wish, parts)),
    add: (wish) => keeper.inTurn(() => add(wish, parts)),
    list: () => keeper.inTurn(() => list(parts)),
    clients: () => keeper.clients(),
    remove: (name) => keeper.inTurn(() => remove(name, parts)),
    refresh: () => keeper.inTurn(refresh),
    close: () => keeper.inTurn(keeper.keepSeen),
  };
}

interface Parts extends Pick<TrustOptions, 'serverFingerprint' | 'log'> {
  keeper: Keeper;
  now: () => number;
}

function judge(der: Uint8Array, { keeper, now }: Parts): ReturnType<Trust['judge']> {
  if (!keeper.isKnown()) return { refusal: `${unreadable.message}; ${unreadable.hint}` };
  const fingerprint = fingerprintOf(der);
  const client = keeper.client(fingerprint);
  if (client === undefined) return { refusal: notTrusted(fingerprint) };
  const certificate = validCertificate(der, now());
  if (typeof certificate === 'string') return { refusal: notValid(client.name, certificate) };
  keeper.saw(fingerprint);
  return { client: { name: client.name, fingerprint } };
}

/** What lets clients in. */
function createAdmission(parts: Parts): Trust['admit'] {
  const { keeper, log, now } = parts;
  const attempts = createAttempts();
  return async ({ token, certificate: der, address }) => {
    const certificate = validCertificate(der, now());
    if (typeof certificate === 'string') throw uselessCertificate(certificate);
    const trusted = await keeper.read().catch((cause: unknown) => {
      log.error({ err: cause }, 'nobody can be let in');
      throw new ServerError('FORBIDDEN', unreadable.message, { hint: unreadable.hint, cause });
    });
    const own = trusted.clients.find((each) => each.fingerprint === certificate.fingerprint);
    const wait = own === undefined ? attempts.wait(address, now()) : 0;
    if (wait > 0) throw tooManyTokens(address, wait);
    const received = parseToken(token);
    const found = received && findToken(trusted.tokens, received.secret);
    if (found !== undefined && isUsable(found, now())) {
      const client = own ?? entryOf(found.name, certificate, now());
      await keeper.save(afterUse(trusted, { token: found, client, now: now() }));
      log.info({ name: client.name, fingerprint: client.fingerprint, address }, 'client let in');
      return { name: client.name, fingerprint: client.fingerprint };
    }
    if (own !== undefined) return { name: own.name, fingerprint: own.fingerprint };
    attempts.failed(address, now());
    const refusal = await whyRefused(parts, { received, found });
    log.warn({ address, reason: refusal.message }, 'token refused');
    throw refusal;
  };
}

/** What is kept once `client` has used `token`. */
function afterUse(
  { clients, tokens }: Trusted,
  { token, client, now }: { token: StoredToken; client: StoredClient; now: number },
): Trusted {
  const used = isoText(now);
  return {
    clients: clients.includes(client) ? clients : [...clients, client],
    tokens: tokens.map((each) => (each === token ? { ...each, used } : each)),
  };
}

async function whyRefused(
  { serverFingerprint, log, now }: Parts,
  { received, found }: { received: ReceivedToken | undefined; found: StoredToken | undefined },
): Promise<ServerError> {
  if (received === undefined) return notAToken();
  if (found?.used !== undefined) {
    return uselessToken(`This token was used already, on ${utcText(Date.parse(found.used))}`);
  }
  const own = await serverFingerprint().catch((err: unknown) => {
    log.warn({ err }, 'cannot tell which server a token is of');
    return received.fingerprint;
  });
  if (found === undefined && own !== received.fingerprint) {
    return foreignToken(received.fingerprint, own);
  }
  const expires = found === undefined ? received.expires : Date.parse(found.expires);
  if (expires !== undefined && expires <= now()) {
    return uselessToken(`This token expired on ${utcText(expires)}`);
  }
  return uselessToken('This token is not known here, or was taken back');
}

async function invite(
  { name, lifetime, addresses }: InvitationWish,
  parts: Parts,
): Promise<Invitation> {
  const { keeper, log, now } = parts;
  if (!(lifetime > 0 && lifetime <= longestLife)) throw badLifetime();
  const { clients, tokens } = await readFor(name, parts);
  const fingerprint = await parts.serverFingerprint();
  const secret = randomBytes(32).toString('hex');
  const expires = isoText(now() + lifetime);
  const token = { name, hash: hashOf(secret).toString('hex'), added: isoText(now()), expires };
  await keeper.save({ clients, tokens: [...tokens, token] });
  log.info({ name, expires }, 'token made');
  const content = { client_name: name, fingerprint, addresses, secret, expires_at: expires };
  return { name, token: formatToken(content), fingerprint, addresses, expires };
}

async function add(
  { name, certificate: der }: Parameters<Trust['add']>[0],
  parts: Parts,
): Promise<StoredClient> {
  const { keeper, log, now } = parts;
  const { clients, tokens } = await readFor(name, parts);
  const certificate = validCertificate(der, now());
  if (typeof certificate === 'string') throw uselessFile(certificate);
  const same = clients.find(({ fingerprint }) => fingerprint === certificate.fingerprint);
  if (same !== undefined) throw sameCertificate(same.name);
  const client = entryOf(name, certificate, now());
  await keeper.save({ clients: [...clients, client], tokens });
  log.info({ name, fingerprint: client.fingerprint }, 'client let in');
  return client;
}

/** What stands in the file, for somebody who is to be called `name`. @throws ServerError USAGE where that cannot be */
async function readFor(name: string, { keeper, now }: Parts): Promise<Trusted> {
  if (!namePattern.test(name)) throw badName(name);
  const trusted = await keeper.read();
  if (trusted.clients.some((each) => each.name === name)) throw nameTaken(name);
  const token = trusted.tokens.find((each) => each.name === name && isUsable(each, now()));
  if (token !== undefined) throw hasToken(token);
  return trusted;
}

async function list({ keeper, now }: Parts): Promise<TrustList> {
  const { clients, tokens } = await keeper.read();
  const pending = tokens.filter((token) => isUsable(token, now()));
  return {
    clients,
    tokens: pending.map(({ name, added, expires }) => ({ name, added, expires })),
  };
}

async function remove(name: string, { keeper, log, now }: Parts): Promise<Removed> {
  const { clients, tokens } = await keeper.read();
  const isOther = (each: { name: string }) => each.name !== name;
  const gone = clients.filter((each) => !isOther(each)).map(({ fingerprint }) => fingerprint);
  const lost = tokens.filter((each) => !isOther(each) && isUsable(each, now())).length;
  if (gone.length + lost === 0) throw nobody(name);
  await keeper.save({ clients: clients.filter(isOther), tokens: tokens.filter(isOther) });
  log.info({ name, fingerprints: gone, tokens: lost }, 'client trusted no more');
  return { name, clients: gone, tokens: lost };
}

function entryOf(
  name: string,
  { fingerprint, until }: ClientCertificate,
  now: number,
): StoredClient {
  return { name, fingerprint, added: isoText(now), expires: isoText(until) };
}

function isoText(ms: number): string {
  return new Date(ms).toISOString();
}

function hashOf(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}

/** The token with that secret. All are compared, each in constant time. */
function findToken(tokens: readonly StoredToken[], secret: string): StoredToken | undefined {
  const hash = hashOf(secret);
  const [found] = tokens.filter((each) => timingSafeEqual(Buffer.from(each.hash, 'hex'), hash));
  return found;
}

function isUsable({ used, expires }: StoredToken, now: number): boolean {
  return used === undefined && Date.parse(expires) > now;
}
