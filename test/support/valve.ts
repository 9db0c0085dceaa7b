/** A way between a client and a server on this machine that is shut in the middle of what one of them sends. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export interface Valve {
  /** Where clients connect, on 127.0.0.1. */
  port: number;
  /** Resolves when so many bytes have gone as were asked for; no more pass then in that direction. */
  shut: Promise<void>;
  /** Lets the rest pass, and all that comes later. */
  open(): void;
  /** Ends every connection, for both sides. */
  cut(): void;
  close(): Promise<void>;
}

export interface ValveOptions {
  /** Where it leads to: a port on 127.0.0.1. */
  target: number;
  /** After how many it shuts. */
  bytes: number;
  /** Whose bytes count. Default: the clients'. */
  from?: 'clients' | 'server';
}

export async function createValve(options: ValveOptions): Promise<Valve> {
  const { from: counted = 'clients' } = options;
  const sockets = new Set<Socket>();
  const held = new Set<Socket>();
  let left = options.bytes;
  let isShut: () => void = () => {};
  const shut = new Promise<void>((resolve) => {
    isShut = resolve;
  });
  const pass = (from: Socket, to: Socket, count: (bytes: number) => boolean) => {
    from.on('data', (chunk: Buffer) => {
      if (!to.write(chunk)) {
        from.pause();
        to.once('drain', () => held.has(from) || from.resume());
      }
      if (count(chunk.length)) return;
      held.add(from);
      from.pause();
      isShut();
    });
    from.on('end', () => to.end());
  };
  const server = createServer((client) => {
    const upstream = connect(options.target, '127.0.0.1');
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket);
      // What one side meets with, the other learns by being closed.
      socket.on('error', () => {});
      socket.once('close', () => {
        sockets.delete(socket);
        held.delete(socket);
        other.destroySoon();
      });
    }
    const count = (bytes: number) => {
      left -= bytes;
      return left > 0;
    };
    const all = () => true;
    pass(client, upstream, counted === 'clients' ? count : all);
    pass(upstream, client, counted === 'server' ? count : all);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = () => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    port: (server.address() as AddressInfo).port,
    shut,
    open: () => {
      left = Number.POSITIVE_INFINITY;
      for (const socket of held) socket.resume();
      held.clear();
    },
    cut,
    close: async () => {
      const closed = once(server, 'close');
      server.close();
      cut();
      await closed;
    },
  };
}
