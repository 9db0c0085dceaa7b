/**
 * One SSH connection with an SFTP session on it: logging in, requests and their answers, and noticing that it is
 * lost. The only file that knows ssh2-sftp-client.
 */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Client, ServerHostKeyAlgorithm, SFTPWrapper } from 'ssh2';
import SftpClient from 'ssh2-sftp-client';
import { ServerError } from '../errors.js';
import type { HostPort } from '../units.js';
import type { Credentials } from './credentials.js';
import type { HostTrust } from './host-keys.js';
import { down } from './problems.js';

/** How an answer arrives. */
export type Answer<T> = (error?: Error | null, value?: T) => void;

/** Sets a request going. */
export type Request<T> = (sftp: SFTPWrapper, answer: Answer<T>) => void;

export interface CallOptions {
  /** The far side may be busy with it for long, as with writing to its disk. */
  slow?: boolean;
}

export interface LoginOptions {
  /** The mirror's name, for errors. */
  name: string;
  remote: HostPort;
  user: string;
  /** Milliseconds without any answer after which the far side counts as gone. */
  stallMs: number;
  trust: HostTrust;
  credentials: Credentials | undefined;
  signal?: AbortSignal | undefined;
  /** Is told when the connection is lost, or closed. */
  onLost?: (error: ServerError) => void;
}

/** Pieces of content are no larger than this, as OpenSSH's are, and no larger than the server takes. */
const largestPiece = 256 * 1024;
/** What every server takes. */
const smallestLimit = 31 * 1024;
/** How long a request may take that keeps the far side's disk busy, against any other. */
const slowFactor = 10;
/** A connection without traffic for so long is asked for a sign of life. */
const idleMs = 15_000;
const closeMs = 2_000;

/** AES-GCM needs no other checksum, and processors do both. */
const ciphers = [
  'aes128-gcm@openssh.com',
  'aes256-gcm@openssh.com',
  'aes128-ctr',
  'aes192-ctr',
  'aes256-ctr',
] as const;

/**
 * Logs in. @throws ServerError MIRROR_AUTH for a host key or a login that is not accepted, MIRROR_DENIED where
 * there is no SFTP, else MIRROR_DOWN; the signal's reason where that ends it
 */
export async function openConnection(options: LoginOptions): Promise<Connection> {
  let refusal: unknown;
  for (const algorithms of options.trust.attempts) {
    try {
      return await login(options, algorithms as ServerHostKeyAlgorithm[]);
    } catch (error) {
      if (!(error instanceof UnsuitableKey)) throw error;
      refusal = error.refusal ?? refusal ?? error.cause;
    }
  }
  throw refusal instanceof ServerError
    ? refusal
    : down(options.name, 'the server has no host key of a kind that is accepted', refusal);
}

/** The host key of this kind is not accepted, or there is none; another may be. */
class UnsuitableKey extends Error {
  readonly refusal: ServerError | undefined;

  constructor(refusal: ServerError | undefined, cause: unknown) {
    super('The host key does not suit', { cause });
    this.refusal = refusal;
  }
}

async function login(
  options: LoginOptions,
  algorithms: ServerHostKeyAlgorithm[],
): Promise<Connection> {
  const { name, remote, stallMs, signal } = options;
  signal?.throwIfAborted();
  const socket = connect({ ...remote, noDelay: true });
  const late = setTimeout(() => socket.destroy(new Error('no answer in time')), stallMs);
  // Without an error, whoever waits for the connection would do so for ever.
  const abort = () => socket.destroy(new Error('the login was broken off'));
  // Those who wait are told; at any moment there may be none.
  socket.on('error', () => {});
  signal?.addEventListener('abort', abort);
  try {
    await once(socket, 'connect');
    return await startSession(options, { socket, algorithms });
  } catch (error) {
    socket.destroy();
    signal?.throwIfAborted();
    if (error instanceof ServerError || error instanceof UnsuitableKey) throw error;
    const place = `${remote.host}:${remote.port}`;
    throw down(name, `cannot connect to ${place}`, error);
  } finally {
    clearTimeout(late);
    signal?.removeEventListener('abort', abort);
  }
}

async function startSession(
  options: LoginOptions,
  { socket, algorithms }: { socket: Socket; algorithms: ServerHostKeyAlgorithm[] },
): Promise<Connection> {
  const { name, user, trust, credentials, stallMs, onLost = () => {} } = options;
  // Without these, the client prints what it has to say.
  const client = new SftpClient(name, {});
  let refusal: ServerError | undefined;
  let problem: SshError | undefined;
  client.on('error', (error: SshError) => {
    problem ??= error;
  });
  const gone = once(socket, 'close').then(() =>
    Promise.reject(problem ?? new Error('connection closed')),
  );
  try {
    const sftp = await Promise.race([
      client.connect({
        sock: socket,
        username: user,
        authHandler: credentials === undefined ? [] : [credentials.method],
        algorithms: { cipher: [...ciphers], serverHostKey: algorithms, compress: ['none'] },
        hostVerifier: (key: Buffer) => {
          refusal = trust.judge(key);
          return refusal === undefined;
        },
        // The whole login has one limit of time.
        readyTimeout: 0,
        keepaliveInterval: 0,
      }),
      gone,
    ]);
    return new Connection({ name, stallMs, socket, client, sftp, onLost });
  } catch (error) {
    throw loginProblem(options, { error, problem, refusal });
  } finally {
    gone.catch(() => {
      // The connection has listeners of its own by now.
    });
  }
}

/** What ssh2 adds to its errors. */
type SshError = Error & { level?: string };

function loginProblem(
  { name, user, remote, credentials }: LoginOptions,
  given: { error: unknown; problem: SshError | undefined; refusal: ServerError | undefined },
): unknown {
  const { error, problem, refusal } = given;
  const cause = problem ?? error;
  if (refusal !== undefined) return new UnsuitableKey(refusal, cause);
  const said = cause instanceof Error ? cause.message : '';
  if (said.includes('no matching host key')) return new UnsuitableKey(undefined, cause);
  const place = `${user}@${remote.host}`;
  if (problem?.level === 'client-authentication' || problem?.level === 'agent') {
    return new ServerError('MIRROR_AUTH', `Mirror ${name}: the login as ${place} is refused`, {
      hint: `add this line to the authorized_keys of ${user} there: ${credentials?.publicKey ?? ''}`,
      cause,
    });
  }
  if (/subsystem|establishing SFTP|open failed|Packet length|VERSION/i.test(said)) {
    return new ServerError('MIRROR_DENIED', `Mirror ${name}: ${place} does not speak SFTP`, {
      hint: 'set "Subsystem sftp internal-sftp" in its sshd_config; let only root write to a ChrootDirectory and the folders above it',
      cause,
    });
  }
  return cause;
}

interface ConnectionOptions {
  name: string;
  stallMs: number;
  socket: Socket;
  client: SftpClient;
  sftp: SFTPWrapper;
  onLost: (error: ServerError) => void;
  /** The sessions on the same connection. Default: none yet. */
  sessions?: Set<Connection>;
}

/** What ssh2 knows of the far side, and does not tell in its types. */
interface SftpInternals {
  _extensions?: Record<string, string>;
  _maxWriteLen?: number;
  _maxReadLen?: number;
}

/** What ssh2-sftp-client works with, which it does not tell in its types either. */
interface ClientInternals {
  client?: Client & { _remoteVer?: unknown };
}

/** An SFTP session on a connection that is logged in. It is lost once, with its connection, and stays lost. */
export class Connection {
  /** Names and versions of the protocol extensions that the server offers. */
  readonly extensions: Readonly<Record<string, string>>;
  /** The largest piece of content for one request. */
  readonly pieceBytes: number;
  /** What the server calls itself. */
  readonly software: string;
  readonly #name: string;
  readonly #stallMs: number;
  readonly #socket: Socket;
  readonly #client: SftpClient;
  readonly #sftp: SFTPWrapper;
  readonly #waiting = new Set<(error: ServerError) => void>();
  readonly #watch: NodeJS.Timeout;
  readonly #closed: Promise<unknown>;
  readonly #onLost: (error: ServerError) => void;
  /** All that are lost with this one. */
  readonly #sessions: Set<Connection>;
  #problem: unknown;
  #lost: ServerError | undefined;
  /** How many of those who wait do so for something slow. */
  #slow = 0;
  /** When the far side was last heard of, or was asked after a silence. */
  #heardAt = performance.now();
  #roundTripMs = Number.POSITIVE_INFINITY;

  constructor(options: ConnectionOptions) {
    const { name, stallMs, socket, client, sftp, onLost, sessions = new Set() } = options;
    const internals = sftp as SftpInternals;
    const limits = [internals._maxWriteLen, internals._maxReadLen].map(
      (limit) => limit ?? smallestLimit,
    );
    this.extensions = internals._extensions ?? {};
    this.pieceBytes = Math.min(largestPiece, ...limits);
    this.software = remoteSoftware(client);
    this.#name = name;
    this.#stallMs = stallMs;
    this.#socket = socket;
    this.#client = client;
    this.#sftp = sftp;
    this.#onLost = onLost;
    this.#sessions = sessions.add(this);
    const noteProblem = (error: unknown) => {
      this.#problem ??= error;
    };
    client.on('error', noteProblem);
    sftp.on('error', noteProblem);
    sftp.on('close', () => this.#lose(down(name, 'the SFTP session has ended', this.#problem)));
    this.#closed = new Promise((resolve) => socket.once('close', resolve));
    socket.once('close', () => this.#lose(down(name, 'the connection is lost', this.#problem)));
    this.#watch = setInterval(() => this.#look(), Math.min(idleMs, stallMs / 4));
    if (socket.closed) this.#lose(down(name, 'the connection is lost'));
  }

  /** Requests without an answer. */
  get load(): number {
    return this.#waiting.size;
  }

  /** How long the quickest answer took to a request that was alone: hardly more than the way there and back. */
  get roundTripMs(): number {
    return this.#roundTripMs;
  }

  get isLost(): boolean {
    return this.#lost !== undefined;
  }

  /**
   * Sends a request; `done` is called once, with the answer, with what the server refused it with (see `statusOf`),
   * or with a ServerError MIRROR_DOWN, then perhaps before this returns.
   */
  begin<T>(
    request: Request<T>,
    done: (error: Error | undefined, value?: T) => void,
    { slow = false }: CallOptions = {},
  ): void {
    if (this.#lost !== undefined) {
      done(this.#lost);
      return;
    }
    const isAlone = this.#waiting.size === 0;
    if (isAlone) this.#heardAt = performance.now();
    const askedAt = this.#heardAt;
    const end = (error: Error | undefined, value?: T) => {
      if (!this.#waiting.delete(end)) return;
      if (slow) this.#slow -= 1;
      done(error, value);
    };
    this.#waiting.add(end);
    if (slow) this.#slow += 1;
    request(this.#sftp, (error, value) => {
      this.#heardAt = performance.now();
      if (isAlone) this.#roundTripMs = Math.min(this.#roundTripMs, this.#heardAt - askedAt);
      if (!error) return end(undefined, value);
      // An error without a status is the client's: the session is over, and its close is about to tell why.
      const isAnswer = 'code' in error && typeof error.code === 'number';
      end(
        isAnswer
          ? error
          : (this.#lost ?? down(this.#name, 'the connection is lost', this.#problem)),
      );
    });
  }

  /** {@link Connection.begin} as a promise, for small requests: those of one turn of the event loop are sent together. */
  call<T = void>(request: Request<T>, options?: CallOptions): Promise<T> {
    this.#gather();
    return new Promise((resolve, reject) => {
      this.begin<T>(
        request,
        (error, value) => (error === undefined ? resolve(value as T) : reject(error)),
        options,
      );
    });
  }

  /**
   * One more SFTP session on the same connection: its window comes on top, and it is there in fewer round trips than
   * another login takes. Rejects where the server does not allow more.
   */
  async another(): Promise<Connection> {
    const { client } = this.#client as unknown as ClientInternals;
    if (client === undefined) throw new Error('The client does not show its connection');
    const sftp = await this.call<SFTPWrapper>((_sftp, answer) => client.sftp(answer));
    return new Connection({
      name: this.#name,
      stallMs: this.#stallMs,
      socket: this.#socket,
      client: this.#client,
      sftp,
      // It is told of the first session.
      onLost: () => {},
      sessions: this.#sessions,
    });
  }

  /** Ends it, in good order where the far side answers soon. Requests under way reject with MIRROR_DOWN. */
  async close(): Promise<void> {
    this.#lose(down(this.#name, 'the connection was closed'), { destroy: false });
    const late = setTimeout(() => this.#socket.destroy(), closeMs);
    // What it says about a connection that has ended by itself is of no interest here.
    this.#client.end().catch(() => {});
    await this.#closed;
    clearTimeout(late);
  }

  #lose(error: ServerError, { destroy = true } = {}): void {
    for (const session of this.#sessions) session.#end(error);
    if (destroy) this.#socket.destroy();
  }

  #end(error: ServerError): void {
    if (this.#lost !== undefined) return;
    this.#lost = error;
    clearInterval(this.#watch);
    for (const end of [...this.#waiting]) end(error);
    this.#onLost(error);
  }

  /** Holds back what is sent until the end of this turn of the event loop. */
  #gather(): void {
    if (this.#socket.writableCorked > 0) return;
    this.#socket.cork();
    setImmediate(() => this.#socket.uncork());
  }

  #look(): void {
    const silentMs = performance.now() - this.#heardAt;
    if (this.#waiting.size === 0) {
      if (silentMs >= Math.min(idleMs, this.#stallMs)) this.#askForLife();
      return;
    }
    const limit = this.#slow > 0 ? this.#stallMs * slowFactor : this.#stallMs;
    if (silentMs < limit) return;
    const seconds = Math.round(silentMs / 100) / 10;
    this.#lose(down(this.#name, `no answer for ${seconds} s`));
  }

  /** Any answer will do, a refusal as well; without one the next look loses the connection. */
  #askForLife(): void {
    this.begin(
      (sftp, answer) => sftp.realpath('.', answer),
      () => {},
    );
  }
}

function remoteSoftware(client: SftpClient): string {
  const inner = (client as unknown as ClientInternals).client;
  return typeof inner?._remoteVer === 'string' ? inner._remoteVer : 'unknown';
}
