/** Follows the status for as long as the page is looked at: a connection that is lost is made again. */
import { changed, type Status } from './status.js';

/** `live`: what is shown is so now. `lost`: it is tried again. `paused`: nobody looks. */
export type Connection = 'connecting' | 'live' | 'lost' | 'paused';

/** As much of an EventSource as is used. */
export interface Source {
  readonly readyState: number;
  addEventListener(type: string, listener: (event: { data?: string }) => void): void;
  close(): void;
}

export interface FollowOptions {
  open: () => Source;
  onStatus: (status: Status) => void;
  onConnection: (connection: Connection) => void;
  /** How long until a connection that was refused is tried again, in milliseconds. Default: 5000. */
  retryMs?: number;
  /** How long nobody may look until the connection is given up, in milliseconds. Default: a minute. */
  unseenMs?: number;
}

export interface Following {
  /** Whether somebody looks at the page. */
  look(isSeen: boolean): void;
  /** The network is another. */
  restart(): void;
}

/** Of an EventSource that does not try again by itself. */
const closed = 2;

export function follow(options: FollowOptions): Following {
  const { open, onStatus, onConnection, retryMs = 5000, unseenMs = 60_000 } = options;
  let source: Source | undefined;
  let status: Status | undefined;
  let connection: Connection | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  connect('connecting');

  function become(next: Connection): void {
    if (connection === next) return;
    connection = next;
    onConnection(next);
  }

  function connect(as: Connection): void {
    clearTimeout(timer);
    source?.close();
    become(as);
    const mine = open();
    source = mine;
    mine.addEventListener('status', ({ data }) => {
      if (source === mine && data !== undefined) take(JSON.parse(data) as Status);
    });
    mine.addEventListener('change', ({ data }) => {
      if (source !== mine || status === undefined || data === undefined) return;
      take(changed(status, JSON.parse(data) as Record<string, unknown>));
    });
    mine.addEventListener('error', () => {
      if (source !== mine) return;
      become('lost');
      if (mine.readyState !== closed) return;
      clearTimeout(timer);
      timer = setTimeout(() => connect('lost'), retryMs);
    });
  }

  function take(next: Status): void {
    status = next;
    // What is shown is so before it is said to be.
    onStatus(next);
    become('live');
  }

  function pause(): void {
    source?.close();
    source = undefined;
    become('paused');
  }

  return {
    look(isSeen) {
      if (!isSeen) {
        clearTimeout(timer);
        timer = setTimeout(pause, unseenMs);
      } else if (source === undefined || source.readyState === closed) {
        connect('connecting');
      } else {
        clearTimeout(timer);
      }
    },
    restart() {
      if (source !== undefined) connect('connecting');
    },
  };
}
