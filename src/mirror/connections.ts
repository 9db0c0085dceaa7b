/**
 * The connections of one mirror: opened when there is work for them, kept, and replaced when they are lost. Each has
 * one session, and a second one where there is much to move: a server takes 2 MiB ahead on each session, whereas a
 * connection could carry more.
 */
import { systemText } from '../errors.js';
import type { Logger } from '../log.js';
import type { Connection } from './connection.js';

export interface Connections {
  /** The session with the least to do; opens the first. Rejects as `open` does. */
  take(): Promise<Connection>;
  /**
   * Calls `use` with up to `count` sessions besides `first`: with those that are open at once, with others when
   * they are. Those that cannot be opened are done without, for a while.
   */
  more(count: number, options: { first: Connection; use: Use }): void;
  /** Closes them all, those that are being opened too; who waits for one is told `reason`. */
  close(reason: Error): Promise<void>;
}

export type Use = (session: Connection) => void;

export interface ConnectionsOptions {
  open(signal: AbortSignal): Promise<Connection>;
  /** The most that there are at once. */
  max: number;
  log: Pick<Logger, 'debug'>;
}

/** Requests on each session from which on another connection is worth its login. */
const busy = 8;
/** After a connection beside the first could not be opened. */
const pauseMs = 60_000;

export function createConnections({ open, max, log }: ConnectionsOptions): Connections {
  /** The first session of each connection. */
  const firsts = new Set<Connection>();
  /** The second session of a connection, or `undefined` where there is to be none, by its first. */
  const seconds = new Map<Connection, Connection | undefined>();
  const opening = new Set<Promise<Connection>>();
  const closing = new AbortController();
  let main: Promise<Connection> | undefined;
  let noMoreUntil = 0;

  return {
    async take() {
      const best = leastBusy() ?? (await first());
      if (best.load >= busy && room() > 0 && opening.size === 0) openExtra(() => {});
      return best;
    },
    more(count, { first: known, use }) {
      const others = living().filter((session) => session !== known);
      for (const session of others.slice(0, count)) use(session);
      let missing = count - others.length;
      for (const connection of firsts) {
        if (missing > 0 && openSecond(connection, use)) missing -= 1;
      }
      for (let left = room(); missing > 0 && left > 0; left--) {
        openExtra((session) => {
          use(session);
          openSecond(session, use);
        });
        missing -= 2;
      }
    },
    async close(reason) {
      closing.abort(reason);
      await Promise.allSettled(opening);
      await Promise.all(living().map((session) => session.close()));
      firsts.clear();
    },
  };

  function living(): Connection[] {
    for (const connection of firsts) {
      if (!connection.isLost) continue;
      firsts.delete(connection);
      seconds.delete(connection);
    }
    const sessions = [...firsts, ...seconds.values()];
    return sessions.filter((session) => session !== undefined && !session.isLost) as Connection[];
  }

  function leastBusy(): Connection | undefined {
    return living().sort((a, b) => a.load - b.load)[0];
  }

  /** One login for all who wait. A further one that is under way does not count: nobody is told why it fails. */
  function first(): Promise<Connection> {
    main ??= openOne().finally(() => {
      main = undefined;
    });
    return main;
  }

  function room(): number {
    if (performance.now() < noMoreUntil) return 0;
    living();
    return max - firsts.size - opening.size;
  }

  async function openOne(): Promise<Connection> {
    const promise = open(closing.signal);
    opening.add(promise);
    try {
      const connection = await promise;
      firsts.add(connection);
      return connection;
    } finally {
      opening.delete(promise);
    }
  }

  function openExtra(use: Use): void {
    openOne().then(use, (error: unknown) => {
      noMoreUntil = performance.now() + pauseMs;
      log.debug(
        { reason: systemText(error) },
        'a further connection to the mirror cannot be opened',
      );
    });
  }

  /** @returns false where the connection has a second session, or is to have none */
  function openSecond(connection: Connection, use: Use): boolean {
    if (seconds.has(connection)) return false;
    seconds.set(connection, undefined);
    connection.another().then(
      (session) => {
        if (!seconds.has(connection)) return;
        seconds.set(connection, session);
        use(session);
      },
      (error: unknown) =>
        log.debug(
          { reason: systemText(error) },
          'a second session on a connection is not to be had',
        ),
    );
    return true;
  }
}
