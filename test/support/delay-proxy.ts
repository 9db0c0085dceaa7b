/**
 * A way between a client and a server on this machine that is as long, as broken or as silent as a test wants: a TCP
 * proxy that delays what passes, cuts connections, or stops passing anything on.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';

export interface DelayProxyOptions {
  /** Port on 127.0.0.1 that it leads to. */
  target: number;
  /** Milliseconds that everything takes in each direction. Default: 0. */
  delayMs?: number;
}

export interface DelayProxy {
  /** Where clients connect, on 127.0.0.1. */
  port: number;
  /** Bytes from clients that have been passed on. */
  readonly passed: number;
  /** Connections that clients have opened. */
  readonly opened: number;
  /** How often all connections were cut. */
  readonly cuts: number;
  /** Cuts all connections as soon as clients, or the server, have sent so many bytes more. Later ones are not cut. */
  cutAfter(bytes: number, options?: { from?: 'clients' | 'server' }): void;
  /** Cuts all connections. */
  cut(): void;
  /** Passes nothing on any more, in either direction, and reads no more; connections stay open. */
  freeze(): void;
  /**
   * {@link DelayProxy.freeze} for the last connection only, once it has carried {@link someBytes}.
   *
   * @returns whether it had: one that hangs in its handshake is not missed.
   */
  freezeLast(): boolean;
  /** Passes everything on again. */
  thaw(): void;
  close(): Promise<void>;
}

const someBytes = 2 ** 20;

interface Late {
  at: number;
  /** `undefined` is the end. */
  chunk: Buffer | undefined;
}

export async function createDelayProxy(options: DelayProxyOptions): Promise<DelayProxy> {
  const { target, delayMs = 0 } = options;
  const sockets = new Set<Socket>();
  const ways = { clients: { passed: 0, cutAt: Infinity }, server: { passed: 0, cutAt: Infinity } };
  let opened = 0;
  let cuts = 0;
  let frozen = false;
  let last: Socket | undefined;
  /** What {@link DelayProxy.freezeLast} has stopped. */
  let held: Socket | undefined;

  const server = createServer((client) => {
    opened += 1;
    last = client;
    const upstream = connect(target, '127.0.0.1');
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      if (frozen) socket.pause();
      // What one side meets with, the other learns by being closed.
      socket.on('error', () => {});
    }
    client.once('close', () => end(client, upstream));
    upstream.once('close', () => end(upstream, client));
    pump(client, upstream, ways.clients);
    pump(upstream, client, ways.server);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');

  return {
    port: (server.address() as AddressInfo).port,
    get passed() {
      return ways.clients.passed;
    },
    get opened() {
      return opened;
    },
    get cuts() {
      return cuts;
    },
    cutAfter(bytes, { from = 'clients' } = {}) {
      ways[from].cutAt = ways[from].passed + bytes;
    },
    cut,
    freeze() {
      frozen = true;
      for (const socket of sockets) socket.pause();
    },
    freezeLast() {
      if (last === undefined || last.bytesRead < someBytes) return false;
      held = last;
      held.pause();
      return true;
    },
    thaw() {
      frozen = false;
      held = undefined;
      for (const socket of sockets) socket.resume();
    },
    async close() {
      const closed = once(server, 'close');
      server.close();
      cut();
      await closed;
    },
  };

  function cut(): void {
    cuts += 1;
    for (const way of Object.values(ways)) way.cutAt = Infinity;
    for (const socket of sockets) socket.resetAndDestroy();
  }

  function end(closed: Socket, other: Socket): void {
    sockets.delete(closed);
    other.destroySoon();
  }

  function pump(from: Socket, to: Socket, way: { passed: number; cutAt: number }): void {
    const late: Late[] = [];
    let isAwake = false;
    const add = (chunk: Buffer | undefined) => {
      late.push({ at: performance.now() + delayMs, chunk });
      if (delayMs === 0) passOn();
      else if (!isAwake) wakeIn(delayMs);
    };
    const wakeIn = (ms: number) => {
      isAwake = true;
      setTimeout(passOn, ms);
    };
    const passOn = () => {
      isAwake = false;
      const now = performance.now();
      while (late[0] !== undefined && late[0].at <= now) {
        const { chunk } = late.shift() as Late;
        if (chunk === undefined) to.end();
        else send(chunk);
      }
      if (late[0] !== undefined) wakeIn(Math.max(0, late[0].at - now));
    };
    const send = (chunk: Buffer) => {
      const room = Math.max(0, way.cutAt - way.passed);
      way.passed += Math.min(room, chunk.length);
      // Without a delay a slow receiver slows the sender down, as it does on a wire.
      const hasRoom = to.write(chunk.subarray(0, room));
      if (delayMs === 0 && !hasRoom) {
        from.pause();
        to.once('drain', () => frozen || from === held || from.resume());
      }
      if (room < chunk.length) cut();
    };
    from.on('data', add);
    from.on('end', () => add(undefined));
  }
}

/** A proxy in a process of its own, so that what it costs is not counted to a client in this one. */
export async function startDelayProxy(
  options: Required<DelayProxyOptions>,
): Promise<Pick<DelayProxy, 'port' | 'close'>> {
  const args = [String(options.target), String(options.delayMs)];
  const child = fork(fileURLToPath(import.meta.url), args);
  const [port] = (await once(child, 'message')) as [number];
  const close = async () => {
    const ended = once(child, 'exit');
    child.kill();
    await ended;
  };
  return { port, close };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [target = 0, delayMs = 0] = process.argv.slice(2).map(Number);
  const { port } = await createDelayProxy({ target, delayMs });
  process.send?.(port);
}
