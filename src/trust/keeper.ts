/**
 * Keeps `trust.json`. The file is the truth: each change begins with what stands there, and what is known of it in
 * between is for those who cannot wait. Who was seen when is written now and then, not each time.
 */
import type { Logger } from '../log.js';
import { formatTrusted, readTrusted, type StoredClient, type Trusted } from './trust-file.js';

export interface KeeperOptions {
  /** Absolute. */
  file: string;
  /** Replaces the file's content, at once and for good, with mode 0600. @throws ServerError */
  write: (file: string, text: string) => Promise<void>;
  log: Logger;
  /** In milliseconds since 1970. */
  now: () => number;
}

export interface Keeper {
  /** Does one thing after the other: what reads, and then saves, does it in one turn. */
  inTurn<T>(work: () => Promise<T>): Promise<T>;
  /** What the file says, with who was seen since. @throws ServerError as `readTrusted` */
  read(): Promise<Trusted>;
  /** Writes this in place of what the file says, but for tokens that have expired. @throws ServerError */
  save(trusted: Trusted): Promise<void>;
  /** Whether the file could be read, now or once before. */
  isKnown(): boolean;
  /** How many clients there are, by what was read or saved last. */
  clients(): number;
  /** The client with that certificate, by what was read or saved last. */
  client(fingerprint: string): StoredClient | undefined;
  /** Takes down that a client was seen. */
  saw(fingerprint: string): void;
  /** Writes who was seen. A failure is logged: nothing depends on it. In a turn. */
  keepSeen(): Promise<void>;
}

/** How often, at most, the file is written only to tell who was seen, in milliseconds. */
const seenMs = 600_000;

export function createKeeper({ file, write, log, now }: KeeperOptions): Keeper {
  let known: ReadonlyMap<string, StoredClient> | undefined;
  /** When clients were seen of whom the file tells of an earlier time, by fingerprint. */
  const seen = new Map<string, string>();
  let written = Number.NEGATIVE_INFINITY;
  let last: Promise<unknown> = Promise.resolve();

  const know = ({ clients }: Trusted) => {
    known = new Map(clients.map((client) => [client.fingerprint, client]));
  };

  /** Forgets what the file tells by now. */
  function forgetWritten(): void {
    for (const [fingerprint, at] of seen) {
      const client = known?.get(fingerprint);
      if (client === undefined || client.used === at) seen.delete(fingerprint);
    }
  }

  const keeper: Keeper = {
    inTurn(work) {
      const turn = last.then(work);
      last = turn.catch(() => undefined);
      return turn;
    },
    async read() {
      const trusted = await readTrusted(file);
      know(trusted);
      const clients = trusted.clients.map((client) => {
        const used = seen.get(client.fingerprint);
        return used === undefined ? client : { ...client, used };
      });
      return { ...trusted, clients };
    },
    async save({ clients, tokens }) {
      const kept = { clients, tokens: tokens.filter((each) => Date.parse(each.expires) > now()) };
      await write(file, formatTrusted(kept));
      know(kept);
      forgetWritten();
      written = now();
    },
    isKnown: () => known !== undefined,
    clients: () => known?.size ?? 0,
    client: (fingerprint) => known?.get(fingerprint),
    saw(fingerprint) {
      seen.set(fingerprint, new Date(now()).toISOString());
      // A clock that was set back must not put this off for ever.
      if (now() >= written && now() < written + seenMs) return;
      // Already here, so that a disk that takes nothing is not asked at each request.
      written = now();
      void keeper.inTurn(keeper.keepSeen);
    },
    async keepSeen() {
      if (seen.size === 0) return;
      try {
        const trusted = await keeper.read();
        const isTold = trusted.clients.some(({ fingerprint }) => seen.has(fingerprint));
        if (isTold) await keeper.save(trusted);
      } catch (err) {
        log.warn({ err }, 'when clients were last seen cannot be kept');
      }
    },
  };
  return keeper;
}
