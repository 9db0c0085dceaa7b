import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { chmod, mkdir, rename, symlink, truncate, writeFile } from 'node:fs/promises';
import { connect as connectTcp } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { systemCode } from '../../src/errors.js';
import { createImageServer } from '../../src/server/server.js';
import { serveTree, sha256, version, writeUnder } from '../support/served-tree.js';
import { connectTls, createTestCertificate, rawGet, rawRequest } from '../support/tls.js';

const rootfs = `${version}/rootfs.squashfs`;
const image = randomBytes(300_000);
const canary = 'canary-that-must-not-sing';

test('a published image is sent whole, as what never changes', async (t) => {
  const { port } = await serveTree(t, { [rootfs]: image });
  const response = await rawGet(port, `/${rootfs}`);
  assert.equal(response.status, 200);
  assert.deepEqual(response.body, image);
  assert.equal(response.headers.etag, `"${sha256(image)}"`);
  assert.equal(response.headers['cache-control'], 'public, max-age=31536000, immutable');
  assert.equal(response.headers['content-length'], String(image.length));
  assert.equal(response.headers['accept-ranges'], 'bytes');
});

test('an image larger than many pieces arrives as it is', async (t) => {
  const large = randomBytes(9 * 1024 * 1024 + 17);
  const { port } = await serveTree(t, { [rootfs]: large });
  const { body } = await rawGet(port, `/${rootfs}`);
  assert.equal(sha256(body), sha256(large));
});

test('an empty file is sent as such', async (t) => {
  const { port } = await serveTree(t, { [rootfs]: '' });
  const response = await rawGet(port, `/${rootfs}`);
  assert.deepEqual([response.status, response.headers['content-length']], [200, '0']);
});

test('a file that images.json does not name, or names with another size, is not immutable', async (t) => {
  const { port, root } = await serveTree(t, { [rootfs]: image });
  await writeUnder(root, rootfs, image.subarray(1));
  await writeUnder(root, `${version}/notes.txt`, 'notes');
  for (const path of [rootfs, `${version}/notes.txt`]) {
    const { status, headers } = await rawGet(port, `/${path}`);
    assert.equal(status, 200);
    assert.match(headers.etag ?? '', /^W\/"/);
    assert.equal(headers['cache-control'], 'no-cache');
  }
});

const parts: { range: string; ifRange?: string; status: number; span?: [number, number] }[] = [
  { range: 'bytes=0-0', status: 206, span: [0, 0] },
  { range: 'bytes=299990-', status: 206, span: [299_990, 299_999] },
  { range: 'bytes=-5', status: 206, span: [299_995, 299_999] },
  { range: 'bytes=65536-200000', status: 206, span: [65_536, 200_000] },
  { range: 'bytes=0-0', ifRange: `"${sha256(image)}"`, status: 206, span: [0, 0] },
  { range: 'bytes=0-0', ifRange: '"other"', status: 200 },
  { range: 'bytes=0-0,2-3', status: 200 },
  { range: 'bytes=nonsense', status: 200 },
  { range: 'bytes=300000-', status: 416 },
];

test('ranges of an image are the bytes that they name', async (t) => {
  const { port } = await serveTree(t, { [rootfs]: image });
  for (const { range, ifRange, status, span } of parts) {
    const headers = { Range: range, ...(ifRange === undefined ? {} : { 'If-Range': ifRange }) };
    const response = await rawGet(port, `/${rootfs}`, { headers });
    assert.equal(response.status, status, range);
    if (status === 416) assert.equal(response.headers['content-range'], 'bytes */300000');
    if (status === 200) assert.deepEqual(response.body, image);
    if (span === undefined) continue;
    assert.equal(response.headers['content-range'], `bytes ${span[0]}-${span[1]}/300000`);
    assert.equal(response.headers['content-length'], String(span[1] - span[0] + 1));
    assert.deepEqual(response.body, image.subarray(span[0], span[1] + 1));
  }
});

test('HEAD gives the head of a GET, ranges or not, and no body', async (t) => {
  const { port } = await serveTree(t, { [rootfs]: image });
  for (const path of [
    `/${rootfs}`,
    '/streams/v1/index.json',
    '/streams/v1/images.json',
    '/',
    '/none',
  ]) {
    const get = await rawGet(port, path);
    const head = await rawGet(port, path, { method: 'HEAD', headers: { Range: 'bytes=0-0' } });
    const { date: _get, ...expected } = get.headers;
    const { date: _head, ...found } = head.headers;
    assert.deepEqual({ status: head.status, ...found }, { status: get.status, ...expected });
    assert.equal(head.body.length, 0);
  }
});

test('a client that has the bytes gets 304', async (t) => {
  const { port } = await serveTree(t, { [rootfs]: image });
  for (const path of [`/${rootfs}`, '/streams/v1/images.json']) {
    const { headers } = await rawGet(port, path);
    const known = [
      { 'If-None-Match': headers.etag ?? '' },
      { 'If-Modified-Since': headers['last-modified'] ?? '' },
    ];
    for (const condition of known) {
      const response = await rawGet(port, path, { headers: condition });
      assert.deepEqual([response.status, response.body.length], [304, 0]);
      assert.equal(response.headers.etag, headers.etag);
      assert.equal(response.headers['content-type'], undefined);
    }
  }
});

test('only GET and HEAD are allowed', async (t) => {
  const { port } = await serveTree(t, { [rootfs]: image });
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'TRACE', 'PROPFIND']) {
    for (const path of ['/', `/${rootfs}`, '/nothing/here']) {
      const { status, headers } = await rawGet(port, path, { method });
      assert.deepEqual([status, headers.allow], [405, 'GET, HEAD'], `${method} ${path}`);
    }
  }
});

test('a body is not waited for', async (t) => {
  const { port } = await serveTree(t);
  const head = 'POST /images HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n';
  const { status } = await rawRequest(port, `${head}Content-Length: 99999999\r\n\r\nabc`);
  assert.equal(status, 405);
});

const folder = `/${version}`;
const hostile = [
  '/../canary',
  '/images/../../canary',
  `${folder}/../../../../../../../canary`,
  `${folder}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/canary`,
  `${folder}/..%2f..%2f..%2f..%2f..%2f..%2f..%2fcanary`,
  `${folder}/..%5c..%5ccanary`,
  `${folder}/%252e%252e%252fcanary`,
  `${folder}/rootfs.squashfs%00`,
  `${folder}/rootfs.squashfs%0a`,
  `${folder}/rootfs.squashfs/`,
  `${folder}/./rootfs.squashfs`,
  `${folder}//rootfs.squashfs`,
  `${folder}/.hidden`,
  `${folder}/%2ehidden`,
  `${folder}/upload.part`,
  `${folder}/%ff%fe`,
  `${folder}/%e0%80%ae`,
  `${folder}/%`,
  `${folder}/%zz`,
  `${folder}/\xff\xfe`,
  `${folder}/escape`,
  `${folder}/absolute`,
  `${folder}/loop`,
  `${folder}/fifo`,
  `${folder}/null`,
  `${folder}/folder`,
  `${folder}/staged`,
  '/images/ubuntu/24.04/amd64/away/20260103/canary',
  '/images/ubuntu/24.04/amd64/default/product.yaml',
  folder,
  `${folder}/`,
  '/images',
  '/images/',
  '/streams',
  '/streams/v1/',
  '/streams/v1/secret.json',
  '/.staging/canary',
  '/canary',
  '/etc/passwd',
  'https://localhost/../canary',
  'file:///etc/passwd',
  '\\..\\canary',
  `/${'a/'.repeat(3000)}`,
  `${folder}/${'a'.repeat(5000)}`,
  `/${'a'.repeat(100_000)}`,
];

test('no request reaches anything but what is published', async (t) => {
  const { port, root } = await serveTree(t, { [rootfs]: image }, {});
  await writeFile(join(root, 'canary'), canary);
  await writeUnder(root, '.staging/canary', canary);
  await writeUnder(root, 'streams/v1/secret.json', canary);
  await writeUnder(root, 'images/ubuntu/24.04/amd64/default/product.yaml', canary);
  for (const name of ['.hidden', 'upload.part'])
    await writeUnder(root, `${version}/${name}`, canary);
  const at = (name: string) => join(root, version, name);
  await symlink('../../../../../../canary', at('escape'));
  await symlink('/etc/passwd', at('absolute'));
  await symlink('loop', at('loop'));
  await symlink('/dev/null', at('null'));
  await symlink('.hidden', at('staged'));
  await mkdir(at('folder'));
  execFileSync('mkfifo', [at('fifo')]);
  await writeUnder(root, 'outside/20260103/canary', canary);
  await symlink('../../../../outside', join(root, 'images/ubuntu/24.04/amd64/away'));
  for (const target of hostile) {
    const { status, body } = await rawGet(port, target);
    assert.ok([0, 400, 404, 431].includes(status), `${status} for ${target.slice(0, 80)}`);
    assert.ok(!body.includes(canary) && !body.includes('root:'), target);
    assert.ok(body.toString().trimEnd().split('\n').length === 1, target);
  }
});

test('a link that stays among the images is followed', async (t) => {
  const { port, root } = await serveTree(t, { [rootfs]: image });
  await symlink('default', join(root, 'images/ubuntu/24.04/amd64/alias'));
  const { status, body } = await rawGet(port, `/${rootfs.replace('default', 'alias')}`);
  assert.equal(status, 200);
  assert.deepEqual(body, image);
});

test('the images folder itself may be reached by a link', async (t) => {
  const { port, root } = await serveTree(t, { [rootfs]: image });
  await rename(join(root, 'images'), join(root, 'elsewhere'));
  await symlink('elsewhere', join(root, 'images'));
  const { status, headers } = await rawGet(port, `/${rootfs}`);
  assert.deepEqual([status, headers.etag], [200, `"${sha256(image)}"`]);
});

test('a file that becomes shorter while it is sent is cut, never padded, and reported once', async (t) => {
  const large = Buffer.alloc(64 * 1024 * 1024, 7);
  const { port, root, events } = await serveTree(t, { [rootfs]: large });
  const socket = await connectTls(port);
  socket.write(`GET /${rootfs} HTTP/1.1\r\nHost: x\r\n\r\n`);
  await once(socket, 'readable');
  await truncate(join(root, rootfs), 1024);
  let received = 0;
  socket.on('data', (chunk: Buffer) => {
    received += chunk.length;
  });
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('close', resolve));
  assert.ok(received < large.length);
  const reports = events.filter(({ level }) => level === 50);
  assert.equal(reports.length, 1);
  assert.match(String(reports[0]?.msg), /shorter/);
});

test('an unreadable file is answered with its reason and reported', async (t) => {
  const { port, root, events } = await serveTree(t, { [rootfs]: image });
  await chmod(join(root, rootfs), 0o000);
  const isRoot = process.geteuid?.() === 0;
  if (isRoot) process.seteuid?.(65_534);
  const { status, body } = await rawGet(port, `/${rootfs}`).finally(() => {
    if (isRoot) process.seteuid?.(0);
  });
  assert.deepEqual([status, body.toString()], [500, 'This cannot be read: permission denied.\n']);
  assert.equal(events.filter(({ level, path }) => level === 50 && path === `/${rootfs}`).length, 1);
});

test('the front page is index.html, or says how to add the server', async (t) => {
  const { port, root } = await serveTree(t);
  const without = await rawGet(port, '/');
  assert.equal(without.status, 200);
  assert.match(without.body.toString(), /lxc remote add/);
  assert.equal((await rawGet(port, '/index.html')).status, 404);
  await writeFile(join(root, 'index.html'), '<!doctype html>');
  for (const path of ['/', '/index.html']) {
    const { status, headers, body } = await rawGet(port, path);
    assert.deepEqual([status, body.toString()], [200, '<!doctype html>']);
    assert.equal(headers['content-type'], 'text/html; charset=utf-8');
    assert.equal(headers['cache-control'], 'no-cache');
  }
});

test('more downloads than there are files to open get 503, and the log says so once', async (t) => {
  const { port, events } = await serveTree(t, { [rootfs]: image }, { limits: { downloads: 0 } });
  for (let count = 0; count < 3; count++) {
    const { status, headers } = await rawGet(port, `/${rootfs}`);
    assert.deepEqual([status, headers['retry-after']], [503, '60']);
  }
  assert.equal(events.filter(({ level }) => level === 40).length, 1);
});

/** `count` requests for the image, to be sent without waiting for an answer. */
const pipelined = (count: number) => `GET /${rootfs} HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(count);

test('of requests sent without waiting four are answered, and no file is opened for more', async (t) => {
  const { port, events } = await serveTree(t, { [rootfs]: image }, { limits: { downloads: 4 } });
  const socket = await connectTls(port);
  socket.write(pipelined(20));
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString('latin1');
  const heads = [...text.matchAll(/HTTP\/1\.1 (\d+) [\s\S]*?\r\n\r\n/g)];
  const statuses = heads.map(([, status]) => status);
  assert.deepEqual(statuses, ['200', '200', '200', '200', '503']);
  assert.match(heads.at(-1)?.[0] ?? '', /^connection: close\r$/im);
  assert.deepEqual(
    events.filter(({ level }) => level === 40),
    [],
  );
});

test('behind a refused request no more are read', async (t) => {
  const large = Buffer.alloc(32 * 1024 * 1024);
  const { port, root, events } = await serveTree(t, { [rootfs]: large });
  const socket = await connectTls(port);
  socket.write(pipelined(20_000));
  await until(() => timesOpen(join(root, rootfs)) === 4);
  for (let count = 0; count < 5; count++) await rawGet(port, `/${rootfs}`);
  socket.destroy();
  await until(() => timesOpen(join(root, rootfs)) === 0);
  assert.ok(events.filter(({ msg }) => msg === 'Request').length < 5000);
});

test('requests one after another share a connection, however many', async (t) => {
  const { port } = await serveTree(t, { [rootfs]: '' });
  const socket = await connectTls(port);
  for (let count = 0; count < 10; count++) {
    socket.write(pipelined(1));
    const [answer] = (await once(socket, 'data')) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1\.1 200 /);
  }
  socket.destroy();
});

test('when a client leaves, the files of all its requests are closed, and nothing waits for them', async (t) => {
  const large = Buffer.alloc(32 * 1024 * 1024);
  const { port, root, server, events } = await serveTree(t, { [rootfs]: large });
  const socket = await connectTls(port);
  socket.write(pipelined(4));
  await once(socket, 'readable');
  await until(() => timesOpen(join(root, rootfs)) === 4);
  socket.destroy();
  await until(() => timesOpen(join(root, rootfs)) === 0);
  const requests = events.filter(({ msg }) => msg === 'Request');
  assert.deepEqual(
    requests.map(({ complete }) => complete),
    [false, false, false, false],
  );
  await server.close({ graceMs: 600_000 });
});

/** How many descriptors this process has of a file. */
function timesOpen(path: string): number {
  const links = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch (error) {
      // Closed since: the folder's own descriptor always, others by threads at any moment.
      if (systemCode(error) === 'ENOENT') return '';
      throw error;
    }
  });
  return links.filter((link) => link === path).length;
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

test('each request is one event at debug level', async (t) => {
  const { port, events } = await serveTree(t, { [rootfs]: image });
  await rawGet(port, `/${rootfs}`);
  const [event, ...more] = events.filter(({ msg }) => msg === 'Request');
  assert.equal(more.length, 0);
  const { method, path, status, complete, bytes } = event ?? {};
  assert.deepEqual(
    { method, path, status, complete },
    { method: 'GET', path: `/${rootfs}`, status: 200, complete: true },
  );
  assert.ok(Number(bytes) > image.length);
});

for (const options of [['--tls-max', '1.2'], ['--tlsv1.3'], ['-0']]) {
  test(`curl ${options.join(' ')} gets the image, with the colon raw`, async (t) => {
    const { server } = await serveTree(t, { [rootfs]: image });
    const args = ['-sSfk', '--noproxy', '*', ...options, `${server.url}/${rootfs}`];
    const { stdout } = await promisify(execFile)('curl', args, { encoding: 'buffer' });
    assert.deepEqual(stdout, image);
  });
}

test('TLS 1.1 is refused', async (t) => {
  const { server } = await serveTree(t);
  const args = [
    '-sSk',
    '--noproxy',
    '*',
    '--tlsv1.0',
    '--tls-max',
    '1.1',
    '--ciphers',
    'DEFAULT@SECLEVEL=0',
    server.url,
  ];
  await assert.rejects(promisify(execFile)('curl', args), { code: 35 });
});

test('connections that are slow to begin are cut', async (t) => {
  const limits = { handshakeMs: 50, headersMs: 50, requestMs: 50 };
  const { port } = await serveTree(t, {}, { limits });
  const silent = connectTcp(port, '127.0.0.1').resume();
  silent.on('error', () => {});
  const wordless = (await connectTls(port)).resume();
  const halting = await connectTls(port);
  halting.resume().write('GET / HTTP/1.1\r\nHost:');
  for (const socket of [wordless, halting]) socket.on('error', () => {});
  await Promise.all(
    [silent, wordless, halting].map(
      (socket) => new Promise((resolve) => socket.once('close', resolve)),
    ),
  );
});

test('a download that nobody takes is cut', async (t) => {
  const large = Buffer.alloc(32 * 1024 * 1024);
  const { port, events } = await serveTree(t, { [rootfs]: large }, { limits: { stallMs: 100 } });
  const socket = await connectTls(port);
  socket.on('error', () => {});
  socket.write(`GET /${rootfs} HTTP/1.1\r\nHost: x\r\n\r\n`);
  await once(socket, 'readable');
  await until(() => events.some(({ msg }) => msg === 'Request'));
  assert.equal(events.find(({ msg }) => msg === 'Request')?.complete, false);
  socket.destroy();
});

test('closing lets a download finish, and cuts silent connections', async (t) => {
  const large = randomBytes(32 * 1024 * 1024);
  const { port, server } = await serveTree(t, { [rootfs]: large });
  const silent = connectTcp(port, '127.0.0.1');
  await once(silent, 'connect');
  const socket = await connectTls(port);
  socket.write(`GET /${rootfs} HTTP/1.1\r\nHost: x\r\n\r\n`);
  await once(socket, 'readable');
  const closing = server.close({ graceMs: 600_000 });
  let received = 0;
  for await (const chunk of socket) received += (chunk as Buffer).length;
  assert.ok(received > large.length);
  await closing;
  silent.destroy();
  await assert.rejects(connectTls(port), { code: 'ECONNREFUSED' });
});

test('closing cuts what has not finished in time', async (t) => {
  const { port, server } = await serveTree(t, { [rootfs]: Buffer.alloc(32 * 1024 * 1024) });
  const socket = await connectTls(port);
  socket.on('error', () => {});
  socket.write(`GET /${rootfs} HTTP/1.1\r\nHost: x\r\n\r\n`);
  await once(socket, 'readable');
  await server.close({ graceMs: 10 });
  socket.destroy();
});

test('a port in use, a bad certificate and images outside of the root are told apart', async (t) => {
  const { root, server, port } = await serveTree(t);
  assert.equal(server.url, `https://127.0.0.1:${port}`);
  const certificate = await createTestCertificate();
  const options = {
    listen: '127.0.0.1:0',
    root,
    imagesDir: join(root, 'images'),
    streamsDir: join(root, 'streams/v1'),
    certificate,
    log: pino({ level: 'silent' }),
  };
  const other = await createTestCertificate();
  const failures = [
    { change: { listen: `127.0.0.1:${port}` }, code: 'BUSY' },
    { change: { certificate: { key: other.key, cert: certificate.cert } }, code: 'TLS' },
    { change: { certificate: { key: 'x', cert: 'y' } }, code: 'TLS' },
    { change: { imagesDir: '/elsewhere' }, code: 'CONFIG' },
    { change: { listen: 'everywhere' }, code: 'CONFIG' },
  ];
  for (const { change, code } of failures) {
    await assert.rejects(createImageServer({ ...options, ...change }), {
      name: 'ServerError',
      code,
    });
  }
});

test('all addresses means IPv4 and IPv6', async (t) => {
  const { port } = await serveTree(t, {}, { listen: ':0' });
  assert.equal((await rawGet(port, '/')).status, 200);
});

test('the port is free from the moment that closing begins', async (t) => {
  const { port, server } = await serveTree(t);
  const closing = server.close();
  await assert.rejects(connectTls(port), { code: 'ECONNREFUSED' });
  await closing;
});
