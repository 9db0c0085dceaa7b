/** What is told of the server over HTTP, and to whom. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ask } from '../../support/api.js';
import { serveMonitored } from '../../support/monitored.js';
import { createTestCertificate } from '../../support/tls.js';

const paths = ['/status', '/status.json', '/status/events', '/metrics'];
const from = (address: string) => ({ headers: { 'X-Real-IP': address } });

describe('to whom it is told', () => {
  test('those from the networks of the configuration, as it is now', async (t) => {
    const { socket, told } = await serveMonitored(t);
    told.statusFrom = ['192.0.2.0/24', '2001:db8::/32'];
    const statusFor = async (address: string) =>
      (await ask(socket, '/status.json', from(address))).status;
    assert.equal(await statusFor('192.0.2.77'), 200);
    assert.equal(await statusFor('2001:db8::1'), 200);
    assert.equal(await statusFor('198.51.100.1'), 403);
    assert.equal(await statusFor('127.0.0.1'), 403);
    assert.equal((await ask(socket, '/status.json')).status, 403, 'nobody knows who asks');
    told.statusFrom = ['198.51.100.0/24'];
    assert.equal(await statusFor('198.51.100.1'), 200);
    assert.equal(await statusFor('192.0.2.77'), 403);
  });

  for (const path of paths) {
    test(`strangers are refused ${path}, and told which key decides`, async (t) => {
      const { port, told } = await serveMonitored(t);
      told.statusFrom = ['192.0.2.0/24'];
      const { status, bytes, headers } = await ask(port, path);
      assert.equal(status, 403);
      assert.match(bytes.toString(), /server\.status_from.*You ask from 127\.0\.0\.1\./);
      assert.equal(headers['cache-control'], 'no-store');
    });
  }

  test('those whose certificate is trusted, from wherever they ask', async (t) => {
    const { port, socket, told, trusted } = await serveMonitored(t);
    told.statusFrom = [];
    const [friend, stranger] = await Promise.all([
      createTestCertificate(),
      createTestCertificate(),
    ]);
    trusted.add(new X509Certificate(friend.cert).raw.toString('base64'));
    assert.equal((await ask(port, '/metrics', { as: friend })).status, 200);
    assert.equal((await ask(port, '/metrics', { as: stranger })).status, 403);
    const shown = (cert: string) => ({ headers: { 'X-SSL-Cert': cert } });
    const escaped = encodeURIComponent(friend.cert);
    assert.equal((await ask(socket, '/metrics', shown(escaped))).status, 200);
    assert.equal((await ask(socket, '/metrics', shown('nonsense'))).status, 403);
    assert.equal((await ask(port, '/metrics', shown(escaped))).status, 403, 'anyone can say so');
  });

  test('what is no address in a header is nobody, whatever else it looks like', async (t) => {
    const { socket, told, events } = await serveMonitored(t);
    told.statusFrom = ['0.0.0.0/0', '::/0'];
    const fixed = ['127.0.0.1:80', '127.1', '0x7f.0.0.1', '127.0.0.01', '2130706433', '[::1]'];
    const others = [
      'localhost',
      'unix:',
      '127.0.0.1/8',
      '::1%',
      '::ffff:127.0.0.256',
      '\u00a0',
      '',
    ];
    const noise = fc.string({ unit: fc.constantFrom(...'0127.:af[]%"; <>/\u00e9') });
    const text = fc
      .oneof(fc.constantFrom(...fixed, ...others), noise)
      .filter((each) => isIP(each.split(',').at(-1)?.trim() ?? '') === 0);
    const names = ['X-Real-IP', 'X-Forwarded-For'] as const;
    const check = fc.asyncProperty(text, text, fc.boolean(), async (said, more, isLast) => {
      const list = isLast ? `127.0.0.1, ${said}` : `127.0.0.1,${more},${said}`;
      for (const headers of [
        { [names[0]]: said, [names[1]]: '127.0.0.1' },
        { [names[1]]: list },
        { [names[1]]: said, 'X-SSL-Cert': more.trim() },
      ]) {
        assert.equal((await ask(socket, '/status.json', { headers })).status, 403);
      }
    });
    await fc.assert(check, { numRuns: 100 });
    assert.equal((await ask(socket, '/status.json', from('192.0.2.1'))).status, 200);
    assert.deepEqual(events, []);
  });

  test('a proxy that is not believed is nobody’s neighbour', async (t) => {
    const { service } = await serveMonitored(t);
    const answers: number[] = [];
    for (const forwarded of [{ forwarded: true }, {}]) {
      const response = {
        writeHead: (status: number) => void answers.push(status),
        end() {},
        write: () => true,
        once() {},
        off() {},
      };
      const visitor = { address: '127.0.0.1', ...forwarded };
      const visit = { request: { method: 'HEAD', url: '/status.json' }, response, visitor };
      await service.answer({ ...visit, bePatient() {} } as never);
    }
    assert.deepEqual(answers, [403, 200]);
  });

  test('the health is told to all, its details to those who may see the status', async (t) => {
    const { socket, told } = await serveMonitored(t);
    const healthFor = async (address: string) => {
      const { status, bytes } = await ask(socket, '/healthz', from(address));
      return [status, bytes.toString()];
    };
    assert.deepEqual(await healthFor('198.51.100.1'), [200, 'ok\n']);
    told.health = { ok: false, reason: 'it cannot publish', detail: '/srv/images is full' };
    assert.deepEqual(await healthFor('198.51.100.1'), [503, 'it cannot publish\n']);
    assert.deepEqual(await healthFor('127.0.0.1'), [
      503,
      'it cannot publish: /srv/images is full\n',
    ]);
  });
});

describe('what is told', () => {
  test('the page, once it is there', async (t) => {
    const { port, page } = await serveMonitored(t);
    const missing = await ask(port, '/status');
    assert.equal(missing.status, 404);
    assert.match(missing.bytes.toString(), /not installed/);
    await writeFile(page, '<!doctype html>');
    const { status, headers, bytes } = await ask(port, '/status?x=1');
    assert.deepEqual([status, bytes.toString()], [200, '<!doctype html>']);
    assert.equal(headers['content-type'], 'text/html; charset=utf-8');
    assert.equal(headers['content-length'], '15');
  });

  test('the status and the metrics, small or large, by HTTPS and at the socket', async (t) => {
    const site = await serveMonitored(t);
    for (const text of ['', 'x'.repeat(3_000_000)]) {
      site.told.live = { text };
      for (const place of [site.port, site.socket]) {
        const { status, headers, envelope } = await ask(
          ...([place, '/status.json'] as const),
          place === site.socket ? from('127.0.0.1') : {},
        );
        assert.deepEqual([status, envelope()], [200, { text, days: [] }]);
        assert.equal(headers['content-type'], 'application/json');
      }
    }
    const metrics = await ask(site.port, '/metrics');
    assert.equal(metrics.headers['content-type'], 'text/plain; version=0.0.4');
    assert.equal(metrics.bytes.toString(), 'up 1\n');
  });

  test('with headers that keep it out of caches, frames and other sites', async (t) => {
    const { port, page } = await serveMonitored(t);
    await writeFile(page, '<!doctype html>');
    for (const path of [...paths, '/healthz']) {
      const { status, headers } = await ask(port, path, { method: 'HEAD' });
      const { 'cache-control': cache, 'x-content-type-options': sniff } = headers;
      assert.deepEqual([path, status, cache, sniff], [path, 200, 'no-store', 'nosniff']);
      assert.equal(headers['content-security-policy'], "frame-ancestors 'none'");
      assert.equal(headers['cross-origin-resource-policy'], 'same-origin');
    }
  });

  test('a HEAD has no body, the events neither', async (t) => {
    const { port } = await serveMonitored(t);
    for (const path of paths) {
      const { bytes } = await ask(port, path, { method: 'HEAD' });
      assert.deepEqual([path, bytes.length], [path, 0]);
    }
  });

  test('other methods are refused with those that there are', async (t) => {
    const { port, socket } = await serveMonitored(t);
    for (const place of [port, socket]) {
      for (const path of [...paths, '/healthz']) {
        const { status, headers } = await ask(place, path, { method: 'POST', body: 'x' });
        assert.deepEqual([path, status, headers.allow], [path, 405, 'GET, HEAD']);
      }
    }
  });

  test('nothing of other paths', async (t) => {
    const { service, socket } = await serveMonitored(t);
    for (const url of ['/', '/status/', '/Status', '/status.json/x', '/statusx', '/%73tatus', '']) {
      assert.equal(service.claims({ url } as never), false, url);
      if (url !== '') assert.equal((await ask(socket, url, from('127.0.0.1'))).status, 404, url);
    }
    assert.equal(service.claims({ url: 'http://a.example/status?x#y' } as never), true);
  });

  test('a failure is answered with 500 and logged, and the next request is answered', async (t) => {
    let fails = true;
    const metrics = async () => {
      if (fails) throw new Error('out of order');
      return { contentType: 'text/plain', text: 'up 1\n' };
    };
    const { port, events } = await serveMonitored(t, { monitored: { metrics } });
    assert.equal((await ask(port, '/metrics')).status, 500);
    assert.deepEqual(
      events.map(({ msg }) => msg),
      ['Cannot answer a request'],
    );
    fails = false;
    assert.equal((await ask(port, '/metrics')).status, 200);
  });
});
