/** A port that takes no connection and refuses none, as that of a host that was switched off. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import type { TestContext } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

export interface DeafPort {
  port: number;
  /** How many connections wait for an answer now. */
  waiting(): Promise<number>;
}

/** Listens, and does nothing else: what the system accepts on its behalf is a connection or two. */
const listener = `
  const { parentPort } = require('node:worker_threads');
  const server = require('node:net').createServer();
  server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => {
    parentPort.postMessage(server.address().port);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  });
`;

/** A port at which connections wait from now on, until the test ends. */
export async function deafPort(t: Pick<TestContext, 'after'>): Promise<DeafPort> {
  const worker = new Worker(listener, { eval: true });
  const [port] = (await once(worker, 'message')) as [number];
  const fillers = Array.from({ length: 4 }, () => {
    return connect({ port, host: '127.0.0.1' }).on('error', () => {});
  });
  t.after(async () => {
    for (const filler of fillers) filler.destroy();
    await worker.terminate();
  });
  const waiting = () => unanswered(port);
  const end = performance.now() + 10_000;
  while ((await waiting()) === 0) {
    assert.ok(performance.now() < end, 'the system accepts all connections');
    await nextTurn();
  }
  return { port, waiting };
}

/** By proc_net_tcp: the far side of a connection is the third column, SYN_SENT the state 02. */
async function unanswered(port: number): Promise<number> {
  const far = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const rows = (await readFile('/proc/net/tcp', 'utf8')).split('\n');
  return rows
    .map((row) => row.trim().split(/\s+/))
    .filter((row) => row[2] === far && row[3] === '02').length;
}
