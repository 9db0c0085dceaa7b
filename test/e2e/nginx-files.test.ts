import assert from 'node:assert/strict';
import { once } from 'node:events';
import { lchown, link, mkdir, rename, symlink, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { ensureCertificate } from '../../src/server/certificate.js';
import { hasIpv6 } from '../support/nginx.js';
import { needs, needsRoot } from '../support/programs.js';
import {
  askWithCurl,
  imageVersion,
  indexText,
  type Scheme,
  type ServedSite,
  siteKinds,
  startServedSite,
} from '../support/served-site.js';
import { startSlowClients } from '../support/slow-clients.js';
import { temporaryFolder } from '../support/temporary.js';
import { connectTls, createTestCertificate } from '../support/tls.js';

const image = `/${imageVersion}/rootfs.squashfs`;
const documents = ['/streams/v1/index.json', '/streams/v1/images.json'];
const schemes: readonly Scheme[] = ['http', 'https'];

/** What is asked for, the answer's status, and what stands in it. */
const cases: [path: string, status: number, body?: string][] = [
  ['/index.html', 200, '<!doctype html>'],
  ...documents.map((path): [string, number, string] => [path, 200, indexText]),
  [`${documents[0]}?a=%2f`, 200, indexText],
  ['/streams/v1/none.json', 404],
  ['/streams/v1/other.json', 404],
  ['/streams/v1/images.json.gz', 404],
  ['/streams/v1/.hidden.json', 404],
  ['/streams/v1/', 404],
  ['/streams/v1', 404],
  ['/streams/', 404],
  ['/streams', 404],
  ['/streams%2fv1/index.json', 404],
  ['/streams/v1%2Findex.json', 404],
  ['/streams/v1%2Fimages.json', 404],
  [image, 200, 'root'],
  [`${image}?a=%2f`, 200, 'root'],
  [image.replaceAll(':', '%3A'), 200, 'root'],
  [image.replace('rootfs', '%72ootfs'), 200, 'root'],
  [`/${imageVersion}/../20260103_12:00/rootfs.squashfs`, 200, 'root'],
  [`/${imageVersion}%2Frootfs.squashfs`, 404],
  [`/${imageVersion}%2frootfs.squashfs`, 404],
  [`/${imageVersion}/none.squashfs`, 404],
  [`/${imageVersion}/.hidden`, 404],
  [`/${imageVersion}/%2ehidden`, 404],
  ...['.part', '.filepart', '.tmp', '~'].map((end): [string, number] => [`${image}${end}`, 404]),
  [`/${imageVersion}/folder`, 404],
  [`/${imageVersion}/folder/`, 404],
  [`/${imageVersion}/folder/file`, 404],
  [`/${imageVersion}/`, 404],
  [`/${imageVersion}`, 404],
  ['/images/ubuntu/noble/amd64/default/product.yaml', 404],
  ['/images/ubuntu/noble/amd64/default/', 404],
  ['/images/', 404],
  ['/images', 404],
  ['/.staging/upload', 404],
  ['/images/.staging/upload', 404],
  ['/.lxd-image-server/manifest.json', 404],
  ['/%2elxd-image-server/manifest.json', 404],
  [`/.files${image}`, 404],
  [`/%2efiles${image}`, 404],
  ['/secret.txt', 404],
  ['/config.toml', 404],
  ['/images/../secret.txt', 404],
  ['/images/../.staging/upload', 404],
  ['/images/%2e%2e/secret.txt', 404],
  [`/${imageVersion}/..%2f..%2f..%2f..%2f..%2f..%2fsecret.txt`, 404],
  ['/../../etc/passwd', 400],
  ['/..%2f..%2fetc/passwd', 400],
  ['/images/%00', 400],
];

for (const kind of siteKinds) {
  describe(`the ${kind}'s site: files`, needs('nginx', 'curl'), () => {
    let site: ServedSite;
    before(async () => {
      site = await startServedSite(kind, { other: otherSites });
    });
    after(() => site.close());

    for (const [path, status, body] of cases) {
      test(`answers ${status} for ${path}, over HTTP and HTTPS alike`, async () => {
        for (const scheme of schemes) {
          const answer = await site.get(scheme, path);
          assert.equal(answer.status, status, scheme);
          if (body !== undefined) assert.equal(answer.body, body, scheme);
          assert.equal(answer.headers['cache-control'], status === 200 ? 'no-cache' : undefined);
          assert.equal(answer.headers.location, undefined);
          // Over HTTP, what is refused before its host name is read goes to the other site.
          if (status !== 400 || scheme === 'https') assert.equal(answer.headers.server, 'nginx');
        }
      });
    }

    test('says what each file is, and that this is all that it is', async () => {
      const json = 'application/json';
      const types = { [image]: 'application/octet-stream', [documents[0] ?? '']: json };
      for (const [path, type] of Object.entries(types)) {
        const { headers } = await site.get('https', path);
        assert.equal(headers['content-type'], type);
        assert.equal(headers['x-content-type-options'], 'nosniff');
      }
    });

    test('gives browsers the page, which no other page may frame', async () => {
      for (const path of ['/', '/index.html']) {
        const { status, body, headers } = await site.get('https', path, '-H', 'Accept: text/html');
        assert.deepEqual([status, body], [200, '<!doctype html>']);
        assert.equal(headers['content-type'], 'text/html; charset=utf-8');
        assert.equal(headers['content-security-policy'], "frame-ancestors 'none'");
        assert.equal(headers['referrer-policy'], 'no-referrer');
        assert.equal(headers['x-content-type-options'], 'nosniff');
        assert.equal(headers.vary, 'Accept');
      }
    });

    test('gives documents compressed to clients that take it, also behind a proxy', async () => {
      for (const path of documents) {
        const plain = await site.get('https', path);
        assert.equal(plain.headers.vary, 'Accept-Encoding');
        assert.equal(plain.headers['content-encoding'], undefined);
        const packed = await site.get('https', path, '--compressed', '-H', 'Via: 1.1 proxy');
        assert.equal(packed.headers['content-encoding'], 'gzip');
        assert.equal(packed.headers['content-length'], String(gzipSync(indexText).length));
        assert.equal(packed.headers.vary, 'Accept-Encoding');
        assert.equal(packed.body, indexText);
      }
    });

    test('gives a document anew from the moment on that it is replaced', async () => {
      const path = documents[0] ?? '';
      for (const text of ['{"a":1}', '{"b":22}', indexText]) {
        const next = join(site.root, 'streams/v1/.next');
        await writeFile(`${next}.gz`, gzipSync(text));
        await rename(`${next}.gz`, join(site.root, `${path}.gz`));
        await writeFile(next, text);
        await rename(next, join(site.root, path));
        assert.equal((await site.get('https', path)).body, text);
        assert.equal((await site.get('http', path, '--compressed')).body, text);
      }
    });

    test('gives image files as they are, in parts where asked', async () => {
      await writeFile(join(site.root, `${image}.gz`), gzipSync('not this'));
      const whole = await site.get('https', image, '--compressed');
      assert.equal(whole.body, 'root');
      assert.equal(whole.headers['content-encoding'], undefined);
      const part = await site.get('https', image, '--range', '1-2');
      assert.deepEqual([part.status, part.body], [206, 'oo']);
      assert.equal(part.headers['content-range'], 'bytes 1-2/4');
      assert.equal((await site.get('https', image, '--range', '9-')).status, 416);
    });

    test('answers HEAD as it would GET', async () => {
      for (const path of [image, ...documents, '/index.html']) {
        const [get, head] = [await site.get('https', path), await site.get('https', path, '-I')];
        assert.equal(head.status, 200);
        const { date: _now, ...headers } = head.headers;
        const { date: _then, ...wanted } = get.headers;
        assert.deepEqual(headers, wanted);
      }
    });

    test('gives 304 for what the client has', async () => {
      for (const path of [image, ...documents, '/index.html']) {
        const { headers } = await site.get('https', path);
        const known = [
          `If-None-Match: ${headers.etag}`,
          `If-Modified-Since: ${headers['last-modified']}`,
        ];
        for (const condition of known) {
          const again = await site.get('https', path, '-H', condition);
          assert.deepEqual([again.status, again.body], [304, '']);
          assert.equal(again.headers['cache-control'], 'no-cache');
        }
      }
    });

    test('takes nothing in, and says what it takes', async () => {
      for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
        for (const path of [image, ...documents, '/index.html', '/']) {
          const flags = method === 'POST' ? ['-d', 'x'] : ['-X', method];
          const answer = await site.get('https', path, ...flags);
          assert.deepEqual([answer.status, answer.headers.allow], [405, 'GET, HEAD'], path);
          assert.equal(answer.body, 'Files can only be read here.\n');
        }
      }
    });

    test('speaks HTTP/1.1 and HTTP/2, and TLS 1.2 and 1.3, and nothing older', async () => {
      for (const tls of [['--tls-max', '1.2'], ['--tlsv1.3']]) {
        for (const http of ['1.1', '2']) {
          const answer = await site.get('https', image, ...tls, `--http${http}`);
          assert.deepEqual([answer.version, answer.body], [http, 'root']);
        }
      }
      const old = ['--tls-max', '1.1', '--ciphers', 'DEFAULT@SECLEVEL=0'];
      await assert.rejects(site.get('https', image, ...old), /curl.* ended with 35/s);
    });

    test("answers for any host name, before another site's default_server", async () => {
      for (const host of ['images.example.org', '127.0.0.1', 'x']) {
        assert.equal((await site.get('http', image, '-H', `Host: ${host}`)).body, 'root');
      }
      const other = await site.get('http', image, '-H', 'Host: other.example.org');
      assert.equal(other.status, 410);
    });

    test('leaves a site with a name its certificate, beside its own', async () => {
      const name = `other.example.org:${site.ports.https}`;
      const to = ['--connect-to', `${name}:127.0.0.1:${site.ports.https}`];
      const other = join(site.certFile, '../other.crt');
      assert.equal((await askWithCurl(['--cacert', other, ...to, `https://${name}/`])).status, 410);
      await assert.rejects(
        askWithCurl(['--cacert', site.certFile, ...to, `https://${name}/`]),
        /curl.* ended with 60/s,
      );
    });

    test('answers on IPv6', { skip: !hasIpv6() && 'needs IPv6' }, async () => {
      const url = `https://[::1]:${site.ports.https}${documents[0]}`;
      assert.equal((await askWithCurl(['--cacert', site.certFile, url])).body, indexText);
    });

    test('refuses a very long path', async () => {
      const path = `/${'a'.repeat(10_000)}`;
      assert.equal((await site.get('http', path)).status, 414);
      assert.equal((await site.get('https', path)).status, 404);
    });

    test('follows links in the tree', async () => {
      await symlink('rootfs.squashfs', join(site.root, imageVersion, 'linked.squashfs'));
      await symlink('20260103_12:00', join(site.root, imageVersion, '../20260104'));
      await link(join(site.root, image), join(site.root, imageVersion, 'hard.squashfs'));
      for (const path of ['20260103_12:00/linked', '20260104/rootfs', '20260103_12:00/hard']) {
        const url = `/${join(imageVersion, '..')}/${path}.squashfs`;
        assert.equal((await site.get('https', url)).body, 'root');
      }
    });

    test("follows no link to another user's file or folder", needsRoot('nginx'), async () => {
      const nobody = 65534;
      await mkdir(join(site.root, '../outside/v'), { recursive: true });
      await writeFile(join(site.root, '../outside/v/secret'), 'secret');
      const links = {
        [`${imageVersion}/passwd`]: ['/etc/passwd', ''],
        [`${imageVersion}/../20260105`]: [join(site.root, '../outside/v'), '/secret'],
        'images/ubuntu/noble/amd64/other': [join(site.root, '../outside'), '/v/secret'],
        'images/evil': [join(site.root, 'images/ubuntu'), image.slice('/images/ubuntu'.length)],
      } as const;
      for (const [path, [target, rest]] of Object.entries(links)) {
        await symlink(target, join(site.root, path));
        await lchown(join(site.root, path), nobody, nobody);
        assert.equal((await site.get('https', `/${join(path)}${rest}`)).status, 404, path);
        // It is the owner alone that made the difference.
        await lchown(join(site.root, path), 0, 0);
        assert.equal((await site.get('https', `/${join(path)}${rest}`)).status, 200, path);
        await unlink(join(site.root, path));
      }
    });

    test('does not have others wait for slow clients', async () => {
      const path = `/${imageVersion}/disk.qcow2`;
      const slow = await startSlowClients({
        ...{ port: site.ports.https, silent: 200, dripping: 50, path },
      });
      const heads = await Promise.all(
        Array.from({ length: 50 }, () => connectTls(site.ports.https)),
      );
      for (const head of heads) head.write('GET /index.html HTTP/1.1\r\nHo');
      try {
        for (const wanted of [image, path, ...documents]) {
          const { status, headers } = await site.get('https', wanted, '-o', '/dev/null');
          assert.equal(status, 200);
          assert.notEqual(headers['content-length'], undefined);
        }
      } finally {
        for (const head of heads) head.destroy();
        await slow.close();
      }
    });

    test('gives up on a client that does not end its request', { timeout: 60_000 }, async () => {
      const head = await connectTls(site.ports.https);
      head.on('error', () => {}).resume();
      const trickle = setInterval(() => head.write('a'), 500);
      head.write('GET /index.html HTTP/1.1\r\nHost: x\r\nX-Long: ');
      await once(head, 'close');
      clearInterval(trickle);
    });
  });
}

describe('the sites with the lines for plain HTTP removed', needs('nginx', 'curl'), () => {
  for (const kind of siteKinds) {
    test(`serve all over HTTPS, and nothing over HTTP: ${kind}`, async (t) => {
      const site = await startServedSite(kind, { plainHttp: false });
      t.after(() => site.close());
      assert.equal((await site.get('https', image)).body, 'root');
      await assert.rejects(site.get('http', image), /curl.* ended with 7/s);
    });
  }
});

describe("the mirror's site", needs('nginx', 'curl'), () => {
  let site: ServedSite;
  before(async () => {
    site = await startServedSite('mirror');
  });
  after(() => site.close());

  test('shows clients of the API how to add it', async () => {
    for (const path of ['/1.0', '/1.0/', '/1.0/images?project=default']) {
      const { status, body, headers } = await site.get('https', path);
      assert.deepEqual([status, headers['content-type']], [404, 'application/json']);
      assert.deepEqual(JSON.parse(body), {
        type: 'error',
        error: 'This is a mirror for images: add it with --protocol=simplestreams',
        error_code: 404,
      });
    }
  });

  test('has the page at / for whoever asks, and nothing of a daemon', async () => {
    assert.equal((await site.get('https', '/')).body, '<!doctype html>');
    for (const path of ['/status', '/status.json', '/status/events', '/metrics', '/healthz']) {
      assert.equal((await site.get('https', path)).status, 404, path);
    }
  });

  test('has nothing against a certificate that a client shows, expired or not', async (t) => {
    const as = await createTestCertificate({ notAfter: new Date(Date.now() - 60_000) });
    const folder = await temporaryFolder(t);
    const [key, cert] = [join(folder, 'k.pem'), join(folder, 'c.pem')];
    await writeFile(key, as.key);
    await writeFile(cert, as.cert);
    assert.equal((await site.get('https', image, '--key', key, '--cert', cert)).body, 'root');
  });
});

/** A default site as Debian has one, and one with a name and a certificate of its own. */
async function otherSites({ folder, ports }: { folder: string; ports: ServedSite['ports'] }) {
  const tls = { certFile: join(folder, 'tls/other.crt'), keyFile: join(folder, 'tls/other.key') };
  await ensureCertificate({ ...tls, names: ['other.example.org'] });
  return `
server { listen 127.0.0.1:${ports.http} default_server; server_name _; return 418; }
server {
  listen 127.0.0.1:${ports.http};
  listen 127.0.0.1:${ports.https} ssl http2;
  server_name other.example.org;
  ssl_certificate "${tls.certFile}";
  ssl_certificate_key "${tls.keyFile}";
  return 410;
}
`;
}
