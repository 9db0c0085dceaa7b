/**
 * Slow clients of a server on this machine, in a process of their own for its own limit of open files.
 * Reports `ready` when all are connected; answers `count` with how many of each are still open.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { connectTls } from './tls.js';

export interface SlowClientsOptions {
  port: number;
  /** TCP connections that never say a word. */
  silent: number;
  /** TLS clients that ask for `path`, take the answer, and stay for another request. Default: 0. */
  idle?: number;
  /** TLS clients that ask for `path` and then read a byte now and then. */
  dripping: number;
  path: string;
}

export interface SlowClients {
  /** How many connections the server has left open. */
  count(): Promise<{ silent: number; idle: number; dripping: number }>;
  close(): Promise<void>;
}

/** Starts the clients; resolves when every one is connected. */
export async function startSlowClients(options: SlowClientsOptions): Promise<SlowClients> {
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(options)]);
  await answer(child, 'ready');
  return {
    async count() {
      child.send('count');
      return (await answer(child, 'count')) as { silent: number; idle: number; dripping: number };
    },
    async close() {
      child.kill();
      await once(child, 'exit');
    },
  };
}

async function answer(child: ChildProcess, wanted: string): Promise<unknown> {
  const gone = once(child, 'exit').then(([code]) => {
    throw new Error(`The slow clients ended with code ${code}`);
  });
  const [message] = (await Promise.race([once(child, 'message'), gone])) as [Message];
  if (message.kind !== wanted) throw new Error(`Expected ${wanted}, got ${message.kind}`);
  return message.value;
}

interface Message {
  kind: string;
  value?: unknown;
}

async function runClients(options: SlowClientsOptions): Promise<void> {
  const { port, silent, idle = 0, dripping, path } = options;
  const open = { silent: 0, idle: 0, dripping: 0 };
  await inBatches(silent, async () => {
    const socket = connect(port, '127.0.0.1');
    watch(socket, () => {
      open.silent -= 1;
    });
    await once(socket, 'connect');
    open.silent += 1;
  });
  await inBatches(idle, async () => {
    const socket = await connectTls(port);
    watch(socket, () => {
      open.idle -= 1;
    });
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    const [head] = (await once(socket, 'data')) as [Buffer];
    if (!head.toString().startsWith('HTTP/1.1 200 ')) throw new Error(`Not served: ${head}`);
    open.idle += 1;
  });
  await inBatches(dripping, async () => {
    const socket = await connectTls(port);
    watch(socket, () => {
      open.dripping -= 1;
    });
    open.dripping += 1;
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await once(socket, 'readable');
    setInterval(() => socket.read(1), 100);
  });
  process.once('disconnect', () => process.exit());
  process.on('message', () => process.send?.({ kind: 'count', value: open }));
  process.send?.({ kind: 'ready' });
}

function watch(socket: Socket, closed: () => void): void {
  socket.on('error', () => {});
  socket.once('close', closed);
}

async function inBatches(count: number, start: () => Promise<void>): Promise<void> {
  for (let done = 0; done < count; done += 200) {
    await Promise.all(Array.from({ length: Math.min(200, count - done) }, start));
  }
}

if (process.send !== undefined && process.argv[1] === fileURLToPath(import.meta.url)) {
  await runClients(JSON.parse(process.argv[2] ?? '{}') as SlowClientsOptions);
}
