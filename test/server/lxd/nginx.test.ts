import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { ask } from '../../support/api.js';
import { serveBehindNginx } from '../../support/api-behind-nginx.js';
import { splitImage } from '../../support/api-images.js';
import { needs } from '../../support/programs.js';
import { createTestCertificate } from '../../support/tls.js';

describe('behind nginx', needs('nginx'), () => {
  test('a client is who its certificate says, whatever its headers say', async (t) => {
    const { port, friend, stranger } = await serveBehindNginx(t);
    const headers = { 'X-SSL-Cert': encodeURIComponent(friend.cert) };
    for (const [as, auth] of [
      [friend, 'trusted'],
      [stranger, 'untrusted'],
      [undefined, 'untrusted'],
    ] as const) {
      const answer = await ask(port, '/1.0', { headers, ...(as && { as }) });
      assert.equal(answer.envelope().metadata.auth, auth);
    }
  });

  test('the address of a caller is its own', async (t) => {
    const addresses: string[] = [];
    const { port } = await serveBehindNginx(t, {
      uploads: {
        post: async ({ caller }) => {
          addresses.push(caller.address);
          return { kind: 'sync', metadata: null };
        },
      },
    });
    const headers = { 'X-Real-IP': '192.0.2.7', 'X-Forwarded-For': '192.0.2.7' };
    await ask(port, '/1.0/images', { method: 'POST', headers });
    assert.deepEqual(addresses, ['127.0.0.1']);
  });

  test('a certificate that has expired is judged as any other', async (t) => {
    const { port, site } = await serveBehindNginx(t);
    await writeFile(join(site.root, 'index.html'), '<!doctype html>');
    const as = await createTestCertificate({ notAfter: new Date(Date.now() - 60_000) });
    assert.equal((await ask(port, '/1.0', { as })).envelope().metadata.auth, 'untrusted');
    const post = { method: 'POST', body: { password: 'x' }, as };
    const answer = await ask(port, '/1.0/certificates', post);
    assert.deepEqual(
      [answer.status, answer.envelope().error],
      [403, 'This token is wrong: ask for another'],
    );
    const image = await ask(port, '/1.0/images/aliases/a%2Fb', { as });
    assert.equal(image.envelope().error, 'There is no alias "a/b"');
    const page = await ask(port, '/index.html', { as });
    assert.deepEqual([page.status, page.bytes.toString()], [200, '<!doctype html>']);
    assert.equal((await ask(port, '/.hidden', { as })).status, 404);
  });

  test('names with slashes, and queries, arrive as they were sent', async (t) => {
    const { port, library, friend } = await serveBehindNginx(t);
    const { fingerprint } = await library.add(splitImage());
    const body = { name: 'a b/ü?&', target: fingerprint };
    const add = { method: 'POST', body, as: friend };
    const refused = await ask(port, '/1.0/images/aliases?project=default', add);
    assert.match(refused.envelope().error, /^No alias can be called "a b\/ü\?&"$/);
    const one = await ask(port, '/1.0/images/aliases/debian%2F12?project=default');
    assert.equal(one.envelope().metadata.target, fingerprint);
    assert.equal((await ask(port, '/1.0/images?project=other')).status, 404);
    assert.equal((await ask(port, '/images/a%2Fb')).bytes.toString().includes('nginx'), true);
  });

  test('exports and uploads go through as they come', async (t) => {
    const { port, library } = await serveBehindNginx(t, {
      uploads: {
        post: async ({ body }) => {
          let size = 0;
          for await (const chunk of body) size += (chunk as Buffer).length;
          return { kind: 'sync', metadata: size };
        },
      },
    });
    const { fingerprint } = await library.add(splitImage());
    const exported = await ask(port, `/1.0/images/${fingerprint}/export`);
    assert.equal(exported.headers['content-length'], String(exported.bytes.length));
    assert.equal(exported.status, 200);
    const body = randomBytes(5_000_000);
    const upload = await ask(port, '/1.0/images', { method: 'POST', body });
    assert.equal(upload.envelope().metadata, body.length);
  });

  test('a refusal is read, however much was still to be sent', async (t) => {
    const { port, stranger } = await serveBehindNginx(t);
    const body = Buffer.alloc(20_000_000);
    const way = '/1.0/images/aliases';
    const answer = await ask(port, way, { method: 'POST', body, as: stranger });
    assert.equal(answer.envelope().error, 'Nobody trusts you: ask for a token');
  });

  test('events arrive', async (t) => {
    const { port, friend, operations } = await serveBehindNginx(t);
    const socket = new WebSocket(`wss://127.0.0.1:${port}/1.0/events`, {
      ...{ rejectUnauthorized: false, key: friend.key, cert: friend.cert },
    });
    await once(socket, 'open');
    const told = once(socket, 'message');
    const { id } = operations.begin({ class: 'token', description: 'x' });
    const [data] = await told;
    assert.equal(JSON.parse(String(data)).metadata.id, id);
    socket.terminate();
  });

  test('clients find the version at /, and browsers the page', async (t) => {
    const { port, site } = await serveBehindNginx(t);
    await writeFile(join(site.root, 'index.html'), '<!doctype html>');
    const client = await ask(port, '/');
    assert.equal(client.headers['content-type'], 'application/json');
    assert.deepEqual(client.envelope().metadata, ['/1.0']);
    const browser = await ask(port, '/', { headers: { Accept: 'text/html,*/*;q=0.8' } });
    assert.equal(browser.headers['content-type'], 'text/html; charset=utf-8');
    assert.equal(browser.bytes.toString(), '<!doctype html>');
    for (const { headers } of [client, browser]) assert.equal(headers.vary, 'Accept');
  });

  test('what is published is there without the daemon', async (t) => {
    const { port, site, local } = await serveBehindNginx(t);
    await writeFile(join(site.root, 'index.html'), '<!doctype html>');
    await local.close();
    assert.equal((await ask(port, '/index.html')).status, 200);
    const answer = await ask(port, '/1.0');
    assert.deepEqual(
      [answer.status, answer.envelope().error],
      [503, 'The image server cannot be asked now: its daemon does not answer'],
    );
  });
});
