/**
 * What can happen to a mirror and on the way to it, one fault at a time, each with the real daemon and a real sshd.
 * A reader looks at all that the mirror's documents name meanwhile; and when the fault is over, the mirror becomes
 * what the master has: by itself, wherever nobody's hand is needed to end the fault.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import {
  copyFile,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DaemonStatus, MirrorStatus } from '../../src/daemon/status.js';
import { resumeWindow } from '../../src/mirror/mirror.js';
import type { MirrorCheck } from '../../src/mirror/replicate.js';
import { runCli } from '../support/cli.js';
import { type Daemon, emptyRoot, startDaemon } from '../support/daemon.js';
import { addVersion, sha256, splitImage, squashfs } from '../support/image-tree.js';
import {
  createMirrorHost,
  type MirrorHost,
  type MirrorHostOptions,
} from '../support/mirror-host.js';
import { type FollowOptions, startMirrorReader } from '../support/mirror-reader.js';
import { assertMirrored, becomesMirrored, mirrorTable } from '../support/mirrored.js';
import { needs, needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

const programs = ['sshd', 'ssh-keygen'] as const;
const first = 'a/x/amd64/default/20260101';
const second = 'a/x/amd64/default/20260102';
const third = 'a/x/amd64/default/20260103';
const graceMs = 1000;
const MiB = 2 ** 20;
const isLong = process.env.MIRROR_SEEDS !== undefined;

/** Most of the time they wait. */
const sideBySide = <T extends object>(options: T) => ({ ...options, concurrency: 3 });

const reader = startMirrorReader({ after });

interface Site {
  root: string;
  host: MirrorHost;
  daemon: Daemon;
  /** Starts another daemon at the same root. */
  start: () => Promise<Daemon>;
  /** Calls the command line with the daemon's configuration. */
  call: (...args: string[]) => ReturnType<typeof runCli>;
}

interface SiteOptions extends MirrorHostOptions {
  /** Further lines for the mirror's table. */
  more?: string[];
  /** Of the mirror. Default: the host's folder. */
  folder?: (host: MirrorHost) => string;
  reading?: Partial<FollowOptions>;
  /** Is called before the daemon is started. */
  before?: (site: Pick<Site, 'root' | 'host'>) => Promise<void>;
}

/** A daemon with one mirror, `eu`, on which a reader looks at everything. */
async function setUp(t: TestContext, options: SiteOptions = {}): Promise<Site> {
  const { more = [], folder, reading, before, ...machine } = options;
  const daemons: Daemon[] = [];
  t.after(() => Promise.all(daemons.map((daemon) => daemon.end('SIGKILL'))));
  const root = await emptyRoot(t);
  const host = await createMirrorHost(t, machine);
  const mirrorRoot = folder?.(host) ?? host.folder;
  await reader.follow(mirrorRoot, { graceMs, ...reading });
  t.after(() => reader.leave(mirrorRoot));
  await before?.({ root, host });
  const table = mirrorTable(host.config, { more, root: mirrorRoot });
  const config = `publish.removal_grace = "${graceMs}ms"\n${table}`;
  const start = async () => {
    const daemon = await startDaemon(t, root, { settle: '0s', config });
    daemons.push(daemon);
    return daemon;
  };
  const call = (...args: string[]) => runCli([...args, '--config', join(root, 'config.toml')]);
  return { root, host, daemon: await start(), start, call };
}

/** A mirror that has the first version. */
async function setUpInSync(t: TestContext, options: SiteOptions = {}): Promise<Site> {
  const site = await setUp(t, {
    ...options,
    async before(early) {
      await addVersion(early.root, first);
      await options.before?.(early);
    },
  });
  await becomesMirrored(site.root, site.host.folder);
  await untilSynced(site.daemon);
  return site;
}

/** The mirror becomes what the master has, and nothing that should never be seen was. */
async function assertConverges(
  { root, daemon, host }: Pick<Site, 'root' | 'host' | 'daemon'>,
  { versions, folder = host.folder }: { versions: number; folder?: string },
): Promise<void> {
  await daemon.until(async () => (await daemon.status()).catalogue.versions === versions);
  await becomesMirrored(root, folder);
  await untilSynced(daemon);
  await assertMirrored(root, folder);
  const { faults, looks } = await reader.sightings(folder);
  assert.deepEqual(faults, []);
  assert.ok(looks > 0, 'the reader has not looked');
}

async function untilSynced(daemon: Daemon): Promise<void> {
  const end = performance.now() + 60_000;
  while ((await statusOf(daemon)).state !== 'synced') {
    assert.ok(performance.now() < end, 'the mirror is not in sync');
    await sleep(10);
  }
}

async function statusOf(daemon: Daemon): Promise<MirrorStatus> {
  const [mirror] = (await daemon.call<DaemonStatus>('status')).mirrors;
  assert.ok(mirror);
  return mirror;
}

/** Waits until what was damaged by hand is mended; the documents are right all along. */
async function becomesWhole(root: string, mirror: string): Promise<void> {
  const end = performance.now() + 60_000;
  for (;;) {
    try {
      return await assertMirrored(root, mirror);
    } catch (error) {
      if (performance.now() > end) throw error;
      await sleep(20);
    }
  }
}

async function overwrite(file: string): Promise<void> {
  const content = await readFile(file);
  content[700] = 255 - (content[700] as number);
  await writeFile(file, content);
}

const isTriedAgain = 'cannot bring the mirror up to date; it is tried again';
const isStopped = 'the mirror waits for somebody to see to it';

/** Waits for a failure that the daemon tells of. */
async function fails(daemon: Daemon, like: RegExp, msg = isTriedAgain): Promise<void> {
  const { err } = await daemon.event(msg);
  assert.match(JSON.stringify(err), like);
}

/** Waits until so many bytes have been sent. */
async function untilSent(daemon: Daemon, bytes: number): Promise<void> {
  const end = performance.now() + 60_000;
  while (((await statusOf(daemon)).work?.bytes.done ?? 0) < bytes) {
    assert.ok(performance.now() < end, 'too little is sent');
    await sleep(5);
  }
}

/** A version with a root file of so many MiB. */
async function addLarge(root: string, path: string, size: number, seed = path): Promise<void> {
  const image = await splitImage(seed);
  await addVersion(root, path, { ...image, 'rootfs.squashfs': squashfs(seed, size * MiB) });
}

describe('a mirror that nobody gets into', sideBySide(needs(...programs)), () => {
  test('because it refuses the login waits, and goes on once it is let in', async (t) => {
    const site = await setUpInSync(t);
    const { root, host, daemon } = site;
    const keys = join(host.ssh, 'authorized_keys');
    const before = await readFile(keys);
    await writeFile(keys, '');
    await host.signal('SIGKILL');
    await addVersion(root, second);
    await fails(daemon, /the login as .* is refused/, isStopped);
    await writeFile(keys, before);
    await daemon.call('reload');
    await assertConverges(site, { versions: 2 });
  });

  test('because it shows another host key waits, and goes on once that is the right one', async (t) => {
    const site = await setUpInSync(t);
    const { root, host, daemon } = site;
    const key = join(host.ssh, 'host_key');
    await host.kill();
    await rename(key, `${key}.right`);
    await host.start();
    await addVersion(root, second);
    await fails(daemon, /another host key/, isStopped);
    await host.kill();
    await rename(`${key}.right`, key);
    await host.start();
    daemon.signal('SIGHUP');
    await assertConverges(site, { versions: 2 });
  });

  test('because its root is not there has all soon after that is made', async (t) => {
    const folder = (host: MirrorHost) => join(host.folder, 'new');
    const site = await setUp(t, {
      folder,
      before: async ({ root }) => void (await addVersion(root, first)),
    });
    const there = folder(site.host);
    await fails(site.daemon, /there is no folder/);
    await mkdir(there);
    await assertConverges(site, { versions: 1, folder: there });
  });
});

describe('a mirror whose disk', sideBySide(needsRoot(...programs, 'mount')), () => {
  test('is read-only goes on soon after it can be written to', async (t) => {
    const site = await setUpInSync(t, { diskMib: 32 });
    const { root, host, daemon } = site;
    assert.ok(await host.remount('ro'));
    await addVersion(root, second);
    await fails(daemon, /the file system is read-only/);
    assert.ok(await host.remount('rw'));
    await assertConverges(site, { versions: 2 });
  });

  test('was full and is mended by "verify" waits no longer', async (t) => {
    const site = await setUpInSync(t, { diskMib: 32 });
    const { root, host, daemon } = site;
    await host.fill();
    await addVersion(root, second);
    await fails(daemon, /no space left/);
    assert.ok((await statusOf(daemon)).next);
    await host.free();
    await daemon.call('mirror-verify', { root, name: 'eu', repair: true });
    const { state, next } = await statusOf(daemon);
    assert.deepEqual([state, next], ['synced', undefined]);
    await assertConverges(site, { versions: 2 });
  });

  for (const left of [0, 40 * 1024, 3 * MiB]) {
    test(`has ${left} bytes left goes on soon after there is room`, async (t) => {
      const site = await setUpInSync(t, { diskMib: 32 });
      const { root, host, daemon } = site;
      await host.fill(left);
      await addLarge(root, second, 6);
      await fails(daemon, /no space left/);
      await host.free();
      await assertConverges(site, { versions: 2 });
    });
  }
});

/** A subsystem that has strace meddle with an SFTP server of its own; `how` is written to it later. */
async function meddled(t: TestContext) {
  const script = join(await temporaryFolder(t), 'serve');
  const places = ['/usr/lib/openssh', '/usr/libexec/openssh', '/usr/lib/ssh'];
  const program = places.map((place) => `${place}/sftp-server`).find(existsSync) ?? 'sftp-server';
  const meddle = async (how: string) =>
    await writeFile(script, `exec strace -D -qq -f -o /dev/null ${how} ${program}\n`);
  return { subsystem: `/bin/sh ${script}`, meddle };
}

describe('a mirror whose server', sideBySide(needs(...programs, 'strace')), () => {
  test('meets with a quota goes on soon after it may write again', async (t) => {
    const { subsystem, meddle } = await meddled(t);
    const image = { ...(await splitImage(first)), 'rootfs.squashfs': squashfs('large', 2 * MiB) };
    const site = await setUp(t, {
      subsystem,
      async before({ root, host }) {
        const staged = `.lxd-image-server/staging/${sha256(image['rootfs.squashfs'])}`;
        const path = join(host.folder, staged);
        await meddle(`-P ${path} -e trace=write -e inject=write:error=EDQUOT:when=3..5`);
        await addVersion(root, first, image);
      },
    });
    await fails(site.daemon, /the server refuses more data: a quota is used up/);
    await assertConverges(site, { versions: 1 });
  });

  test('is very slow is given all the time that it needs', async (t) => {
    const { subsystem, meddle } = await meddled(t);
    const site = await setUp(t, {
      subsystem,
      async before({ root }) {
        await meddle('-e trace=write,fsync -e inject=write,fsync:delay_enter=10ms');
        await addLarge(root, first, 8);
      },
    });
    await assertConverges(site, { versions: 1 });
    const failures = site.daemon.events.filter(({ msg }) => /is lost|has ended|tried/.test(msg));
    assert.deepEqual(failures, []);
  });

  test('is killed and started again goes on where it was', async (t) => {
    const site = await setUpInSync(t, { more: ['bandwidth = "16MiB"'] });
    const { root, host, daemon } = site;
    await addLarge(root, second, 64);
    // Well before the end: it is over when it is asked for too late.
    for (const bytes of [12, 24, 36]) {
      await untilSent(daemon, bytes * MiB);
      await host.kill();
      await host.start();
    }
    await assertConverges(site, { versions: 2 });
    const bytes = daemon.events.findLast(({ files }) => files === 2)?.bytes as number;
    const most = 64 * MiB + 3 * (resumeWindow + MiB);
    assert.ok(bytes < most, `${bytes} bytes were sent, not ${most} at most`);
  });

  test('stops answering in the middle of a transfer goes on once it answers', async (t) => {
    const site = await setUpInSync(t, { more: ['bandwidth = "8MiB"'] });
    const { root, host, daemon } = site;
    // Well before the end, also where this test is told of it late.
    await addLarge(root, second, 48);
    await untilSent(daemon, 4 * MiB);
    assert.ok((await host.signal('SIGSTOP')) > 0);
    await addVersion(root, third);
    await daemon.until(async () => (await daemon.status()).catalogue.versions === 3);
    assert.equal((await statusOf(daemon)).state, 'syncing');
    await host.signal('SIGCONT');
    await assertConverges(site, { versions: 3 });
  });

  // It takes a minute: that is how long a server may be silent.
  if (isLong) {
    test('never answers any more is left for another session', async (t) => {
      const site = await setUpInSync(t, { more: ['bandwidth = "8MiB"'] });
      const { root, host, daemon } = site;
      await addLarge(root, second, 16);
      await untilSent(daemon, 4 * MiB);
      assert.ok((await host.signal('SIGSTOP')) > 0);
      await assertConverges(site, { versions: 2 });
      assert.ok(daemon.events.some(({ reason }) => /no answer/.test(String(reason))));
    });
  }

  test('never answers any more does not keep the daemon from its end', async (t) => {
    const { root, host, daemon } = await setUpInSync(t, { more: ['bandwidth = "8MiB"'] });
    await addLarge(root, second, 16);
    await untilSent(daemon, 4 * MiB);
    assert.ok((await host.signal('SIGSTOP')) > 0);
    assert.equal(await daemon.end(), 0);
  });

  for (const requests of [
    'posix-rename',
    'hardlink',
    'hardlink,copy-data',
    'fsync',
    'statvfs',
    'limits',
    'posix-rename,hardlink,copy-data,fsync,statvfs,limits',
  ]) {
    test(`does not offer ${requests} gets everything nonetheless`, async (t) => {
      const mayMiss = requests.includes('posix-rename');
      const subsystem = `internal-sftp -P ${requests}`;
      const site = await setUpInSync(t, { subsystem, reading: { mayMiss } });
      const { root } = site;
      await addVersion(root, second, await splitImage(first));
      await assertConverges(site, { versions: 2 });
      await addVersion(root, first, { 'rootfs.squashfs': squashfs('other', 3000), 'a.txt': 'new' });
      await site.daemon.until(async () =>
        (await readFile(join(root, 'streams/v1/images.json'), 'utf8')).includes('a.txt'),
      );
      await assertConverges(site, { versions: 2 });
      await rm(join(root, 'images', second), { recursive: true });
      await assertConverges(site, { versions: 1 });
    });
  }
});

describe('a mirror whose connections are cut', sideBySide(needs(...programs)), () => {
  for (const from of ['clients', 'server'] as const) {
    test(`by what the ${from} have sent, again and again, has all in the end`, async (t) => {
      const site = await setUpInSync(t);
      const { root, host } = site;
      const { way } = host;
      const gaps =
        from === 'clients' ? [100_000, 1000, 5 * MiB + 17, 9 * MiB] : [3000, 50, 400, 2500];
      await addLarge(root, second, 24);
      for (const bytes of gaps) {
        const before = way.cuts;
        way.cutAfter(bytes, { from });
        while (way.cuts === before) await sleep(2);
      }
      await assertConverges(site, { versions: 2 });
    });
  }

  test('for long, while much comes and goes, is brought to the newest state at once', async (t) => {
    const site = await setUpInSync(t);
    const { root, host, daemon } = site;
    await host.kill();
    const image = await splitImage(first);
    await rm(join(root, 'images', first), { recursive: true });
    await addVersion(root, 'z/z/amd64/default/20260101', image);
    for (let day = 10; day < 29; day++) {
      await addVersion(root, `b/y/amd64/default/202602${day}`);
      await daemon.until(async () => (await daemon.status()).catalogue.versions >= 2);
      if (day < 25)
        await rm(join(root, `images/b/y/amd64/default/202602${day}`), { recursive: true });
    }
    await daemon.until(async () => (await daemon.status()).catalogue.versions === 5);
    // What has gone on the master went longer ago than the grace time.
    await sleep(graceMs);
    await host.start();
    await assertConverges(site, { versions: 5 });
  });
});

describe('a mirror in which somebody meddles', sideBySide(needs(...programs)), () => {
  test('is mended by "mirror sync", files and documents', async (t) => {
    const site = await setUpInSync(t);
    const { root, host, daemon, call } = site;
    for (const path of [second, third, 'b/y/amd64/default/20260101']) await addVersion(root, path);
    await assertConverges(site, { versions: 4 });
    const file = (path: string, name = 'rootfs.squashfs') =>
      join(host.folder, 'images', path, name);
    for (const path of [first, second, third]) {
      await reader.spare(host.folder, sha256(await readFile(file(path))));
    }
    await rm(file(first));
    await truncate(file(second), 500);
    await writeFile(file(third), 'longer than it was before'.repeat(100));
    await writeFile(file(third, 'extra.txt'), 'not of ours');
    const told = await call('mirror', 'sync');
    assert.deepEqual([told.code, told.stderr], [0, '']);
    await assertConverges(site, { versions: 4 });
    await reader.caughtUp(host.folder);
    await assertConverges(site, { versions: 4 });
    await rm(join(host.folder, 'streams'), { recursive: true });
    await call('mirror', 'sync');
    // To a new reader, for what the first one sees without an index is a fault.
    await reader.follow(host.folder, { graceMs });
    await assertConverges(site, { versions: 4 });
    assert.equal((await statusOf(daemon)).state, 'synced');
  });

  test('so that nobody can see it is found by "verify", and mended then', async (t) => {
    const site = await setUpInSync(t);
    const { root, host, daemon } = site;
    const file = join(host.folder, 'images', first, 'rootfs.squashfs');
    const { mtime } = await stat(file);
    await reader.spare(host.folder, sha256(await readFile(file)));
    await overwrite(file);
    await utimes(file, mtime, mtime);
    const check = await daemon.call<MirrorCheck>('mirror-verify', {
      root,
      name: 'eu',
      repair: false,
    });
    assert.equal(check.damage.length, 1);
    await becomesWhole(root, host.folder);
    await reader.caughtUp(host.folder);
    await assertConverges(site, { versions: 1 });
  });

  test('while the daemon is not there is mended by itself when that starts', async (t) => {
    const site = await setUpInSync(t);
    const { root, host, daemon, start } = site;
    await addVersion(root, second);
    await addVersion(root, third);
    await assertConverges(site, { versions: 3 });
    assert.equal(await daemon.end(), 0);
    const file = (path: string) => join(host.folder, 'images', path, 'rootfs.squashfs');
    for (const path of [first, second, third]) {
      await reader.spare(host.folder, sha256(await readFile(file(path))));
    }
    // The manifest says of each that it is there, with its size and content.
    await rm(file(first));
    await truncate(file(second), 10);
    const later = new Date(Date.now() + 10_000);
    await overwrite(file(third));
    await utimes(file(third), later, later);
    const next = await start();
    await becomesWhole(root, host.folder);
    await reader.caughtUp(host.folder);
    await assertConverges({ ...site, daemon: next }, { versions: 3 });
  });

  const manifests: Record<string, (own: string) => Promise<unknown>> = {
    'is gone': (own) => rm(join(own, 'manifest.json')),
    'is cut short': (own) => truncate(join(own, 'manifest.json'), 100),
    'is none': (own) => writeFile(join(own, 'manifest.json'), '[]'),
    'and all beside it is gone': (own) => rm(own, { recursive: true }),
  };
  for (const [title, spoil] of Object.entries(manifests)) {
    test(`so that its manifest ${title} gets another, and keeps all else`, async (t) => {
      const site = await setUpInSync(t);
      const { root, host } = site;
      await spoil(join(host.folder, '.lxd-image-server'));
      const { ino } = await stat(join(host.folder, 'images', first, 'rootfs.squashfs'));
      await addVersion(root, second);
      await assertConverges(site, { versions: 2 });
      const now = await stat(join(host.folder, 'images', first, 'rootfs.squashfs'));
      assert.equal(now.ino, ino, 'it was sent again');
    });
  }

  test('and leaves temporary files is tidied up, and none of them is used', async (t) => {
    const site = await setUpInSync(t);
    const { root, host, daemon } = site;
    assert.equal(await daemon.end(), 0);
    const own = join(host.folder, '.lxd-image-server');
    const large = squashfs('large', resumeWindow + 4 * MiB);
    const meta = (await splitImage('large'))['lxd.tar.xz'] as Buffer;
    const image = { 'lxd.tar.xz': meta, 'rootfs.squashfs': large };
    const left = {
      // Too much of it, and what is no part of it at all.
      [`staging/${sha256(meta)}`]: Buffer.alloc(5000),
      [`staging/${sha256(large)}`]: Buffer.alloc(resumeWindow + 2 * MiB, 'x'),
      [`staging/${'f'.repeat(64)}`]: 'of a version long gone',
      'staging/upload.part': 'of somebody else',
      '.manifest.json.a1b2c3.tmp': '{',
      [`files-${'0'.repeat(64)}.json`]: '{}',
    };
    for (const [name, content] of Object.entries(left)) await writeFile(join(own, name), content);
    await addVersion(root, second, image);
    await assertConverges({ ...site, daemon: await site.start() }, { versions: 2 });
    assert.deepEqual(await readdir(join(own, 'staging')), []);
    const names = (await readdir(own)).filter((name) => !/^files-[^0]/.test(name)).sort();
    assert.deepEqual(names, ['manifest.json', 'staging']);
  });
});

describe('a mirror and its master', sideBySide(needs(...programs)), () => {
  test('that changes a file while it is sent: the mirror gets the new one, never a mixture', async (t) => {
    const site = await setUpInSync(t, { more: ['bandwidth = "4MiB"'] });
    const { root, daemon } = site;
    const file = join(root, 'images', second, 'rootfs.squashfs');
    await addLarge(root, second, 8, 'old');
    await untilSent(daemon, 2 * MiB);
    // In place, then by another one.
    await writeFile(file, squashfs('new', 8 * MiB));
    await untilSent(daemon, 2 * MiB);
    await writeFile(`${file}.part`, squashfs('newest', 6 * MiB));
    await rename(`${file}.part`, file);
    await assertConverges(site, { versions: 2 });
    const [ours, theirs] = [root, site.host.folder].map((folder) => join(folder, 'images', second));
    assert.equal(
      sha256(await readFile(join(theirs as string, 'rootfs.squashfs'))),
      sha256(await readFile(join(ours as string, 'rootfs.squashfs'))),
    );
  });

  test('that loses a version while it is sent: the mirror never has it, and has all else', async (t) => {
    const site = await setUpInSync(t, { more: ['bandwidth = "4MiB"'] });
    const { root, daemon } = site;
    await addLarge(root, second, 8);
    await untilSent(daemon, 2 * MiB);
    await rm(join(root, 'images', second), { recursive: true });
    await addVersion(root, third);
    // There were two before as well.
    await daemon.until(async () => {
      const text = await readFile(join(root, 'streams/v1/images.json'), 'utf8');
      return text.includes(third) && !text.includes(second);
    });
    await assertConverges(site, { versions: 2 });
    const own = join(site.host.folder, '.lxd-image-server/staging');
    assert.deepEqual(await readdir(own), []);
  });

  test('of which there are two: the second is refused all along, and the first goes on', async (t) => {
    const site = await setUpInSync(t);
    const { host, root } = site;
    const other = await emptyRoot(t);
    await addVersion(other, 'b/y/amd64/default/20260101');
    const config = mirrorTable(host.config);
    const daemon = await startDaemon(t, other, { settle: '0s', config });
    await fails(daemon, /belongs to another master, \S+ \([0-9a-f]{32}\)/, isStopped);
    for (const path of [second, third]) {
      await addVersion(other, path);
      await daemon.until(async () => (await daemon.status()).catalogue.versions > 1);
      await daemon.call('reload');
      await addVersion(root, path);
    }
    await assertConverges(site, { versions: 3 });
    await daemon.end('SIGKILL');
  });

  test('of which two find it empty at the same time: one is refused, and the other goes on', async (t) => {
    const site = await setUp(t, {
      before: async ({ host }) => void (await writeFile(join(host.ssh, 'authorized_keys'), '')),
    });
    const { host, root, daemon } = site;
    const other = await emptyRoot(t);
    const config = `publish.removal_grace = "1s"\n${mirrorTable(host.config)}`;
    const rival = await startDaemon(t, other, { settle: '0s', config });
    await addVersion(root, first);
    await addLarge(other, 'b/y/amd64/default/20260101', 4);
    await Promise.all([daemon, rival].map((each) => each.event(isStopped)));
    await copyFile(`${host.config.keyPath}.pub`, join(host.ssh, 'authorized_keys'));
    await Promise.all([daemon, rival].map((each) => each.call('reload')));
    await addVersion(root, second);
    await addVersion(other, second);
    const masters = [
      { at: daemon, from: root },
      { at: rival, from: other },
    ];
    let refused: (typeof masters)[number] | undefined;
    while (refused === undefined) {
      await sleep(20);
      const states = await Promise.all(masters.map(({ at }) => statusOf(at)));
      refused =
        masters[states.findIndex(({ failure }) => /another master/.test(failure?.message ?? ''))];
    }
    await refused.at.end('SIGKILL');
    const left = masters.find((each) => each !== refused);
    assert.ok(left);
    // What the other has left there is found by the next sync.
    await addVersion(left.from, third);
    await assertConverges({ ...site, daemon: left.at, root: left.from }, { versions: 3 });
    await left.at.end('SIGKILL');
  });

  test('that has 1,000 versions before the mirror is there: it gets all of them', async (t) => {
    const site = await setUp(t, {
      async before({ root }) {
        const meta = (await splitImage('')) as { 'lxd.tar.xz': Buffer };
        for (let n = 0; n < 1000; n++) {
          const path = `e${n % 10}/r/amd64/default/20260101_${1000 + n}`;
          await addVersion(root, path, { ...meta, 'rootfs.squashfs': squashfs(path, 2000) });
        }
      },
    });
    await assertConverges(site, { versions: 1000 });
  });
});
