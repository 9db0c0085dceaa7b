/**
 * Real clients that a master sends to a mirror, with the certificates as users set them up. The bytes come from the
 * mirror: its web server's log says so.
 */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Authority, createAuthority } from '../support/authority.js';
import { makeSplitImage, splitImagePrograms } from '../support/busybox-image.js';
import { missingPrograms } from '../support/command.js';
import { type Daemon, daemonConfig, emptyRoot, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { machine } from '../support/image-files.js';
import { type Manager, managerKinds, startManager } from '../support/managers.js';
import { type MirrorWeb, startMirrorWeb } from '../support/mirror-web.js';
import { mirrorTable } from '../support/mirrored.js';
import { startNginx } from '../support/nginx.js';
import { freePort } from '../support/ports.js';
import { createSftpServer } from '../support/sftp-mirror.js';
import { uploadPrograms } from '../support/slow-upload.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate, type TestCertificate } from '../support/tls.js';

const folder = `demo/busybox/${machine.folder}/default/20260101_00:00`;
const files = ['lxd.tar.xz', 'rootfs.squashfs'].map((name) => `/images/${folder}/${name}`);

type Ending = { after: (ending: () => unknown) => void };

interface Master {
  url: string;
  daemon: Daemon;
  web: MirrorWeb;
}

/** A master that sends clients to a mirror: the mirror has `demo/busybox`, whose /etc/motd is `motd`. */
async function startMaster(
  t: Ending,
  options: {
    motd: string;
    own: TestCertificate;
    mirror?: TestCertificate;
    tlsCa?: string;
    /** Whether the production site in a real nginx is all that clients reach. Default: the embedded server is. */
    nginx?: boolean;
  },
): Promise<Master> {
  const { motd, own, mirror, tlsCa, nginx = false } = options;
  // Before the servers of the mirror, which wait for its sessions.
  let daemon: Daemon | undefined;
  t.after(() => daemon?.end());
  const root = await emptyRoot(t);
  const home = await temporaryFolder(t);
  const image = join(root, 'images', folder);
  await mkdir(image, { recursive: true });
  await makeSplitImage(image, { files: { 'etc/motd': `${motd}\n` } });
  await writeFile(join(home, 'nginx.crt'), own.cert);
  await writeFile(join(home, 'nginx.key'), own.key, { mode: 0o600 });
  await writeFile(join(home, 'ca.crt'), tlsCa ?? '');
  const sftp = await createSftpServer(t);
  const web = await startMirrorWeb(t, {
    folder: sftp.folder,
    ...(mirror && { certificate: mirror }),
  });
  const address = `127.0.0.1:${await freePort()}`;
  const more = tlsCa === undefined ? [] : [`tls_ca = "${home}/ca.crt"`];
  const lines = [
    `server.listen = "${nginx ? '' : address}"`,
    `server.tls_cert = "${home}/nginx.crt"`,
    `server.tls_key = "${home}/nginx.key"`,
    'server.redirect = true',
    'server.probe_interval = "1s"',
    mirrorTable(sftp.config, { url: web.url, more }),
  ];
  const config = { settle: '0s', home, config: lines.join('\n') };
  const site = { config: await daemonConfig(root, config), sslDir: home };
  const front = nginx ? await startNginx(site, join(home, 'nginx')) : undefined;
  t.after(() => front?.close());
  const started = await startDaemon(t, root, config);
  daemon = started;
  await eventually('clients are sent to the mirror', async () => {
    const [shown] = (await started.status()).mirrors;
    const proven = (await web.requests()).some((line) => /^HEAD .* 200 /.test(line));
    return shown?.state === 'synced' && shown.serving?.state === 'healthy' && proven;
  });
  return { url: front?.url ?? `https://${address}`, daemon: started, web };
}

/** The image came from the mirror, and none of it from the master. */
async function assertFromMirror({ daemon, web }: Master, agent: RegExp): Promise<void> {
  const asked = (await web.requests()).filter((line) => agent.test(line));
  const got = asked.filter((line) => line.startsWith('GET /images/') && / 200 /.test(line));
  assert.deepEqual(got.map((line) => line.split(' ')[1]).sort(), files);
  const here = daemon.events.filter(
    ({ msg, method, path }) =>
      msg === 'Request' && method === 'GET' && String(path).startsWith('/images/'),
  );
  assert.deepEqual([...new Set(here.map(({ status }) => status))], [302]);
}

for (const kind of managerKinds) {
  const missing = await kind.missing();
  const skip = missing || missingPrograms(...splitImagePrograms, ...uploadPrograms, 'nginx');
  describe(`${kind.title}, sent to a mirror`, { skip }, () => {
    const endings: (() => unknown)[] = [];
    const t = { after: (ending: () => unknown) => void endings.unshift(ending) };
    const agent = new RegExp(` ${kind.title} `);
    let manager: Manager;
    let authority: Authority;
    before(async () => {
      authority = await createAuthority();
      const bundle = join(await temporaryFolder(t), 'authorities.crt');
      await writeFile(bundle, authority.cert);
      const env = () => ({ ...kind.env(), SSL_CERT_FILE: bundle });
      manager = await startManager({ ...kind, env });
      t.after(() => manager.close());
    });
    after(async () => {
      for (const end of endings) await end();
    });

    const motdIn = (name: string) => manager.run('exec', name, '--', 'cat', '/etc/motd');

    test('launches where client and daemon trust the authority of both', async (t) => {
      const own = await authority.issue();
      const mirror = await authority.issue();
      const tlsCa = authority.cert;
      const master = await startMaster(t, { motd: 'authority', own, mirror, tlsCa });
      await manager.run('remote', 'add', 'signed', master.url, '--protocol=simplestreams');
      await manager.run('launch', 'signed:demo/busybox', 'signed');
      assert.equal(await motdIn('signed'), 'authority\n');
      await assertFromMirror(master, agent);
    });

    for (const [name, title] of [
      ['pinned', 'the master'],
      ['nginx', 'nginx before the master'],
    ] as const) {
      test(`launches with the certificate of ${title} alone where the mirror is plain HTTP`, async (t) => {
        const own = await createTestCertificate();
        const master = await startMaster(t, { motd: name, own, nginx: name === 'nginx' });
        await manager.addRemote(name, { url: master.url, certificate: own.cert });
        await manager.run('launch', `${name}:demo/busybox`, name);
        assert.equal(await motdIn(name), `${name}\n`);
        await assertFromMirror(master, agent);
      });
    }

    test('copies with the certificate of the master alone where the mirror is plain HTTP', async (t) => {
      const own = await createTestCertificate();
      const master = await startMaster(t, { motd: 'copied', own });
      await manager.addRemote('copied', { url: master.url, certificate: own.cert });
      await manager.run('image', 'copy', 'copied:demo/busybox', 'local:', '--alias', 'copied');
      await manager.run('launch', 'copied', 'copied');
      assert.equal(await motdIn('copied'), 'copied\n');
      await assertFromMirror(master, agent);
    });

    for (const [pins, title] of [
      [['own'], 'the master'],
      [['own', 'mirror'], 'master and mirror'],
    ] as const) {
      test(`refuses a mirror that has signed itself, with ${title} pinned`, async (t) => {
        const pairs = { own: await createTestCertificate(), mirror: await createTestCertificate() };
        const tlsCa = pairs.mirror.cert;
        const master = await startMaster(t, { motd: title, ...pairs, tlsCa });
        const name = pins.join('-');
        const certificate = pins.map((pin) => pairs[pin].cert).join('\n');
        await manager.addRemote(name, { url: master.url, certificate });
        const { code, stderr } = await manager.outcome(
          'image',
          'copy',
          `${name}:demo/busybox`,
          'local:',
        );
        assert.equal(code, 1);
        assert.match(stderr, /certificate signed by unknown authority/);
      });
    }
  });
}
