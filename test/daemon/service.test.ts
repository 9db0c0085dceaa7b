/** The daemon as a service: one a root, commands, configuration, signals, and what it tells systemd. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { link, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { get } from 'node:https';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { describe, type TestContext, test } from 'node:test';
import { cli, nodeOptions, publishedVersions, runCli } from '../support/cli.js';
import {
  type Daemon,
  daemonConfig,
  emptyRoot,
  launchDaemon,
  startDaemon,
} from '../support/daemon.js';
import { addVersion, splitImage, squashfs } from '../support/image-tree.js';
import { listenAsServiceManager } from '../support/notify-socket.js';
import { freePort } from '../support/ports.js';
import { needs } from '../support/programs.js';
import { createTestCertificate } from '../support/tls.js';

const version = 'demo/one/amd64/default/20260101';
const published = 'demo:one:amd64:default/20260101';

async function isPublished(root: string): Promise<boolean> {
  return (await publishedVersions(root)).includes(published);
}

describe('one daemon a root', () => {
  test('a second one, and a command that would publish itself, are refused', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    const other = join(root, 'other.toml');
    const text = await readFile(join(root, 'config.toml'), 'utf8');
    await writeFile(other, text.replace(join(root, 'run'), join(root, 'run2')));
    const second = await runCli(['watch', '--config', other]);
    assert.equal(second.code, 1);
    assert.match(second.stderr, new RegExp(`process ${daemon.pid}\\) is at work here`));
    assert.equal(await daemon.end(), 0);
  });

  test('the next one takes over from one that was killed', async (t) => {
    const root = await emptyRoot(t);
    const killed = await startDaemon(t, root);
    assert.equal(await killed.end('SIGKILL'), 'SIGKILL');
    const daemon = await startDaemon(t, root);
    assert.equal((await daemon.status()).pid, daemon.pid);
    assert.equal(await daemon.end(), 0);
    assert.deepEqual(await readdir(join(root, 'run')), []);
  });

  test('its socket is for its owner and group alone', async (t) => {
    const root = await emptyRoot(t);
    await startDaemon(t, root);
    const { mode } = await stat(join(root, 'run/control.sock'));
    assert.equal(mode & 0o777, 0o660);
  });
});

describe('the status', () => {
  test('says what is published, what is held back and why, and until when', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { settle: '1h' });
    await addVersion(root, version);
    await addVersion(root, 'demo/two/amd64/default/20260101', { 'lxd.tar.xz': 'none' });
    await daemon.until(async () => (await daemon.status()).heldCount === 2);
    const status = await daemon.status();
    const [waiting, missing] = status.held;
    assert.deepEqual([waiting?.path, waiting?.code], [version, 'settling']);
    const left = Date.parse(waiting?.until ?? '') - Date.now();
    assert.ok(left > 3_500_000 && left <= 3_600_000, `${left}`);
    assert.equal(missing?.code, 'root-missing');
    assert.equal(missing?.until, undefined);
    assert.equal(status.ready, true);
    assert.deepEqual(status.catalogue, { products: 0, versions: 0, bytes: 0 });
    assert.equal(status.watching.mode, 'events');
    assert.equal(status.root, root);
  });

  test('is of the last run over everything that is there', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    await addVersion(root, version);
    await daemon.until(() => isPublished(root));
    const { catalogue, publications, held } = await daemon.status();
    const { versions, products } = catalogue;
    assert.deepEqual({ products, versions, held }, { products: 1, versions: 1, held: [] });
    assert.deepEqual(
      publications.map((each) => [each.products, each.versions]),
      // The first documents name nothing.
      [
        [1, 1],
        [0, 0],
      ],
    );
    assert.ok(Date.parse(publications[0]?.at ?? '') <= Date.now());
  });
});

describe('an update through the daemon', () => {
  test('publishes what is there, and waits for what is fresh', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { settle: '1s' });
    await addVersion(root, version);
    const { versions } = await daemon.call<{ versions: number }>('update', { root });
    assert.equal(versions, 1);
    assert.ok(await isPublished(root));
  });

  test('reads every file again where that is asked', async (t) => {
    const root = await emptyRoot(t);
    await addVersion(root, version);
    const daemon = await startDaemon(t, root);
    await daemon.until(() => isPublished(root));
    const files = async (args: object) =>
      (await daemon.call<{ read: { files: number } }>('update', { root, ...args })).read.files;
    assert.equal(await files({}), 0);
    assert.equal(await files({ rebuild: true }), 2);
  });

  test('of another tree is refused', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    const refused = { code: 'BUSY', message: `The daemon works on another tree: ${root}` };
    await assert.rejects(daemon.call('update', { root: '/elsewhere' }), refused);
    await assert.rejects(daemon.call('update', { root, images: '/elsewhere' }), refused);
    await assert.rejects(daemon.call('update', { root: 7 }), { code: 'USAGE' });
  });
});

describe('the configuration', () => {
  test('is read again at SIGHUP, and the settle time follows', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { settle: '1h' });
    await addVersion(root, version);
    await daemon.until(async () => (await daemon.status()).heldCount === 1);
    await daemonConfig(root, { settle: '0s', config: 'schedule.rescan = "0 0 1 1 *"' });
    daemon.signal('SIGHUP');
    const { changed } = await daemon.event('configuration read again');
    assert.deepEqual(changed, ['publish.settle', 'schedule.rescan']);
    await daemon.until(() => isPublished(root));
    assert.deepEqual(
      (await daemon.status()).jobs.map(({ name, schedule }) => [name, schedule]),
      [
        ['rescan', '0 0 1 1 *'],
        ['verify', ''],
        ['prune', ''],
      ],
    );
  });

  test('that is broken is refused, and the old one stays in force', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { settle: '0s' });
    const file = await daemonConfig(root, { settle: '1h', config: 'publish.gzipp = true' });
    daemon.signal('SIGHUP');
    const { err } = await daemon.event('configuration refused; the old one stays');
    assert.match((err as { message: string }).message, /publish\.gzipp/);
    await assert.rejects(daemon.call('reload'), { code: 'CONFIG', message: new RegExp(file) });
    await addVersion(root, version);
    await daemon.until(() => isPublished(root));
  });

  test('that moves the tree takes a restart, and nothing of it is taken over', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { settle: '0s' });
    const file = await daemonConfig(root, { settle: '1h' });
    const text = await readFile(file, 'utf8');
    await writeFile(file, text.replace(/^paths.root = .*$/m, 'paths.root = "/elsewhere"'));
    await assert.rejects(daemon.call('reload'), {
      code: 'CONFIG',
      message: 'paths.images, paths.root, paths.streams cannot change while the daemon runs',
    });
    await addVersion(root, version);
    await daemon.until(() => isPublished(root));
  });

  test('that takes the server to another address, or is refused, ends no download', async (t) => {
    const root = await emptyRoot(t);
    // More than sockets and pipes hold, so that it is under way until it is read.
    const image = squashfs('large', 64 * 1024 * 1024);
    await addVersion(root, version, { ...(await splitImage('large')), 'rootfs.squashfs': image });
    const server = await serverConfig(root);
    const daemon = await startDaemon(t, root, { config: server('127.0.0.1:0') });
    const before = await serverUrl(daemon);
    const response = await startDownload(`${before}/images/${version}/rootfs.squashfs`);

    const taken = server(`127.0.0.1:${await takenPort(t)}`);
    for (const config of [`${server('127.0.0.1:0')}\nserver.tls_cert = "/none"`, taken]) {
      await daemonConfig(root, { settle: '1h', config });
      await assert.rejects(daemon.call('reload'), { name: 'ServerError' });
      assert.equal(await serverUrl(daemon), before);
    }
    const listen = `127.0.0.1:${await freePort()}`;
    await daemonConfig(root, { config: server(listen) });
    assert.deepEqual(await daemon.call('reload'), { changed: ['server.listen'] });
    assert.equal(await serverUrl(daemon), `https://${listen}`);
    assert.ok(image.equals(await buffer(response)));
  });
});

test('a server that could not start is tried again with each rescan', async (t) => {
  const root = await emptyRoot(t);
  const [key, cert] = ['key', 'cert'].map((name) => join(root, `${name}.pem`)) as [string, string];
  const daemon = await startDaemon(t, root, {
    config: [
      'server.listen = "127.0.0.1:0"',
      `server.tls_key = ${JSON.stringify(key)}`,
      `server.tls_cert = ${JSON.stringify(cert)}`,
      'schedule.rescan = "* * * * * *"',
    ].join('\n'),
  });
  assert.ok('reason' in (await daemon.status()).server);
  const pair = await createTestCertificate();
  await writeFile(cert, pair.cert);
  await writeFile(key, pair.key, { mode: 0o600 });
  await daemon.event('serving');
  assert.ok('url' in (await daemon.status()).server);
});

test('its log is lines to read on a terminal, and JSON elsewhere', {
  ...needs('script'),
  timeout: 60_000,
}, async (t) => {
  const root = await emptyRoot(t);
  const words = [process.execPath, ...nodeOptions, cli, 'watch', '--config'];
  const quoted = [...words, await daemonConfig(root)].map((word) => `'${word}'`);
  // Not below a shell, which would end by Ctrl-C as well.
  const command = ['exec', ...quoted].join(' ');
  const stdio = ['pipe', 'pipe', 'inherit'] as const;
  const terminal = spawn('script', ['-qefc', command, '/dev/null'], { stdio: [...stdio] });
  // It passes this on; a hangup the daemon would outlive.
  t.after(() => terminal.kill('SIGTERM'));
  const ended = once(terminal, 'close');
  let said = '';
  for await (const chunk of terminal.stdout) {
    said += chunk;
    // Ctrl-C.
    if (/^\S*info\S*: ready /m.test(said) && terminal.stdin.writable) terminal.stdin.end('\x03');
  }
  assert.deepEqual(await ended, [0, null], said);
  assert.match(said, /^\S*info\S*: ended/m);
  assert.doesNotMatch(said, /^\{/m);
  // It is ready when it has logged that as JSON.
  await startDaemon(t, root);
});

describe('the hours', () => {
  test('of a rescan find what brought no event', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root, { config: 'schedule.rescan = "* * * * * *"' });
    // Nothing tells of documents that were taken away.
    await writeFile(join(root, 'streams/v1/images.json'), '{}');
    await daemon.until(async () => {
      const text = await readFile(join(root, 'streams/v1/images.json'), 'utf8');
      return text.includes('products:1.0');
    });
    const [job] = (await daemon.status()).jobs;
    assert.equal(job?.name, 'rescan');
    assert.equal(job?.last?.failure, undefined);
  });
});

test('a repair by the daemon takes out what is damaged, and nothing else', async (t) => {
  const root = await emptyRoot(t);
  const file = await damagedLater(root);
  await addVersion(root, 'demo/two/amd64/default/20260101');
  const daemon = await startDaemon(t, root);
  await daemon.until(() => isPublished(root));
  await file.damage();
  const config = join(root, 'config.toml');
  const args = ['verify', '--repair', '--json', '--config', config];
  const { code, stdout } = await runCli(args);
  assert.equal(code, 5);
  const { repaired, moved } = JSON.parse(stdout) as { repaired: boolean; moved: string[] };
  assert.deepEqual(
    { repaired, moved },
    {
      repaired: true,
      moved: [`images/${version}/.rootfs.squashfs.damaged`],
    },
  );
  assert.deepEqual(await publishedVersions(root), ['demo:two:amd64:default/20260101']);
  assert.equal((await runCli(args)).code, 0);
});

/** A version with a file that can be damaged as a disk does it: other bytes, and nothing that tells of them. */
async function damagedLater(root: string) {
  const file = join(await addVersion(root, version), 'rootfs.squashfs');
  const longAgo = new Date(Date.UTC(2026, 0, 1));
  await utimes(file, longAgo, longAgo);
  return {
    async damage() {
      // The folder of this name is not watched.
      const backDoor = join(root, 'back-door');
      await link(file, backDoor);
      const bytes = await readFile(file);
      bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1);
      await writeFile(backDoor, bytes);
      await utimes(backDoor, longAgo, longAgo);
    },
  };
}

test('damage is found at its hour', async (t) => {
  const root = await emptyRoot(t);
  const file = await damagedLater(root);
  const daemon = await startDaemon(t, root, { config: 'schedule.verify = "* * * * * *"' });
  await daemon.until(() => isPublished(root));
  await file.damage();
  const { path, reason } = await daemon.event('damaged');
  assert.equal(path, `images/${version}/rootfs.squashfs`);
  assert.match(String(reason), /^has SHA-256 /);
  const isTold = async () => {
    const job = (await daemon.status()).jobs.find(({ name }) => name === 'verify');
    return job?.last?.failure?.startsWith('1 damaged') ?? false;
  };
  while (!(await isTold())) await daemon.event('verified');
});

describe('SIGTERM', () => {
  test('while a large file is read ends the daemon with everything as it was', async (t) => {
    const root = await emptyRoot(t);
    await addVersion(root, version);
    const daemon = await startDaemon(t, root, { settle: '0s' });
    await daemon.until(() => isPublished(root));
    const documents = await readFile(join(root, 'streams/v1/images.json'));
    const large = await addVersion(root, 'demo/large/amd64/default/20260101', {
      ...(await splitImage('large')),
      'disk.qcow2': '',
    });
    await truncate(join(large, 'disk.qcow2'), 40 * 2 ** 30);
    await waitForReading(daemon);
    assert.equal(await daemon.end(), 0);
    assert.deepEqual(await readFile(join(root, 'streams/v1/images.json')), documents);
    const left = (await readdir(join(root, 'streams/v1'))).filter((name) => name.startsWith('.'));
    assert.deepEqual(left, []);
  });

  test('ends it also where its socket cannot be taken away', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await startDaemon(t, root);
    await rm(join(root, 'run'), { recursive: true });
    await writeFile(join(root, 'run'), 'in the way');
    assert.equal(await daemon.end(), 0);
    await daemon.event('a part of the daemon did not end properly');
    await daemon.event('ended');
  });

  test('ends it though a client takes nothing of its download', { timeout: 30_000 }, async (t) => {
    const root = await emptyRoot(t);
    const large = await addVersion(root, version);
    await truncate(join(large, 'rootfs.squashfs'), 2 ** 30);
    const server = await serverConfig(root);
    const daemon = await startDaemon(t, root, { config: server('127.0.0.1:0'), settle: '1h' });
    const url = await serverUrl(daemon);
    const response = await startDownload(`${url}/images/${version}/rootfs.squashfs`);
    const cut = once(response, 'error');
    assert.equal(await daemon.end(), 0);
    response.resume();
    assert.equal(((await cut) as [NodeJS.ErrnoException])[0].code, 'ECONNRESET');
  });

  test('at its very start ends it as well', async (t) => {
    const root = await emptyRoot(t);
    const daemon = await launchDaemon(t, root);
    await daemon.event('published');
    assert.equal(await daemon.end(), 0);
  });
});

/** Makes a certificate. @returns what gives the lines of a configuration that has the daemon serve at an address. */
async function serverConfig(root: string): Promise<(listen: string) => string> {
  const pair = await createTestCertificate();
  const [cert, key] = ['cert', 'key'].map((name) => join(root, `${name}.pem`)) as [string, string];
  await writeFile(cert, pair.cert);
  await writeFile(key, pair.key, { mode: 0o600 });
  const files = [
    `server.tls_cert = ${JSON.stringify(cert)}`,
    `server.tls_key = ${JSON.stringify(key)}`,
  ];
  return (listen) => [`server.listen = "${listen}"`, ...files].join('\n');
}

async function serverUrl(daemon: Daemon): Promise<string> {
  const { server } = await daemon.status();
  assert.ok('url' in server, JSON.stringify(server));
  return server.url;
}

/** Asks for a file, and takes nothing of it yet. */
async function startDownload(url: string): Promise<IncomingMessage> {
  const asked = get(url, { rejectUnauthorized: false });
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  assert.equal(response.statusCode, 200);
  return response;
}

/** A port that somebody else listens on until the test is over. */
async function takenPort(t: TestContext): Promise<number> {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  t.after(() => other.close());
  return (other.address() as AddressInfo).port;
}

/** Waits until a file is being read. */
async function waitForReading(daemon: Daemon): Promise<void> {
  for (;;) {
    const { activity } = await daemon.status();
    if (activity.doing === 'digest' && (activity.bytes?.done ?? 0) > 0) return;
  }
}

test('the watchdog of systemd is answered', {
  ...needs('systemd-notify', 'perl'),
  timeout: 30_000,
}, async (t) => {
  const root = await emptyRoot(t);
  const manager = await listenAsServiceManager(t, join(root, 'notify.sock'));
  const env = { NOTIFY_SOCKET: manager.address, WATCHDOG_USEC: '200000', WATCHDOG_PID: '' };
  await startDaemon(t, root, { env });
  for (let pings = 0; pings < 3; ) if ((await manager.next()) === 'WATCHDOG=1') pings += 1;
});

test('what the daemon does is told to systemd', needs('systemd-notify', 'perl'), async (t) => {
  const root = await emptyRoot(t);
  const manager = await listenAsServiceManager(t, join(root, 'notify.sock'));
  const env = { NOTIFY_SOCKET: manager.address };
  const daemon = await startDaemon(t, root, { env });
  const ready = 'READY=1\nSTATUS=Published: 0 products, 0 versions';
  const nextOf = async (start: string) => {
    for (;;) {
      const message = await manager.next();
      if (message.startsWith(start)) return message;
    }
  };
  assert.equal(await nextOf('READY'), ready);
  await daemon.call('reload');
  assert.match(await nextOf('RELOADING'), /^RELOADING=1\nMONOTONIC_USEC=\d+/);
  assert.equal(await nextOf('READY'), ready);
  daemon.signal('SIGTERM');
  assert.equal(await nextOf('STOPPING'), 'STOPPING=1\nSTATUS=Ending');
});
