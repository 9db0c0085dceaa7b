/** What goes over a listener, in numbers; a request costs an addition, and bytes are counted where they are anyway. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { AnyServer } from './connections.js';

/** What a request may ask for, by name; clients can make up any. */
export const methodClasses = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'other'] as const;

/** How requests end; `none`: before anything of an answer was sent. */
export const statusClasses = ['none', '1xx', '2xx', '3xx', '4xx', '5xx'] as const;

export interface RequestCount {
  method: (typeof methodClasses)[number];
  status: (typeof statusClasses)[number];
  count: number;
}

export interface TrafficCounts {
  /** Requests whose answers have ended or were cut; what there has been none of is left out. */
  requests: RequestCount[];
  /** Requests that are being answered. */
  running: number;
  /** Connections that are open, behind their handshake. */
  connections: number;
  /** All that was sent to clients, heads too; without what TLS adds. */
  sentBytes: number;
}

export interface Traffic {
  /**
   * Counts what goes over `server` as well.
   *
   * @param event that of a connection that is ready for requests
   */
  follow(server: AnyServer, event: 'connection' | 'secureConnection'): void;
  counts(): TrafficCounts;
}

export function createTraffic(): Traffic {
  const ended = new Float64Array(methodClasses.length * statusClasses.length);
  const sockets = new Set<Socket>();
  let running = 0;
  let sentBefore = 0;

  function onEnd(this: ServerResponse): void {
    running -= 1;
    const method = methodClassOf(this.req.method);
    // Without one Node says 200.
    const status = this.headersSent ? Math.min(Math.floor(this.statusCode / 100), 5) : 0;
    const at = method * statusClasses.length + status;
    ended[at] = (ended[at] ?? 0) + 1;
  }

  return {
    follow(server, event) {
      server.on(event, (socket: Socket) => {
        sockets.add(socket);
        socket.once('close', () => {
          sockets.delete(socket);
          sentBefore += socket.bytesWritten;
        });
      });
      // Before whoever answers, who may do so at once.
      server.prependListener('request', (_request: IncomingMessage, response: ServerResponse) => {
        running += 1;
        response.once('close', onEnd);
      });
    },
    counts() {
      let sentBytes = sentBefore;
      for (const socket of sockets) sentBytes += socket.bytesWritten;
      return { requests: requestCounts(ended), running, connections: sockets.size, sentBytes };
    },
  };
}

function methodClassOf(method = ''): number {
  const found = (methodClasses as readonly string[]).indexOf(method);
  return found === -1 ? methodClasses.length - 1 : found;
}

function requestCounts(ended: Float64Array): RequestCount[] {
  return methodClasses.flatMap((method, row) =>
    statusClasses.flatMap((status, column) => {
      const count = ended[row * statusClasses.length + column] ?? 0;
      return count === 0 ? [] : [{ method, status, count }];
    }),
  );
}
