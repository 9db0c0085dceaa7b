import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import picocolors from 'picocolors';
import { formatAge, wrap } from '../../src/cli/format.js';
import { statusText } from '../../src/cli/status-text.js';
import type { DaemonStatus } from '../../src/daemon/status.js';
import { acquireLock } from '../../src/disk/lock.js';
import { createPool } from '../../src/disk/pool.js';
import { ServerError } from '../../src/errors.js';
import { createPipeline } from '../../src/pipeline.js';
import { verifyAndRepair } from '../../src/repair.js';
import { type ControlCommand, createControlServer } from '../../src/server/control.js';
import { verifyTree } from '../../src/verify.js';
import { cli, publishedVersions, runCli, writeConfig } from '../support/cli.js';
import { addVersion } from '../support/image-tree.js';
import { memoryLog } from '../support/memory-log.js';
import { temporaryFolder } from '../support/temporary.js';

const noble = 'ubuntu/noble/amd64/default';

/** A root with a published version, and a configuration whose daemon would listen in it. */
async function publishedRoot(t: TestContext) {
  const root = await temporaryFolder(t);
  const folder = await addVersion(root, `${noble}/20260101`);
  const config = await writeConfig(root, `paths.run = "${root}/run"\n`);
  assert.equal((await runCli(['update', '--config', config])).code, 0);
  return { root, config, folder };
}

/** Answers calls in this process, as the daemon of `root` does. */
async function answerCalls(t: TestContext, root: string, commands: Record<string, ControlCommand>) {
  const { log } = memoryLog();
  const server = await createControlServer({ runDir: join(root, 'run'), commands, log });
  t.after(() => server.close());
  return server;
}

const now = Date.parse('2026-03-01T12:00:00Z');
const ago = (ms: number) => new Date(now - ms).toISOString();

function daemonStatus(root: string): DaemonStatus {
  return {
    version: '1.0.0',
    pid: 4711,
    started: ago(3 * 86_400_000),
    root,
    ready: true,
    activity: {
      doing: 'digest',
      bytes: { done: 512 * 2 ** 20, total: 2 ** 31 },
      since: ago(90_000),
    },
    catalogue: { products: 2, versions: 7, bytes: 3 * 2 ** 30 },
    publications: [{ at: ago(180_000), ms: 1234, products: 2, versions: 7, bytes: 5 * 2 ** 20 }],
    held: [
      {
        path: `${noble}/20260301`,
        code: 'settling',
        reason: 'its files are still growing',
        cure: 'wait until the upload is over, or add a SHA256SUMS file that names every file of it',
        until: ago(-2000),
      },
    ],
    heldCount: 1,
    watching: { mode: 'timer', folders: 10, reason: 'inotify watches ran out' },
    server: { url: 'https://localhost:8443' },
    jobs: [
      {
        name: 'rescan',
        schedule: '*/10 * * * *',
        state: 'running',
        next: ago(-600_000),
        last: { at: ago(600_000), ms: 80, failure: 'no space' },
        missed: 2,
      },
      { name: 'verify', schedule: '', state: 'idle', missed: 0 },
    ],
    mirrors: [
      {
        name: 'eu',
        url: 'https://eu.example.org',
        remote: 'images@eu.example.org:22',
        schedule: '',
        state: 'syncing',
        synced: ago(7_200_000),
        lag: { versions: 3, seconds: 720 },
        work: {
          stage: 'send',
          files: { done: 2, total: 6 },
          bytes: { done: 2 ** 20, total: 2 ** 22 },
          rate: 2 ** 19,
          secondsLeft: 6,
        },
      },
      {
        name: 'us',
        url: 'https://us.example.org',
        remote: 'images@us.example.org:22',
        schedule: '',
        state: 'waiting',
        lag: { seconds: 60 },
        failure: { at: ago(5000), message: 'Mirror us: no answer', hint: 'see to it' },
        next: ago(-30_000),
      },
      {
        name: 'asia',
        url: 'https://asia.example.org',
        remote: 'images@asia.example.org:22',
        schedule: '0 3 * * *',
        state: 'synced',
        synced: ago(3_600_000),
        lag: { versions: 0, seconds: 0 },
      },
    ],
    process: { memory: 120 * 2 ** 20, longestPauseMs: 42 },
  };
}

const plain = { now, colors: picocolors.createColors(false) };

describe('status', () => {
  test('tells all that the daemon tells, on 80 columns', () => {
    const stock = { products: 2, versions: 7, bytes: 3 * 2 ** 30 };
    const found = {
      daemon: daemonStatus('/srv'),
      catalogue: stock,
      documents: { root: '/srv', written: ago(0) },
    };
    const text = statusText(found, { ...plain, root: '/srv' });
    assert.equal(
      text,
      `daemon      running since 3 d ago, version 1.0.0, process 4711
root        /srv
now         digest: 512.0 MiB of 2.0 GiB (25%), since 1 min ago
published   2 products, 7 versions, 3.0 GiB
written     3 min ago, in 1.2 s
watching    on a timer, with 10 folders watched: inotify watches ran out
server      https://localhost:8443
jobs        rescan: running; next in 10 min; last 10 min ago, in 80 ms; failed:
            no space; missed 2 times
            verify: never
memory      120.0 MiB, longest pause 42 ms
lately      3 min ago: 7 versions, 5.0 MiB read, in 1.2 s
mirrors     1 waiting, 1 syncing, 1 synced
  MIRROR  STATE    BEHIND              IN SYNC  NOW
  eu      syncing  3 versions, 12 min  2 h ago  send 25% of 6 files, 512.0 KiB/s, 6.0 s left
  us      waiting  1 min               never    next try in 30 s
    Mirror us: no answer; see to it
  asia    synced   -                   1 h ago
held back   1 problem
  ubuntu/noble/amd64/default/20260301
    its files are still growing; wait until the upload is over, or add a
    SHA256SUMS file that names every file of it; looked at again in 2 s`,
    );
  });

  test('says clearly that the daemon works on another root', () => {
    const found = { daemon: daemonStatus('/srv'), catalogue: null, documents: null };
    const text = statusText(found, { ...plain, root: '/other' });
    assert.match(text, /^root {8}\/srv\n {12}not the one asked for: \/other has no daemon here;/m);
  });

  test('shows twenty of what is held back, and how much more there is', () => {
    const daemon = daemonStatus('/srv');
    const [one] = daemon.held;
    assert.ok(one);
    const held = Array.from({ length: 30 }, (_, number) => ({ ...one, path: `a/${number}` }));
    const found = { daemon: { ...daemon, held, heldCount: 50 }, catalogue: null, documents: null };
    const text = statusText(found, { ...plain, root: '/srv' });
    assert.match(text, /\n {2}a\/19\n/);
    assert.doesNotMatch(text, /\n {2}a\/20\n/);
    assert.match(text, /\n {2}… and 30 more; --json lists the first 30$/);
  });

  test('asks the daemon, and prints its answer as JSON', async (t) => {
    const { root, config } = await publishedRoot(t);
    const daemon = daemonStatus(root);
    await answerCalls(t, root, { status: async () => daemon });
    const text = await runCli(['status', '--config', config]);
    assert.match(text.stdout, /^daemon +running since /);
    const { code, stdout } = await runCli(['status', '--json', '--config', config]);
    const found = JSON.parse(stdout);
    assert.deepEqual(found.daemon, daemon);
    assert.equal(found.documents.root, root);
    assert.deepEqual([code, text.code], [0, 0]);
  });

  test('without a daemon says so, with the cure, and shows what the documents hold', async (t) => {
    const { root, config } = await publishedRoot(t);
    const { code, stdout } = await runCli(['status', '--config', config]);
    assert.match(
      stdout,
      /^daemon {6}not running; start it with "systemctl start lxd-image-server", or/,
    );
    assert.match(stdout, /^published {3}1 product, 1 version, [\d.]+ KiB$/m);
    assert.match(stdout, /^written {5}(?:just now|\d+ s ago)$/m);
    const json = JSON.parse((await runCli(['status', '--json', '--config', config])).stdout);
    assert.equal(json.daemon, null);
    assert.equal(json.catalogue.versions, 1);
    assert.equal(json.documents.root, root);
    assert.equal(code, 0);
  });

  test('where nothing is initialised ends with 4', async (t) => {
    const root = await temporaryFolder(t);
    const config = await writeConfig(root, `paths.run = "${root}/run"\n`);
    assert.equal((await runCli(['status', '--config', config])).code, 4);
  });

  const ages: [number, string][] = [
    [0, 'just now'],
    [999, 'just now'],
    [1000, '1 s ago'],
    [59_999, '59 s ago'],
    [60_000, '1 min ago'],
    [7_200_000, '2 h ago'],
    [-90_000, 'in 1 min'],
    [200_000_000, '2 d ago'],
  ];
  for (const [ms, text] of ages) {
    test(`tells the age of ${ms} ms as ${text}`, () => assert.equal(formatAge(ago(ms), now), text));
  }

  test('keeps a long word whole when it wraps', () => {
    assert.deepEqual(wrap('a bb ccccccc d e', 5), ['a bb', 'ccccccc', 'd e']);
  });
});

describe('reload', () => {
  test('tells which keys changed, or that none did', async (t) => {
    const { root, config } = await publishedRoot(t);
    const answers = [['publish.settle', 'logging.level'], []];
    await answerCalls(t, root, { reload: async () => ({ changed: answers.shift() }) });
    const first = await runCli(['reload', '--config', config]);
    assert.deepEqual([first.code, first.stdout], [0, 'changed: publish.settle, logging.level\n']);
    const second = await runCli(['reload', '--config', config]);
    assert.deepEqual([second.code, second.stdout], [0, 'nothing changed\n']);
  });

  test('without a daemon fails with the cure', async (t) => {
    const { root, config } = await publishedRoot(t);
    const { code, stderr } = await runCli(['reload', '--config', config]);
    assert.equal(code, 1);
    assert.match(stderr, /^error: No daemon listens in \S+\/run: nothing to reload; start it with/);
    assert.match(stderr, new RegExp(root));
  });

  for (const broken of ['publish.settle = "soon"\n', 'this is no TOML\n']) {
    test(`gives the daemon's reason for refusing ${broken.trim()}`, async (t) => {
      const { root, config } = await publishedRoot(t);
      const text = `${await readFile(config, 'utf8')}${broken}`;
      await writeFile(config, text);
      const thrown = new ServerError('CONFIG', 'the reason', { hint: 'the cure' });
      await answerCalls(t, root, { reload: () => Promise.reject(thrown) });
      const { code, stderr } = await runCli(['reload', '--config', config]);
      assert.equal(
        stderr,
        'error: the reason; the cure; the daemon goes on with the configuration that it had\n',
      );
      assert.equal(code, 2);
      // Others do not run with a broken one.
      assert.equal((await runCli(['status', '--config', config])).code, 2);
    });
  }
});

describe('update', () => {
  const result = {
    ...{ products: 5, versions: 9, bytes: 1024, read: { files: 0, bytes: 0 } },
    published: ['images.json', 'index.json'],
    problems: [{ path: 'a/b', code: 'c', reason: 'is wrong', cure: 'mend it' }],
    ms: { scan: 1, digest: 2, publish: 3 },
  };

  test('is done by the daemon, and told as if it had been done here', async (t) => {
    const { root, config } = await publishedRoot(t);
    const calls: unknown[] = [];
    await answerCalls(t, root, {
      update: async ({ args, report }) => {
        calls.push(args);
        report({ stage: 'digest', bytes: 100, done: 10 });
        return result;
      },
    });
    const text = await runCli(['update', '--rebuild', '--config', config]);
    assert.deepEqual(calls, [{ root, images: join(root, 'images'), rebuild: true }]);
    assert.equal(text.stderr, 'warning: not published: a/b: is wrong; mend it (code=c)\n');
    assert.equal(
      text.stdout,
      '5 products, 9 versions, 1.0 KiB: wrote index.json and images.json; 1 problem, see above\n',
    );
    assert.equal(text.code, 3);
    const json = await runCli(['update', '--json', '--config', config]);
    assert.deepEqual(JSON.parse(json.stdout), result);
  });

  test('is done here where the daemon serves another root', async (t) => {
    const { root, config } = await publishedRoot(t);
    const busy = new ServerError('BUSY', 'This daemon serves another root');
    await answerCalls(t, root, { update: () => Promise.reject(busy) });
    await addVersion(root, `${noble}/20260102`);
    assert.equal((await runCli(['update', '--config', config])).code, 0);
    assert.equal((await publishedVersions(root)).length, 2);
  });

  test('gives the reason of a daemon that refuses the caller, where it holds the lock', async (t) => {
    const { root, config } = await publishedRoot(t);
    const denied = new ServerError('DENIED', 'Not for you', { hint: 'ask' });
    await answerCalls(t, root, { update: () => Promise.reject(denied) });
    const lock = await acquireLock(root);
    t.after(() => lock.release());
    const { code, stderr } = await runCli(['update', '--config', config]);
    assert.deepEqual([code, stderr], [1, 'error: Not for you; ask\n']);
  });

  test('does nothing itself when the daemon fails', async (t) => {
    const { root, config } = await publishedRoot(t);
    const full = new ServerError('DISK_FULL', 'The disk is full', { hint: 'make room' });
    await answerCalls(t, root, { update: () => Promise.reject(full) });
    await addVersion(root, `${noble}/20260102`);
    const { code, stderr } = await runCli(['update', '--config', config]);
    assert.deepEqual([code, stderr], [1, 'error: The disk is full; make room\n']);
    assert.equal((await publishedVersions(root)).length, 1);
  });

  test('ends at Ctrl-C, and the daemon hears of it', async (t) => {
    const { root, config } = await publishedRoot(t);
    const controller = new AbortController();
    const began = once(controller.signal, 'abort');
    let heard: Promise<unknown> = Promise.resolve();
    await answerCalls(t, root, {
      update: async ({ signal }) => {
        heard = once(signal, 'abort');
        controller.abort();
        await heard;
        throw new ServerError('INTERRUPTED', 'Interrupted');
      },
    });
    const child = spawn(process.execPath, [cli, 'update', '--config', config], { stdio: 'ignore' });
    const exited = once(child, 'exit');
    await began;
    child.kill('SIGINT');
    assert.deepEqual(await exited, [130, null]);
    await heard;
  });
});

describe('verify --repair', () => {
  test('is done by the daemon with the same pieces, and told the same way', async (t) => {
    const { root, config, folder } = await publishedRoot(t);
    const paths = { root, images: join(root, 'images'), streams: join(root, 'streams/v1') };
    const { log } = memoryLog();
    const pool = createPool();
    const pipeline = createPipeline({
      paths: { ...paths, state: join(root, 'state') },
      publish: { settle: 0, gzip: true },
      pool,
      log,
    });
    t.after(() => pool.close());
    const lock = await acquireLock(root);
    t.after(() => lock.release());
    await answerCalls(t, root, {
      verify: () =>
        verifyAndRepair({
          paths,
          check: () => verifyTree({ paths, pool }),
          publish: () => pipeline.run(),
        }),
    });
    const file = join(folder, 'rootfs.squashfs');
    const content = await readFile(file);
    await utimes(file, 1, 1);
    await pipeline.run();
    content[500] = (content[500] ?? 0) ^ 1;
    await writeFile(file, content);
    await utimes(file, 1, 1);
    const { code, stdout } = await runCli(['verify', '--repair', '--json', '--config', config]);
    const result = JSON.parse(stdout);
    assert.equal(code, 5);
    assert.equal(result.repaired, true);
    assert.deepEqual(result.moved, [`images/${noble}/20260101/.rootfs.squashfs.damaged`]);
    assert.deepEqual(
      result.problems.map(({ path }: { path: string }) => path),
      [`${noble}/20260101`],
    );
    assert.deepEqual(await publishedVersions(root), []);
  });

  test('without a daemon tells what the last publication held back', async (t) => {
    const { root, config, folder } = await publishedRoot(t);
    await rm(join(folder, 'rootfs.squashfs'));
    await truncate(join(root, 'streams/v1/images.json.gz'), 10);
    const { stdout } = await runCli(['verify', '--repair', '--json', '--config', config]);
    const { problems, repaired } = JSON.parse(stdout);
    assert.equal(repaired, true);
    assert.deepEqual(
      problems.map(({ path }: { path: string }) => path),
      [`${noble}/20260101`],
    );
  });

  test('plain verify asks no daemon, and needs no lock', async (t) => {
    const { root, config } = await publishedRoot(t);
    const refuse = () => Promise.reject(new ServerError('IO', 'was asked'));
    await answerCalls(t, root, { verify: refuse, update: refuse, status: refuse });
    const lock = await acquireLock(root);
    t.after(() => lock.release());
    assert.equal((await runCli(['verify', '--config', config])).code, 0);
  });
});
