/**
 * The responses on their way: how many there are on a connection, and when there are none at all.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { AnyServer } from './connections.js';

export interface Running {
  /**
   * What to do with the newest request of a connection. `refuse` is for the first one too many: what
   * is sent on it must close the connection. `ignore` is for those behind it, which will have no answer.
   */
  admit(socket: Socket): 'answer' | 'refuse' | 'ignore';
  /** Resolves when no response is on its way any more. */
  idle(): Promise<void>;
}

interface Connection {
  /** In the order of their requests; Node sends the first and keeps the others waiting. */
  responses: ServerResponse[];
  refused: boolean;
}

/** How many responses of one connection may be on their way, so that it cannot hold many files. */
const mostPipelined = 4;

/**
 * Follows the responses of a server, and ends those whose connection is gone: Node closes the one that
 * it was sending, but not those of pipelined requests that waited for it, with the files they hold.
 */
export function trackResponses(
  server: AnyServer,
  /** The event of a connection that is ready for requests. */
  event: 'connection' | 'secureConnection',
): Running {
  const connections = new WeakMap<Socket, Connection>();
  let running = 0;
  let whenIdle = () => {};
  function ended(this: ServerResponse): void {
    const responses = connections.get(this.req.socket)?.responses;
    responses?.splice(responses.indexOf(this), 1);
    running -= 1;
    if (running === 0) whenIdle();
  }
  server.on(event, (socket: Socket) => {
    const connection = { responses: [], refused: false };
    connections.set(socket, connection);
    socket.once('close', () => endUnsent(connection));
  });
  // Before the listener that answers, so that it finds its own request counted.
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    connections.get(request.socket)?.responses.push(response);
    running += 1;
    response.once('close', ended);
  });
  return {
    admit: (socket) => admit(socket, connections.get(socket)),
    idle: () =>
      new Promise((resolve) => {
        whenIdle = resolve;
        if (running === 0) resolve();
      }),
  };
}

function admit(socket: Socket, connection: Connection | undefined): ReturnType<Running['admit']> {
  if (connection === undefined) return 'ignore';
  const { responses, refused } = connection;
  if (!refused && responses.length <= mostPipelined) return 'answer';
  // Nothing more will be answered, so nothing more is read; at the end of each request Node reads on.
  queueMicrotask(() => socket.pause());
  connection.refused = true;
  return refused ? 'ignore' : 'refuse';
}

/** A response without a socket is one that waits; Node itself says "close" for the one that it sends. */
function endUnsent({ responses }: Connection): void {
  for (const response of responses.filter(({ socket }) => socket === null)) {
    response.destroy();
    response.emit('close');
  }
}
