/** Uploads as people make them, slow, with pauses, interrupted and resumed: never is half a version published. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type FSWatcher, readdirSync, statSync, watch } from 'node:fs';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemCode } from '../../src/errors.js';
import { run } from '../support/command.js';
import { assertAsRebuilt, type Daemon, emptyRoot, startDaemon } from '../support/daemon.js';
import {
  type Files,
  metadataArchive,
  squashfs,
  writeFiles,
  writeSums,
} from '../support/image-tree.js';
import { needs } from '../support/programs.js';
import { type PublishedReader, readAllAlong } from '../support/published-reader.js';
import {
  createSshServer,
  type SshServer,
  startCopy,
  startRsync,
  startScp,
  startSftp,
  startUnpacking,
  type Upload,
  uploadPrograms,
} from '../support/slow-upload.js';
import { temporaryFolder } from '../support/temporary.js';

/** As large as a root file must be for rsync, which writes 256 KiB at once, to be caught half-way. */
const rootSize = 700_000;
/** KiB a second. */
const slow = 700;
/** Leaves time to be killed half-way on a busy machine. */
const verySlow = 125;
const settleMs = 400;

interface Site {
  root: string;
  server: SshServer;
  daemon: Daemon;
  reader: PublishedReader;
  /** Where those who upload have their files. */
  sources: string;
  end(): Promise<void>;
}

async function createSite(settle: string): Promise<Site> {
  const cleanups: (() => unknown)[] = [];
  const t = { after: (cleanup: () => unknown) => void cleanups.unshift(cleanup) };
  const sources = await temporaryFolder(t as TestContext);
  const root = await emptyRoot(t as TestContext);
  const server = await createSshServer(join(sources, 'sshd'));
  t.after(() => server.close());
  const daemon = await startDaemon(t as TestContext, root, { settle });
  const reader = readAllAlong(t as TestContext, root);
  const end = async () => {
    for (const cleanup of cleanups) await cleanup();
  };
  return { root, server, daemon, reader, sources, end };
}

interface Source {
  /** The version folder, and the archive of it. */
  from: string;
  archive: string;
  /** `env/release/arch/type/version`, and where it goes. */
  version: string;
  target: string;
}

/** Ends it as every site ends: in good order, and with nothing published but what is there. */
async function endSite({ daemon, root, reader, end }: Site): Promise<void> {
  try {
    assert.deepEqual(reader.faults(), []);
    assert.equal(await daemon.end(), 0);
    await assertAsRebuilt(root);
  } finally {
    await end();
  }
}

/** What is uploaded last by most tools, and does not tell how long it should be. */
const notes = { 'zz-notes': Buffer.alloc(rootSize, 'notes') };

let count = 0;

/** A version that is to be uploaded to a product of its own, whose folder is there. */
async function makeSource(
  site: Site,
  { sums, more }: { sums: boolean; more?: Files },
): Promise<Source> {
  count += 1;
  const version = `demo/p${count}/amd64/default/20260101`;
  const from = join(site.sources, version);
  await writeFiles(from, {
    'lxd.tar.xz': await metadataArchive({ serial: version }),
    'rootfs.squashfs': squashfs(version, more === undefined ? rootSize : 1000),
    ...more,
  });
  if (sums) await writeSums(from);
  site.reader.expect(version, await filesIn(from));
  const target = join(site.root, 'images', version);
  await mkdir(dirname(target), { recursive: true });
  return { from, archive: await archiveOf(from), version, target };
}

async function filesIn(folder: string): Promise<Files> {
  const files: Files = {};
  for (const name of await readdir(folder)) files[name] = await readFile(join(folder, name));
  return files;
}

async function archiveOf(folder: string): Promise<string> {
  await run('tar', ['-c', '-f', `${folder}.tar`, '-C', dirname(folder), basename(folder)]);
  return `${folder}.tar`;
}

/** Starts an upload of `source`; `limit` in KiB a second. */
type Start = (source: Source, options: { server: SshServer; limit?: number }) => Upload;

interface Tool {
  start: Start;
  /** How it goes on after an interruption. Default: as it started. */
  resume?: Start;
}

const rsync = (...args: string[]): Start => {
  return ({ from, target }, { server, limit }) =>
    startRsync(server, { from, to: dirname(target), args, limit });
};
const scp = (...args: string[]): Start => {
  return ({ from, target }, { server, limit }) =>
    startScp(server, { from, to: dirname(target), args, limit });
};
const sftp = (...args: string[]): Start => {
  return ({ from, target }, { server, limit }) =>
    startSftp(server, { from, to: dirname(target), args, limit });
};
/** What `put -r` may not have come to, and the rest of the large file, unless that was on its way. */
const reput: Start = ({ from, target }, { server, limit }) => {
  const commands = readdirSync(from).map((name) => {
    const command = statSync(join(from, name)).size === rootSize ? '-reput' : 'put';
    return `${command} "${join(from, name)}" "${join(target, name)}"`;
  });
  return startSftp(server, { from, to: target, limit, commands });
};
/** As clients with windows do it: each file has a name of its own until it is whole. */
const putAndRename: Start = ({ from, target }, { server, limit }) => {
  const commands = readdirSync(from).flatMap((name) => [
    `put "${join(from, name)}" "${join(target, name)}.filepart"`,
    `rename "${join(target, name)}.filepart" "${join(target, name)}"`,
  ]);
  const all = [`-mkdir "${target}"`, ...commands];
  return startSftp(server, { from, to: target, limit, commands: all });
};
const copy = (...args: string[]): Start => {
  return ({ from, target }, { limit }) => startCopy({ from, to: dirname(target), args, limit });
};
const unpack: Start = ({ archive, target }, { limit }) =>
  startUnpacking({ from: archive, to: dirname(target), limit });

const tools: Record<string, Tool> = {
  rsync: { start: rsync() },
  'rsync --inplace': { start: rsync('--inplace') },
  'rsync --partial': { start: rsync('--partial') },
  'rsync --partial-dir': { start: rsync('--partial-dir=.rsync-partial') },
  'rsync --delay-updates': { start: rsync('--delay-updates') },
  'rsync --append-verify': { start: rsync('--inplace'), resume: rsync('--append-verify') },
  'scp -r': { start: scp() },
  'scp -rp': { start: scp('-p') },
  'scp -rpO': { start: scp('-p', '-O') },
  'sftp put -r': { start: sftp() },
  'sftp -p put -r': { start: sftp('-p') },
  'sftp put -r, then reput': { start: sftp(), resume: reput },
  'sftp put and rename': { start: putAndRename },
  'cp -r': { start: copy('-r') },
  'cp -a': { start: copy('-a') },
  'tar x': { start: unpack },
};

describe('never is half a version published, and all of it in the end, of an upload with', {
  ...needs(...uploadPrograms, 'strace', 'tar'),
  timeout: 120_000,
  concurrency: true,
}, () => {
  describe('a SHA256SUMS, without waiting for it to settle', { concurrency: true }, () => {
    uploadsWith({ settle: '1h', sums: true, more: notes });
  });
  describe('no SHA256SUMS, in pauses longer than the settle time', { concurrency: true }, () => {
    uploadsWith({ settle: `${settleMs}ms`, sums: false });
  });
});

function uploadsWith({
  settle,
  ...content
}: {
  settle: string;
  sums: boolean;
  more?: Files;
}): void {
  let site: Site;
  before(async () => {
    site = await createSite(settle);
  });
  after(() => endSite(site));

  for (const [name, { start, resume = start }] of Object.entries(tools)) {
    test(name, async () => {
      const { server } = site;
      const source = await makeSource(site, content);
      const first = start(source, { server, limit: verySlow });
      await untilHalf(source);
      first.kill();
      assert.notEqual((await first.ended).code, 0);
      await sleep(2 * settleMs);
      const second = resume(source, { server, limit: slow });
      await untilHalf(source);
      await pause(second);
      const { code, stderr } = await second.ended;
      assert.equal(code, 0, stderr);
      await site.daemon.until(() => site.reader.published().includes(source.version));
      assert.deepEqual(site.reader.faults(), []);
    });
  }
}

describe('nothing is published before it has settled of an upload that', {
  ...needs(...uploadPrograms),
  timeout: 60_000,
  concurrency: true,
}, () => {
  let site: Site;
  before(async () => {
    site = await createSite('1h');
  });
  after(() => endSite(site));

  /** Ends what has been begun, and sees it published as soon as a SHA256SUMS vouches for it. */
  async function finish(source: Source): Promise<void> {
    await looked(site);
    assert.ok(!site.reader.published().includes(source.version));
    await writeSums(source.target);
    await site.daemon.until(() => site.reader.published().includes(source.version));
    assert.deepEqual(site.reader.faults(), []);
  }

  for (const name of ['rsync --inplace', 'rsync --append-verify', 'rsync', 'scp -rpO', 'scp -rp']) {
    test(`is interrupted and begun once more, by ${name}`, async () => {
      const { start, resume = start } = tools[name] as Tool;
      const source = await makeSource(site, { sums: false, more: notes });
      const { server } = site;
      const first = start(source, { server, limit: verySlow });
      await untilHalf(source);
      first.kill();
      await first.ended;
      const second = resume(source, { server, limit: slow });
      assert.equal((await second.ended).code, 0);
      await finish(source);
    });
  }

  const disturbances = {
    'is given other rights meanwhile': ['chmod', '-R', 'g+w'],
    'is given another time meanwhile': ['touch', '-d', '2026-01-01'],
  };
  for (const [name, [program = '', ...args]] of Object.entries(disturbances)) {
    test(name, async () => {
      const source = await makeSource(site, { sums: false, more: notes });
      const upload = scp()(source, { server: site.server, limit: slow });
      await untilHalf(source);
      process.kill(upload.pid, 'SIGSTOP');
      await run(program, [...args, source.target]);
      await looked(site);
      process.kill(upload.pid, 'SIGCONT');
      assert.equal((await upload.ended).code, 0);
      await finish(source);
    });
  }
});

describe('what gets its name when it is whole is published without waiting, uploaded with', {
  ...needs(...uploadPrograms, 'strace', 'tar'),
  timeout: 60_000,
  concurrency: true,
}, () => {
  let site: Site;
  before(async () => {
    site = await createSite('1h');
  });
  after(() => endSite(site));

  for (const name of ['rsync', 'rsync --inplace', 'scp -rp', 'sftp put -r', 'cp -a', 'tar x']) {
    test(`${name}, then mv`, async () => {
      const { start } = tools[name] as Tool;
      const source = await makeSource(site, { sums: false, more: notes });
      const { target, version } = source;
      const hidden = join(dirname(target), '.incoming', basename(target));
      await mkdir(dirname(hidden));
      const upload = start({ ...source, target: hidden }, { server: site.server, limit: 2 * slow });
      const { code, stderr } = await upload.ended;
      assert.equal(code, 0, stderr);
      await looked(site);
      assert.ok(!site.reader.published().includes(version));
      await run('mv', [hidden, target]);
      await site.daemon.until(() => site.reader.published().includes(version));
      assert.deepEqual(site.reader.faults(), []);
    });
  }
});

describe('versions of one product are published as each of them is whole, uploaded with', {
  ...needs(...uploadPrograms, 'strace', 'tar'),
  timeout: 60_000,
  concurrency: true,
}, () => {
  let site: Site;
  before(async () => {
    site = await createSite('1h');
  });
  after(() => endSite(site));

  const names = [
    'rsync',
    'rsync --inplace',
    'rsync --delay-updates',
    'scp -rp',
    'sftp -p put -r',
    'cp -a',
    'tar x',
  ];
  for (const name of names) {
    test(name, async () => {
      const { start } = tools[name] as Tool;
      const source = await makeSource(site, { sums: true, more: notes });
      const versions = [source.version];
      for (const day of ['20260102', '20260103']) {
        const version = source.version.replace(/[^/]+$/, day);
        const from = join(site.sources, version);
        await writeFiles(from, {
          'lxd.tar.xz': await metadataArchive({ serial: version }),
          'rootfs.squashfs': squashfs(version),
          'zz-notes': Buffer.alloc(rootSize, day),
        });
        await writeSums(from);
        site.reader.expect(version, await filesIn(from));
        versions.push(version);
      }
      // What is sent is the folder of the product, into that of the architecture.
      const whole = { ...source, from: dirname(source.from), target: dirname(source.target) };
      whole.archive = await archiveOf(whole.from);
      const upload = start(whole, { server: site.server, limit: 2 * slow });
      assert.equal((await upload.ended).code, 0);
      await site.daemon.until(() => {
        const published = new Set(site.reader.published());
        return versions.every((version) => published.has(version));
      });
      assert.deepEqual(site.reader.faults(), []);
    });
  }
});

/** Waits until a run has ended that began after all that was done so far. */
async function looked({ root, daemon }: Site): Promise<void> {
  count += 1;
  const path = `zz/p${count}/amd64/default/20260101`;
  await mkdir(join(root, 'images', path), { recursive: true });
  await daemon.until(async () => (await daemon.status()).held.some((held) => held.path === path));
}

/** Stops an upload for longer than the settle time. */
async function pause(upload: Upload): Promise<void> {
  process.kill(upload.pid, 'SIGSTOP');
  await sleep(2 * settleMs);
  process.kill(upload.pid, 'SIGCONT');
}

/** Waits until some of the root file is there, under whatever name. */
async function untilHalf({ target }: Source): Promise<void> {
  for (;;) {
    const watchers: FSWatcher[] = [];
    const bytes = watchAll(dirname(target), watchers);
    const changed = Promise.race(watchers.map((watcher) => once(watcher, 'change')));
    try {
      if (bytes >= rootSize / 3) return;
      await changed;
    } finally {
      for (const watcher of watchers) watcher.close();
    }
  }
}

/** Watches `folder` and all folders in it. @returns how many bytes its files have. */
function watchAll(folder: string, watchers: FSWatcher[]): number {
  let bytes = 0;
  try {
    watchers.push(watch(folder));
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      bytes += entry.isDirectory() ? watchAll(path, watchers) : statSync(path).size;
    }
  } catch (error) {
    // It has got its final name meanwhile.
    if (systemCode(error) !== 'ENOENT') throw error;
  }
  return bytes;
}
