import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { needs } from '../support/programs.js';
import {
  type Answer,
  imageVersion,
  indexText,
  type ServedSite,
  startServedSite,
} from '../support/served-site.js';
import { type SocketServer, startSocketServer } from '../support/socket-server.js';
import { createTestCertificate } from '../support/tls.js';

const image = `/${imageVersion}/rootfs.squashfs`;
const mirror = 'https://eu.images.example.org:8443';

describe("the master's site: clients sent to mirrors", needs('nginx', 'curl'), () => {
  let site: ServedSite;
  let daemon: SocketServer;
  let answer: (request: IncomingMessage, response: ServerResponse) => void;

  const start = async () => {
    daemon = await startSocketServer(site.socketFile, (...exchange) => answer(...exchange));
  };
  before(async () => {
    site = await startServedSite('master');
    await start();
  });
  after(async () => {
    await daemon.close();
    await site.close();
  });
  beforeEach(() => writeFile(site.redirectFile, ''));

  const elsewhere: typeof answer = ({ url }, response) =>
    void response.writeHead(302, { Location: `${mirror}${url}` }).end('over there');
  const here: typeof answer = ({ url }, response) =>
    void response.writeHead(200, { 'X-Accel-Redirect': `/.files${url}` }).end();
  const asked = () => daemon.asked.at(-1) ?? assert.fail('it was not asked');

  test('goes where the daemon says, over HTTP and HTTPS, with GET and HEAD', async () => {
    answer = elsewhere;
    for (const scheme of ['http', 'https'] as const) {
      for (const flags of [[], ['-I']]) {
        const { status, headers } = await site.get(scheme, image, ...flags);
        assert.deepEqual([status, headers.location], [302, `${mirror}${image}`]);
        assert.deepEqual([asked().method, asked().url], [flags[0] ? 'HEAD' : 'GET', image]);
      }
    }
  });

  test('queries and encoded names reach the daemon as they were sent', async () => {
    answer = elsewhere;
    for (const path of [`${image}?a=%2F&b`, image.replaceAll(':', '%3A'), `${image}%20%3F`]) {
      await writeFile(join(site.root, imageVersion, 'rootfs.squashfs ?'), '');
      const { headers } = await site.get('https', path);
      assert.deepEqual([asked().url, headers.location], [path, `${mirror}${path}`]);
    }
  });

  test('the daemon hears who asks from nginx, and no certificates', async () => {
    answer = elsewhere;
    const forged = ['X-Real-IP', 'X-Forwarded-For', 'X-SSL-Cert'];
    await site.get('https', image, ...forged.flatMap((name) => ['-H', `${name}: 192.0.2.7`]));
    const { headers } = asked();
    assert.deepEqual(
      [headers['x-real-ip'], headers['x-forwarded-for']],
      ['127.0.0.1', '127.0.0.1'],
    );
    assert.equal(headers['x-ssl-cert'], undefined);
  });

  test('what comes from here is as without a daemon', async () => {
    // No header of the daemon's own is on the file.
    answer = (exchange, response) => {
      response.setHeader('X-Of-Daemon', 'x');
      here(exchange, response);
    };
    const condition = async () => {
      const { headers } = await site.get('https', image);
      return `If-None-Match: ${headers.etag}`;
    };
    const ways = [[], ['-I'], ['-r', '1-2'], ['-r', '9-'], ['-H', await condition()]];
    for (const path of [image, `${image}?x=y`, image.replaceAll(':', '%3A')]) {
      for (const flags of ways) {
        const count = daemon.asked.length;
        const by = await site.get('https', path, ...flags);
        assert.equal(daemon.asked.length, count + 1);
        await rm(site.redirectFile);
        const without = await site.get('https', path, ...flags);
        assert.equal(daemon.asked.length, count + 1);
        await writeFile(site.redirectFile, '');
        assert.deepEqual(timeless(by), timeless(without));
      }
    }
  });

  test('the daemon cannot have nginx send what is no image', async () => {
    const paths = ['/.files/secret.txt', '/.staging/upload', '/secret.txt'];
    const hidden = ['.hidden', 'rootfs.squashfs.part', 'folder/file', 'none'];
    for (const path of [...paths, ...hidden.map((name) => `/.files/${imageVersion}/${name}`)]) {
      answer = (_request, response) =>
        void response.writeHead(200, { 'X-Accel-Redirect': path }).end('not this');
      const { status, body } = await site.get('https', image);
      assert.deepEqual([status, body.includes('secret')], [404, false], path);
    }
    // What nginx does not even look at is as a failure.
    answer = (_request, response) =>
      void response.writeHead(200, { 'X-Accel-Redirect': '/.files/images/../secret.txt' }).end();
    assert.equal((await site.get('https', image)).body, 'root');
  });

  test('the daemon is asked for image files alone, and only for those that are there', async () => {
    answer = elsewhere;
    const count = daemon.asked.length;
    assert.equal((await site.get('https', '/streams/v1/index.json')).body, indexText);
    assert.equal((await site.get('https', '/', '-H', 'Accept: text/html')).status, 200);
    for (const path of [`/${imageVersion}/none`, `/${imageVersion}/`, '/images/', '/.staging/x']) {
      assert.equal((await site.get('https', path)).status, 404);
    }
    for (const method of ['POST', 'DELETE']) {
      const { status, headers } = await site.get('https', image, '-X', method);
      assert.deepEqual([status, headers.allow], [405, 'GET, HEAD']);
    }
    assert.equal(daemon.asked.length, count);
  });

  test('a daemon that fails leaves the file to nginx', async () => {
    for (const status of [400, 403, 404, 500, 502, 503, 504]) {
      answer = (_request, response) => void response.writeHead(status).end('not this');
      const given = await site.get('https', `${image}?a=%2f`);
      assert.deepEqual([given.status, given.body], [200, 'root'], `${status}`);
    }
    answer = (request) => void request.socket.destroy();
    assert.equal((await site.get('https', image)).body, 'root');
    const head = await site.get('https', image, '-I');
    assert.deepEqual([head.status, head.headers['content-length']], [200, '4']);
    assert.equal((await site.get('https', image, '-r', '1-2')).body, 'oo');
    // Silent, it is waited for two seconds.
    answer = () => {};
    assert.equal((await site.get('https', image)).body, 'root');
  });

  test('a daemon that goes and comes back is missed by nobody', async () => {
    answer = elsewhere;
    assert.equal((await site.get('https', image)).status, 302);
    await daemon.close();
    for (const encoded of [image, image.replaceAll(':', '%3A'), `${image}?a=b`]) {
      const { status, body, headers } = await site.get('https', encoded);
      assert.deepEqual([status, body, headers['cache-control']], [200, 'root', 'no-cache']);
    }
    const none = await site.get('https', `/${imageVersion}/.hidden`);
    assert.equal(none.status, 404);
    await start();
    assert.equal((await site.get('https', image)).status, 302);
  });

  test('a client whose certificate has expired is sent there too, or given the file', async () => {
    const expired = await createTestCertificate({ notAfter: new Date(Date.now() - 60_000) });
    const [cert, key] = [join(site.root, '../old.crt'), join(site.root, '../old.key')];
    await writeFile(cert, expired.cert);
    await writeFile(key, expired.key);
    const flags = ['--cert', cert, '--key', key];
    answer = elsewhere;
    const sent = await site.get('https', image, ...flags);
    assert.deepEqual([sent.status, sent.headers.location], [302, `${mirror}${image}`]);
    answer = here;
    assert.equal((await site.get('https', image, ...flags)).body, 'root');
    await daemon.close();
    assert.equal((await site.get('https', image, ...flags)).body, 'root');
    await start();
  });
});

/** Without the time at which it was given, which of HEAD is in what curl prints as well. */
function timeless({ headers: { date: _now, ...headers }, ...answer }: Answer): Answer {
  return { ...answer, headers, body: answer.body.replace(/^date: .*\r\n/m, '') };
}
