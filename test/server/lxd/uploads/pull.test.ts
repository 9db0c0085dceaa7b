/** Images that this server fetches: from LXD and Incus, from simplestreams servers, and from those that lie. */
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { afterEach, before, describe, type TestContext, test } from 'node:test';
import { ServerError } from '../../../../src/errors.js';
import type { OperationView } from '../../../../src/server/lxd/exchange.js';
import { deafPort } from '../../../support/deaf-port.js';
import {
  bytesReply,
  type ImageSource,
  jsonReply,
  lxdError,
  type Reply,
  startSource,
} from '../../../support/image-source.js';
import { freePort } from '../../../support/ports.js';
import { temporaryFolder } from '../../../support/temporary.js';
import { createTestCertificate, type TestCertificate } from '../../../support/tls.js';
import {
  fingerprintOf,
  formOf,
  jsonType,
  multipart,
  send,
} from '../../../support/upload-client.js';
import {
  startUploadSite,
  trustAll,
  type UploadSite,
  type UploadSiteOptions,
} from '../../../support/upload-site.js';

let certificate: TestCertificate;
before(async () => {
  certificate = await createTestCertificate();
});

const sites: UploadSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.close();
});

interface Site extends UploadSite {
  folder: string;
}

async function start(t: TestContext, options: Partial<UploadSiteOptions> = {}): Promise<Site> {
  const folder = await temporaryFolder(t);
  const site = await startUploadSite({ folder, ...options });
  sites.push(site);
  return { ...site, folder };
}

const split = formOf([
  ['metadata', 'meta'],
  ['rootfs', 'root'],
]);
const fingerprint = fingerprintOf('meta', 'root');

/** What an LXD server answers of the image. */
const about = {
  fingerprint,
  properties: { os: 'Alpine', release: '3.20' },
  expires_at: '2030-01-01T00:00:00Z',
  filename: 'meta.tar.xz',
  size: 8,
  public: false,
};
const paths = { about: `/1.0/images/${fingerprint}`, export: `/1.0/images/${fingerprint}/export` };

function lxdReplies(more: Record<string, Reply> = {}): Record<string, Reply> {
  return {
    [paths.about]: jsonReply({ type: 'sync', metadata: about }),
    [paths.export]: bytesReply(split, multipart),
    ...more,
  };
}

async function pull(
  site: UploadSite,
  source: Pick<ImageSource, 'url' | 'certificate'>,
  { source: change = {}, ...more }: { source?: object; [field: string]: unknown } = {},
): Promise<OperationView> {
  const json = {
    ...more,
    source: {
      ...{ type: 'image', mode: 'pull', protocol: 'lxd', server: source.url, fingerprint },
      ...{ certificate: source.certificate.cert, secret: 'a&b' },
      ...change,
    },
  };
  const { metadata, error } = await send(site, {
    certificate,
    headers: jsonType,
    body: JSON.stringify(json),
  });
  assert.equal(error, undefined);
  return metadata;
}

async function assertFailed(site: Site, view: OperationView, says: RegExp): Promise<void> {
  assert.equal(view.status, 'Failure', JSON.stringify(view));
  assert.match(view.err, says);
  assert.deepEqual(await readdir(site.folder), []);
  assert.equal(site.library.open(), 0);
}

describe('a pull from LXD', () => {
  test('brings a split image with its properties, overruled by those of the request', async (t) => {
    const site = await start(t);
    const source = await startSource(t, lxdReplies());
    const view = await pull(site, source, {
      properties: { release: 'edge' },
      aliases: [{ name: 'alpine' }],
      auto_update: true,
    });
    assert.equal(view.status, 'Success', view.err);
    const { download_progress: progress, ...metadata } = view.metadata ?? {};
    assert.deepEqual(metadata, { fingerprint, size: '8' });
    assert.match(String(progress), /^rootfs: 100% \(\d+\.\d\d[kM]?B\/s\)$/);
    assert.deepEqual(source.requests, [
      `${paths.about}?secret=a%26b`,
      `${paths.export}?secret=a%26b`,
    ]);
    assert.deepEqual(site.library.told.get(fingerprint), {
      fingerprint,
      filename: 'meta.tar.xz',
      properties: { os: 'Alpine', release: 'edge' },
      expires: Date.UTC(2030, 0, 1),
      aliases: ['alpine'],
    });
  });

  test('brings a unified image', async (t) => {
    const site = await start(t);
    const fingerprint = fingerprintOf('one');
    const headers = { 'Content-Disposition': 'inline;filename=one.tar.gz' };
    const source = await startSource(t, {
      [`/1.0/images/${fingerprint}`]: jsonReply({ metadata: { fingerprint } }),
      [`/1.0/images/${fingerprint}/export`]: bytesReply('one', headers),
    });
    const view = await pull(site, source, { source: { fingerprint } });
    assert.equal(view.status, 'Success', view.err);
    assert.equal(site.library.told.get(fingerprint)?.filename, 'one.tar.gz');
  });

  test('finds the image by an alias, and by the beginning of its fingerprint', async (t) => {
    const short = fingerprint.slice(0, 12);
    const source = await startSource(t, {
      ...lxdReplies(),
      '/1.0/images/aliases/a/b': jsonReply({ metadata: { target: fingerprint } }),
      [`/1.0/images/${short}`]: jsonReply({ metadata: about }),
      [`/1.0/images/${short}/export`]: bytesReply(split, multipart),
    });
    source.replies['/1.0/images/aliases/a%2Fb'] = jsonReply({ metadata: { target: fingerprint } });
    const first = await start(t);
    const byAlias = await pull(first, source, { source: { fingerprint: '', alias: 'a/b' } });
    assert.equal(byAlias.status, 'Success', byAlias.err);
    const second = await start(t);
    const byPrefix = await pull(second, source, { source: { fingerprint: short } });
    assert.equal(byPrefix.status, 'Success', byPrefix.err);
  });

  test('of an image that is here succeeds without a request, and adds the aliases', async (t) => {
    const site = await start(t);
    const source = await startSource(t);
    await send(site, { certificate, headers: multipart, body: split });
    const aliases = [{ name: 'one' }, { name: 'two' }];
    for (const _ of ['first', 'second']) {
      const view = await pull(site, source, { aliases });
      assert.equal(view.status, 'Success', view.err);
      assert.deepEqual(view.metadata, { fingerprint, size: '8' });
    }
    assert.deepEqual(source.requests, []);
    const names = (await site.library.aliases()).map(({ name }) => name);
    assert.deepEqual(names, ['one', 'two']);
  });

  test('succeeds where another brings the same image meanwhile', async (t) => {
    const site = await start(t);
    const source = await startSource(t, lxdReplies());
    site.library.onFinish = async () => {
      site.library.onFinish = () => {};
      await send(site, { certificate, headers: multipart, body: split });
    };
    const view = await pull(site, source, { aliases: [{ name: 'one' }] });
    assert.equal(view.status, 'Success', view.err);
    assert.equal((await site.library.aliases())[0]?.image.fingerprint, fingerprint);
    assert.equal((await readdir(site.folder)).length, 1);
  });

  test('passes on why the source refuses, in printable characters', async (t) => {
    const site = await start(t);
    const source = await startSource(t, { [paths.about]: lxdError(404, 'not\u001b[31m found') });
    await assertFailed(site, await pull(site, source), /refuses: not\?\[31m found$/);
  });

  const cut: Reply = (_request, response) => {
    response.writeHead(200, { ...multipart, 'Content-Length': String(split.length) });
    response.write(split.subarray(0, 120), () => response.destroy());
  };
  const other = formOf([
    ['metadata', 'meta'],
    ['rootfs', 'evil'],
  ]);
  const lies: [what: string, more: Record<string, Reply>, says: RegExp][] = [
    [
      'answers with a redirect',
      { [paths.export]: redirect('/elsewhere') },
      /redirect, which is not followed/,
    ],
    ['redirects to this server', { [paths.about]: redirect('https://127.0.0.1:1/') }, /redirect/],
    ['answers with text', { [paths.about]: bytesReply('hello') }, /not JSON/],
    [
      'answers as another server does',
      { [paths.about]: jsonReply({ a: 1 }) },
      /does not answer as LXD/,
    ],
    ['never ends its answer', { [paths.about]: bytesReply('x'.repeat(3_000_000)) }, /is too long/],
    [
      'tells of another image',
      { [paths.about]: jsonReply({ metadata: { ...about, fingerprint: fingerprintOf('x') } }) },
      /another image/,
    ],
    ['sends another image', { [paths.export]: bytesReply(other, multipart) }, /The fingerprint is/],
    ['sends something else', { [paths.export]: bytesReply('hello', multipart) }, /malformed/],
    ['breaks off', { [paths.export]: cut }, /went away in the middle/],
    [
      'has properties that are none',
      { [paths.about]: jsonReply({ metadata: { ...about, properties: 1 } }) },
      /as LXD/,
    ],
  ];
  for (const [what, more, says] of lies) {
    test(`fails where the source ${what}, and leaves nothing`, async (t) => {
      const site = await start(t);
      const source = await startSource(t, lxdReplies(more));
      await assertFailed(site, await pull(site, source), says);
    });
  }

  test('fails where the source has too many headers', async (t) => {
    const site = await start(t);
    const many: Reply = (_request, response) => {
      response.writeHead(200, { 'X-Filler': 'x'.repeat(40_000) });
      response.end();
    };
    await assertFailed(
      site,
      await pull(site, await startSource(t, { [paths.about]: many })),
      /does not answer/,
    );
  });

  test('fails where the image is larger than the limit, told or not', async (t) => {
    const site = await start(t, { maxSize: () => 100 });
    const source = await startSource(t, lxdReplies());
    source.replies[paths.about] = jsonReply({ metadata: { ...about, size: 1000 } });
    await assertFailed(site, await pull(site, source), /larger than/);
    assert.equal(source.requests.length, 1);
    source.replies[paths.about] = jsonReply({ metadata: about });
    await assertFailed(site, await pull(site, source), /larger than/);
  });

  test('fails where the source does not answer, and where it stops', async (t) => {
    const site = await start(t, { limits: { headersMs: 50, stallMs: 50 } });
    const source = await startSource(t, { [paths.about]: () => {} });
    await assertFailed(site, await pull(site, source), /does not answer: no answer within/);
    source.replies = lxdReplies({
      [paths.export]: (_request, response) => {
        response.writeHead(200, multipart);
        response.write(split.subarray(0, 100));
      },
    });
    await assertFailed(site, await pull(site, source), /The source .* has sent nothing for/);
  });

  test('is for nothing where the client is trusted no more when it has come', async (t) => {
    let isTrusted = true;
    const judge = (der: Buffer | undefined) => ({ ...trustAll(der), isTrusted: () => isTrusted });
    const site = await start(t, { judge });
    const source = await startSource(
      t,
      lxdReplies({
        [paths.export]: (request, response) => {
          isTrusted = false;
          bytesReply(split, multipart)(request, response);
        },
      }),
    );
    await assertFailed(
      site,
      await pull(site, source),
      /trusts the client that asked for it no more/,
    );
  });

  test('fails where the source answers in another protocol', { timeout: 20_000 }, async (t) => {
    const site = await start(t);
    const switching = (request: IncomingMessage) =>
      void request.socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n',
      );
    const source = await startSource(t, { [paths.about]: switching });
    await assertFailed(site, await pull(site, source), /answers in no way that is known here/);
  });

  test('hangs up where the disk is full', async (t) => {
    const site = await start(t);
    site.library.onWrite = () => {
      throw new ServerError('DISK_FULL', 'The disk is full');
    };
    const gone = resolvers();
    const source = await startSource(
      t,
      lxdReplies({
        [paths.export]: (_request, response) => {
          response.once('close', gone.resolve);
          response.writeHead(200, multipart);
          response.write(split.subarray(0, 100));
        },
      }),
    );
    await assertFailed(site, await pull(site, source), /The disk is full/);
    await gone.promise;
  });

  test('is cancelled in the middle, and leaves nothing', async (t) => {
    const site = await start(t);
    const begun = resolvers();
    const source = await startSource(
      t,
      lxdReplies({
        [paths.export]: (_request, response) => {
          response.writeHead(200, multipart);
          response.write(split.subarray(0, 100), begun.resolve);
        },
      }),
    );
    const done = pull(site, source);
    await begun.promise;
    const [operation] = site.operations.list();
    assert.ok(operation);
    await site.operations.cancel(operation.id);
    assert.equal((await done).status, 'Cancelled');
    assert.deepEqual(await readdir(site.folder), []);
    assert.equal(site.library.open(), 0);
  });
});

describe('a source that cannot be connected to', () => {
  /** What clients of both ages look for before they try the next address. */
  const next = /Unable to connect to .*Cannot connect to/;

  test('has an error that makes clients try its next address', async (t) => {
    const site = await start(t);
    const url = `https://127.0.0.1:${await freePort()}`;
    const view = await pull(site, { url, certificate });
    await assertFailed(site, view, next);
    assert.match(view.err, /refused/);
  });

  test('is given up after a while', async (t) => {
    const site = await start(t, { limits: { connectMs: 100 } });
    const { port } = await deafPort(t);
    const view = await pull(site, { url: `https://127.0.0.1:${port}`, certificate });
    await assertFailed(site, view, next);
    assert.match(view.err, /no connection within/);
  });

  test('is one with another certificate, which is asked nothing', async (t) => {
    const site = await start(t);
    const source = await startSource(t, lxdReplies());
    const view = await pull(site, { ...source, certificate });
    await assertFailed(site, view, next);
    assert.match(view.err, /another certificate/);
    assert.deepEqual(source.requests, []);
  });

  test('is one that nobody vouches for where no certificate was given', async (t) => {
    const site = await start(t);
    const source = await startSource(t, lxdReplies());
    await assertFailed(site, await pull(site, source, { source: { certificate: '' } }), next);
    assert.deepEqual(source.requests, []);
  });

  test('is this server itself, by its address and by its certificate', async (t) => {
    const site = await start(t);
    await assertFailed(site, await pull(site, site), /Unable to connect.*this server itself/);
    const byName = { url: `https://localhost:${site.port}`, certificate: site.certificate };
    await assertFailed(site, await pull(site, byName), /Unable to connect.*this server itself/);
    assert.deepEqual(site.requests, ['POST /1.0/images', 'POST /1.0/images']);
  });

  test('is this server behind a proxy, whose certificate it does not know', async (t) => {
    const source = await startSource(t, lxdReplies());
    const self = () => ({ addresses: [`127.0.0.1:${source.port}`], fingerprints: [] });
    const site = await start(t, { self });
    await assertFailed(site, await pull(site, source), /Unable to connect.*this server itself/);
    assert.deepEqual(source.requests, []);
  });

  test('is one on this host for a client that is elsewhere', async (t) => {
    const site = await start(t, { address: '192.0.2.1' });
    const source = await startSource(t, lxdReplies());
    for (const host of ['127.0.0.1', 'localhost', '[::ffff:127.0.0.1]', '127.1', '0x7f000001']) {
      const view = await pull(site, source, {
        source: { server: `https://${host}:${source.port}` },
      });
      await assertFailed(site, view, /Unable to connect.*open only to clients on the same host/);
    }
    assert.deepEqual(source.requests, []);
  });

  test('is one with an address that no image server has, for any client', async (t) => {
    const site = await start(t);
    for (const host of ['169.254.169.254', '[fe80::1]', '0.0.0.0', '255.255.255.255']) {
      const view = await pull(site, { url: `https://${host}`, certificate });
      await assertFailed(site, view, /Unable to connect/);
    }
  });

  for (const server of [
    'http://127.0.0.1:1',
    'file:///etc/passwd',
    'https://',
    'x',
    'https://a@b/',
  ]) {
    test(`is ${server}`, async (t) => {
      const site = await start(t);
      await assertFailed(site, await pull(site, { url: server, certificate }), /Cannot pull from/);
    });
  }

  test('is one whose certificate cannot be read', async (t) => {
    const site = await start(t);
    const view = await pull(site, {
      url: 'https://127.0.0.1:1',
      certificate: { key: '', cert: 'x' },
    });
    await assertFailed(site, view, /certificate of the source cannot be read/);
  });
});

describe('a pull from a simplestreams server', () => {
  const metadata = 'meta';
  const rootfs = 'root';
  const item = (ftype: string, content: string, more: object = {}) => ({
    ...{ ftype, path: `images/a:b/${ftype}`, size: content.length, sha256: fingerprintOf(content) },
    ...more,
  });
  const items = {
    'incus.tar.xz': item('incus.tar.xz', metadata, { combined_squashfs_sha256: fingerprint }),
    squashfs: item('squashfs', rootfs),
  };
  const product = (more: object = {}) => ({
    ...{ aliases: 'alpine/3.20,alpine', arch: 'amd64', os: 'Alpine', release: '3.20' },
    ...{ release_title: '3.20', variant: 'default', versions: { '20260101_00:00': { items } } },
    ...more,
  });
  const replies = (products: object = { 'alpine:3.20:amd64:default': product() }) => ({
    '/streams/v1/index.json': jsonReply({
      index: { images: { datatype: 'image-downloads', path: 'streams/v1/images.json' } },
    }),
    '/streams/v1/images.json': jsonReply({ products }),
    '/images/a:b/incus.tar.xz': bytesReply(metadata),
    '/images/a:b/squashfs': bytesReply(rootfs),
  });
  const from = { protocol: 'simplestreams', secret: '' };

  for (const wanted of ['alpine', fingerprint, fingerprint.slice(0, 12)]) {
    test(`brings the image ${wanted}`, async (t) => {
      const site = await start(t);
      const source = await startSource(t, replies());
      const view = await pull(site, source, {
        source: { ...from, fingerprint: wanted },
        aliases: [{ name: 'mine' }],
      });
      assert.equal(view.status, 'Success', view.err);
      assert.equal(view.metadata?.fingerprint, fingerprint);
      assert.deepEqual(site.library.told.get(fingerprint), {
        fingerprint,
        filename: 'squashfs',
        aliases: ['mine'],
        properties: {
          architecture: 'amd64',
          description: 'Alpine 3.20 amd64 (20260101_00:00)',
          os: 'Alpine',
          release: '3.20',
          serial: '20260101_00:00',
          variant: 'default',
        },
      });
    });
  }

  const cases: [what: string, more: Record<string, Reply>, says: RegExp][] = [
    [
      'has no such image',
      { '/streams/v1/images.json': jsonReply({ products: {} }) },
      /has no image "alpine"/,
    ],
    [
      'has no document of images',
      { '/streams/v1/index.json': jsonReply({ index: {} }) },
      /has no images/,
    ],
    ['is none', { '/streams/v1/index.json': jsonReply([]) }, /no simplestreams document/],
    [
      'sends another file',
      { '/images/a:b/squashfs': bytesReply('evil') },
      /another .*squashfs than/,
    ],
    [
      'sends a longer file',
      { '/images/a:b/squashfs': bytesReply('root!') },
      /another .*squashfs than/,
    ],
    ['never ends a file', { '/images/a:b/squashfs': endless }, /another .*squashfs than/],
    [
      'sends a shorter file',
      { '/images/a:b/squashfs': bytesReply('roo') },
      /another .*squashfs than/,
    ],
    ['lacks a file', { '/images/a:b/squashfs': lxdError(404, 'gone') }, /refuses: gone/],
  ];
  for (const [what, more, says] of cases) {
    test(`fails where the server ${what}, and leaves nothing`, async (t) => {
      const site = await start(t);
      const source = await startSource(t, { ...replies(), ...more });
      const view = await pull(site, source, { source: { ...from, fingerprint: 'alpine' } });
      await assertFailed(site, view, says);
    });
  }
});

function endless(_request: IncomingMessage, response: ServerResponse): void {
  const more = () => {
    while (!response.destroyed && response.write(Buffer.alloc(65_536)));
  };
  response.on('drain', more);
  more();
}

function redirect(location: string): Reply {
  return (_request, response) => {
    response.writeHead(302, { Location: location });
    response.end();
  };
}

function resolvers() {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
