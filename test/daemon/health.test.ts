/** Whether the daemon can do its job, with real faults: what is wrong is told, and told no more when it is over. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { createHealth, type HealthSources } from '../../src/daemon/health.js';
import type { Health } from '../../src/server/monitor/contract.js';
import { run } from '../support/command.js';
import { type Daemon, emptyRoot, launchDaemon, shows, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { addVersion } from '../support/image-tree.js';
import { mounting } from '../support/mounting.js';
import { freePort } from '../support/ports.js';
import { needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate } from '../support/tls.js';

const version = 'demo/one/amd64/default/20260101';

async function healthOf(daemon: Daemon): Promise<Health> {
  const { health } = await daemon.status();
  assert.ok(health);
  return health;
}

/** Waits until the daemon says this of itself; anyone may read it, so no path is in it. */
async function becomesIll(daemon: Daemon, { reason }: { reason: RegExp }): Promise<Health> {
  await eventually(`ill: ${reason}`, async () =>
    reason.test((await healthOf(daemon)).reason ?? ''),
  );
  const health = await healthOf(daemon);
  assert.equal(health.ok, false);
  assert.doesNotMatch(health.reason ?? '', /\//);
  return health;
}

async function becomesWell(daemon: Daemon): Promise<void> {
  await eventually('well', async () => (await healthOf(daemon)).ok);
  assert.deepEqual(await healthOf(daemon), { ok: true });
}

describe('the health of the daemon', () => {
  test('is good where it publishes, without a server that it is not to have', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    assert.deepEqual(await healthOf(daemon), { ok: true });
    await addVersion(root, version);
    await daemon.until(shows(root, 'demo:one:amd64:default/20260101'));
    assert.deepEqual(await healthOf(daemon), { ok: true });
  });

  test('is ill while the images folder is away', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    await rename(join(root, 'images'), join(root, 'away'));
    const { detail } = await becomesIll(daemon, { reason: /images folder/ });
    assert.ok(detail?.includes(join(root, 'images')), detail);
    await rename(join(root, 'away'), join(root, 'images'));
    await becomesWell(daemon);
  });

  test('is ill while a document is missing', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    const file = join(root, 'streams/v1/images.json');
    await rename(file, `${file}.away`);
    const { reason, detail } = await becomesIll(daemon, { reason: /documents/ });
    assert.equal(reason, 'the published documents are not there');
    assert.ok(detail?.startsWith(file), detail);
    await rename(`${file}.away`, file);
    await becomesWell(daemon);
  });

  test('is ill while another program has its port', async (t) => {
    const root = await emptyRoot(t);
    const thief = createServer().listen(await freePort(), '127.0.0.1');
    await once(thief, 'listening');
    t.after(() => void thief.close());
    const address = thief.address() as { port: number };
    const pair = await createTestCertificate();
    await writeFile(join(root, 'crt'), pair.cert);
    await writeFile(join(root, 'key'), pair.key, { mode: 0o600 });
    const config = [
      `server.listen = "127.0.0.1:${address.port}"`,
      `server.tls_cert = ${JSON.stringify(join(root, 'crt'))}`,
      `server.tls_key = ${JSON.stringify(join(root, 'key'))}`,
    ].join('\n');
    const daemon = await startDaemon(t, root, { config });
    const { reason, detail } = await becomesIll(daemon, { reason: /HTTPS/ });
    assert.equal(reason, 'the HTTPS server does not listen');
    assert.match(detail ?? '', new RegExp(String(address.port)));
    thief.close();
    await once(thief, 'close');
    await daemon.call('reload');
    await becomesWell(daemon);
  });

  test('is as good with a mirror that cannot be reached', async (t) => {
    const root = await emptyRoot(t);
    const keyPath = join(root, 'no-key');
    const config = `[mirrors.eu]\nurl = "https://127.0.0.1:1"\nkey_path = ${JSON.stringify(keyPath)}`;
    const daemon = await startDaemon(t, root, { config });
    await eventually('the mirror fails', async () => {
      const [mirror] = (await daemon.status()).mirrors;
      return mirror?.state === 'stopped' || mirror?.state === 'waiting';
    });
    assert.deepEqual(await healthOf(daemon), { ok: true });
  });

  test(
    'is ill while its first look at the tree fails, and says why',
    needsRoot('mount'),
    async (t) => {
      const mount = mounting(t);
      const root = await temporaryFolder(t);
      const streams = join(root, 'streams');
      await mkdir(streams, { recursive: true });
      await mkdir(join(root, 'images'));
      await mount(streams, { size: '64k' });
      await writeFile(join(streams, 'ballast'), Buffer.alloc(64 * 1024)).catch(() => undefined);
      const daemon = await launchDaemon(t, root);
      await daemon.event('cannot publish; it is tried again');
      const { reason } = await becomesIll(daemon, { reason: /full/ });
      assert.equal(reason, 'cannot publish: the disk is full');
      // Also while it tries again.
      for (let at = 0; at < 40; at += 1) assert.equal((await healthOf(daemon)).reason, reason);
      await rm(join(streams, 'ballast'));
      await becomesWell(daemon);
    },
  );

  test('is ill once the file system of the images is unmounted', needsRoot('mount'), async (t) => {
    const mount = mounting(t);
    const root = await temporaryFolder(t);
    const images = join(root, 'disk/images');
    await mkdir(join(root, 'disk'));
    await mount(join(root, 'disk'));
    await mkdir(images);
    const daemon = await startDaemon(t, root, { args: ['--img-dir', images] });
    await becomesWell(daemon);
    await run('umount', ['--lazy', join(root, 'disk')]);
    await becomesIll(daemon, { reason: /images folder/ });
    await mount(join(root, 'disk'));
    await mkdir(images);
    await becomesWell(daemon);
  });
});

describe('the check', () => {
  async function check(t: TestContext, sources: Partial<HealthSources> = {}) {
    const root = await temporaryFolder(t);
    const paths = { images: join(root, 'images'), streams: join(root, 'streams') };
    const ending = new AbortController();
    const all: HealthSources = {
      serving: { state: () => ({ url: 'https://x' }) },
      lookout: { failure: () => undefined },
      listen: ':8443',
      ...sources,
    };
    const health = createHealth({ paths, sources: () => all, signal: ending.signal });
    t.after(() => health.close());
    return { health, ending };
  }

  test('is not passed before the tree was looked at', async (t) => {
    const { health } = await check(t);
    assert.deepEqual(health.state(), { ok: false, reason: 'the tree has not been looked at yet' });
    health.activity({ doing: 'digest', bytes: 1 });
    assert.equal(health.state().ok, false);
    health.activity({ doing: 'idle' });
    assert.deepEqual(health.state(), { ok: true });
  });

  test('is failed from a run that failed until one that did not, tries in between too', async (t) => {
    const { health } = await check(t);
    health.activity({ doing: 'idle' });
    health.activity({ doing: 'waiting', failure: 'Cannot read /srv/x', code: 'IO' });
    const failed = {
      ok: false,
      reason: 'cannot publish: the disk does not work as it should',
      detail: 'Cannot read /srv/x',
    };
    assert.deepEqual(health.state(), failed);
    health.activity({ doing: 'scan', bytes: 0 });
    assert.deepEqual(health.state(), failed);
    health.activity({ doing: 'waiting', failure: 'our own bug in /srv/y' });
    assert.equal(health.state().reason, 'cannot publish');
    health.activity({ doing: 'idle' });
    assert.deepEqual(health.state(), { ok: true });
  });

  test('is failed where the tree is not watched, and where nothing listens that should', async (t) => {
    let failure: string | undefined = 'EMFILE';
    let listen = ':8443';
    const sources: HealthSources = {
      lookout: { failure: () => failure },
      serving: { state: () => ({ reason: 'no certificate at /etc/x' }) },
      get listen() {
        return listen;
      },
    };
    const root = await temporaryFolder(t);
    const paths = { images: root, streams: root };
    const { signal } = new AbortController();
    const health = createHealth({ paths, sources: () => sources, signal });
    t.after(() => health.close());
    health.activity({ doing: 'idle' });
    assert.deepEqual(health.state(), {
      ok: false,
      reason: 'the tree is not watched for changes',
      detail: 'EMFILE',
    });
    failure = undefined;
    assert.deepEqual(health.state(), {
      ok: false,
      reason: 'the HTTPS server does not listen',
      detail: 'no certificate at /etc/x',
    });
    listen = '';
    assert.deepEqual(health.state(), { ok: true });
  });

  test('is failed where the images folder is away, though no run has met that', async (t) => {
    const { health } = await check(t);
    health.activity({ doing: 'idle' });
    await eventually('it is noticed', () => !health.state().ok);
    assert.equal(health.state().reason, 'the images folder cannot be reached');
    assert.match(health.state().detail ?? '', /\/images: no such file/);
  });

  test('is failed when the daemon ends', async (t) => {
    const { health, ending } = await check(t);
    health.activity({ doing: 'idle' });
    ending.abort();
    assert.deepEqual(health.state(), { ok: false, reason: 'it is ending' });
  });
});
