/** The real daemon with real mirrors: sshd with internal-sftp. What each fault does to a mirror is tested in faults. */
import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import type { DaemonStatus, MirrorStatus } from '../../src/daemon/status.js';
import { runCli } from '../support/cli.js';
import { run } from '../support/command.js';
import {
  type Daemon,
  type DaemonOptions,
  daemonConfig,
  emptyRoot,
  startDaemon,
} from '../support/daemon.js';
import { addVersion, splitImage, squashfs } from '../support/image-tree.js';
import { assertMirrored, filesBelow, hasDocuments, mirrorTable } from '../support/mirrored.js';
import { needs } from '../support/programs.js';
import { createSftpServer, type SftpServer } from '../support/sftp-mirror.js';
import { createSshServer, uploadPrograms } from '../support/slow-upload.js';
import { temporaryFolder } from '../support/temporary.js';

const sshd = needs(...uploadPrograms);
const first = 'a/x/amd64/default/20260101';

/** Waits until so many versions are published, and the mirror has them. */
async function mirrored(
  daemon: Daemon,
  {
    root,
    folder,
    name = 'eu',
    versions = 1,
  }: { root: string; folder: string; name?: string; versions?: number },
): Promise<void> {
  await daemon.until(async () => (await daemon.status()).catalogue.versions === versions);
  const isSynced = async () => (await statusOf(daemon, name)).state === 'synced';
  while (!((await isSynced()) && (await hasDocuments(root, folder))))
    await daemon.event('the mirror is up to date');
}

async function statusOf(daemon: Daemon, name = 'eu'): Promise<MirrorStatus> {
  const { mirrors } = await daemon.call<DaemonStatus>('status');
  const found = mirrors.find((mirror) => mirror.name === name);
  assert.ok(found);
  return found;
}

/** Daemons that end before the servers that are made after this, for these wait for their sessions. */
function daemonsOf(t: TestContext): (...args: Parameters<typeof startDaemon>) => Promise<Daemon> {
  const started: Daemon[] = [];
  t.after(() => Promise.all(started.map((daemon) => daemon.end('SIGKILL'))));
  return async (...args) => {
    const daemon = await startDaemon(...args);
    started.push(daemon);
    return daemon;
  };
}

interface Setup {
  root: string;
  server: SftpServer;
  daemon: Daemon;
  /** Starts another one. */
  start: ReturnType<typeof daemonsOf>;
  /** Calls the command line with the daemon's configuration. */
  call: (...args: string[]) => ReturnType<typeof runCli>;
  /** Changes the configuration, and has it read again. */
  reconfigure: (config: string) => Promise<void>;
}

/** A daemon with one mirror, `eu`. */
async function setUp(
  t: TestContext,
  { more = [], lines = '', ...options }: { more?: string[]; lines?: string } & DaemonOptions = {},
): Promise<Setup> {
  const root = await emptyRoot(t);
  const start = daemonsOf(t);
  const server = await createSftpServer(t);
  const config = `${lines}\n${mirrorTable(server.config, { more })}`;
  const daemon = await start(t, root, { settle: '0s', ...options, config });
  const call = (...args: string[]) => runCli([...args, '--config', join(root, 'config.toml')]);
  const reconfigure = async (next: string) => {
    await daemonConfig(root, { settle: '0s', config: next });
    await daemon.call('reload');
  };
  return { root, server, daemon, start, call, reconfigure };
}

describe('a mirror', sshd, () => {
  test('gets what lands in the tree, and loses what was removed after the grace time', async (t) => {
    const { root, server, daemon } = await setUp(t, { lines: 'publish.removal_grace = "1s"' });
    await addVersion(root, first);
    await addVersion(root, 'a/x/amd64/default/20260102');
    await mirrored(daemon, { root, folder: server.folder, versions: 2 });
    await assertMirrored(root, server.folder);
    const { state, lag, generation } = await statusOf(daemon);
    assert.deepEqual({ state, lag }, { state: 'synced', lag: { versions: 0, seconds: 0 } });
    assert.match(generation ?? '', /^[0-9a-f]{64}$/);
    await rm(join(root, 'images', first), { recursive: true });
    await mirrored(daemon, { root, folder: server.folder });
    assert.equal((await filesBelow(server.folder)).length, 4, 'clients may have an older index');
    let removed: unknown = 0;
    while (removed === 0) ({ removed } = await daemon.event('the mirror is up to date'));
    await assertMirrored(root, server.folder);
  });

  test('that is away is tried again, and has all once it is back', async (t) => {
    const root = await emptyRoot(t);
    const home = await temporaryFolder(t);
    const folder = join(home, 'root');
    await mkdir(folder);
    const ssh = join(home, 'ssh');
    const before = await createSshServer(ssh);
    await before.close();
    const config = {
      name: 'eu',
      user: before.user,
      remote: { host: '127.0.0.1', port: before.port },
      keyPath: before.keyFile,
      knownHosts: join(ssh, 'known_hosts'),
      root: folder,
      connections: 2,
      bandwidth: undefined,
    };
    await addVersion(root, first);
    const daemon = await startDaemon(t, root, { settle: '0s', config: mirrorTable(config) });
    const { err } = await daemon.event('cannot bring the mirror up to date; it is tried again');
    assert.match(JSON.stringify(err), /Mirror eu: .*refused/);
    const { state, failure, next, lag } = await statusOf(daemon);
    assert.equal(state, 'waiting');
    assert.match(failure?.message ?? '', /refused/);
    assert.ok(next !== undefined && lag.versions === undefined);
    const after = await createSshServer(ssh, { port: before.port });
    t.after(() => after.close());
    await daemon.event('the mirror is up to date again');
    await assertMirrored(root, folder);
    await daemon.end();
  });

  test('that has another host key than the known one waits for "mirror trust"', async (t) => {
    const known = join(await temporaryFolder(t), 'known_hosts');
    const { root, server, daemon, call, reconfigure } = await setUp(t);
    const right = await readFile(server.config.knownHosts as string, 'utf8');
    const table = mirrorTable({ ...server.config, knownHosts: known });
    await addVersion(root, first);
    await mirrored(daemon, { root, folder: server.folder });
    await reconfigure(table);
    await daemon.event('the mirror waits for somebody to see to it');
    const { state, failure, next } = await statusOf(daemon);
    assert.deepEqual([state, next], ['stopped', undefined]);
    assert.match(failure?.hint ?? '', /lxd-image-server mirror trust eu/);
    const asked = await call('mirror', 'trust', 'eu');
    assert.equal(asked.code, 1, 'there is nobody to ask');
    const [, fingerprint = ''] = /--fingerprint (SHA256:\S+)/.exec(asked.stderr) ?? [];
    const listed = await run('ssh-keygen', ['-lf', server.config.knownHosts as string]);
    assert.ok(listed.includes(fingerprint) && fingerprint !== '', asked.stderr);
    const wrong = await call('mirror', 'trust', 'eu', '--fingerprint', `SHA256:${'A'.repeat(43)}`);
    assert.equal(wrong.code, 1);
    assert.match(wrong.stderr, /shows another host key now/);
    await assert.rejects(readFile(known), { code: 'ENOENT' });
    const told = await call('mirror', 'trust', 'eu', '--fingerprint', fingerprint);
    assert.deepEqual([told.code, told.stderr], [0, '']);
    assert.equal(await readFile(known, 'utf8'), right.replace(/ host\n$/, '\n'));
    await daemon.event('the mirror is up to date again');
    const again = await call('mirror', 'trust', 'eu');
    assert.match(again.stdout, /is trusted already/);
  });

  test('with hours of its own is synced at these, or when somebody asks', async (t) => {
    const { root, server, daemon, call, reconfigure } = await setUp(t, {
      more: ['schedule = "0 0 1 1 *"'],
    });
    await addVersion(root, first);
    await daemon.until(async () => (await daemon.status()).catalogue.versions === 1);
    const { state, next, lag } = await statusOf(daemon);
    assert.equal(state, 'unknown');
    assert.match(next ?? '', /-01-01T|-12-31T/);
    assert.equal(lag.versions, undefined);
    const told = await call('mirror', 'sync', 'eu');
    assert.equal(told.code, 0, told.stderr);
    assert.match(told.stdout, /^eu: sent 2 files \(.*\); up to date\n$/);
    await assertMirrored(root, server.folder);
    await addVersion(root, 'a/x/amd64/default/20260102');
    await daemon.until(async () => (await daemon.status()).catalogue.versions === 2);
    let now = await statusOf(daemon);
    while (now.state !== 'behind') now = await statusOf(daemon);
    assert.equal(now.lag.versions, 1);
    await reconfigure(mirrorTable(server.config, { more: ['schedule = "* * * * * *"'] }));
    await mirrored(daemon, { root, folder: server.folder, versions: 2 });
    await assertMirrored(root, server.folder);
  });

  test('that is added, changed or dropped disturbs no other', async (t) => {
    const { root, server, daemon, reconfigure } = await setUp(t, { more: ['bandwidth = "2MiB"'] });
    const other = await createSftpServer(t);
    const slow = mirrorTable(server.config, { more: ['bandwidth = "2MiB"'] });
    await addVersion(root, first, {
      ...(await splitImage('large')),
      'rootfs.squashfs': squashfs('large', 6 * 2 ** 20),
    });
    const doneAt = async () => (await statusOf(daemon)).work?.bytes.done ?? 0;
    while ((await doneAt()) < 2 ** 20) await daemon.call('status');
    const before = await doneAt();
    await reconfigure(`${slow}\n${mirrorTable(other.config, { name: 'us' })}`);
    await mirrored(daemon, { root, folder: other.folder, name: 'us' });
    const now = await statusOf(daemon);
    assert.equal(now.state, 'syncing');
    assert.ok((now.work?.bytes.done ?? 0) >= before, 'it goes on where it was');
    await reconfigure(`${slow}\n${mirrorTable(other.config, { name: 'us', root: '/nowhere' })}`);
    const { err } = await daemon.event('cannot bring the mirror up to date; it is tried again');
    assert.match(JSON.stringify(err), /there is no folder \/nowhere/);
    await reconfigure(slow);
    assert.deepEqual(
      (await daemon.status()).mirrors.map(({ name }) => name),
      ['eu'],
    );
    await mirrored(daemon, { root, folder: server.folder });
    assert.equal(
      daemon.events.filter(({ msg, mirror }) => /cannot bring/.test(msg) && mirror === 'eu').length,
      0,
    );
    await assertMirrored(root, server.folder);
  });

  test('goes on with what it does where only what clients need of it has changed', async (t) => {
    const { root, server, daemon, reconfigure } = await setUp(t, { more: ['bandwidth = "2MiB"'] });
    await addVersion(root, first, {
      ...(await splitImage('large')),
      'rootfs.squashfs': squashfs('large', 6 * 2 ** 20),
    });
    const workNow = async () => (await statusOf(daemon)).work;
    while (((await workNow())?.bytes.done ?? 0) < 2 ** 20) await daemon.call('status');
    const more = ['bandwidth = "2MiB"', 'weight = 7', 'networks = ["10.0.0.0/8"]'];
    const table = mirrorTable(server.config, { more });
    await reconfigure(table.replace('https://eu.example.org', 'https://eu.example.net'));
    const { url, work } = await statusOf(daemon);
    assert.equal(url, 'https://eu.example.net');
    assert.ok((work?.bytes.done ?? 0) >= 2 ** 20, 'it goes on where it was');
    await mirrored(daemon, { root, folder: server.folder });
  });

  test('that has moved is not taken for what it was', async (t) => {
    const { root, server, daemon, call, reconfigure } = await setUp(t);
    await addVersion(root, first);
    await mirrored(daemon, { root, folder: server.folder });
    await reconfigure(mirrorTable(server.config, { root: '/nowhere' }));
    await daemon.event('cannot bring the mirror up to date; it is tried again');
    const { generation, synced, lag } = await statusOf(daemon);
    assert.deepEqual([generation, synced, lag.versions], [undefined, undefined, undefined]);
    await daemon.end();
    await daemonConfig(root, { config: mirrorTable(server.config, { root: '/elsewhere' }) });
    assert.match((await call('mirror', 'list')).stdout, /\neu +unknown +\? +never/);
  });

  test('that is synced by hand leaves what is known of the others', async (t) => {
    const { root, server, daemon, call } = await setUp(t);
    await addVersion(root, first);
    await mirrored(daemon, { root, folder: server.folder });
    await daemon.end();
    const other = await createSftpServer(t);
    const config = `${mirrorTable(server.config)}\n${mirrorTable(other.config, { name: 'us' })}`;
    await daemonConfig(root, { config });
    assert.equal((await call('mirror', 'sync', 'us')).code, 0);
    const listed = JSON.parse((await call('mirror', 'list', '--json')).stdout) as MirrorStatus[];
    assert.deepEqual(
      listed.map(({ name, generation }) => [name, generation === undefined]),
      [
        ['eu', false],
        ['us', false],
      ],
    );
  });

  test('is told of by "mirror list", with a daemon and without', async (t) => {
    const { root, server, daemon, call } = await setUp(t);
    await addVersion(root, first);
    await mirrored(daemon, { root, folder: server.folder });
    const table = await call('mirror', 'list');
    assert.match(table.stdout, /^MIRROR +STATE +BEHIND +IN SYNC +NEXT TRY +GENERATION\neu +synced/);
    const [listed] = JSON.parse((await call('mirror', 'list', '--json')).stdout) as MirrorStatus[];
    assert.deepEqual([listed?.name, listed?.state], ['eu', 'synced']);
    assert.equal(await daemon.end(), 0);
    const alone = await call('mirror', 'list');
    assert.match(alone.stdout, /\neu +unknown +\? +(?:just now|\d+ s ago)/);
    assert.match(alone.stdout, /the daemon is not running/);
    assert.ok(alone.stdout.includes(listed?.generation?.slice(0, 12) as string));
  });

  test('is synced by "mirror sync" without a daemon, which publishes first', async (t) => {
    const { root, server, daemon, call } = await setUp(t);
    await daemon.end();
    await addVersion(root, first);
    const told = await call('mirror', 'sync', '--json');
    assert.equal(told.code, 0, told.stderr);
    const [outcome] = JSON.parse(told.stdout) as { name: string; result: { sent: object } }[];
    assert.equal(outcome?.name, 'eu');
    await assertMirrored(root, server.folder);
    const unknown = await call('mirror', 'sync', 'us');
    assert.equal(unknown.code, 2);
    assert.match(unknown.stderr, /There is no mirror "us"; the configuration has eu/);
    await chmod(server.config.keyPath, 0o644);
    const refused = await call('mirror', 'sync');
    assert.equal(refused.code, 3);
    assert.match(refused.stderr, /others than its owner may read or change the key/);
  });

  test('of another master is refused with its name, and taken over when somebody says so', async (t) => {
    const { root, server, daemon, start } = await setUp(t);
    await addVersion(root, first);
    await mirrored(daemon, { root, folder: server.folder });
    await daemon.end();
    const other = await emptyRoot(t);
    await addVersion(other, 'b/y/amd64/default/20260101');
    const second = await start(t, other, {
      settle: '0s',
      config: mirrorTable(server.config),
    });
    await second.event('the mirror waits for somebody to see to it');
    const { failure } = await statusOf(second);
    assert.match(failure?.message ?? '', /belongs to another master, \S+ \([0-9a-f]{32}\)/);
    await assertMirrored(root, server.folder);
    const args = ['--config', join(other, 'config.toml')];
    const told = await runCli(['mirror', 'sync', 'eu', '--take-over', ...args]);
    assert.equal(told.code, 0, told.stderr);
    assert.ok(await hasDocuments(other, server.folder));
  });

  test('that is the master itself is refused before anything is done there', async (t) => {
    const { root, server, daemon, reconfigure } = await setUp(t);
    await addVersion(root, first);
    await mirrored(daemon, { root, folder: server.folder });
    const yaml = join(root, 'images/a/x/amd64/default/product.yaml');
    await writeFile(yaml, 'os: Demo\n');
    const before = await filesBelow(root);
    const table = mirrorTable(server.config, { name: 'self', root });
    await reconfigure(`publish.removal_grace = "0s"\n${table}`);
    await daemon.event('the mirror waits for somebody to see to it');
    const { state, failure } = await statusOf(daemon, 'self');
    assert.equal(state, 'stopped');
    assert.match(failure?.message ?? '', /is the root of this very server/);
    assert.deepEqual(await filesBelow(root), before);
    const own = await readdir(join(root, '.lxd-image-server'));
    assert.deepEqual(
      own.filter((name) => !name.startsWith('lock.')),
      [],
    );
  });

  test('is verified and mended by "verify --mirror"', async (t) => {
    const { root, server, daemon, call } = await setUp(t);
    await addVersion(root, first);
    await mirrored(daemon, { root, folder: server.folder });
    const whole = await call('verify', '--mirror', 'eu');
    assert.deepEqual([whole.code, whole.stderr], [0, '']);
    assert.match(whole.stdout, /^eu: read back \d+ files \(.*\): all as published\n$/);
    const file = join(server.folder, 'images', first, 'rootfs.squashfs');
    const content = await readFile(file);
    content[500] = 255 - (content[500] as number);
    await writeFile(file, content);
    const damaged = await call('verify', '--mirror', 'eu', '--json');
    assert.equal(damaged.code, 5);
    const { damage } = JSON.parse(damaged.stdout) as { damage: { path: string }[] };
    assert.deepEqual(
      damage.map(({ path }) => path),
      [`images/${first}/rootfs.squashfs`],
    );
    await mirrored(daemon, { root, folder: server.folder });
    await assertMirrored(root, server.folder);
    await daemon.end();
    await writeFile(file, content);
    const mended = await call('verify', '--mirror', 'eu', '--repair');
    assert.match(mended.stdout, /1 damaged or missing; mended: 1 file sent/);
    await assertMirrored(root, server.folder);
  });
});

test(
  'a daemon that is ended while it sends ends in time, and goes on there when it starts again',
  sshd,
  async (t) => {
    const { root, server, daemon, start } = await setUp(t, { more: ['bandwidth = "8MiB"'] });
    await addVersion(root, first, {
      ...(await splitImage('large')),
      'rootfs.squashfs': squashfs('large', 48 * 2 ** 20),
    });
    const doneAt = async () => (await statusOf(daemon)).work?.bytes.done ?? 0;
    while ((await doneAt()) < 24 * 2 ** 20) await daemon.call('status');
    assert.equal(await daemon.end(), 0);
    const next = await start(t, root, { settle: '0s', config: mirrorTable(server.config) });
    let event = await next.event('the mirror is up to date');
    while (event.files === 0) event = await next.event('the mirror is up to date');
    assert.ok((event.bytes as number) < 42 * 2 ** 20, `${event.bytes} bytes were sent again`);
    await assertMirrored(root, server.folder);
  },
);
