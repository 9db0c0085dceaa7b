/** The connections of one mirror: opened when there is work for them, kept, and replaced when they are lost. */
import { systemText } from '../errors.js';
import type { Logger } from '../log.js';
import type { Connection } from './connection.js';

export interface Connections {
  /** The connection with the least to do; opens the first. Rejects as `open` does. */
  take(): Promise<Connection>;
  /**
   * Calls `use` with up to `count` connections besides `first`: with those that are open at once, with others when
   * they are. Those that cannot be opened are done without, for a while.
   */
  more(count: number, options: { first: Connection; use: (connection: Connection) => void }): void;
  /** Closes them all, those that are being opened too; who waits for one is told `reason`. */
  close(reason: Error): Promise<void>;
}

export interface ConnectionsOptions {
  open(signal: AbortSignal): Promise<Connection>;
  /** The most that there are at once. */
  max: number;
  log: Pick<Logger, 'debug'>;
}

/** Requests on each connection from which on another is worth its login. */
const busy = 8;
/** After a connection beside the first could not be opened. */
const pauseMs = 60_000;

export function createConnections({ open, max, log }: ConnectionsOptions): Connections {
  const isOpen = new Set<Connection>();
  const opening = new Set<Promise<Connection>>();
  const closing = new AbortController();
  let main: Promise<Connection> | undefined;
  let noMoreUntil = 0;

  return {
    async take() {
      const best = leastBusy() ?? (await first());
      if (best.load >= busy && room() > 0 && opening.size === 0) openExtra();
      return best;
    },
    more(count, { first: known, use }) {
      const others = living().filter((connection) => connection !== known);
      for (const connection of others.slice(0, count)) use(connection);
      for (let missing = Math.min(count - others.length, room()); missing > 0; missing--) {
        openExtra(use);
      }
    },
    async close(reason) {
      closing.abort(reason);
      await Promise.allSettled(opening);
      await Promise.all([...isOpen].map((connection) => connection.close()));
      isOpen.clear();
    },
  };

  function living(): Connection[] {
    for (const connection of isOpen) if (connection.isLost) isOpen.delete(connection);
    return [...isOpen];
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
    return max - living().length - opening.size;
  }

  async function openOne(): Promise<Connection> {
    const promise = open(closing.signal);
    opening.add(promise);
    try {
      const connection = await promise;
      isOpen.add(connection);
      return connection;
    } finally {
      opening.delete(promise);
    }
  }

  function openExtra(use: (connection: Connection) => void = () => {}): void {
    openOne().then(use, (error: unknown) => {
      noMoreUntil = performance.now() + pauseMs;
      log.debug(
        { reason: systemText(error) },
        'a further connection to the mirror cannot be opened',
      );
    });
  }
}
