import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import type { Route } from '../../src/server/lxd/exchange.js';
import type { ServerLimits } from '../../src/server/server.js';
import { ask, serveApi } from '../support/api.js';
import { splitImage } from '../support/api-images.js';
import { memoryLog } from '../support/memory-log.js';
import { connectTls } from '../support/tls.js';

const serve = (t: TestContext, limits: Partial<ServerLimits>, post?: Route) =>
  serveApi(t, { server: { limits }, ...(post && { api: { uploads: { post } } }) });

/** Takes all, and says how much it was. */
const count: Route = async ({ body }) => {
  let size = 0;
  const chunks = body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
  for await (const chunk of chunks) size += chunk.length;
  return { kind: 'sync', metadata: size };
};

/** Sends pieces `ms` apart; what came back when the server had closed the connection. */
async function send(port: number, head: string, pieces: string[], ms: number): Promise<string> {
  const socket = await connectTls(port);
  socket.on('error', () => {});
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  const closed = closing(socket);
  socket.write(head);
  for (const piece of pieces) {
    await wait(ms);
    if (socket.writable) socket.write(piece);
  }
  await closed;
  return Buffer.concat(chunks).toString();
}

/** Resolves when a connection has closed, in whatever way. */
const closing = (socket: Duplex) => new Promise((resolve) => socket.once('close', resolve));

const chunked = (path: string, method = 'POST') =>
  `${method} ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n`;
const pieces = [...Array.from({ length: 10 }, () => '1\r\nx\r\n'), '0\r\n\r\n'];

test('an upload may take as long as it goes on', async (t) => {
  const { port } = await serve(t, { requestMs: 50 }, count);
  assert.match(await send(port, chunked('/1.0/images'), pieces, 20), /"metadata":10/);
});

test('an upload on which nothing moves is cut', async (t) => {
  const { port, events } = await serve(t, { stallMs: 100 }, count);
  assert.equal(await send(port, chunked('/1.0/images'), ['1\r\nx\r\n'], 1), '');
  assert.deepEqual(events, []);
});

const late = [chunked('/1.0/certificates'), chunked('/1.0/images/x', 'GET'), chunked('/', 'GET')];
for (const head of late) {
  test(`the body of ${head.slice(0, head.indexOf(' HTTP'))} has its time`, async (t) => {
    const { port, events } = await serve(t, { requestMs: 50, stallMs: 5000 });
    const socket = await connectTls(port);
    socket.on('error', () => {});
    socket.resume().write(head.replace('Connection: close\r\n', ''));
    const drip = setInterval(() => socket.writable && socket.write('1\r\nx\r\n'), 10);
    await closing(socket);
    clearInterval(drip);
    assert.deepEqual(events, []);
  });
}

test('a body that is late is answered in the form of whoever it is for', async (t) => {
  const { port } = await serve(t, { requestMs: 50 });
  const answer = await send(port, chunked('/1.0/certificates'), ['1\r\n{\r\n'], 1);
  assert.match(answer, /^HTTP\/1\.1 408 [\s\S]*"error":"This request took too long\."/);
});

test('what is left of an upload that is refused is passed over, for a while', async (t) => {
  const refuse: Route = async () => ({ kind: 'sync', metadata: 'no, thanks' });
  const { port } = await serve(t, { requestMs: 100, stallMs: 5000 }, refuse);
  const body = Buffer.alloc(20_000_000);
  const whole = await ask(port, '/1.0/images', { method: 'POST', body });
  assert.equal(whole.envelope().metadata, 'no, thanks');
  const socket = await connectTls(port);
  socket.on('error', () => {});
  socket.write(chunked('/1.0/images').replace('Connection: close\r\n', ''));
  const drip = setInterval(() => socket.writable && socket.write('1\r\nx\r\n'), 10);
  const [head] = await once(socket, 'data');
  assert.match(String(head), /no, thanks/);
  await closing(socket.resume());
  clearInterval(drip);
});

test('a connection closes after a refusal when all was sent, not before', async (t) => {
  const { port } = await serve(t, {});
  const socket = await connectTls(port);
  socket.write(chunked('/1.0/images/aliases'));
  const [refusal] = await once(socket, 'data');
  assert.match(String(refusal), /^HTTP\/1\.1 403 /);
  const ended = once(socket.resume(), 'end');
  for (const piece of pieces) {
    await wait(10);
    assert.equal(socket.readableEnded, false);
    socket.write(piece);
  }
  await ended;
});

test('work may take longer than a connection may be idle', async (t) => {
  const { port, operations, friend } = await serve(t, { stallMs: 50 });
  const { id } = operations.begin({ description: 'x', work: () => wait(300, undefined) });
  const answer = await ask(port, `/1.0/operations/${id}/wait`, { as: friend });
  assert.equal(answer.envelope().metadata.status, 'Success');
});

test('an upload that the server is slow to take is not cut', async (t) => {
  const slow: Route = async (call) => {
    await wait(300);
    return count(call);
  };
  const { port } = await serve(t, { stallMs: 50 }, slow);
  const body = Buffer.alloc(10_000_000);
  const answer = await ask(port, '/1.0/images', { method: 'POST', body });
  assert.equal(answer.envelope().metadata, body.length);
});

const exports: [string, head: string][] = [
  ['an export that nobody takes is cut', ''],
  [
    'an export that nobody takes is cut where another protocol was asked for',
    'Connection: Upgrade\r\nUpgrade: x\r\n',
  ],
];

for (const [name, head] of exports)
  test(name, { timeout: 20_000 }, async (t) => {
    const { log, events } = memoryLog('debug');
    const { port, library } = await serveApi(t, { server: { log, limits: { stallMs: 100 } } });
    const image = splitImage();
    const files = { ...image.files, 'rootfs.squashfs': Buffer.alloc(32 * 1024 * 1024) };
    const { fingerprint } = await library.add({ ...image, files });
    const socket = await connectTls(port);
    socket.on('error', () => {});
    socket.write(`GET /1.0/images/${fingerprint}/export HTTP/1.1\r\nHost: x\r\n${head}\r\n`);
    await once(socket, 'readable');
    const wasCut = () => events.find(({ msg }) => msg === 'Request');
    while (wasCut() === undefined) await wait(5);
    assert.equal(wasCut()?.complete, false);
    socket.destroy();
  });
