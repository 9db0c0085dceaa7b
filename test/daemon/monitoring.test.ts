/** What the real daemon tells over HTTP: over HTTPS, at its socket, and through nginx. */
import assert from 'node:assert/strict';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import type { FullStatus } from '../../src/daemon/status.js';
import { ask } from '../support/api.js';
import { findProgram, startServer } from '../support/command.js';
import { type Daemon, daemonConfig, emptyRoot, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { addVersion } from '../support/image-tree.js';
import { listenTo } from '../support/monitored.js';
import { freePort } from '../support/ports.js';
import { needs } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate } from '../support/tls.js';

const near = { headers: { 'X-Real-IP': '127.0.0.1' } };

interface Site {
  root: string;
  port: number;
  socket: string;
  config: string;
  daemon: Daemon;
}

async function setUp(t: TestContext, lines = ''): Promise<Site> {
  const root = await emptyRoot(t);
  const { key, cert } = await createTestCertificate();
  const port = await freePort();
  const [keyFile, certFile] = [join(root, '.key'), join(root, '.cert')];
  await writeFile(keyFile, key, { mode: 0o600 });
  await writeFile(certFile, cert);
  const config = `${lines}
server.listen = "127.0.0.1:${port}"
server.tls_key = ${JSON.stringify(keyFile)}
server.tls_cert = ${JSON.stringify(certFile)}`;
  const daemon = await startDaemon(t, root, { settle: '0s', config });
  return { root, port, config, daemon, socket: join(root, 'run/http.sock') };
}

/** An nginx that hands all to the socket, as its defaults have it. */
async function startProxy(t: TestContext, socket: string): Promise<number> {
  const folder = await temporaryFolder(t);
  const port = await freePort();
  const file = join(folder, 'nginx.conf');
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${folder}/${name};`)
    .join(' ');
  await writeFile(
    file,
    `${process.getuid?.() === 0 ? 'user root;' : ''} daemon off; worker_processes 1;
pid ${folder}/pid; error_log stderr notice; events {}
http { ${temporary} access_log off;
  server { listen unix:${folder}/front.sock; listen 127.0.0.1:${port};
    location / {
      proxy_pass http://unix:${socket};
      proxy_http_version 1.1;
      proxy_set_header X-Real-IP $remote_addr;
    } } }`,
  );
  const line = [findProgram('nginx') ?? 'nginx', '-p', folder, '-c', file, '-e', 'stderr'] as const;
  const server = await startServer(line, { isReady: (said) => said.includes('start worker') });
  t.after(() => server.stop());
  return port;
}

describe('the daemon', () => {
  test('tells its status over HTTPS and at the socket, and that it is well', async (t) => {
    const { root, port, socket } = await setUp(t);
    for (const place of [port, socket]) {
      const { status, envelope } = await ask(place, '/status.json', place === socket ? near : {});
      const { root: told, ready, days } = envelope() as FullStatus;
      assert.deepEqual([status, told, ready, days], [200, root, true, []]);
      assert.equal((await ask(place, '/healthz')).status, 200);
      assert.equal((await ask(place, '/metrics', place === socket ? near : {})).status, 200);
      const page = await ask(place, '/status', place === socket ? near : {});
      assert.match(page.bytes.toString(), /^<!doctype html>[\s\S]*Content-Security-Policy/);
    }
  });

  test('has who may see it follow the configuration', async (t) => {
    const { root, port, config, daemon } = await setUp(t);
    assert.equal((await ask(port, '/status.json')).status, 200);
    const listening = await listenTo(port);
    const lines = `${config}\nserver.status_from = ["192.0.2.0/24"]`;
    await daemonConfig(root, { settle: '0s', config: lines });
    await daemon.call('reload');
    assert.equal((await ask(port, '/status.json')).status, 403);
    assert.equal((await ask(port, '/status/events')).status, 403);
    listening.cut();
  });

  test('tells what it publishes as it does', async (t) => {
    const { root, port } = await setUp(t);
    const listening = await listenTo(port);
    assert.equal((await listening.next())?.event, 'status');
    await addVersion(root, 'a/x/amd64/default/20260101');
    for (;;) {
      const told = await listening.next();
      assert.equal(told?.event, 'change');
      const { catalogue } = (told?.data ?? {}) as Partial<FullStatus>;
      if (catalogue?.versions === 1) break;
    }
    listening.cut();
  });

  test('ends while clients listen, and tells them the end', async (t) => {
    const { port, socket, daemon, root } = await setUp(t);
    const all = await Promise.all([listenTo(port), listenTo(socket, near), listenTo(port)]);
    for (const each of all) await each.next();
    const start = performance.now();
    assert.equal(await daemon.end(), 0);
    t.diagnostic(`ended within ${Math.round(performance.now() - start)} ms`);
    // Whoever is still there when the time for downloads is over is cut.
    const ends = await Promise.all(all.map((each) => each.ended));
    assert.deepEqual(ends, ['end', 'end', 'end']);
    assert.deepEqual(await readdir(join(root, 'run')), []);
  });

  test('is heard through nginx as it speaks, and ends all the same', needs('nginx'), async (t) => {
    const { root, socket, daemon } = await setUp(t);
    const port = await startProxy(t, socket);
    const response = await fetch(`http://127.0.0.1:${port}/status/events`);
    const reader = response.body?.getReader();
    assert.ok(reader);
    let text = '';
    const read = async () => {
      const { done, value } = await reader.read();
      text += Buffer.from(value ?? []).toString();
      return done;
    };
    while (!text.includes('event: status')) assert.equal(await read(), false);
    await addVersion(root, 'a/x/amd64/default/20260101');
    while (!text.includes('"versions":1')) assert.equal(await read(), false);
    const start = performance.now();
    assert.equal(await daemon.end(), 0);
    t.diagnostic(`ended within ${Math.round(performance.now() - start)} ms`);
    while (!(await read()));
  });

  test('notices through nginx that a client has gone', needs('nginx'), async (t) => {
    const { socket } = await setUp(t);
    const port = await startProxy(t, socket);
    for (let times = 0; times < 3; times += 1) {
      const leaving = new AbortController();
      const all = Array.from({ length: 64 }, () =>
        fetch(`http://127.0.0.1:${port}/status/events`, { signal: leaving.signal }),
      );
      const statuses = (await Promise.all(all)).map(({ status }) => status);
      assert.deepEqual(new Set(statuses), new Set([200]));
      leaving.abort();
      await eventually('there is room again', async () => {
        const next = await listenTo(socket, near);
        next.cut();
        return next.status === 200;
      });
      await eventually('all have gone', async () => {
        const some = await Promise.all(Array.from({ length: 64 }, () => listenTo(socket, near)));
        for (const each of some) each.cut();
        return some.every(({ status }) => status === 200);
      });
    }
  });
});
