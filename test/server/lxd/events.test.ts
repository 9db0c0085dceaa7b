import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { connect } from 'node:tls';
import { type ClientOptions, WebSocket } from 'ws';
import type { EventsLimits } from '../../../src/server/lxd/events.js';
import { type ApiServer, ask, serveApi } from '../../support/api.js';
import { memoryLog } from '../../support/memory-log.js';
import type { TestCertificate } from '../../support/tls.js';

async function serveEvents(t: Parameters<typeof serveApi>[0], limits: Partial<EventsLimits> = {}) {
  const { log, events } = memoryLog('info');
  return { ...(await serveApi(t, { api: { log, limits: { events: limits } } })), events };
}

/** Against waiting for what takes 30 seconds by itself. */
const generous = { timeout: 20_000 };

/** A websocket, and the frames that it gets. */
function connectTo(port: number, query = '', as?: TestCertificate, options: ClientOptions = {}) {
  const socket = new WebSocket(`wss://127.0.0.1:${port}/1.0/events${query}`, {
    ...{ rejectUnauthorized: false, ...options },
    ...(as !== undefined && { key: as.key, cert: as.cert }),
  });
  const frames: Record<string, unknown>[] = [];
  socket.on('message', (data) => frames.push(JSON.parse(String(data)) as Record<string, unknown>));
  return { socket, frames };
}

async function listen({ port, friend }: ApiServer, query = '?project=default') {
  const listener = connectTo(port, query, friend);
  await once(listener.socket, 'open');
  return listener;
}

/** Awaits frames until there are so many. */
async function until(listener: { socket: WebSocket; frames: unknown[] }, count: number) {
  while (listener.frames.length < count) await once(listener.socket, 'message');
}

test('who listens hears how operations begin, go on and end', async (t) => {
  const server = await serveEvents(t);
  const listener = await listen(server);
  const other = await listen(server, '?type=operation,logging');
  const operation = server.operations.begin({
    ...{ description: 'Importing', metadata: { a: 1 }, work: async () => ({ b: 2 }) },
  });
  await until(listener, 2);
  await until(other, 2);
  const [begun, ended] = listener.frames;
  const { timestamp, ...frame } = begun ?? {};
  assert.equal(new Date(String(timestamp)).toISOString(), timestamp);
  const metadata = { ...operation.view(), status: 'Running', status_code: 103, may_cancel: true };
  assert.deepEqual(
    { ...frame, metadata: undefined },
    { type: 'operation', project: 'default', location: 'none', metadata: undefined },
  );
  const seen = begun?.metadata as typeof metadata;
  assert.deepEqual(
    { ...seen, updated_at: '' },
    { ...metadata, updated_at: '', metadata: { a: 1 } },
  );
  assert.deepEqual(ended?.metadata, operation.view());
  for (const { socket } of [listener, other]) socket.close();
});

test('who wants other events gets none', async (t) => {
  const server = await serveEvents(t);
  const deaf = await listen(server, '?type=logging');
  const listener = await listen(server);
  server.operations.begin({ class: 'token', description: 'x' });
  await until(listener, 1);
  deaf.socket.close();
  await once(deaf.socket, 'close');
  assert.deepEqual(deaf.frames, []);
  listener.socket.close();
});

test('nobody listens who is not trusted', async (t) => {
  const { port, stranger } = await serveEvents(t);
  for (const as of [undefined, stranger]) {
    const { socket } = connectTo(port, '', as);
    const [, response] = await once(socket, 'unexpected-response');
    const body: Buffer[] = await response.toArray();
    assert.equal(response.statusCode, 403);
    assert.equal(JSON.parse(Buffer.concat(body).toString()).type, 'error');
  }
});

test('who is trusted no more is dropped, whether anything happens or not', async (t) => {
  const server = await serveEvents(t, { pingMs: 20 });
  const listeners = [await listen(server), await listen(server, '?type=logging')];
  const closed = listeners.map(({ socket }) => once(socket, 'close'));
  server.callers.forgetAll();
  await Promise.all(closed);
  const drops = server.events.filter(({ why }) => why === 'it is trusted no more');
  assert.equal(drops.length, 2);
});

test('only so many listen, and when one has gone the next may', async (t) => {
  const server = await serveEvents(t, { listeners: 1 });
  const first = await listen(server);
  const { socket } = connectTo(server.port, '', server.friend);
  const [, response] = await once(socket, 'unexpected-response');
  assert.equal(response.statusCode, 503);
  response.destroy();
  first.socket.terminate();
  const again = async (): Promise<void> => {
    const next = connectTo(server.port, '', server.friend);
    const result = await Promise.race([
      once(next.socket, 'open').then(() => 'open'),
      once(next.socket, 'unexpected-response').then(() => 'refused'),
    ]);
    next.socket.terminate();
    if (result === 'refused') await wait(5).then(again);
  };
  await again();
});

test('listeners are pinged, and dropped when they do not answer', async (t) => {
  const server = await serveEvents(t, { pingMs: 20 });
  const lively = await listen(server);
  const { port, friend } = server;
  const silent = connectTo(port, '', friend, { autoPong: false });
  await once(silent.socket, 'close');
  assert.equal(server.events[0]?.why, 'it does not answer');
  await once(lively.socket, 'ping');
  assert.equal(lively.socket.readyState, WebSocket.OPEN);
  lively.socket.close();
});

test('a listener that takes nothing is dropped, and the others hear on', async (t) => {
  const server = await serveEvents(t, { unsentBytes: 100_000, pingMs: 3_600_000 });
  const lively = await listen(server);
  const slow = await listen(server);
  slow.socket.pause();
  const closed = once(slow.socket, 'close');
  const metadata = { text: 'x'.repeat(20_000) };
  for (let sent = 0; server.events.length === 0; sent += 2) {
    const { id } = server.operations.begin({ class: 'token', description: 'x', metadata });
    server.operations.end(id, 'success');
    await until(lively, sent + 2);
  }
  const [event] = server.events;
  assert.deepEqual(
    [event?.msg, event?.why],
    ['a client that listened to events was dropped', 'it takes none'],
  );
  slow.socket.resume();
  await closed;
  assert.equal(lively.socket.readyState, WebSocket.OPEN);
  lively.socket.close();
});

test('a listener that says too much is cut off', async (t) => {
  const server = await serveEvents(t);
  const { socket } = await listen(server);
  socket.on('error', () => {});
  socket.send('x'.repeat(100_000));
  const [code] = await once(socket, 'close');
  assert.equal(code, 1009);
});

test('at the end listeners are told, after the end of all operations', async (t) => {
  const server = await serveEvents(t);
  const listener = await listen(server);
  server.operations.begin({ class: 'token', description: 'x' });
  await until(listener, 1);
  const closed = once(listener.socket, 'close');
  await server.operations.close();
  await server.api.close();
  const [code] = await closed;
  assert.equal(code, 1001);
  const told = listener.frames.map(({ metadata }) => (metadata as { err: string }).err);
  assert.deepEqual(told, ['', 'The server ends: try again when it is back']);
});

test('a listener that is deaf to goodbyes does not hold up the end', generous, async (t) => {
  const server = await serveEvents(t);
  const { port, friend, api } = server;
  const socket = connect({ host: '127.0.0.1', port, ...friend, rejectUnauthorized: false });
  const key = Buffer.alloc(16).toString('base64');
  socket.write(
    `GET /1.0/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
  );
  const [head] = await once(socket, 'data');
  assert.match(String(head), /^HTTP\/1\.1 101 /);
  const closed = once(socket, 'close');
  await api.close();
  await closed;
});

test('without a websocket, events are none', async (t) => {
  const { port, friend } = await serveEvents(t);
  const plain = await ask(port, '/1.0/events', { as: friend });
  assert.deepEqual(
    [plain.status, plain.envelope().error],
    [400, 'Events are told over a websocket'],
  );
  for (const headers of [
    { Connection: 'Upgrade', Upgrade: 'websocket' },
    { Connection: 'Upgrade', Upgrade: 'h2c' },
    {
      ...{ Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '99' },
      'Sec-WebSocket-Key': Buffer.alloc(16).toString('base64'),
    },
  ]) {
    const answer = await ask(port, '/1.0/events', { as: friend, headers });
    assert.equal(answer.status, 400);
    assert.equal(answer.envelope().type, 'error');
  }
});

test('a wish for another protocol elsewhere is passed over', async (t) => {
  const { port } = await serveEvents(t);
  const headers = { Connection: 'Upgrade', Upgrade: 'h2c' };
  const answer = await ask(port, '/1.0', { headers });
  assert.equal(answer.envelope().metadata.api_version, '1.0');
  assert.equal(answer.headers.connection, 'close');
  const page = await ask(port, '/', { headers: { ...headers, Accept: 'text/html' } });
  assert.match(page.bytes.toString(), /^This is a simplestreams image server/);
  const put = await ask(port, '/', { method: 'PUT', headers });
  assert.equal(put.status, 405);
});
