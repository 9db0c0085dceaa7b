import assert from 'node:assert/strict';
import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ServerError } from '../../../src/errors.js';
import { type ApiServer, ask, serveApi } from '../../support/api.js';
import { splitImage, vmImage } from '../../support/api-images.js';
import { memoryLog } from '../../support/memory-log.js';
import { rawRequest } from '../../support/tls.js';

const fingerprintOf = (der: Uint8Array) => createHash('sha256').update(der).digest('hex');
const owner = (server: ApiServer) => ({ as: server.friend });

describe('the server', () => {
  test('tells clients its version at /, and browsers what the page is', async (t) => {
    const { port, root } = await serveApi(t);
    await writeFile(join(root, 'index.html'), '<!doctype html>');
    for (const headers of [{}, { Accept: '*/*' }, { Accept: 'application/json' }] as const) {
      const answer = await ask(port, '/', { headers });
      assert.equal(answer.status, 200);
      assert.deepEqual(answer.envelope(), {
        type: 'sync',
        status: 'Success',
        status_code: 200,
        operation: '',
        error_code: 0,
        error: '',
        metadata: ['/1.0'],
      });
    }
    const browser = { Accept: 'text/html,application/xhtml+xml,*/*;q=0.8' };
    const page = await ask(port, '/', { headers: browser });
    assert.equal(page.bytes.toString(), '<!doctype html>');
  });

  test('says who asks, and more of itself to who is trusted', async (t) => {
    const server = await serveApi(t);
    const { port, friend, stranger } = server;
    for (const as of [undefined, stranger]) {
      const { metadata } = (await ask(port, '/1.0', as && { as })).envelope();
      assert.deepEqual(metadata, {
        api_extensions: ['api_filtering', 'image_create_aliases', 'image_force_refresh'],
        api_status: 'stable',
        api_version: '1.0',
        auth: 'untrusted',
        public: false,
        auth_methods: ['tls'],
      });
    }
    const { metadata } = (await ask(port, '/1.0/?project=default', { as: friend })).envelope();
    assert.deepEqual(
      [metadata.auth, metadata.public, metadata.config, metadata.environment],
      [
        'trusted',
        false,
        {},
        {
          addresses: [],
          architectures: [],
          server: 'lxd-image-server',
          server_version: '1.2.3',
          certificate: server.server.cert,
          certificate_fingerprint: fingerprintOf(server.server.der),
        },
      ],
    );
  });

  test('takes no more from strangers who want to be let in than a token can have', async (t) => {
    const { port, stranger } = await serveApi(t);
    const ofLength = (length: number) =>
      ask(port, '/1.0/certificates', {
        ...{ method: 'POST', as: stranger },
        body: { password: 'x'.repeat(length) },
      });
    assert.equal((await ofLength(16_384)).status, 403);
    assert.equal((await ofLength(40_000)).status, 413);
  });

  test('lets in whoever brings a token, and again', async (t) => {
    const { port, callers, server, stranger } = await serveApi(t);
    const token = () => callers.token('me', { port, serverCertificate: server.der });
    const fingerprint = fingerprintOf(new X509Certificate(stranger.cert).raw);
    const bodies = [
      { type: 'client', certificate: '', password: token() },
      { type: '', password: token() },
      { trust_token: token(), name: null },
      {},
      '',
    ];
    for (const body of bodies) {
      const answer = await ask(port, '/1.0/certificates', { method: 'POST', body, as: stranger });
      assert.equal(answer.status, 201, JSON.stringify(answer.envelope()));
      assert.equal(answer.headers.location, `/1.0/certificates/${fingerprint}`);
    }
    const own = (await ask(port, `/1.0/certificates/${fingerprint}`, { as: stranger })).envelope();
    assert.deepEqual([own.metadata.name, own.metadata.type], ['me', 'client']);
    assert.equal(
      new X509Certificate(own.metadata.certificate).fingerprint256,
      new X509Certificate(stranger.cert).fingerprint256,
    );
    const list = (await ask(port, '/1.0/certificates', { as: stranger })).envelope();
    assert.deepEqual(list.metadata, [`/1.0/certificates/${fingerprint}`]);
  });

  const refused: { name: string; body: object; shown: boolean; says: RegExp }[] = [
    { name: 'a wrong token', body: { password: 'x' }, shown: true, says: /^This token is wrong: / },
    { name: 'no token', body: {}, shown: true, says: /^Nobody trusts you: ask for a token$/ },
    {
      name: 'no certificate',
      body: { password: 'x' },
      shown: false,
      says: /^Only clients that this server trusts may do this: have its administrator run "lxd-image-server trust add NAME"/,
    },
    {
      name: "another's certificate",
      body: { certificate: 'MII', password: 'x' },
      shown: true,
      says: /trust add NAME --certificate FILE/,
    },
  ];
  for (const { name, body, shown, says } of refused) {
    test(`lets nobody in who brings ${name}`, async (t) => {
      const { port, stranger } = await serveApi(t);
      const as = shown ? { as: stranger } : {};
      const answer = await ask(port, '/1.0/certificates', { method: 'POST', body, ...as });
      assert.equal(answer.status, 403);
      const { type, error, error_code } = answer.envelope();
      assert.deepEqual([type, error_code], ['error', 403]);
      assert.match(error, says);
    });
  }

  test('has one project', async (t) => {
    const { port } = await serveApi(t);
    const projects = await ask(port, '/1.0/projects');
    assert.deepEqual(projects.envelope().metadata, ['/1.0/projects/default']);
    assert.equal((await ask(port, '/1.0/projects/default')).envelope().metadata.name, 'default');
    const other = await ask(port, '/1.0/images?project=other');
    assert.equal(other.status, 404);
    assert.equal(
      other.envelope().error,
      'This is an image server: it has no project but "default"',
    );
  });

  test('is told from a whole LXD by what it does not have', async (t) => {
    const { port, friend } = await serveApi(t);
    const outside = ['/1.0/instances', '/1.0/containers/x/exec', '/1.0/images/a/b/c', '/1.0//'];
    for (const path of outside) {
      for (const method of ['GET', 'POST', 'PROPFIND']) {
        const answer = await ask(port, path, { method, as: friend });
        assert.equal(answer.status, 404, `${method} ${path}`);
        assert.match(answer.envelope().error, /^This is an image server: it has images, aliases/);
      }
    }
    assert.equal((await ask(port, '/1.0x')).bytes.toString(), 'Nothing is published here.\n');
  });
});

describe('images', () => {
  test('have no time that clients cannot read', async (t) => {
    const server = await serveApi(t);
    const { fingerprint } = await server.library.add(splitImage());
    const body = { expires_at: '+275760-09-13T00:00:00Z' };
    const path = `/1.0/images/${fingerprint}`;
    await ask(server.port, path, { method: 'PATCH', body, ...owner(server) });
    const { metadata } = (await ask(server.port, path)).envelope();
    assert.equal(metadata.expires_at, '9999-12-31T23:59:59.000Z');
  });

  test('are listed for anyone, by their names or whole', async (t) => {
    const { port, library } = await serveApi(t);
    const { fingerprint } = await library.add(splitImage());
    const names = (await ask(port, '/1.0/images?recursion=0&filter=x')).envelope();
    assert.deepEqual(names.metadata, [`/1.0/images/${fingerprint}`]);
    const [image] = (await ask(port, '/1.0/images?recursion=1')).envelope().metadata;
    assert.deepEqual(image, {
      auto_update: false,
      properties: { os: 'Debian', description: 'Debian 12' },
      public: true,
      expires_at: '1970-01-01T00:00:00.000Z',
      profiles: ['default'],
      aliases: [
        { name: 'debian/12', description: '' },
        { name: 'd12', description: '' },
      ],
      architecture: 'x86_64',
      cached: false,
      filename: `meta-${fingerprint}.tar.xz`,
      fingerprint,
      size: 301_000,
      type: 'container',
      created_at: '2026-01-03T12:00:00.000Z',
      last_used_at: '1970-01-01T00:00:00.000Z',
      uploaded_at: '2026-01-03T12:00:01.000Z',
      project: 'default',
    });
    const one = await ask(port, `/1.0/images/${fingerprint.slice(0, 12)}?secret=x`);
    assert.deepEqual(one.envelope().metadata, image);
    const head = await ask(port, `/1.0/images/${fingerprint}`, { method: 'HEAD' });
    assert.deepEqual(
      [head.status, head.headers.etag, head.headers['content-length'], head.bytes.length],
      [200, one.headers.etag, one.headers['content-length'], 0],
    );
    const none = await ask(port, '/1.0/images/ffff');
    assert.deepEqual([none.status, none.envelope().error], [404, 'There is no image "ffff"']);
  });

  test('are edited by who has seen them as they are', async (t) => {
    const server = await serveApi(t);
    const { port, library } = server;
    const { fingerprint } = await library.add(splitImage());
    const path = `/1.0/images/${fingerprint}`;
    const etag = (await ask(port, path)).headers.etag ?? '';
    const body = {
      auto_update: false,
      public: true,
      profiles: ['default'],
      properties: { os: 'Debian', description: '', colour: 'red' },
      expires_at: '2030-01-01T00:00:00Z',
    };
    const put = (headers: Record<string, string>) =>
      ask(port, path, { method: 'PUT', body, headers, ...owner(server) });
    assert.equal((await put({ 'If-Match': etag })).status, 200);
    const image = await library.image(fingerprint);
    assert.deepEqual(image.properties, { os: 'Debian', colour: 'red' });
    assert.equal(image.expires, Date.UTC(2030, 0, 1));
    const late = await put({ 'If-Match': etag });
    assert.equal(late.status, 412);
    assert.match(late.envelope().error, /^The image has changed since it was read: /);
    assert.equal((await put({})).status, 200);
    const patch = { properties: { description: 'new' }, expires_at: '0001-01-01T00:00:00Z' };
    const etagNow = (await ask(port, path)).headers.etag ?? '';
    assert.notEqual(etagNow, etag);
    const unquoted = { 'If-Match': etagNow.replaceAll('"', '') };
    const patched = await ask(port, path, {
      ...{ method: 'PATCH', body: patch, headers: unquoted },
      ...owner(server),
    });
    assert.equal(patched.status, 200);
    const { properties, expires } = await library.image(fingerprint);
    assert.deepEqual(properties, { os: 'Debian', colour: 'red', description: 'new' });
    assert.equal(expires, 0);
  });

  const edits: { body: object | string; status: number; says: RegExp }[] = [
    {
      body: { public: false },
      status: 400,
      says: /^Images of this server are public, every one: /,
    },
    { body: { expires_at: 'soon' }, status: 400, says: /^expires_at is not a time: / },
    {
      body: { properties: { a: 1 } },
      status: 400,
      says: /^The body of this request is not understood: string was expected at "properties\.a"$/,
    },
    {
      body: '{',
      status: 400,
      says: /^The body of this request is not understood: it is not JSON$/,
    },
    { body: '"text"', status: 400, says: /Object was expected$/ },
    {
      body: { properties: { a: 'x'.repeat(1024 * 1024) } },
      status: 413,
      says: /has more than 1048576 bytes$/,
    },
  ];
  for (const { body, status, says } of edits) {
    test(`are not edited by ${JSON.stringify(body).slice(0, 40)}`, async (t) => {
      const server = await serveApi(t);
      const before = await server.library.add(splitImage());
      const path = `/1.0/images/${before.fingerprint}`;
      const answer = await ask(server.port, path, { method: 'PUT', body, ...owner(server) });
      assert.equal(answer.status, status);
      assert.match(answer.envelope().error, says);
      assert.deepEqual(await server.library.image(before.fingerprint), before);
    });
  }

  test('are deleted, refreshed and given secrets as operations', async (t) => {
    const server = await serveApi(t);
    const { port, library, operations } = server;
    const { fingerprint } = await library.add(splitImage());
    const path = `/1.0/images/${fingerprint}`;
    const secret = await ask(port, `${path}/secret`, { method: 'POST', ...owner(server) });
    const token = secret.envelope();
    assert.deepEqual(
      [secret.status, token.type, token.status_code, token.metadata.class],
      [202, 'async', 100, 'token'],
    );
    assert.match(token.metadata.metadata.secret, /^[0-9a-f]{64}$/);
    assert.deepEqual(token.metadata.resources, { images: [path] });
    assert.equal(secret.headers.location, token.operation);
    for (const [method, way, metadata] of [
      ['POST', `${path}/refresh`, { refreshed: false }],
      ['DELETE', path, null],
    ] as const) {
      const answer = await ask(port, way, { method, ...owner(server) });
      assert.equal(answer.status, 202);
      const { operation } = answer.envelope();
      const ended = await ask(port, `${operation}/wait?timeout=-1`, owner(server));
      const view = ended.envelope().metadata;
      assert.deepEqual([view.status, view.metadata], ['Success', metadata]);
    }
    assert.deepEqual(await library.images(), []);
    const gone = await ask(port, path, { method: 'DELETE', ...owner(server) });
    assert.equal(gone.status, 404);
    assert.equal(operations.list().length, 3);
  });

  test('are not changed for a page of another site, whoever has its browser', async (t) => {
    const server = await serveApi(t);
    const { fingerprint } = await server.library.add(splitImage());
    const askFrom = (method: string, from: string) =>
      ask(server.port, `/1.0/images/${fingerprint}`, {
        ...{ method, headers: { 'Sec-Fetch-Site': from } },
        ...owner(server),
      });
    for (const from of ['cross-site', 'same-site']) {
      assert.equal((await askFrom('DELETE', from)).status, 403);
      assert.equal((await askFrom('GET', from)).status, 200);
    }
    assert.equal((await server.library.images()).length, 1);
    assert.equal((await askFrom('DELETE', 'same-origin')).status, 202);
  });

  test('are changed by nobody who is not trusted', async (t) => {
    const { port, library, stranger } = await serveApi(t);
    const { fingerprint } = await library.add(splitImage());
    const image = `/1.0/images/${fingerprint}`;
    const ways: [method: string, path: string][] = [
      ['PUT', image],
      ['PATCH', image],
      ['DELETE', image],
      ['POST', `${image}/secret`],
      ['POST', `${image}/refresh`],
      ['POST', '/1.0/images/aliases'],
      ['PUT', '/1.0/images/aliases/d12'],
      ['PATCH', '/1.0/images/aliases/d12'],
      ['POST', '/1.0/images/aliases/d12'],
      ['DELETE', '/1.0/images/aliases/d12'],
      ['GET', '/1.0/operations'],
      ['GET', '/1.0/operations/x'],
      ['GET', '/1.0/operations/x/wait'],
      ['DELETE', '/1.0/operations/x'],
      ['GET', '/1.0/certificates'],
      ['GET', '/1.0/certificates/x'],
      ['GET', '/1.0/events'],
    ];
    for (const [method, path] of ways) {
      for (const [as, says] of [
        [undefined, /trust add NAME/],
        [stranger, /^Nobody trusts you: ask for a token$/],
      ] as const) {
        const answer = await ask(port, path, { method, ...(as && { as }) });
        assert.equal(answer.status, 403, `${method} ${path}`);
        assert.match(answer.envelope().error, says);
      }
    }
    assert.equal((await library.images()).length, 1);
    assert.equal((await library.aliases()).length, 2);
  });

  test('come by uploads, from anyone, whose route decides', async (t) => {
    const server = await serveApi(t, {
      api: {
        uploads: {
          post: async ({ caller, body, headers }) => {
            let size = 0;
            for await (const chunk of body) size += (chunk as Buffer).length;
            return { kind: 'sync', metadata: [caller.client?.name, size, headers['x-lxd-public']] };
          },
        },
      },
    });
    const body = randomBytes(3_000_000);
    const headers = { 'X-LXD-Public': 'true' };
    for (const [as, name] of [
      [server.friend, 'friend'],
      [server.stranger, null],
    ] as const) {
      const answer = await ask(server.port, '/1.0/images?project=default', {
        ...{ method: 'POST', body, headers, as },
      });
      assert.deepEqual(answer.envelope().metadata, [name, body.length, 'true']);
    }
  });
});

describe('exports', () => {
  test('of a split image are its two files as parts of a form', async (t) => {
    const { port, library } = await serveApi(t);
    const images = [
      { image: splitImage(), part: 'rootfs', ending: '.squashfs' },
      { image: vmImage(), part: 'rootfs.img', ending: '.qcow2' },
    ];
    for (const { image, part, ending } of images) {
      const { fingerprint } = await library.add(image);
      const answer = await ask(port, `/1.0/images/${fingerprint}/export`);
      assert.equal(answer.status, 200);
      assert.equal(answer.headers['content-length'], String(answer.bytes.length));
      const form = await new Response(answer.bytes, {
        headers: { 'Content-Type': answer.headers['content-type'] ?? '' },
      }).formData();
      const parts = [...form].map(([name, file]) => {
        assert.ok(file instanceof File);
        return [name, file.name, file] as const;
      });
      assert.deepEqual(
        parts.map(([name, filename]) => [name, filename]),
        [
          ['metadata', `meta-${fingerprint}.tar.xz`],
          [part, `${fingerprint}${ending}`],
        ],
      );
      const found = await Promise.all(parts.map(([, , file]) => file.arrayBuffer()));
      assert.deepEqual(
        found.map((bytes) => Buffer.from(bytes)),
        Object.values(image.files),
      );
      const head = await ask(port, `/1.0/images/${fingerprint}/export`, { method: 'HEAD' });
      assert.deepEqual(
        [head.status, head.headers['content-length'], head.bytes.length],
        [200, answer.headers['content-length'], 0],
      );
    }
  });

  test('of a unified image are its file, or a range of it', async (t) => {
    const { port, library } = await serveApi(t);
    const bytes = randomBytes(100_000);
    const { fingerprint } = await library.add({
      ...{ release: 'debian/13', files: { 'lxd_combined.tar.gz': bytes } },
    });
    const path = `/1.0/images/${fingerprint}/export?secret=none`;
    const answer = await ask(port, path);
    assert.deepEqual(answer.bytes, bytes);
    assert.equal(answer.headers['content-disposition'], `inline;filename=${fingerprint}.tar.gz`);
    assert.equal(answer.headers['content-type'], 'application/octet-stream');
    const part = await ask(port, path, { headers: { Range: 'bytes=10-19' } });
    assert.deepEqual([part.status, part.bytes], [206, bytes.subarray(10, 20)]);
  });

  test('of files that are not as they were fail, and the log says so', async (t) => {
    const { port, library, root, events } = await serveApi(t);
    const image = await library.add(splitImage());
    await writeFile(join(root, image.files[1]?.path ?? ''), 'short');
    const answer = await ask(port, `/1.0/images/${image.fingerprint}/export`);
    assert.equal(answer.status, 500);
    assert.match(
      answer.envelope().error,
      /not as they were published: run "lxd-image-server verify"/,
    );
    assert.deepEqual(
      events.map(({ msg }) => msg),
      ['cannot answer a call'],
    );
  });

  test('are refused when too many files are open', async (t) => {
    const { port, library } = await serveApi(t, { server: { limits: { downloads: 1 } } });
    const { fingerprint } = await library.add(splitImage());
    const answer = await ask(port, `/1.0/images/${fingerprint}/export`);
    assert.equal(answer.status, 503);
    assert.equal(answer.envelope().error, 'Too many downloads at once: try again in a minute');
  });
});

describe('aliases', () => {
  test('are listed, added, renamed and removed, with slashes in their names', async (t) => {
    const server = await serveApi(t);
    const { port, library } = server;
    const { fingerprint } = await library.add(splitImage());
    const path = '/1.0/images/aliases';
    const post = (where: string, body: object) =>
      ask(port, where, { method: 'POST', body, ...owner(server) });
    const body = { name: 'my/own', target: fingerprint, description: '', type: '' };
    const added = await post(path, body);
    assert.deepEqual([added.status, added.headers.location], [201, `${path}/my%2Fown`]);
    const twice = await post(path, body);
    assert.deepEqual([twice.status, twice.envelope().error], [409, 'The alias my/own is taken']);
    const listed = (await ask(port, path)).envelope().metadata;
    assert.deepEqual(listed, [`${path}/debian%2F12`, `${path}/d12`, `${path}/my%2Fown`]);
    const one = (await ask(port, `${path}/my%2Fown`)).envelope().metadata;
    assert.deepEqual(one, {
      name: 'my/own',
      description: '',
      target: fingerprint,
      type: 'container',
    });
    const whole = (await ask(port, `${path}?recursion=1`)).envelope().metadata;
    assert.deepEqual(whole.at(-1), one);
    const renamed = await post(`${path}/my%2fown`, { name: 'our/own' });
    assert.deepEqual([renamed.status, renamed.headers.location], [201, `${path}/our%2Fown`]);
    for (const method of ['PUT', 'PATCH']) {
      const edit = { description: 'x', target: fingerprint };
      const done = await ask(port, `${path}/our%2Fown`, { method, body: edit, ...owner(server) });
      assert.equal(done.status, 200);
      const other = { target: 'f'.repeat(64) };
      const no = await ask(port, `${path}/our%2Fown`, { method, body: other, ...owner(server) });
      assert.equal(no.status, 403);
    }
    const remove = () => ask(port, `${path}/our%2Fown`, { method: 'DELETE', ...owner(server) });
    assert.equal((await remove()).status, 200);
    assert.equal((await remove()).status, 404);
    const gone = await ask(port, `${path}/our%2Fown`);
    assert.deepEqual([gone.status, gone.envelope().error], [404, 'There is no alias "our/own"']);
  });
});

describe('operations', () => {
  test('are listed by their status', async (t) => {
    const server = await serveApi(t);
    const { port, operations } = server;
    const running = operations.begin({ class: 'token', description: 'a' });
    const ended = operations.begin({ description: 'b', work: async () => undefined });
    await ended.ended();
    const list = (await ask(port, '/1.0/operations', owner(server))).envelope().metadata;
    assert.deepEqual(list, {
      running: [`/1.0/operations/${running.id}`],
      success: [`/1.0/operations/${ended.id}`],
    });
    const whole = (await ask(port, '/1.0/operations?recursion=1', owner(server))).envelope();
    assert.deepEqual(whole.metadata.success, [ended.view()]);
  });

  test('are waited for until they end, or for a while', async (t) => {
    const server = await serveApi(t);
    const { port, operations } = server;
    const { id } = operations.begin({ class: 'token', description: 'a' });
    const path = `/1.0/operations/${id}`;
    const short = await ask(port, `${path}/wait?timeout=0`, owner(server));
    assert.equal(short.envelope().metadata.status, 'Running');
    const long = ask(port, `${path}/wait?timeout=9999999999`, owner(server));
    const endless = ask(port, `${path}/wait`, owner(server));
    assert.equal((await ask(port, path, { method: 'DELETE', ...owner(server) })).status, 200);
    for (const answer of [await long, await endless]) {
      assert.equal(answer.envelope().metadata.status, 'Cancelled');
    }
    const odd = await ask(port, `${path}/wait?timeout=soon`, owner(server));
    assert.equal(odd.status, 400);
    const unknown = await ask(port, '/1.0/operations/x/wait', owner(server));
    assert.equal(unknown.status, 404);
    const none = await ask(port, '/1.0/operations/x', { method: 'DELETE', ...owner(server) });
    assert.equal(none.status, 404);
  });

  test('are open to who has the secret, without a certificate', async (t) => {
    const { port, operations } = await serveApi(t);
    const { id } = operations.begin({
      ...{ description: 'a', secret: 'sesame', work: async () => ({ fingerprint: 'f' }) },
    });
    const path = `/1.0/operations/${id}`;
    const wait = await ask(port, `${path}/wait?project=default&secret=sesame&timeout=-1`);
    assert.deepEqual(wait.envelope().metadata.metadata, { fingerprint: 'f' });
    assert.equal((await ask(port, `${path}?secret=sesame`)).status, 200);
    assert.equal((await ask(port, `${path}/wait?secret=other`)).status, 403);
    assert.equal((await ask(port, `${path}?secret=sesame`, { method: 'DELETE' })).status, 403);
  });
});

describe('failures', () => {
  test('of our own say nothing of themselves, but in the log', async (t) => {
    const failing = { images: () => Promise.reject(new TypeError('x.y is no function')) };
    const { port, events } = await serveApi(t, { api: { library: failing as never } });
    const answer = await ask(port, '/1.0/images');
    assert.equal(answer.status, 500);
    assert.equal(answer.envelope().error, 'The server failed: its log says why');
    const [event] = events;
    assert.deepEqual([event?.msg, event?.path], ['cannot answer a call', '/1.0/images']);
  });

  test('of this host are told to who is trusted, and in the log', async (t) => {
    const full = new ServerError('DISK_FULL', 'Cannot write /var/lib/x: the disk is full');
    const failing = { images: () => Promise.reject(full) };
    const server = await serveApi(t, { api: { library: failing as never } });
    const { port, events, stranger } = server;
    for (const as of [undefined, stranger]) {
      const answer = await ask(port, '/1.0/images', as && { as });
      assert.equal(answer.status, 507);
      assert.equal(answer.envelope().error, 'The server failed: its log says why');
    }
    const answer = await ask(port, '/1.0/images', owner(server));
    assert.equal(answer.envelope().error, full.message);
    assert.deepEqual(
      events.map(({ msg }) => msg),
      Array(3).fill('cannot answer a call'),
    );
  });

  test('and requests are logged without the secrets that clients have in queries', async (t) => {
    const { log, events } = memoryLog('debug');
    const failing = { image: () => Promise.reject(new TypeError('x.y is no function')) };
    const { port } = await serveApi(t, { api: { library: failing as never }, server: { log } });
    await ask(port, '/1.0/images/0123?secret=abcdef');
    while (!events.some(({ msg }) => msg === 'Request')) await nextTurn();
    assert.equal(events.find(({ msg }) => msg === 'Request')?.path, '/1.0/images/0123');
    assert.doesNotMatch(JSON.stringify(events), /abcdef/);
  });

  test('are told from changes, of which the log says who asked for them', async (t) => {
    const { log, events } = memoryLog('info');
    const server = await serveApi(t, { api: { log } });
    const { fingerprint } = await server.library.add(splitImage());
    const path = `/1.0/images/${fingerprint}`;
    await ask(server.port, path, owner(server));
    await ask(server.port, path, { method: 'DELETE', as: server.stranger });
    await ask(server.port, `${path}?secret=abcdef`, { method: 'DELETE', ...owner(server) });
    const asked = events.filter(({ msg }) => msg === 'change asked for');
    assert.deepEqual(
      asked.map(({ client, method, path }) => [client, method, path]),
      [['friend', 'DELETE', path]],
    );
  });

  test('of a call whose client has gone are none', async (t) => {
    let said = (_error: Error) => {};
    const aborted = new Promise<Error>((resolve) => {
      said = resolve;
    });
    const { port, events, friend } = await serveApi(t, {
      api: {
        uploads: {
          post: async ({ body, signal }) => {
            signal.addEventListener('abort', () => said(new Error('aborted')));
            for await (const _chunk of body.iterator({ destroyOnReturn: false }));
            throw new ServerError('IO', 'never');
          },
        },
      },
    });
    const options = { host: '127.0.0.1', port, path: '/1.0/images', method: 'POST' };
    const sending = request({ ...options, ...friend, rejectUnauthorized: false });
    sending.on('error', () => {});
    sending.write('half of it');
    await once(sending, 'socket');
    sending.socket?.once('secureConnect', () => setImmediate(() => sending.destroy()));
    assert.equal((await aborted).message, 'aborted');
    // By then whatever was thrown has been looked at.
    assert.equal((await ask(port, '/1.0')).status, 200);
    assert.deepEqual(events, []);
  });

  test('to ask properly are told in the envelope', async (t) => {
    const { port } = await serveApi(t);
    const answer = await rawRequest(
      port,
      'GET /1.0/images/%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    );
    assert.equal(answer.status, 400);
    assert.equal(JSON.parse(answer.body.toString()).type, 'error');
    const absolute = await rawRequest(
      port,
      'GET https://x/1.0/images HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    );
    assert.deepEqual(JSON.parse(absolute.body.toString()).metadata, []);
  });
});
