import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { capacityOf } from '../../src/server/listen.js';
import { ask, serveApi } from '../support/api.js';
import { serveTree, sha256, version } from '../support/served-tree.js';
import { startSlowClients } from '../support/slow-clients.js';
import { connectTls, rawGet } from '../support/tls.js';

const rootfs = `${version}/rootfs.squashfs`;
const MiB = 1024 * 1024;

/** As the issue has it, where the limit of open files allows; else what it allows. */
const silent = Math.min(10_000, capacityOf().connections - 1000);

test('three hundred stalled downloads share one budget of memory', async (t) => {
  const dripping = 300;
  const large = Buffer.alloc(24 * MiB, 1);
  const { port } = await serveTree(t, { [rootfs]: large });
  const before = process.memoryUsage.rss();
  const clients = await startSlowClients({ port, silent: 0, dripping, path: `/${rootfs}` });
  t.after(() => clients.close());
  assert.equal((await clients.count()).dripping, dripping);
  const grown = (process.memoryUsage.rss() - before) / MiB;
  t.diagnostic(`${dripping} downloads of 24 MiB took ${Math.round(grown)} MiB`);
  assert.ok(grown < 400, `${grown} MiB`);
});

test('sixty clients that are slow to take a long list share one copy of it', async (t) => {
  const dripping = 60;
  const images = Array.from({ length: 6000 }, (_, number) => ({
    fingerprint: number.toString(16).padStart(64, '0'),
    ...{ type: 'container', arch: 'amd64', aliases: [], size: 1, created: 0, published: 0 },
    ...{ properties: { description: 'x'.repeat(500) }, expires: 0, files: [] },
    ...{ product: 'a/b/amd64/default', version: '20260103' },
  }));
  const library = { images: async () => images } as never;
  const limits = { handshakeMs: 600_000, stallMs: 600_000 };
  const { port } = await serveApi(t, { api: { library }, server: { limits } });
  const path = '/1.0/images?recursion=1';
  const size = (await ask(port, path)).bytes.length / MiB;
  assert.ok(size > 5);
  const before = process.memoryUsage.rss();
  const clients = await startSlowClients({ port, silent: 0, dripping, path });
  t.after(() => clients.close());
  assert.equal((await clients.count()).dripping, dripping);
  const grown = (process.memoryUsage.rss() - before) / MiB;
  t.diagnostic(`${dripping} lists of ${Math.round(size)} MiB took ${Math.round(grown)} MiB`);
  assert.ok(grown < 300, `${grown} MiB`);
});

test('among ten thousand slow clients a good one is served, within bounded memory', async (t) => {
  const dripping = 200;
  const image = randomBytes(16 * MiB);
  const limits = { handshakeMs: 600_000 };
  const { port } = await serveTree(t, { [rootfs]: image }, { limits });
  const before = process.memoryUsage.rss();
  const clients = await startSlowClients({ port, silent, dripping, path: `/${rootfs}` });
  t.after(() => clients.close());
  const { status, body } = await rawGet(port, `/${rootfs}`);
  assert.deepEqual([status, sha256(body)], [200, sha256(image)]);
  assert.equal((await rawGet(port, '/streams/v1/images.json')).status, 200);
  assert.deepEqual(await clients.count(), { silent, idle: 0, dripping });
  const grown = (process.memoryUsage.rss() - before) / MiB;
  t.diagnostic(`${silent} silent and ${dripping} dripping clients took ${Math.round(grown)} MiB`);
  assert.ok(grown < 1200, `${grown} MiB`);
});

/** Sends bytes one by one until the connection is closed; what came back. */
async function drip(socket: Duplex, bytes: Buffer): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', () => {});
  const closed = new Promise((resolve) => socket.once('close', resolve));
  let sent = 0;
  const timer = setInterval(() => {
    if (socket.writable) socket.write(bytes.subarray(sent, ++sent));
  }, 5);
  await closed;
  clearInterval(timer);
  assert.ok(sent > 1 && sent < bytes.length, `${sent} bytes were sent`);
  return Buffer.concat(chunks).toString();
}

/** Far more than can be sent a byte at a time before the time is up. */
const endlessHead = Buffer.from(`GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(15_000)}`);
const patience = { timeout: 60_000 };

test(
  'a head that comes byte by byte has its time, also behind an earlier request',
  patience,
  async (t) => {
    const limits = { headersMs: 300, keepAliveMs: 600_000, stallMs: 600_000 };
    const { port } = await serveTree(t, {}, { limits });
    assert.match(await drip(await connectTls(port), endlessHead), /^HTTP\/1\.1 408 /);
    const second = await connectTls(port);
    second.write('GET /streams/v1/index.json HTTP/1.1\r\nHost: x\r\n\r\n');
    assert.match(String(await once(second, 'data')), /^HTTP\/1\.1 200 /);
    assert.match(await drip(second, endlessHead), /^HTTP\/1\.1 408 /);
  },
);

test('a TLS handshake that comes byte by byte has its time', patience, async (t) => {
  const limits = { handshakeMs: 300, headersMs: 290_000, stallMs: 600_000 };
  const { port } = await serveTree(t, {}, { limits });
  // The start of a handshake record that is as long as may be.
  const hello = Buffer.concat([
    Buffer.from([22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb]),
    Buffer.alloc(16_000),
  ]);
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  assert.equal(await drip(socket, hello), '');
});

const limits: [openFiles: number, expected: ReturnType<typeof capacityOf>][] = [
  [20_000, { connections: 14_616, downloads: 4872 }],
  [1024, { connections: 576, downloads: 192 }],
  [1_048_576, { connections: 16_384, downloads: 262_016 }],
];

for (const [openFiles, expected] of limits) {
  test(`with ${openFiles} open files the server holds ${expected.connections} connections`, () => {
    assert.deepEqual(capacityOf(openFiles), expected);
  });
}
