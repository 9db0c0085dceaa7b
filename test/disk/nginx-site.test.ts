import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  lchownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { networkInterfaces, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { installNginxSite } from '../../src/disk/nginx-site.js';
import { ensureCertificate } from '../../src/server/certificate.js';
import { needs, systemEnv } from '../support/programs.js';

const run = promisify(execFile);
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'nginx-site-')));
after(() => rmSync(folder, { recursive: true }));

const templateFile = fileURLToPath(
  new URL('../../../nginx/lxd-image-server.conf', import.meta.url),
);

/** Options for a fresh folder in the layout of Debian's /etc/nginx. */
function debianLayout(name: string) {
  const nginxDir = join(folder, name);
  for (const sites of ['sites-available', 'sites-enabled']) {
    mkdirSync(join(nginxDir, sites), { recursive: true });
  }
  const [root, certFile, keyFile] = ['/srv/a tree', '/tls/c.crt', '/tls/k.key'];
  return { nginxDir, root, certFile, keyFile, socketFile: '/run/a b/http.sock', templateFile };
}

describe('installing the site', () => {
  test('fills in the paths and enables it', async () => {
    const options = debianLayout('fresh');
    assert.equal(await installNginxSite(options), 'installed');
    const site = readFileSync(join(options.nginxDir, 'sites-enabled/lxd-image-server'), 'utf8');
    assert.match(site, /^ {4}root "\/srv\/a tree";$/m);
    assert.match(site, /^ {4}ssl_certificate "\/tls\/c\.crt";$/m);
    assert.match(site, /^ {4}ssl_certificate_key "\/tls\/k\.key";$/m);
    assert.match(site, /^ {8}proxy_pass "http:\/\/unix:\/run\/a b\/http\.sock:\$request_uri";$/m);
    assert.doesNotMatch(site, /@[A-Z]+@/);
    const link = readlinkSync(join(options.nginxDir, 'sites-enabled/lxd-image-server'));
    assert.equal(link, '../sites-available/lxd-image-server');
    assert.deepEqual(readdirSync(join(options.nginxDir, 'sites-available')), ['lxd-image-server']);
  });

  test('leaves a site alone that is there, and one that was disabled disabled', async () => {
    const options = debianLayout('present');
    const path = join(options.nginxDir, 'sites-available/lxd-image-server');
    writeFileSync(path, '# mine');
    assert.equal(await installNginxSite(options), 'present');
    assert.equal(readFileSync(path, 'utf8'), '# mine');
    assert.deepEqual(readdirSync(join(options.nginxDir, 'sites-enabled')), []);
  });

  test('leaves a link alone that is there', async () => {
    const options = debianLayout('linked');
    const link = join(options.nginxDir, 'sites-enabled/lxd-image-server');
    symlinkSync('/dev/null', link);
    assert.equal(await installNginxSite(options), 'installed');
    assert.equal(readlinkSync(link), '/dev/null');
  });

  test('does nothing without a folder for sites', async () => {
    const options = debianLayout('other');
    rmSync(join(options.nginxDir, 'sites-enabled'), { recursive: true });
    assert.equal(await installNginxSite(options), 'no-nginx');
    assert.deepEqual(readdirSync(join(options.nginxDir, 'sites-available')), []);
    const nginxDir = join(folder, 'none');
    assert.equal(await installNginxSite({ ...options, nginxDir }), 'no-nginx');
  });

  test('refuses paths that nginx would read as something else', async () => {
    const options = debianLayout('paths');
    for (const root of ['/a"b', '/a\\b', '/a$b', '/a\nb']) {
      await assert.rejects(installNginxSite({ ...options, root }), {
        code: 'CONFIG',
        message: `nginx cannot be told the path ${JSON.stringify(root)}`,
      });
    }
    const socketFile = '/run/a:b/http.sock';
    await assert.rejects(installNginxSite({ ...options, socketFile }), {
      code: 'CONFIG',
      message: 'nginx cannot be told the path "/run/a:b/http.sock"',
    });
    assert.deepEqual(readdirSync(join(options.nginxDir, 'sites-available')), []);
  });
});

describe('the site in a real nginx', needs('nginx', 'curl'), () => {
  const root = join(folder, 'a tree');
  const version = 'images/ubuntu/noble/amd64/default/20260103_12:00';
  const revalidated = 'no-cache';
  const json = '{"format":"index:1.0"}';
  const ports = { http: 0, https: 0 };
  let nginx: ChildProcess;
  let certFile: string;

  before(async () => {
    writeTree();
    ports.http = await freePort();
    ports.https = await freePort();
    const options = { ...debianLayout('real'), root, certFile: join(folder, 'tls/c.crt') };
    certFile = options.certFile;
    const keyFile = join(folder, 'tls/c.key');
    await ensureCertificate({ certFile, keyFile });
    await installNginxSite({ ...options, keyFile });
    const config = nginxConfig(options.nginxDir);
    await run('nginx', ['-t', '-p', folder, '-c', config, '-e', 'stderr'], { env: systemEnv });
    nginx = await started(config);
  });
  after(async () => {
    nginx.kill();
    await once(nginx, 'close');
  });

  const cases: [path: string, status: number, cacheControl?: string][] = [
    ['/', 200, revalidated],
    ['/index.html', 200, revalidated],
    ['/streams/v1/index.json', 200, revalidated],
    ['/streams/v1/images.json', 200, revalidated],
    ['/streams/v1/none.json', 404],
    ['/streams/v1/images.json.gz', 404],
    ['/streams/v1/.hidden.json', 404],
    ['/streams/v1/', 404],
    ['/streams/v1', 404],
    ['/streams', 404],
    [`/${version}/rootfs.squashfs`, 200, revalidated],
    [`/${version.replaceAll(':', '%3A')}/rootfs.squashfs`, 200, revalidated],
    [`/${version}/linked.squashfs`, 200, revalidated],
    [`/${version}/outside.squashfs`, 404],
    [`/${version}/none.squashfs`, 404],
    [`/${version}/.hidden`, 404],
    [`/${version}/rootfs.squashfs.part`, 404],
    [`/${version}/rootfs.squashfs~`, 404],
    [`/${version}/folder`, 404],
    [`/${version}/folder/file`, 404],
    [`/${version}/`, 404],
    [`/${version}`, 404],
    ['/images/ubuntu/noble/amd64/default/product.yaml', 404],
    ['/images/ubuntu/noble/amd64/default/', 404],
    ['/images/', 404],
    ['/images', 404],
    ['/.staging/upload', 404],
    ['/.lxd-image-server/manifest.json', 404],
    ['/secret.txt', 404],
    ['/images/../secret.txt', 404],
    ['/images/../.staging/upload', 404],
    ['/images/%2e%2e/secret.txt', 404],
    [`/${version}/../20260103_12:00/rootfs.squashfs`, 200, revalidated],
    [`/${version}%2Frootfs.squashfs`, 404],
    ['/streams%2fv1/index.json', 404],
    ['/../../etc/passwd', 400],
    ['/..%2f..%2fetc/passwd', 400],
    ['/images/%00', 400],
  ];
  for (const [path, status, cacheControl] of cases) {
    test(`answers ${status} for ${path}, over HTTP and HTTPS alike`, async () => {
      for (const scheme of ['http', 'https'] as const) {
        const answer = await get(scheme, path);
        assert.equal(answer.status, status, scheme);
        assert.equal(answer.headers['cache-control'], cacheControl, scheme);
        // Over HTTP, what is refused before its host name is read goes to the other site.
        if (scheme === 'https') assert.equal(answer.headers.server, 'nginx');
      }
    });
  }

  test('gives documents compressed to clients that take it', async () => {
    const url = '/streams/v1/index.json';
    const plain = await get('https', url);
    assert.equal(plain.body, json);
    assert.equal(plain.headers['content-type'], 'application/json');
    assert.equal(plain.headers.vary, 'Accept-Encoding');
    const packed = await get('https', url, '--compressed');
    assert.equal(packed.headers['content-encoding'], 'gzip');
    assert.equal(packed.headers['content-length'], String(gzipSync(json).length));
    assert.equal(packed.body, json);
  });

  test('gives image files as they are, in parts where asked', async () => {
    const whole = await get('https', `/${version}/rootfs.squashfs`, '--compressed');
    assert.equal(whole.body, 'root');
    assert.equal(whole.headers['content-encoding'], undefined);
    const part = await get('https', `/${version}/rootfs.squashfs`, '--range', '1-2');
    assert.deepEqual([part.status, part.body], [206, 'oo']);
  });

  test('gives 304 for an image file that the client has', async () => {
    const path = `/${version}/rootfs.squashfs`;
    const { headers } = await get('https', path);
    const known = [
      `If-None-Match: ${headers.etag}`,
      `If-Modified-Since: ${headers['last-modified']}`,
    ];
    for (const condition of known) {
      const again = await get('https', path, '-H', condition);
      assert.deepEqual([again.status, again.body], [304, '']);
      assert.equal(again.headers['cache-control'], revalidated);
    }
  });

  test('speaks HTTP/2, and TLS 1.2 and 1.3', async () => {
    const flags = ['-o', '/dev/null', '-w', '%{http_version}'];
    const { stdout } = await run('curl', [...curlArgs('https', '/', '127.0.0.1'), ...flags]);
    assert.equal(stdout, '2');
    assert.equal((await get('https', '/', '--tls-max', '1.2')).status, 200);
    assert.equal((await get('https', '/', '--tlsv1.3')).status, 200);
  });

  test("answers for any host name, before another site's default_server", async () => {
    for (const host of ['images.example.org', '127.0.0.1', 'x']) {
      assert.equal((await get('http', '/', '-H', `Host: ${host}`)).status, 200);
    }
    assert.equal((await get('http', '/', '-H', 'Host: other.example.org')).status, 410);
  });

  test('answers on IPv6', { skip: !hasIpv6() && 'needs IPv6' }, async () => {
    const { stdout } = await run('curl', curlArgs('https', '/streams/v1/index.json', '[::1]'));
    assert.equal(stdout, json);
  });

  test('refuses a very long path', async () => {
    const path = `/${'a'.repeat(10_000)}`;
    assert.equal((await get('http', path)).status, 414);
    assert.equal((await get('https', path)).status, 404);
  });

  test('takes no uploads', async () => {
    const answer = await get('https', '/streams/v1/index.json', '-X', 'PUT', '-d', 'x');
    assert.equal(answer.status, 405);
  });

  function writeTree(): void {
    const packed = gzipSync(json);
    write('index.html', '<!doctype html>');
    write('secret.txt', 'secret');
    for (const name of ['.staging/upload', '.lxd-image-server/manifest.json']) write(name, '{}');
    for (const name of ['index.json', 'images.json']) {
      write(`streams/v1/${name}`, json);
      write(`streams/v1/${name}.gz`, packed);
    }
    write('streams/v1/.hidden.json', json);
    write(`${dirname(version)}/product.yaml`, 'os: Ubuntu');
    for (const name of ['rootfs.squashfs', 'rootfs.squashfs.part', 'rootfs.squashfs~', '.hidden']) {
      write(`${version}/${name}`, 'root');
    }
    write(`${version}/folder/file`, 'file');
    symlinkSync('rootfs.squashfs', join(root, version, 'linked.squashfs'));
    linkToAnotherOwnersFile(join(root, version, 'outside.squashfs'));
  }

  function write(path: string, content: string | Buffer): void {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }

  /** A link out of the tree, as an uploader who is not root could make it. */
  function linkToAnotherOwnersFile(link: string): void {
    symlinkSync('/etc/passwd', link);
    if (process.getuid?.() === 0) lchownSync(link, 65534, 65534);
  }

  /** nginx's main configuration: the site on loopback ports, beside a default site as Debian has one. */
  function nginxConfig(nginxDir: string): string {
    const enabled = join(nginxDir, 'sites-enabled/lxd-image-server');
    const site = readFileSync(enabled, 'utf8')
      .replace(/listen 80;/, `listen 127.0.0.1:${ports.http};`)
      .replace(/listen 443 /, `listen 127.0.0.1:${ports.https} `)
      .replace(/listen \[::\]:80;/, hasIpv6() ? `listen [::1]:${ports.http};` : '')
      .replace(/listen \[::\]:443 .*;/, hasIpv6() ? `listen [::1]:${ports.https} ssl http2;` : '');
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (name) => `${name}_temp_path "${folder}/${name}";`,
    );
    const path = join(nginxDir, 'nginx.conf');
    writeFileSync(
      path,
      `${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off;
error_log stderr notice;
pid "${folder}/nginx.pid";
events {}
http {
  ${temporary.join('\n  ')}
  access_log off;
  server { listen 127.0.0.1:${ports.http} default_server; server_name _; return 418; }
  server { listen 127.0.0.1:${ports.http}; server_name other.example.org; return 410; }
  ${site}
}
`,
    );
    return path;
  }

  /** nginx, once its workers are there; what it says until then is in the error where it ends instead. */
  function started(config: string): Promise<ChildProcess> {
    const child = spawn('nginx', ['-p', folder, '-c', config, '-e', 'stderr'], { env: systemEnv });
    return new Promise((resolve, reject) => {
      let said = '';
      child.stderr.on('data', (chunk) => {
        said += chunk;
        if (said.includes('start worker process')) resolve(child);
      });
      child.once('error', reject);
      child.once('close', () => reject(new Error(`nginx ended: ${said}`)));
    });
  }

  function curlArgs(scheme: 'http' | 'https', path: string, host: string): string[] {
    const url = `${scheme}://${host}:${ports[scheme]}${path}`;
    return ['-sS', '--noproxy', '*', '--path-as-is', '--cacert', certFile, url];
  }

  async function get(scheme: 'http' | 'https', path: string, ...flags: string[]) {
    const format = '\n%{stderr}%{http_code} %{header_json}';
    const args = [...curlArgs(scheme, path, '127.0.0.1'), '-w', format, ...flags];
    const { stdout, stderr } = await run('curl', args);
    const headers: Record<string, string[]> = JSON.parse(stderr.slice(4));
    return {
      status: Number(stderr.slice(0, 3)),
      headers: Object.fromEntries(Object.entries(headers).map(([name, [value]]) => [name, value])),
      body: stdout.slice(0, -1),
    };
  }
});

function hasIpv6(): boolean {
  return Object.values(networkInterfaces()).some((entries) =>
    entries?.some(({ address }) => address === '::1'),
  );
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  return port;
}
