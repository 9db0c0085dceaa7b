/** What goes over a listener, counted. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import { describe, type TestContext, test } from 'node:test';
import { createTraffic } from '../../src/server/traffic.js';
import { eventually } from '../support/eventually.js';
import { serveTree } from '../support/served-tree.js';
import { connectTls, rawRequest } from '../support/tls.js';

const file = 'images/a/b/c/d/20260101/rootfs.squashfs';
const get = (path: string, more = '') => `GET /${path} HTTP/1.1\r\nHost: a\r\n${more}\r\n`;
const close = 'Connection: close\r\n';

async function served(t: TestContext) {
  const traffic = createTraffic();
  const content = Buffer.alloc(30_000_000, 1);
  const { port } = await serveTree(t, { [file]: content }, { traffic });
  return { traffic, port, content };
}

describe('the traffic of the HTTPS server', () => {
  test('has each request by method and by what was answered', async (t) => {
    const { traffic, port } = await served(t);
    await rawRequest(port, get('streams/v1/index.json', close));
    await rawRequest(port, get('streams/v1/index.json', close));
    await rawRequest(port, get('nothing', close));
    await rawRequest(port, `HEAD /${file} HTTP/1.1\r\nHost: a\r\n${close}\r\n`);
    await rawRequest(port, `DELETE /${file} HTTP/1.1\r\nHost: a\r\n${close}\r\n`);
    await rawRequest(port, `PROPFIND / HTTP/1.1\r\nHost: a\r\n${close}\r\n`);
    await eventually('all have ended', () => traffic.counts().connections === 0);
    const { requests, running } = traffic.counts();
    assert.deepEqual(requests, [
      { method: 'GET', status: '2xx', count: 2 },
      { method: 'GET', status: '4xx', count: 1 },
      { method: 'HEAD', status: '2xx', count: 1 },
      { method: 'DELETE', status: '4xx', count: 1 },
      { method: 'other', status: '4xx', count: 1 },
    ]);
    assert.equal(running, 0);
  });

  test('has every byte that clients were sent, also over a connection that is kept', async (t) => {
    const { traffic, port, content } = await served(t);
    const socket = await connectTls(port);
    t.after(() => socket.destroy());
    let received = 0;
    socket.on('data', (chunk: Buffer) => {
      received += chunk.length;
    });
    for (const times of [1, 2]) {
      socket.write(get(file));
      await eventually('it has come', () => received > times * content.length);
      await eventually('it is counted', () => traffic.counts().sentBytes === received);
      assert.equal(traffic.counts().connections, 1);
    }
    socket.end();
    await once(socket, 'close');
    await eventually('it is over', () => traffic.counts().connections === 0);
    assert.equal(traffic.counts().sentBytes, received);
  });

  test('has what runs, and what was cut', async (t) => {
    const { traffic, port } = await served(t);
    const socket = await connectTls(port);
    socket.pause();
    socket.write(get(file));
    await eventually('it has begun', () => traffic.counts().sentBytes > 0);
    assert.equal(traffic.counts().running, 1);
    assert.deepEqual(traffic.counts().requests, []);
    socket.destroy();
    await eventually('it has ended', () => traffic.counts().running === 0);
    assert.deepEqual(traffic.counts().requests, [{ method: 'GET', status: '2xx', count: 1 }]);
  });
});

test('who goes before there is an answer had none', async (t) => {
  const traffic = createTraffic();
  const server = createServer();
  traffic.follow(server, 'connection');
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => void server.close());
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
  socket.write(get('slow'));
  await once(server, 'request');
  socket.destroy();
  await eventually('it has ended', () => traffic.counts().connections === 0);
  assert.deepEqual(traffic.counts().requests, [{ method: 'GET', status: 'none', count: 1 }]);
});
