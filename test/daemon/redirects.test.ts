/** The real daemon with redirects, a real mirror behind sshd, and a real nginx that shows it to clients. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { Agent, type RequestOptions, request } from 'node:https';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import type { MirrorServing } from '../../src/daemon/status.js';
import { runCli } from '../support/cli.js';
import { type Daemon, daemonConfig, emptyRoot, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { addVersion } from '../support/image-tree.js';
import { createMirrorHost, type MirrorHost } from '../support/mirror-host.js';
import { type MirrorWeb, startMirrorWeb } from '../support/mirror-web.js';
import { becomesMirrored, mirrorTable } from '../support/mirrored.js';
import { freePort } from '../support/ports.js';
import { needs } from '../support/programs.js';
import { uploadPrograms } from '../support/slow-upload.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate, type TestCertificate } from '../support/tls.js';

const version = 'images/a/x/amd64/default/20260101';
const paths = ['lxd.tar.xz', 'rootfs.squashfs'].map((name) => `${version}/${name}`);

interface Site {
  root: string;
  host: MirrorHost;
  web: MirrorWeb;
  /** Of the master's own server. */
  url: string;
  own: TestCertificate;
  daemon: Daemon;
  /** Another configuration: of the mirror's table, and of all else. */
  reconfigure(options: TableOptions): Promise<void>;
  start(options?: TableOptions): Promise<Daemon>;
  home: string;
}

interface TableOptions {
  url?: string;
  more?: string[];
  redirect?: boolean;
}

/** A master with one version and one mirror; clients of the mirror meet `certificate`. */
async function setUp(
  t: TestContext,
  { certificate, ...first }: { certificate?: TestCertificate } & TableOptions = {},
): Promise<Site> {
  const root = await emptyRoot(t);
  const home = await temporaryFolder(t);
  const host = await createMirrorHost(t);
  const own = await createTestCertificate();
  await writeFile(join(home, 'own.crt'), own.cert);
  await writeFile(join(home, 'own.key'), own.key, { mode: 0o600 });
  const address = `127.0.0.1:${await freePort()}`;
  const url = `https://${address}`;
  const web = await startMirrorWeb(t, {
    folder: host.folder,
    ...(certificate && { certificate }),
  });
  const options = ({ url: shown = web.url, more = [], redirect = true }: TableOptions) => {
    const table = mirrorTable(host.config, {
      url: shown.replace('MASTER', url),
      more,
    });
    const lines = [
      `server.listen = "${address}"`,
      `server.tls_cert = "${home}/own.crt"`,
      `server.tls_key = "${home}/own.key"`,
      `server.redirect = ${redirect}`,
      'server.probe_interval = "1s"',
    ];
    return { settle: '0s', home, config: [...lines, table].join('\n') };
  };
  await addVersion(root, version.replace('images/', ''));
  const daemons: Daemon[] = [];
  t.after(() => Promise.all(daemons.map((daemon) => daemon.end('SIGKILL'))));
  const start = async (given: TableOptions = {}) => {
    const daemon = await startDaemon(t, root, options(given));
    daemons.push(daemon);
    return daemon;
  };
  const daemon = await start(first);
  const reconfigure = async (given: TableOptions) => {
    await daemonConfig(root, options(given));
    await daemons.at(-1)?.call('reload');
  };
  return { root, host, web, url, own, daemon, reconfigure, start, home };
}

interface Answer {
  status: number;
  location: string | undefined;
  body: Buffer;
}

async function ask(
  { url }: Pick<Site, 'url'>,
  path: string,
  more: RequestOptions = {},
): Promise<Answer> {
  const agent = new Agent({ rejectUnauthorized: false });
  const sent = request(`${url}/${path}`, { agent, ...more }).end();
  const [response] = await once(sent, 'response');
  const body = Buffer.concat(await response.toArray());
  return { status: response.statusCode, location: response.headers.location, body };
}

/** Where both files are to be had: `here`, at the mirror, or not at the same place. */
async function placesOf(site: Site): Promise<string> {
  const answers = await Promise.all(paths.map((path) => ask(site, path, { method: 'HEAD' })));
  const places = answers.map(({ status, location }, index) => {
    if (status === 200) return 'here';
    assert.equal(status, 302);
    const url = new URL(location ?? '');
    assert.equal(url.pathname, `/${paths[index]}`);
    return url.origin;
  });
  return [...new Set(places)].join(' and ');
}

async function servingOf({ daemon }: Pick<Site, 'daemon'>): Promise<MirrorServing | undefined> {
  return (await daemon.status()).mirrors[0]?.serving;
}

async function becomes(site: Site, place: string): Promise<void> {
  await eventually(
    `clients get images from ${place}`,
    async () => (await placesOf(site)) === place,
  );
}

async function fails(site: Site, why: RegExp): Promise<void> {
  await eventually(`the mirror fails: ${why}`, async () => {
    const serving = await servingOf(site);
    return serving?.state === 'failing' && why.test(serving.failure?.message ?? '');
  });
}

/** Has the mirror synced, as soon as there is something to be synced. */
async function synced({ daemon, root }: Site): Promise<void> {
  await eventually('the mirror is synced', async () => {
    const [outcome] = await daemon.call<object[]>('mirror-sync', { root, names: [] });
    return outcome !== undefined && 'result' in outcome;
  });
}

describe('redirects', needs('nginx', ...uploadPrograms), () => {
  test('go to a mirror that has the file, with all of its bytes', async (t) => {
    const site = await setUp(t);
    await becomes(site, site.web.url);
    for (const path of paths) {
      const { location = '' } = await ask(site, path);
      assert.equal(location, `${site.web.url}/${path}`);
      const response = await fetch(location);
      const bytes = Buffer.from(await response.arrayBuffer());
      assert.ok(bytes.equals(await readFile(join(site.root, path))));
    }
    assert.equal((await ask(site, 'streams/v1/images.json')).status, 200);
    const serving = await servingOf(site);
    assert.equal(serving?.state, 'healthy');
    assert.ok((serving?.redirected ?? 0) >= 4);
    const config = join(site.home, 'config.toml');
    const shown = await runCli(['status', '--json', '--config', config]);
    const { mirrors } = JSON.parse(shown.stdout).daemon;
    assert.equal(mirrors[0].serving.state, 'healthy');
  });

  test('go there only once it has the file, and files that are new are served here till then', async (t) => {
    const site = await setUp(t);
    await becomes(site, site.web.url);
    await site.host.kill();
    const next = paths.map((path) => path.replace('20260101', '20260102'));
    await addVersion(site.root, version.replace('images/', '').replace('20260101', '20260102'));
    await site.daemon.until(async () => (await site.daemon.status()).catalogue.versions === 2);
    assert.equal(await placesOf(site), site.web.url);
    for (const path of next) assert.equal((await ask(site, path)).status, 200);
    await site.host.start();
    await synced(site);
    for (const path of next) assert.equal((await ask(site, path)).status, 302);
  });

  test('end where a file has gone from the mirror, and begin again when it is mended', async (t) => {
    const site = await setUp(t);
    await becomes(site, site.web.url);
    // Nobody can look, nor mend it.
    await site.host.kill();
    await rm(join(site.host.folder, paths[0] as string));
    await becomes(site, 'here');
    await site.host.start();
    await becomes(site, site.web.url);
    await becomesMirrored(site.root, site.host.folder);
  });

  test('end where a file of the mirror has been cut short', async (t) => {
    const site = await setUp(t);
    await becomes(site, site.web.url);
    await site.host.kill();
    await writeFile(join(site.host.folder, paths[1] as string), 'short');
    await becomes(site, 'here');
    await site.host.start();
    await becomes(site, site.web.url);
    await becomesMirrored(site.root, site.host.folder);
  });

  test('end while the web server of the mirror is away', async (t) => {
    const site = await setUp(t);
    await becomes(site, site.web.url);
    await site.web.stop();
    await becomes(site, 'here');
    await fails(site, /connection refused/);
    const config = join(site.home, 'config.toml');
    for (const verb of [['status'], ['mirror', 'list']]) {
      const { stdout } = await runCli([...verb, '--config', config]);
      assert.match(
        stdout.replace(/\s+/g, ' '),
        /(?:failing|gets no clients:) Mirror eu: .* refused; check/,
      );
    }
    await site.web.start();
    await becomes(site, site.web.url);
    assert.equal((await servingOf(site))?.failure, undefined);
  });

  test('do not go to a certificate that no client could trust, until tls_ca names it', async (t) => {
    const certificate = await createTestCertificate();
    const site = await setUp(t, { certificate });
    await fails(site, /the certificate of https:.* is of no authority/);
    assert.match((await servingOf(site))?.failure?.hint ?? '', /tls_ca/);
    assert.equal(await placesOf(site), 'here');
    const file = join(site.home, 'mirror.crt');
    await writeFile(file, certificate.cert);
    await site.reconfigure({ more: [`tls_ca = "${file}"`] });
    await becomes(site, site.web.url);
  });

  test('do not go to another simplestreams server', async (t) => {
    const other = await emptyRoot(t);
    const home = await temporaryFolder(t);
    await addVersion(other, 'b/y/amd64/default/20260101');
    const config = await daemonConfig(other, { settle: '0s', home });
    assert.equal((await runCli(['update', '--config', config])).code, 0);
    const web = await startMirrorWeb(t, { folder: other });
    const site = await setUp(t, { url: web.url });
    await fails(site, /is answered with status 404/);
    assert.match((await servingOf(site))?.failure?.hint ?? '', /another server may answer/);
    assert.equal(await placesOf(site), 'here');
    // From now on it has them, but others.
    await cp(join(site.root, 'images'), join(other, 'images'), { recursive: true });
    for (const path of paths) await writeFile(join(other, path), 'other');
    await fails(site, /has a size of 5/);
    assert.equal(await placesOf(site), 'here');
    await site.reconfigure({});
    await becomes(site, site.web.url);
  });

  test('never lead back to this server', async (t) => {
    const site = await setUp(t, { url: 'MASTER' });
    await fails(site, /leads to this server itself/);
    assert.equal(await placesOf(site), 'here');
    await site.reconfigure({});
    await becomes(site, site.web.url);
    await site.reconfigure({ url: 'MASTER/' });
    assert.equal(await placesOf(site), 'here', 'another address has yet to show what it is');
    await fails(site, /leads to this server itself/);
    assert.equal(await placesOf(site), 'here');
  });

  test('begin and end with the configuration', async (t) => {
    const site = await setUp(t, { redirect: false });
    await becomesMirrored(site.root, site.host.folder);
    assert.equal(await servingOf(site), undefined);
    assert.equal(await placesOf(site), 'here');
    assert.deepEqual(await site.web.requests(), []);
    await site.reconfigure({});
    await becomes(site, site.web.url);
    await site.reconfigure({ redirect: false });
    assert.equal(await placesOf(site), 'here');
    assert.equal(await servingOf(site), undefined);
    await site.reconfigure({ more: ['weight = 0'] });
    await eventually('it is tried', async () => (await servingOf(site))?.state === 'healthy');
    assert.equal(await placesOf(site), 'here');
    assert.equal(await site.daemon.end(), 0);
  });

  test('go to a mirror with hours of its own before the first of them, by its manifest', async (t) => {
    const more = ['schedule = "0 0 1 1 *"'];
    const site = await setUp(t, { more });
    await synced(site);
    await becomes(site, site.web.url);
    await site.daemon.end();
    const daemon = await site.start({ more });
    await becomes({ ...site, daemon }, site.web.url);
    assert.equal((await daemon.status()).mirrors[0]?.counts?.syncs, 0);
  });
});
