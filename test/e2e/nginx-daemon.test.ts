import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { get } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { eventually } from '../support/eventually.js';
import { needs } from '../support/programs.js';
import {
  imageVersion,
  indexText,
  type ServedSite,
  startServedSite,
} from '../support/served-site.js';
import { type SocketServer, startSocketServer } from '../support/socket-server.js';
import { createTestCertificate } from '../support/tls.js';

const monitoring = ['/status', '/status.json', '/status/events', '/metrics'];
const everything = ['/1.0', '/1.0/images?project=default', ...monitoring, '/healthz'];

describe("the master's site: what the daemon answers", needs('nginx', 'curl'), () => {
  let site: ServedSite;
  let daemon: SocketServer;
  let answer: (request: IncomingMessage, response: ServerResponse) => void;

  before(async () => {
    site = await startServedSite('master');
    daemon = await startSocketServer(site.socketFile, (...exchange) => answer(...exchange));
  });
  after(async () => {
    await daemon.close();
    await site.close();
  });

  const asked = () => daemon.asked.at(-1) ?? assert.fail('it was not asked');

  test('goes there and comes back as it is', async () => {
    answer = (_request, response) => {
      response.writeHead(202, { 'Content-Type': 'text/x-daemon', 'Cache-Control': 'no-store' });
      response.end('from the daemon');
    };
    for (const path of [...everything, '/metrics?a=%2F&b=c%20d', '/1.0/images/aliases/a%2Fb']) {
      const { status, headers, body } = await site.get('https', path, '-H', 'Host: hub:1234');
      assert.deepEqual([status, body], [202, 'from the daemon'], path);
      assert.equal(headers['content-type'], 'text/x-daemon');
      assert.equal(headers['cache-control'], 'no-store');
      assert.deepEqual([asked().url, asked().headers.host], [path, 'hub']);
    }
  });

  test('has no other spelling', async () => {
    const count = daemon.asked.length;
    const others = [
      '/status/',
      '/status/x',
      '/statuses',
      '/metrics/',
      '/healthz/',
      '/1.01',
      '/2.0',
    ];
    for (const path of others) assert.equal((await site.get('https', path)).status, 404, path);
    assert.equal(daemon.asked.length, count);
  });

  test('who asks is what nginx knows, whatever the request says', async () => {
    answer = (_request, response) => void response.end();
    const forged = ['X-Real-IP', 'X-Forwarded-For', 'X-SSL-Cert', 'x-ssl-cert', 'X_SSL_Cert'];
    const flags = forged.flatMap((name) => ['-H', `${name}: 192.0.2.7`]);
    const { cert, key } = await createTestCertificate();
    const [certFile, keyFile] = [join(site.root, '../me.crt'), join(site.root, '../me.key')];
    await writeFile(certFile, cert);
    await writeFile(keyFile, key);
    for (const path of everything) {
      await site.get('https', path, ...flags);
      assert.equal(asked().headers['x-real-ip'], '127.0.0.1', path);
      assert.equal(asked().headers['x-forwarded-for'], '127.0.0.1', path);
      assert.equal(asked().headers['x-ssl-cert'], undefined, path);
      await site.get('https', path, ...flags, '--cert', certFile, '--key', keyFile);
      assert.equal(decodeURIComponent(`${asked().headers['x-ssl-cert']}`), `${cert.trim()}\n`);
      assert.equal(JSON.stringify(asked().headers).includes('192.0.2.7'), false);
    }
    await site.get('http', '/healthz', ...flags);
    assert.equal(asked().headers['x-real-ip'], '127.0.0.1');
    assert.equal(JSON.stringify(asked().headers).includes('192.0.2.7'), false);
  });

  test('events arrive one by one', { timeout: 60_000 }, async () => {
    const streams: ServerResponse[] = [];
    answer = (_request, response) => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.write('data: 0\n\n');
      streams.push(response);
    };
    const ca = await readFile(site.certFile);
    const where = { host: '127.0.0.1', port: site.ports.https, agent: false as const };
    const request = get({ ...where, path: '/status/events', ca });
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    const chunks = response[Symbol.asyncIterator]();
    for (const wanted of ['data: 0\n\n', 'data: 1\n\n', 'data: 2\n\n']) {
      assert.equal(String((await chunks.next()).value), wanted);
      streams[0]?.write(`data: ${Number(wanted.at(6)) + 1}\n\n`);
    }
    request.destroy();
    const [stream] = streams;
    assert.ok(stream !== undefined);
    // The daemon hears that nobody listens any more.
    if (!stream.destroyed) await once(stream, 'close');
  });

  test('no secret is in the log', async () => {
    answer = (_request, response) => void response.end('fine');
    const log = () => readFile(join(site.root, '../access.log'), 'utf8');
    const path = '/1.0/operations/11111111-2222-3333-4444-555555555555/wait';
    for (const query of ['?secret=hush', '?timeout=-1&secret=hush', '?Secret=hush&x=1']) {
      const { body } = await site.get('https', `${path}${query}`);
      assert.deepEqual([body, asked().url], ['fine', `${path}${query}`]);
    }
    await site.get('https', `${path}?timeout=7`);
    await eventually('the rest is logged', async () => (await log()).includes(`${path}?timeout=7`));
    assert.doesNotMatch(await log(), /hush/);
  });

  test('nothing with a secret is spoken over plain HTTP', async () => {
    answer = (_request, response) => void response.end('fine');
    const count = daemon.asked.length;
    for (const path of ['/1.0', '/1.0/images/x/export?secret=y']) {
      const { status, body } = await site.get('http', path);
      const error = 'The API is there over HTTPS only';
      assert.deepEqual(
        [status, JSON.parse(body)],
        [403, { type: 'error', error, error_code: 403 }],
      );
    }
    assert.equal((await site.get('http', '/1.0/certificates', '-d', '{}')).status, 403);
    for (const path of monitoring) {
      const { status, headers } = await site.get('http', `${path}?a=b`, '-H', 'Host: hub:80');
      assert.deepEqual([status, headers.location], [301, `https://hub${path}?a=b`]);
    }
    assert.equal(daemon.asked.length, count);
    assert.equal((await site.get('http', '/healthz')).body, 'fine');
  });

  test('clients find the version at /, over HTTP and HTTPS', async () => {
    for (const scheme of ['http', 'https'] as const) {
      const { body, headers } = await site.get(scheme, '/');
      assert.deepEqual(JSON.parse(body).metadata, ['/1.0']);
      assert.equal(headers['content-type'], 'application/json');
      assert.equal(headers.vary, 'Accept');
    }
  });

  test('a certificate that has expired keeps nobody from what is public', async () => {
    const expired = await createTestCertificate({ notAfter: new Date(Date.now() - 60_000) });
    const [certFile, keyFile] = [join(site.root, '../old.crt'), join(site.root, '../old.key')];
    await writeFile(certFile, expired.cert);
    await writeFile(keyFile, expired.key);
    const flags = ['--cert', certFile, '--key', keyFile];
    const image = `/${imageVersion}/rootfs.squashfs`;
    for (const tls of [['--tls-max', '1.2'], ['--tlsv1.3']]) {
      assert.equal((await site.get('https', image, ...flags, ...tls)).body, 'root');
      assert.equal((await site.get('https', image, '-r', '1-2', ...flags)).body, 'oo');
      const index = await site.get('https', '/streams/v1/index.json', ...flags, '--compressed');
      assert.equal(index.body, indexText);
      assert.equal(index.headers['content-encoding'], 'gzip');
    }
    assert.equal((await site.get('https', '/.hidden', ...flags)).status, 404);
    const deleted = await site.get('https', image, '-X', 'DELETE', ...flags);
    assert.deepEqual([deleted.status, deleted.headers.allow], [405, 'GET, HEAD']);
    answer = (request, response) => void request.pipe(response);
    for (const path of everything) {
      assert.equal((await site.get('https', path, ...flags, '-d', 'body')).body, 'body', path);
      assert.deepEqual([asked().method, asked().url], ['POST', path]);
    }
    await daemon.close();
    const none = await site.get('https', '/1.0', ...flags);
    assert.deepEqual([none.status, JSON.parse(none.body).error_code], [503, 503]);
    daemon = await startSocketServer(site.socketFile, (...exchange) => answer(...exchange));
  });

  test('a daemon that does not answer is told of, with what is there all the same', async () => {
    await daemon.close();
    const api = await site.get('https', '/1.0');
    assert.deepEqual([api.status, api.headers['content-type']], [503, 'application/json']);
    assert.deepEqual(JSON.parse(api.body), {
      type: 'error',
      error: 'The image server cannot be asked now: its daemon does not answer',
      error_code: 503,
    });
    const text =
      "The image server's daemon does not answer. Images and their index are served all the same.\n";
    for (const path of [...monitoring, '/healthz']) {
      const { status, body, headers } = await site.get('https', path);
      assert.deepEqual([status, body, headers['content-type']], [503, text, 'text/plain'], path);
    }
    assert.equal((await site.get('http', '/healthz')).body, text);
    assert.equal((await site.get('https', '/streams/v1/index.json')).body, indexText);
    assert.equal((await site.get('https', '/', '-H', 'Accept: text/html')).body, '<!doctype html>');
    daemon = await startSocketServer(
      site.socketFile,
      (_request, response) => void response.end('back'),
    );
    assert.equal((await site.get('https', '/healthz')).body, 'back');
  });
});
