/**
 * The master as it is run: the production site in a real nginx, the real daemon behind it, and a mirror with an sshd
 * and a web server of its own. Whoever asks, asks nginx; the daemon has no other listener.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import type { FullStatus, MirrorServing } from '../../src/daemon/status.js';
import { startBrowser } from '../support/browser.js';
import { openPage } from '../support/catalogue-page.js';
import { runCli } from '../support/cli.js';
import { type Daemon, daemonConfig, emptyRoot, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { addVersion } from '../support/image-tree.js';
import { createMirrorHost, type MirrorHost } from '../support/mirror-host.js';
import { type MirrorWeb, startMirrorWeb } from '../support/mirror-web.js';
import { mirrorTable } from '../support/mirrored.js';
import { listenTo } from '../support/monitored.js';
import { makeNginxFolder, moveSite, runNginx } from '../support/nginx.js';
import { freePort } from '../support/ports.js';
import { needs } from '../support/programs.js';
import { type Answer, askWithCurl, type Scheme } from '../support/served-site.js';
import { uploadPrograms } from '../support/slow-upload.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate, rawRequest } from '../support/tls.js';

const version = 'images/a/x/amd64/default/20260101_00:00';
const paths = ['lxd.tar.xz', 'rootfs.squashfs'].map((name) => `/${version}/${name}`);
const [metadata = '', image = ''] = paths;
const schemes = ['http', 'https'] as const;
/** An address of this host that is not the one by which others come. */
const elsewhere = ['--interface', '127.0.0.2'];

interface Settings {
  /** Of the mirror; `NGINX` stands for where the master's nginx listens. Default: that of its web server. */
  url?: string;
  /** Lines of the mirror's table. */
  table?: string[];
  /** Lines above it. */
  lines?: string[];
  redirect?: boolean;
}

interface Site {
  root: string;
  home: string;
  ports: Record<Scheme, number>;
  flag: string;
  host: MirrorHost;
  web: MirrorWeb;
  /** The newest. */
  daemon(): Daemon;
  start(settings?: Settings): Promise<Daemon>;
  reload(settings: Settings): Promise<void>;
  get(scheme: Scheme, path: string, ...flags: string[]): Promise<Answer>;
}

/** A master with one version, whose site `init` has filled in, and a mirror that it sends clients to. */
async function setUp(t: TestContext, first: Settings = {}): Promise<Site> {
  const root = await emptyRoot(t);
  const home = await temporaryFolder(t);
  const host = await createMirrorHost(t);
  const web = await startMirrorWeb(t, { folder: host.folder });
  const ports = { http: await freePort(), https: await freePort() };
  const cert = join(home, 'master.crt');
  const optionsOf = ({ url = web.url, table = [], lines = [], redirect = true }: Settings) => {
    const config = [
      `server.tls_cert = "${cert}"`,
      `server.tls_key = "${home}/master.key"`,
      `server.redirect = ${redirect}`,
      'server.probe_interval = "1s"',
      ...lines,
      mirrorTable(host.config, {
        url: url.replace('NGINX', `127.0.0.1:${ports.https}`),
        more: table,
      }),
    ];
    return { settle: '0s', home, config: config.join('\n') };
  };
  const config = await daemonConfig(root, optionsOf(first));
  const folder = join(home, 'nginx');
  await makeNginxFolder(folder);
  const made = await runCli(['init', '--nginx-dir', folder, '--config', config]);
  assert.equal(made.code, 0, made.stderr);
  await moveSite(folder, ports);
  const nginx = await runNginx(folder);
  t.after(() => nginx.stop());
  await addVersion(root, version.replace('images/', ''));
  const daemons: Daemon[] = [];
  // Before the server of the mirror, which waits for its sessions.
  t.after(() => Promise.all(daemons.map((daemon) => daemon.end('SIGKILL'))));
  const start = async (settings: Settings = first) => {
    const daemon = await startDaemon(t, root, optionsOf(settings));
    daemons.push(daemon);
    return daemon;
  };
  await start();
  const daemon = () => daemons.at(-1) ?? assert.fail('there is no daemon');
  return {
    ...{ root, home, ports, host, web, daemon, start, flag: join(home, 'run/redirect') },
    async reload(settings) {
      await daemonConfig(root, optionsOf(settings));
      await daemon().call('reload');
    },
    get: (scheme, path, ...flags) =>
      askWithCurl(['--cacert', cert, `${scheme}://127.0.0.1:${ports[scheme]}${path}`, ...flags]),
  };
}

/** nginx sends the image itself, all of it. */
async function assertSentHere(site: Site, path = image, ...flags: string[]): Promise<void> {
  const bytes = await readFile(join(site.root, path));
  for (const scheme of schemes) {
    const { status, headers, body } = await site.get(scheme, path, ...flags);
    assert.deepEqual([status, headers.location], [200, undefined]);
    assert.equal(headers['content-length'], `${bytes.length}`);
    assert.equal(headers['cache-control'], 'no-cache');
    assert.equal(body, bytes.toString());
  }
}

/** Clients are sent to the mirror, which then sends the very file. */
async function assertSentThere(site: Site, path = image): Promise<void> {
  const bytes = await readFile(join(site.root, path));
  for (const scheme of schemes) {
    const { status, headers } = await site.get(scheme, path);
    assert.deepEqual([status, headers.location], [302, `${site.web.url}${path}`]);
    assert.equal(headers['cache-control'], 'no-store');
    assert.equal(headers['x-accel-redirect'], undefined);
    const followed = await site.get(scheme, path, '--location');
    assert.deepEqual([followed.status, followed.body], [200, bytes.toString()]);
  }
}

/** Documents and page come from here, wherever images come from. */
async function assertRest(site: Site): Promise<void> {
  for (const scheme of schemes) {
    for (const name of ['index.json', 'images.json']) {
      const { status, body } = await site.get(scheme, `/streams/v1/${name}`);
      const text = await readFile(join(site.root, 'streams/v1', name), 'utf8');
      assert.deepEqual([status, body], [200, text]);
    }
    const page = await site.get(scheme, '/', '-H', 'Accept: text/html');
    assert.deepEqual(
      [page.status, page.body],
      [200, await readFile(join(site.root, 'index.html'), 'utf8')],
    );
  }
}

async function becomes(site: Site, place: 'here' | 'there'): Promise<void> {
  const wanted = place === 'here' ? 200 : 302;
  await eventually(`images come from ${place}`, async () => {
    const answers = await Promise.all(paths.map((path) => site.get('https', path, '-I')));
    return answers.every(({ status }) => status === wanted);
  });
}

async function servingOf(site: Site): Promise<MirrorServing | undefined> {
  return (await site.daemon().status()).mirrors[0]?.serving;
}

async function synced(site: Site): Promise<void> {
  await eventually('the mirror is synced', async () => {
    const [outcome] = await site
      .daemon()
      .call<object[]>('mirror-sync', { root: site.root, names: [] });
    return outcome !== undefined && 'result' in outcome;
  });
}

describe('behind nginx', needs('nginx', 'curl', ...uploadPrograms), () => {
  test('images come from the mirror once it has them and answers; all else comes from here', async (t) => {
    const site = await setUp(t);
    await becomes(site, 'there');
    for (const path of paths) await assertSentThere(site, path);
    await assertRest(site);
    await site.host.kill();
    const next = image.replace('20260101', '20260102');
    await addVersion(site.root, version.replace('images/', '').replace('20260101', '20260102'));
    await site.daemon().until(async () => (await site.daemon().status()).catalogue.versions === 2);
    await assertSentHere(site, next);
    await assertSentThere(site, metadata);
    await site.host.start();
    await synced(site);
    await assertSentThere(site, next);
    // A part of a file, and one that is there already: the mirror has to say.
    for (const flags of [
      ['-r', '1-2'],
      ['-H', 'If-None-Match: "x"'],
      ['-X', 'HEAD', '-I'],
    ]) {
      assert.equal((await site.get('https', image, ...flags)).status, 302);
    }
    assert.equal((await site.get('https', image, '-X', 'POST')).status, 405);
    assert.equal((await site.get('https', `/${version}/none`)).status, 404);
  });

  test('nginx sends images while the web server of the mirror is away', async (t) => {
    const site = await setUp(t);
    await becomes(site, 'there');
    await site.web.stop();
    await becomes(site, 'here');
    for (const path of paths) await assertSentHere(site, path);
    const { body } = await site.get('https', '/metrics');
    assert.match(body, /^lxd_image_server_mirror_serving_healthy\{mirror="eu"\} 0$/m);
    assert.match(body, /^lxd_image_server_unredirected_requests_total [1-9]\d*$/m);
    const part = await site.get('https', image, '-r', '0-3');
    assert.deepEqual([part.status, part.body], [206, 'hsqs']);
    await assertRest(site);
    await site.web.start();
    await becomes(site, 'there');
    await assertSentThere(site);
  });

  test('nginx sends images once the daemon was killed, and asks the next one', async (t) => {
    const site = await setUp(t);
    await becomes(site, 'there');
    await site.daemon().end('SIGKILL');
    assert.ok(existsSync(site.flag), 'nobody was there to take it away');
    for (const path of paths) await assertSentHere(site, path);
    await assertRest(site);
    assert.equal((await site.get('https', '/healthz')).status, 503);
    await site.start();
    await becomes(site, 'there');
    assert.equal(await site.daemon().end(), 0);
    assert.equal(existsSync(site.flag), false);
    await assertSentHere(site);
  });

  test('nginx asks nobody once redirects are switched off', async (t) => {
    const site = await setUp(t);
    await becomes(site, 'there');
    assert.ok(existsSync(site.flag));
    await site.reload({ redirect: false });
    assert.equal(existsSync(site.flag), false);
    const asked = () => site.daemon().events.filter(({ path }) => path === image).length;
    const before = asked();
    await assertSentHere(site);
    assert.equal(asked(), before);
    await site.reload({});
    assert.ok(existsSync(site.flag));
    await becomes(site, 'there');
  });

  test('who is near is told by nginx, whatever a request says', async (t) => {
    const site = await setUp(t, { lines: ['server.status_from = ["127.0.0.1/32"]'] });
    const own = ['127.0.0.1', '192.0.2.7'].flatMap((address) => [
      ['-H', `X-Real-IP: ${address}`],
      ['-H', `X-Forwarded-For: ${address}`],
      ['-H', `Forwarded: for=${address}`],
      ['-H', `X-Real-IP: ${address}`, '-H', `X-Forwarded-For: ${address}, ${address}`],
    ]);
    for (const path of ['/status', '/status.json', '/status/events', '/metrics']) {
      for (const forged of [[], ...own]) {
        const refused = await site.get('https', path, ...elsewhere, ...forged);
        assert.equal(refused.status, 403, `${path} ${forged}`);
        assert.match(refused.body, /You ask from 127\.0\.0\.2\./);
      }
    }
    assert.equal((await site.get('https', '/status.json')).status, 200);
    assert.equal((await site.get('https', '/healthz', ...elsewhere)).status, 200);
    // A certificate that is trusted opens it from everywhere; one that is only written in a header opens nothing.
    const friend = await createTestCertificate();
    const [certFile, keyFile] = [join(site.home, 'friend.crt'), join(site.home, 'friend.key')];
    await writeFile(certFile, friend.cert);
    await writeFile(keyFile, friend.key);
    const config = join(site.home, 'config.toml');
    const added = await runCli([
      'trust',
      'add',
      'friend',
      '--certificate',
      certFile,
      '--config',
      config,
    ]);
    assert.equal(added.code, 0, added.stderr);
    const header = `X-SSL-Cert: ${encodeURIComponent(friend.cert)}`;
    assert.equal((await site.get('https', '/metrics', ...elsewhere, '-H', header)).status, 403);
    const shown = ['--cert', certFile, '--key', keyFile];
    assert.equal((await site.get('https', '/metrics', ...elsewhere, ...shown)).status, 200);
  });

  test('the status, its events, metrics and health are told through it', async (t) => {
    const site = await setUp(t);
    await becomes(site, 'there');
    const status = await site.get('https', '/status.json');
    const { mirrors, days, ready } = JSON.parse(status.body) as FullStatus;
    assert.deepEqual([status.status, ready, days.length], [200, true, 1]);
    assert.equal(mirrors[0]?.serving?.state, 'healthy');
    const page = await site.get('https', '/status');
    assert.match(page.body, /^<!doctype html>[\s\S]*Content-Security-Policy/);
    assert.equal(page.headers['content-type'], 'text/html; charset=utf-8');
    const metrics = await site.get('https', '/metrics');
    assert.match(metrics.headers['content-type'] ?? '', /^text\/plain; version=/);
    const line = /^lxd_image_server_mirror_redirected_requests_total\{mirror="eu"\} (\d+)$/m;
    const [, redirected] = line.exec(metrics.body) ?? [];
    assert.ok(Number(redirected) >= 2, metrics.body);
    assert.match(metrics.body, /^lxd_image_server_mirror_serving_healthy\{mirror="eu"\} 1$/m);
    for (const scheme of schemes) {
      const { status: code, body } = await site.get(scheme, '/healthz');
      assert.deepEqual([code, body], [200, 'ok\n']);
    }
    const listening = await listenTo(site.ports.https);
    t.after(() => listening.cut());
    const first = await listening.next();
    assert.equal(first?.event, 'status');
    assert.equal(((first?.data ?? {}) as Partial<FullStatus>).catalogue?.versions, 1);
    await addVersion(site.root, 'a/x/amd64/default/20260102');
    for (;;) {
      const told = await listening.next();
      assert.equal(told?.event, 'change');
      const { catalogue } = (told?.data ?? {}) as Partial<FullStatus>;
      if (catalogue?.versions === 2) break;
    }
  });

  test(
    'both pages are whole and live in a browser that comes by it',
    needs('chromium'),
    async (t) => {
      const site = await setUp(t);
      await becomes(site, 'there');
      const browser = await startBrowser();
      t.after(() => browser.close());
      const { page, errors } = await openPage(browser, `https://127.0.0.1:${site.ports.https}/`);
      assert.equal(await page.textContent('#count'), '1 product, 1 version');
      await page.goto(`https://127.0.0.1:${site.ports.https}/status`);
      await page.locator('.connection.live').waitFor();
      await page.locator('#verdict').getByText('All is well.').waitFor();
      await addVersion(site.root, 'a/x/amd64/default/20260102');
      await page.locator('#tiles').getByText('2 versions', { exact: true }).waitFor();
      assert.deepEqual(errors, []);
    },
  );

  test('a mirror that leads back to this nginx gets no clients, and says why', async (t) => {
    const site = await setUp(t, { url: 'https://NGINX' });
    await eventually('it fails', async () => (await servingOf(site))?.state === 'failing');
    assert.match((await servingOf(site))?.failure?.message ?? '', /leads to this server itself/);
    await assertSentHere(site);
    await site.reload({});
    await becomes(site, 'there');
    await site.reload({ url: 'https://NGINX/' });
    await assertSentHere(site);
    await eventually('it fails', async () => (await servingOf(site))?.state === 'failing');
    await assertSentHere(site);
  });

  test('a head that makes no sense is refused, or changes nothing', async (t) => {
    const site = await setUp(t);
    await becomes(site, 'there');
    const url = `${site.web.url}${image}`;
    const first = `GET ${image} HTTP/1.1`;
    const host = 'Host: localhost';
    const heads: [status: number, ...lines: string[]][] = [
      [302, first, host],
      [302, first, host, `X-Real-IP: ${'1'.repeat(5000)}`],
      [302, first, host, 'X-Real-IP: 10.0.0.1', 'X-Real-IP: 10.0.0.2', 'X_Real_IP: 10.0.0.3'],
      [302, first, host, 'X-Forwarded-For: , ,"<script>\u0001, ::ffff:zz', 'Forwarded: for=;;;"'],
      [302, first, host, 'Range: bytes=9-1,a-b', 'If-Range: "', 'If-Modified-Since: never'],
      [302, first, host, 'If-None-Match: """,W/', 'Accept-Encoding: ;q=;,,', 'Accept: \u00e9'],
      [302, first, host, 'X-Accel-Redirect: /.files/secret', 'X-Accel-Buffering: no'],
      [302, first, host, 'x-lxd-image-server-probe: guessed'],
      [302, first, host, 'Upgrade: websocket', 'Sec-WebSocket-Key: x'],
      [302, `GET http://elsewhere.example.org${image} HTTP/1.1`, 'Host: elsewhere.example.org'],
      [302, first, 'Host: "><script>'],
      [400, first],
      [400, first, host, 'Host: other.example.org'],
      [400, first, host, 'X-Zero: \0'],
      [400, first, host, 'Content-Length: many'],
      [400, first, host, 'Content-Length: 1', 'Transfer-Encoding: chunked'],
      [400, first, host, `X-Long: ${'x'.repeat(40_000)}`],
    ];
    for (const [status, ...lines] of heads) {
      const text = [...lines, 'Connection: close', '', ''].join('\r\n');
      const answer = await rawRequest(site.ports.https, Buffer.from(text, 'latin1'));
      assert.equal(answer.status, status, JSON.stringify(text.slice(0, 200)));
      assert.equal(answer.headers.location, status === 302 ? url : undefined);
    }
    await assertSentThere(site);
  });
});
