/**
 * A way between a client and a server on this machine that breaks again and again: a TCP proxy that cuts all its
 * connections each time so many bytes have passed, whichever way they went.
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { seeded } from './dice.js';

export interface CuttingProxyOptions {
  /** Port on 127.0.0.1 that it leads to. */
  target: number;
  /** Bytes up to the first cut, from there to the second, and so on. When they end, nothing is cut any more. */
  gaps: Iterable<number>;
}

export interface CuttingProxy {
  /** Where clients connect, on 127.0.0.1. */
  port: number;
  /** How often it has cut connections. */
  readonly cuts: number;
  close(): Promise<void>;
}

export async function createCuttingProxy(options: CuttingProxyOptions): Promise<CuttingProxy> {
  const { target, gaps } = options;
  const sockets = new Set<Socket>();
  const upcoming = gaps[Symbol.iterator]();
  let left = nextGap();
  let cuts = 0;

  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1');
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      // What one side meets with, the other learns by being closed.
      socket.on('error', () => {});
    }
    client.once('close', () => end(client, upstream));
    upstream.once('close', () => end(upstream, client));
    pass(client, upstream);
    pass(upstream, client);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');

  return {
    port: (server.address() as AddressInfo).port,
    get cuts() {
      return cuts;
    },
    async close() {
      const closed = once(server, 'close');
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };

  function nextGap(): number {
    const { done, value } = upcoming.next();
    return done ? Number.POSITIVE_INFINITY : value;
  }

  function pass(from: Socket, to: Socket): void {
    from.on('data', (chunk: Buffer) => {
      const length = Math.min(chunk.length, left);
      left -= length;
      if (!to.write(chunk.subarray(0, length))) {
        from.pause();
        to.once('drain', () => from.resume());
      }
      if (left === 0) cut();
    });
    from.on('end', () => to.end());
  }

  function cut(): void {
    left = nextGap();
    cuts += 1;
    // What was passed on arrives; nothing after it.
    for (const socket of sockets) {
      socket.pause();
      socket.destroySoon();
    }
  }

  function end(closed: Socket, other: Socket): void {
    sockets.delete(closed);
    other.destroySoon();
  }
}

/**
 * Gaps for {@link createCuttingProxy}: in the middle of a login or a few requests later, twice; then up to some
 * megabytes later; and then one so long that what a file needs gets through. The same seed gives the same.
 */
export function* randomGaps(seed: number): Generator<number> {
  const random = seeded(seed);
  const between = (least: number, most: number) => Math.round(least * (most / least) ** random());
  for (;;) {
    yield between(1024, 32 * 1024);
    yield between(1024, 32 * 1024);
    yield between(4096, 8 * 2 ** 20);
    yield 96 * 2 ** 20;
  }
}
