import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { ImageServerOptions } from '../../src/server/server.js';
import { mirrorUrl, testRedirects } from '../support/redirecting.js';
import { publishDocument, serveTree, sha256, version, writeUnder } from '../support/served-tree.js';
import { rawGet } from '../support/tls.js';

const rootfs = `${version}/rootfs.squashfs`;
const image = randomBytes(10_000);
const wanted = { path: rootfs, sha256: sha256(image), size: image.length };
const location = `${mirrorUrl}/${rootfs}`;

async function serve(t: TestContext, options: Partial<ImageServerOptions> = {}) {
  const redirects = testRedirects();
  const served = await serveTree(t, { [rootfs]: image }, { redirects, ...options });
  return { ...served, redirects };
}

test('a client is sent to the mirror, and no cache keeps that', async (t) => {
  const { port, redirects } = await serve(t);
  const { status, headers, body } = await rawGet(port, `/${rootfs}`);
  const { date: _date, ...expected } = headers;
  assert.equal(status, 302);
  assert.deepEqual(expected, {
    location,
    'cache-control': 'no-store',
    'content-type': 'text/plain; charset=utf-8',
    'content-length': String(body.length),
    connection: 'close',
  });
  assert.equal(body.toString(), `This file is at ${location}\n`);
  assert.deepEqual(redirects.take(), [{ ...wanted, client: '127.0.0.1' }]);
});

test('HEAD gets the head of that and no body', async (t) => {
  const { port } = await serve(t);
  const get = await rawGet(port, `/${rootfs}`);
  const head = await rawGet(port, `/${rootfs}`, { method: 'HEAD' });
  const { date: _get, ...expected } = get.headers;
  const { date: _head, ...found } = head.headers;
  assert.deepEqual({ status: head.status, ...found }, { status: 302, ...expected });
  assert.equal(head.body.length, 0);
});

test('the file is not looked for', async (t) => {
  const { port, root } = await serve(t, { limits: { downloads: 0 } });
  await rm(join(root, rootfs));
  assert.equal((await rawGet(port, `/${rootfs}`)).headers.location, location);
});

test('what no mirror has is sent from here', async (t) => {
  const { port, redirects } = await serve(t);
  redirects.place = () => undefined;
  const { status, body, headers } = await rawGet(port, `/${rootfs}`);
  assert.deepEqual([status, body, headers.location], [200, image, undefined]);
  assert.equal(headers['cache-control'], 'public, max-age=31536000, immutable');
  assert.equal(redirects.take().length, 1);
});

test('without redirects no mirror is looked for, and that can change at any time', async (t) => {
  const { port, redirects } = await serve(t);
  redirects.isEnabled = false;
  assert.equal((await rawGet(port, `/${rootfs}`)).status, 200);
  assert.deepEqual(redirects.take(), []);
  redirects.isEnabled = true;
  assert.equal((await rawGet(port, `/${rootfs}`)).status, 302);
});

test('only what images.json names is looked for on mirrors', async (t) => {
  const { port, root, redirects } = await serve(t);
  const notes = `${version}/notes.txt`;
  await writeUnder(root, notes, 'notes');
  await writeFile(join(root, 'index.html'), 'page');
  for (const path of [notes, '', 'index.html', 'streams/v1/index.json', 'streams/v1/images.json']) {
    assert.equal((await rawGet(port, `/${path}`)).status, 200, path);
  }
  for (const path of [`${version}/none`, 'images', `${version}/rootfs.squashfs.part`]) {
    assert.equal((await rawGet(port, `/${path}`)).status, 404, path);
  }
  assert.equal((await rawGet(port, `/${rootfs}`, { method: 'POST' })).status, 405);
  assert.deepEqual(redirects.take(), []);
});

test('without documents nobody is redirected', async (t) => {
  const { port, root, redirects } = await serve(t);
  await rm(join(root, 'streams/v1/images.json'));
  assert.equal((await rawGet(port, `/${rootfs}`)).status, 200);
  await publishDocument(root, 'images.json', { text: '{' });
  assert.equal((await rawGet(port, `/${rootfs}`)).status, 200);
  assert.deepEqual(redirects.take(), []);
});

const spellings: [name: string, target: string][] = [
  ['a query', `/${rootfs}?to=https://evil.example`],
  ['a fragment', `/${rootfs}#@evil.example`],
  ['percent-encoding', `/${rootfs.replace(':', '%3A').replace('rootfs', '%72ootfs')}`],
  ['an absolute target', `https://evil.example/${rootfs}`],
  ['an absolute target with a user', `http://evil.example@evil.example:99/${rootfs}?x`],
];

for (const [name, target] of spellings) {
  test(`${name} changes nothing of where the client is sent`, async (t) => {
    const { port, redirects } = await serve(t);
    const headers = { Host: 'evil.example', 'X-Forwarded-Host': 'evil.example' };
    const response = await rawGet(port, target, { headers });
    assert.deepEqual([response.status, response.headers.location], [302, location]);
    assert.deepEqual(redirects.take(), [{ ...wanted, client: '127.0.0.1' }]);
  });
}

const hostile = [
  `/${rootfs}%0d%0aSet-Cookie:%20a=b`,
  `/${rootfs}%0aX: y`,
  `//evil.example/${rootfs}`,
  `/\\evil.example/${rootfs}`,
  `/@evil.example/${rootfs}`,
  `/${rootfs}/..`,
  `/${version}/../default/20260103_12:00/rootfs.squashfs`,
  `/${version}/%2e%2e/rootfs.squashfs`,
  `/${version}//rootfs.squashfs`,
  `/${version}%2frootfs.squashfs`,
  `/.files/${rootfs}`,
];

for (const target of hostile) {
  test(`nobody is sent anywhere by ${target}`, async (t) => {
    const { port, redirects } = await serve(t);
    const { status, headers } = await rawGet(port, target);
    assert.ok(status === 400 || status === 404, String(status));
    assert.deepEqual([headers.location, headers['set-cookie']], [undefined, undefined]);
    assert.deepEqual(redirects.take(), []);
  });
}

test('nothing but a URL gets into the head', async (t) => {
  const { port, redirects, events } = await serve(t);
  const places: [place: string, expected: string | undefined][] = [
    [`${mirrorUrl}/a b/é`, `${mirrorUrl}/a%20b/%C3%A9`],
    [`${mirrorUrl}/x\r\nSet-Cookie: a=b`, `${mirrorUrl}/xSet-Cookie:%20a=b`],
    [rootfs, undefined],
  ];
  for (const [place, expected] of places) {
    redirects.place = () => place;
    const { status, headers } = await rawGet(port, `/${rootfs}`);
    assert.deepEqual([status, headers.location], [expected === undefined ? 500 : 302, expected]);
    assert.equal(headers['set-cookie'], undefined);
  }
  assert.equal(events.filter(({ msg }) => msg === 'Cannot answer a request').length, 1);
});

const whole = `"${sha256(image)}"`;
const conditions: [name: string, headers: Record<string, string>, status: number][] = [
  ['a range', { Range: 'bytes=5-9' }, 302],
  ['a range beyond the end', { Range: 'bytes=99999999-' }, 302],
  ['a range of these bytes', { Range: 'bytes=5-9', 'If-Range': whole }, 302],
  ['other bytes', { 'If-None-Match': `"other", "${'0'.repeat(64)}"` }, 302],
  ['a date', { 'If-Modified-Since': new Date(Date.now() + 1e9).toUTCString() }, 302],
  ['these bytes', { 'If-None-Match': `"other", ${whole}` }, 304],
  ['these bytes and a range', { 'If-None-Match': `W/${whole}`, Range: 'bytes=5-9' }, 304],
  ['any bytes', { 'If-None-Match': '*' }, 304],
];

for (const [name, headers, status] of conditions) {
  test(`a client with ${name} gets ${status}`, async (t) => {
    const { port } = await serve(t);
    for (const method of ['GET', 'HEAD']) {
      const response = await rawGet(port, `/${rootfs}`, { method, headers });
      const { location: place, etag } = response.headers;
      const expected = status === 302 ? [302, location, undefined] : [304, undefined, whole];
      assert.deepEqual([response.status, place, etag], expected, method);
    }
  });
}

test('a trusted proxy says for whom it asks, from when it is trusted', async (t) => {
  let proxies: string[] = [];
  const { port, redirects } = await serve(t, { trustedProxies: () => proxies });
  const clientOf = async (headers: Record<string, string>) => {
    assert.equal((await rawGet(port, `/${rootfs}`, { headers })).status, 302);
    return redirects.take()[0]?.client;
  };
  const header = { 'X-Forwarded-For': '203.0.113.9, 198.51.100.7' };
  assert.equal(await clientOf(header), '127.0.0.1');
  proxies = ['127.0.0.0/8'];
  assert.equal(await clientOf(header), '198.51.100.7');
  assert.equal(await clientOf({ 'X-Forwarded-For': '198.51.100.7, nonsense' }), '127.0.0.1');
  assert.equal(await clientOf({}), '127.0.0.1');
});

test('the images may lie in a folder of any name', async (t) => {
  const redirects = testRedirects();
  const path = rootfs.replace('images', 'my images');
  const { root } = await serveTree(t, { [path]: image });
  const dirs = { root, imagesDir: join(root, 'my images'), streamsDir: join(root, 'streams/v1') };
  const { port } = await serveTree(t, {}, { redirects, ...dirs });
  const { headers } = await rawGet(port, `/${path.replace(' ', '%20')}`);
  assert.equal(headers.location, `${mirrorUrl}/${path.replace(' ', '%20')}`);
  assert.equal(redirects.take()[0]?.path, path);
});
