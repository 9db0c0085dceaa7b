import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { lstat, readdir, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { WebSocket } from 'ws';
import { groupNumber } from '../../src/server/groups.js';
import { createLocalServer, type LocalServerOptions } from '../../src/server/local.js';
import { ask, makeApi, serveApi } from '../support/api.js';
import { splitImage } from '../support/api-images.js';
import { needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate } from '../support/tls.js';

async function serveLocally(t: TestContext, options: Partial<LocalServerOptions> = {}) {
  const parts = await makeApi(t);
  const runDir = await temporaryFolder(t);
  const server = await createLocalServer({
    ...{ runDir, services: [parts.api], log: parts.log },
    ...options,
  });
  t.after(() => server.close({ graceMs: 0 }));
  return { ...parts, runDir, server, path: server.path };
}

const escaped = (pem: string) => ({ 'X-SSL-Cert': encodeURIComponent(pem) });

test('the socket is for its owner and group, and goes with the server', async (t) => {
  const { runDir, path, server } = await serveLocally(t);
  assert.equal(path, join(runDir, 'http.sock'));
  assert.equal((await stat(path)).mode & 0o777, 0o660);
  assert.deepEqual(await readdir(runDir), ['http.sock']);
  await server.close();
  assert.deepEqual(await readdir(runDir), []);
});

test('the socket is given to a group, and to none that this host does not have', async (t) => {
  const own = process.getgid?.() ?? 0;
  const given = await serveLocally(t, { group: String(own) });
  assert.equal((await stat(given.path)).gid, own);
  const unknown = await serveLocally(t, { group: 'no-such-group' });
  assert.equal((await stat(unknown.path)).gid, own);
  assert.deepEqual(unknown.events, []);
});

test('the socket is given to the group of nginx', needsRoot(), async (t) => {
  const { path } = await serveLocally(t, { group: 'www-data' });
  const found = await stat(path);
  assert.deepEqual([found.gid, found.uid], [await groupNumber('www-data'), 0]);
  assert.equal(found.mode & 0o777, 0o660);
});

test('a group is known by name and by number', async (t) => {
  const file = join(await temporaryFolder(t), 'group');
  await writeFile(file, 'root:x:0:\nwww:x:33:alice,bob\nodd:x:\n');
  const asked = ['root', 'www', '77', 'odd', 'ww', '', 'alice'];
  assert.deepEqual(await Promise.all(asked.map((name) => groupNumber(name, file))), [
    0,
    33,
    77,
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
  assert.equal(await groupNumber('www', join(file, 'none')), undefined);
});

test('a socket at which another server listens is left to it', async (t) => {
  const { runDir, path, log, api } = await serveLocally(t);
  const another = { runDir, services: [api], log };
  await assert.rejects(createLocalServer(another), { code: 'BUSY' });
  assert.ok((await lstat(path)).isSocket());
  assert.equal((await ask(path, '/1.0')).status, 200);
});

test('the API is answered there, and nothing else', async (t) => {
  const { path, library } = await serveLocally(t);
  const { fingerprint } = await library.add(splitImage());
  const list = await ask(path, '/1.0/images');
  assert.deepEqual(list.envelope().metadata, [`/1.0/images/${fingerprint}`]);
  const exported = await ask(path, `/1.0/images/${fingerprint}/export`);
  assert.equal(exported.headers['content-length'], String(exported.bytes.length));
  assert.equal((await ask(path, '/streams/v1/images.json')).status, 404);
  assert.equal((await ask(path, '/status', { method: 'POST', body: 'x' })).status, 404);
});

test('who asks is who nginx says', async (t) => {
  const { path, callers } = await serveLocally(t);
  const [friend, stranger] = await Promise.all([createTestCertificate(), createTestCertificate()]);
  callers.trust('friend', new X509Certificate(friend.cert).raw);
  const authOf = async (headers: Record<string, string>) => {
    const answer = await ask(path, '/1.0', { headers });
    return answer.envelope().metadata.auth as string;
  };
  assert.equal(await authOf(escaped(friend.cert)), 'trusted');
  assert.equal(await authOf(escaped(stranger.cert)), 'untrusted');
  assert.equal(await authOf({}), 'untrusted');
  assert.equal(await authOf({ 'X-SSL-Cert': '' }), 'untrusted');
  for (const text of ['%zz', 'nonsense', escaped(friend.cert)['X-SSL-Cert'].slice(0, 100)]) {
    assert.equal(await authOf({ 'X-SSL-Cert': text }), 'untrusted');
    const headers = { 'X-SSL-Cert': text };
    const answer = await ask(path, '/1.0/operations', { headers });
    assert.equal(answer.status, 403);
    assert.match(answer.envelope().error, /^The client certificate cannot be read: /);
  }
});

test('the address is the one that nginx says, not the one that the client says', async (t) => {
  const addresses: string[] = [];
  const uploads = {
    post: async ({ caller }: { caller: { address: string } }) => {
      addresses.push(caller.address);
      return { kind: 'sync', metadata: null } as const;
    },
  };
  const { api, log } = await makeApi(t, { uploads });
  const { path } = await serveLocally(t, { services: [api], log });
  for (const headers of [
    { 'X-Real-IP': '192.0.2.7', 'X-Forwarded-For': '198.51.100.1' },
    { 'X-Forwarded-For': '198.51.100.1, 2001:db8::1' },
    {},
  ] as const) {
    await ask(path, '/1.0/images', { method: 'POST', headers });
  }
  assert.deepEqual(addresses, ['192.0.2.7', '2001:db8::1', '']);
});

test('on the TLS listener no header says who asks', async (t) => {
  const addresses: string[] = [];
  const uploads = {
    post: async ({ caller }: { caller: { address: string } }) => {
      addresses.push(caller.address);
      return { kind: 'sync', metadata: null } as const;
    },
  };
  const { port, friend, stranger } = await serveApi(t, { api: { uploads } });
  const headers = { ...escaped(friend.cert), 'X-Real-IP': '192.0.2.7' };
  for (const as of [undefined, stranger]) {
    const answer = await ask(port, '/1.0', { headers, ...(as && { as }) });
    assert.equal(answer.envelope().metadata.auth, 'untrusted');
  }
  await ask(port, '/1.0/images', { method: 'POST', headers });
  assert.deepEqual(addresses, ['127.0.0.1']);
});

test('events go over the socket too', async (t) => {
  const { path, callers, operations } = await serveLocally(t);
  const friend = await createTestCertificate();
  callers.trust('friend', new X509Certificate(friend.cert).raw);
  const socket = new WebSocket(`ws+unix:${path}:/1.0/events`, { headers: escaped(friend.cert) });
  await once(socket, 'open');
  const told = once(socket, 'message');
  const { id } = operations.begin({ class: 'token', description: 'x' });
  const [data] = await told;
  assert.equal(JSON.parse(String(data)).metadata.id, id);
  socket.terminate();
});

test('what is no HTTP, and what takes too long, is refused', async (t) => {
  const limits = { headersMs: 50, requestMs: 50 };
  const { path, events } = await serveLocally(t, { limits });
  const said = async (text: string) => {
    const socket = connect(path);
    socket.write(text);
    return Buffer.concat(await socket.toArray()).toString();
  };
  assert.match(await said('nonsense\r\n\r\n'), /^HTTP\/1\.1 400 /);
  assert.match(await said('GET /1.0 HTTP/1.1\r\nHost:'), /^HTTP\/1\.1 408 /);
  const head = 'Host: x\r\nContent-Length: 9\r\n\r\n{';
  const late = await said(`POST /1.0/certificates HTTP/1.1\r\n${head}`);
  assert.match(late, /^HTTP\/1\.1 408 [\s\S]*"error":"This request took too long\."/);
  assert.deepEqual(events, []);
});

test('the end waits for answers on their way, but not for ever', async (t) => {
  const { path, server, operations, callers } = await serveLocally(t);
  const friend = await createTestCertificate();
  callers.trust('friend', new X509Certificate(friend.cert).raw);
  const { id } = operations.begin({ class: 'token', description: 'x' });
  const waiting = ask(path, `/1.0/operations/${id}/wait`, { headers: escaped(friend.cert) });
  const idle = connect(path);
  await once(idle, 'connect');
  while (!(await ask(path, '/1.0')).status);
  const closed = server.close({ graceMs: 60_000 });
  operations.end(id, 'success');
  assert.equal((await waiting).envelope().metadata.status, 'Success');
  await closed;
  assert.equal((await once(idle, 'close'))[0], false);
});
