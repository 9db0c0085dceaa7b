import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createDocuments } from '../../src/server/documents.js';
import { createImageRedirects } from '../../src/server/image-redirects.js';
import { createLocalServer } from '../../src/server/local.js';
import { flagPath, keepFlag } from '../../src/server/redirect-flag.js';
import { ask } from '../support/api.js';
import { findProgram, startServer } from '../support/command.js';
import { memoryLog } from '../support/memory-log.js';
import { freePort } from '../support/ports.js';
import { needs } from '../support/programs.js';
import { mirrorUrl, testRedirects } from '../support/redirecting.js';
import {
  imagesDocument,
  publishDocument,
  sha256,
  version,
  writeUnder,
} from '../support/served-tree.js';
import { temporaryFolder } from '../support/temporary.js';

/** With every character that a name may have. */
const rootfs = `${version.replace('default', 'a._:+~@-z')}/root+fs@x~1.squashfs`;
const image = randomBytes(10_000);
const wanted = { path: rootfs, sha256: sha256(image), size: image.length };
const location = `${mirrorUrl}/${rootfs}`;
const escaped = (path: string) => path.split('/').map(encodeURIComponent).join('/');
const accel = `/.files/${escaped(rootfs)}`;

/** A tree with one image, and what tells nginx where it is to be had. */
async function serve(t: TestContext, { images = 'images' } = {}) {
  const folder = await temporaryFolder(t);
  const [root, runDir] = [join(folder, 'root'), join(folder, 'run')];
  const path = rootfs.replace('images', images);
  await mkdir(runDir);
  await writeUnder(root, path, image);
  await publishDocument(root, 'images.json', { text: imagesDocument({ [path]: image }) });
  const { log, events } = memoryLog();
  const redirects = testRedirects();
  const documents = createDocuments({ dir: join(root, 'streams/v1'), log });
  const imagesDir = join(root, images);
  const service = createImageRedirects({ root, imagesDir, documents, redirects });
  const local = await createLocalServer({ runDir, services: [service], log });
  t.after(() => local.close({ graceMs: 0 }));
  return { folder, root, runDir, redirects, local, socket: local.path, events };
}

test('nginx is told the mirror, for the client that it names', async (t) => {
  const { socket, redirects } = await serve(t);
  const clients: [header: string | undefined, client: string][] = [
    ['198.51.100.7', '198.51.100.7'],
    ['::ffff:198.51.100.7', '198.51.100.7'],
    ['2001:db8::7', '2001:db8::7'],
    // What nginx says where it was asked over a socket.
    ['unix:', ''],
    ['nonsense', ''],
    [undefined, ''],
  ];
  for (const [header, client] of clients) {
    const headers = header === undefined ? {} : { 'X-Real-IP': header };
    const answer = await ask(socket, `/${rootfs}`, { headers });
    assert.deepEqual([answer.status, answer.headers.location], [302, location]);
    assert.equal(answer.headers['cache-control'], 'no-store');
    assert.equal(answer.headers['x-accel-redirect'], undefined);
    assert.equal(answer.bytes.toString(), `This file is at ${location}\n`);
    assert.deepEqual(redirects.take(), [{ ...wanted, client }]);
  }
});

test('nginx is told to send what no mirror has, without a head for it', async (t) => {
  const { socket, redirects } = await serve(t);
  const told = async (method: string) => {
    const { status, bytes, headers } = await ask(socket, `/${rootfs}?x=1`, { method });
    const { date: _date, connection: _connection, ...own } = headers;
    assert.deepEqual([status, bytes.length], [200, 0]);
    assert.deepEqual(own, { 'x-accel-redirect': accel, 'content-length': '0' });
  };
  redirects.place = () => undefined;
  for (const method of ['GET', 'HEAD']) await told(method);
  assert.equal(redirects.take().length, 2);
  // The flag may have gone only now.
  redirects.isEnabled = false;
  await told('GET');
  assert.deepEqual(redirects.take(), []);
});

test('nginx is told to look for what images.json does not name', async (t) => {
  const { socket, redirects } = await serve(t);
  const { status, headers } = await ask(socket, `/${version}/notes.txt`);
  assert.deepEqual(
    [status, headers['x-accel-redirect']],
    [200, `/.files/${version.replaceAll(':', '%3A')}/notes.txt`],
  );
  assert.deepEqual(redirects.take(), []);
});

test('HEAD is redirected, without a body; whatever changes things is not for it', async (t) => {
  const { socket, redirects } = await serve(t);
  const head = await ask(socket, `/${rootfs}`, { method: 'HEAD' });
  assert.deepEqual([head.status, head.headers.location, head.bytes.length], [302, location, 0]);
  redirects.take();
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS', 'PROPFIND']) {
    assert.equal((await ask(socket, `/${rootfs}`, { method })).status, 404);
  }
  assert.deepEqual(redirects.take(), []);
});

const hostile = [
  '/images',
  '/images/',
  '/imagesx/a/b/c/d/e',
  `/${version}`,
  `/${version}/`,
  `/${version}/.hidden`,
  `/${version}/%2ehidden`,
  `/${version}/x.part`,
  `/${version}/%2e%2e`,
  `/${version}/../../../../../../etc/passwd`,
  `/${version}/a%2fb`,
  `/${version}/a%0d%0aX-Accel-Redirect:%20x`,
  `/${version}/a%00`,
  `/${version}/%zz`,
  `/${version}/%ff`,
  `/${version}//x`,
  `//${version}/x`,
  '/.files/images/a/b/c/d/e/f',
  '/streams/v1/images.json',
  '/index.html',
  '/',
];

for (const target of hostile) {
  test(`nothing is told of ${target}`, async (t) => {
    const { socket, redirects, events } = await serve(t);
    const { status, headers, bytes } = await ask(socket, target);
    assert.deepEqual([status, bytes.toString()], [404, 'Nothing is published here.\n']);
    assert.deepEqual([headers['x-accel-redirect'], headers.location], [undefined, undefined]);
    assert.deepEqual([redirects.take(), events], [[], []]);
  });
}

/** A site as small as can be, that asks while the flag is there. */
const site = (
  { folder, root, runDir, socket }: Awaited<ReturnType<typeof serve>>,
  port: number,
) => `
daemon off;
worker_processes 1;
pid ${folder}/nginx.pid;
error_log stderr notice;
${process.getuid?.() === 0 ? 'user root;' : ''}
events {}
http {
  access_log off;
  ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`).join(' ')}
  server {
    listen 127.0.0.1:${port};
    root "${root}";
    location / {
      error_page 418 = @daemon;
      if (-e "${flagPath(runDir)}") { return 418; }
      add_header X-From plain;
    }
    location @daemon {
      proxy_set_header X-Real-IP $remote_addr;
      proxy_pass "http://unix:${socket}:$request_uri";
    }
    location /.files/ {
      internal;
      default_type application/octet-stream;
      add_header X-From daemon;
      alias "${root}/";
    }
  }
}
`;

async function startNginx(t: TestContext, parts: Awaited<ReturnType<typeof serve>>) {
  const port = await freePort();
  const config = join(parts.folder, 'nginx.conf');
  await writeFile(config, site(parts, port));
  const line = [findProgram('nginx') ?? 'nginx', '-p', parts.folder, '-c', config, '-e', 'stderr'];
  const isReady = (said: string) => said.includes('start worker process');
  const nginx = await startServer(line as [string, ...string[]], { isReady });
  t.after(() => nginx.stop());
  return async (path: string, init: RequestInit = {}) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, {
      redirect: 'manual',
      ...init,
    });
    const bytes = Buffer.from(await response.arrayBuffer());
    return { status: response.status, headers: response.headers, bytes };
  };
}

for (const images of ['images', 'my images 100% ü?#\'"']) {
  test(
    `nginx sends the files below ${images} itself, or the client to a mirror`,
    needs('nginx'),
    async (t) => {
      const parts = await serve(t, { images });
      const { runDir, redirects } = parts;
      const get = await startNginx(t, parts);
      const url = `/${encodeURIComponent(images)}${rootfs.slice('images'.length)}`;
      const flag = keepFlag({ runDir, enabled: redirects.enabled });

      const before = await get(url);
      assert.deepEqual([before.status, before.headers.get('x-from')], [200, 'plain']);
      await flag.refresh();

      redirects.place = ({ path }) => `${mirrorUrl}/${escaped(path)}`;
      const sent = await get(url);
      const place = `${mirrorUrl}/${escaped(rootfs.replace('images', images))}`;
      assert.deepEqual([sent.status, sent.headers.get('location')], [302, new URL(place).href]);
      assert.equal(redirects.take()[0]?.client, '127.0.0.1');

      redirects.place = () => undefined;
      const whole = await get(url);
      assert.deepEqual([whole.status, whole.bytes], [200, image]);
      assert.equal(whole.headers.get('x-from'), 'daemon');
      assert.equal(whole.headers.get('content-type'), 'application/octet-stream');
      const part = await get(url, { headers: { Range: 'bytes=5-9' } });
      assert.deepEqual([part.status, part.bytes], [206, image.subarray(5, 10)]);
      const etag = whole.headers.get('etag') ?? '';
      assert.equal((await get(url, { headers: { 'If-None-Match': etag } })).status, 304);
      const head = await get(url, { method: 'HEAD' });
      assert.deepEqual([head.status, head.headers.get('content-length')], [200, '10000']);
      assert.equal((await get(`${url}x`)).status, 404);
      assert.equal((await get(`/.files${url}`)).status, 404);

      await flag.close();
      assert.equal((await get(url)).headers.get('x-from'), 'plain');
    },
  );
}
