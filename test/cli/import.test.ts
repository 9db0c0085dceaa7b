import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  chown,
  lstat,
  mkdir,
  readdir,
  readFile,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { addProperty } from '../../src/cli/program.js';
import type { ImportedImage } from '../../src/daemon/import.js';
import { cli, nodeOptions, publishedVersions, runCli, writeConfig } from '../support/cli.js';
import { type CommandResult, outcome } from '../support/command.js';
import { type Daemon, daemonConfig, emptyRoot, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { sha256, squashfs, unifiedArchive } from '../support/image-tree.js';
import { metadataOf, splitParts, staged } from '../support/library-site.js';
import { needsRoot } from '../support/programs.js';
import { makeLargeSample } from '../support/sample-images.js';
import { temporaryFolder } from '../support/temporary.js';

interface Place {
  root: string;
  config: string;
  /** Where the files to import are, with a slash at its end. */
  files: string;
  /** The import command with these arguments. */
  importing(...args: string[]): Promise<CommandResult>;
  /** Absent where there is none. */
  daemon: Daemon | undefined;
}

interface PlaceOptions {
  daemon: boolean;
  /** Further lines of the configuration. */
  config?: string;
}

/** An empty tree, and beside it `lxd.tar.xz`, `rootfs.squashfs` and `unified.tar.gz`. */
async function place(t: TestContext, options: PlaceOptions): Promise<Place> {
  const root = await emptyRoot(t);
  const files = `${await temporaryFolder(t)}/`;
  const { metadata, rootfs } = await splitParts();
  await writeFile(`${files}lxd.tar.xz`, metadata);
  await writeFile(`${files}rootfs.squashfs`, rootfs);
  await writeFile(`${files}unified.tar.gz`, await unifiedArchive());
  const lines = options.config ?? '';
  const config = options.daemon
    ? await daemonConfig(root, { config: lines })
    : await writeConfig(root, `paths.run = "${root}/run"\n${lines}`);
  const daemon = options.daemon ? await startDaemon(t, root, { config: lines }) : undefined;
  const importing = (...args: string[]) => runCli(['import', '--config', config, ...args]);
  return { root, config, files, daemon, importing };
}

const split = ({ files }: Place) => [`${files}lxd.tar.xz`, `${files}rootfs.squashfs`];

async function hashOf(paths: readonly string[]): Promise<string> {
  return sha256(...(await Promise.all(paths.map((path) => readFile(path)))));
}

/** Nothing has come of it: neither in the tree nor in staging. */
async function assertNothingLeft({ root }: Pick<Place, 'root'>): Promise<void> {
  assert.deepEqual(await staged({ root }), []);
  assert.deepEqual(await readdir(join(root, 'images')), []);
}

/** Its exit code, and what it says. */
function assertRefused(result: CommandResult, code: number, says: RegExp): void {
  assert.match(result.stderr, says);
  assert.deepEqual([result.code, result.stdout], [code, '']);
}

const ways = [
  { name: 'the daemon', daemon: true },
  { name: 'the command itself', daemon: false },
];

for (const { name, daemon } of ways) {
  describe(`import by ${name}`, () => {
    test('publishes a split image at once, where its metadata says', async (t) => {
      const here = await place(t, { daemon });
      const { code, stdout } = await here.importing(...split(here));
      const fingerprint = await hashOf(split(here));
      assert.equal(code, 0);
      const aliases = 'aliases: demo/box/amd64/default, demo/box/default, demo/box';
      const path = 'images/demo/box/amd64/default/20260101_00:00';
      assert.equal(stdout, `${path}\nfingerprint: ${fingerprint}\n${aliases}\n`);
      const published = ['demo:box:amd64:default/20260101_00:00'];
      assert.deepEqual(await publishedVersions(here.root), published);
      assert.equal(
        await hashOf(['lxd.tar.xz', 'rootfs.squashfs'].map((file) => join(here.root, path, file))),
        fingerprint,
      );
      assert.deepEqual(await staged(here), []);
    });

    test('publishes a unified image, with the names and properties that it is told', async (t) => {
      const here = await place(t, { daemon, config: 'uploads.enabled = false\n' });
      const file = `${here.files}unified.tar.gz`;
      const properties = ['os=Ubuntu', 'release=noble', 'variant=cloud', 'architecture=arm64'];
      const { code, stdout, stderr } = await here.importing(
        ...['--json', '--alias', 'one', file, '--alias', 'two/a'],
        ...properties.flatMap((property) => ['--property', property]),
      );
      assert.equal(code, 0, stderr);
      const image = JSON.parse(stdout) as ImportedImage;
      const product = 'ubuntu/noble/arm64/cloud';
      const version = '20260101_00:00';
      const { aliases, size, ...rest } = image;
      const path = `images/${product}/${version}`;
      const fingerprint = await hashOf([file]);
      assert.deepEqual(rest, {
        path,
        fingerprint,
        type: 'container',
        arch: 'arm64',
        product,
        version,
      });
      for (const alias of ['one', 'two/a']) assert.ok(aliases.includes(alias), String(aliases));
      assert.equal(size, (await lstat(file)).size);
      assert.deepEqual(await publishedVersions(here.root), [
        'ubuntu:noble:arm64:cloud/20260101_00:00',
      ]);
    });

    test('says of an image that is there already where it is', async (t) => {
      const here = await place(t, { daemon });
      assert.equal((await here.importing(...split(here))).code, 0);
      const says = /already exists; it is there as demo\/box\/amd64\/default\/20260101_00:00\n$/;
      assertRefused(await here.importing(...split(here)), 1, says);
      assert.deepEqual(await staged(here), []);
    });

    test('refuses an alias that another product has', async (t) => {
      const here = await place(t, { daemon });
      const [metadata = ''] = split(here);
      const other = `${here.files}other.squashfs`;
      await writeFile(other, squashfs('other'));
      assert.equal((await here.importing(...split(here), '--alias', 'mine')).code, 0);
      const again = [metadata, other, '--alias', 'mine', '--property', 'release=other'];
      assertRefused(await here.importing(...again), 1, /"mine"/);
      assert.deepEqual(await publishedVersions(here.root), [
        'demo:box:amd64:default/20260101_00:00',
      ]);
      assert.deepEqual(await staged(here), []);
    });

    test('refuses more than uploads.max_size before any of it comes', async (t) => {
      const here = await place(t, { daemon, config: 'uploads.max_size = "100KiB"\n' });
      const sample = await makeLargeSample(here.files, { bytes: 30_000_000 });
      assertRefused(await here.importing(...sample.files), 1, /larger than 100KiB/);
      await assertNothingLeft(here);
    });

    test('refuses what the disk has no room for before any of it comes', async (t) => {
      const here = await place(t, { daemon, config: 'uploads.max_size = "8000TiB"\n' });
      const [metadata = '', rootfs = ''] = split(here);
      // Nothing is stored of what was never written.
      await truncate(rootfs, 8 * 2 ** 40);
      assertRefused(await here.importing(metadata, rootfs), 1, /not enough room left/);
      await assertNothingLeft(here);
    });

    test('refuses an image that names no architecture, and leaves nothing', async (t) => {
      const here = await place(t, { daemon });
      const bare = `${here.files}bare.tar.xz`;
      await writeFile(bare, await metadataOf('architecture: z80\ncreation_date: 1767225600\n'));
      const [, rootfs = ''] = split(here);
      assertRefused(await here.importing(bare, rootfs), 1, /"z80"; give the property architecture/);
      await assertNothingLeft(here);
    });

    test('leaves nothing where the command is interrupted in the middle', async (t) => {
      const here = await place(t, { daemon });
      const child = await begun(t, here);
      child.kill('SIGINT');
      const [code] = (await once(child, 'exit')) as [number | null];
      assert.equal(code, 130);
      await eventually('nothing in staging', async () => (await staged(here)).length === 0);
      await assertNothingLeft(here);
    });
  });
}

/** Starts an import that will not end by itself for a while; resolves when bytes of it are in staging. */
async function begun(
  t: TestContext,
  { files, config, root }: Pick<Place, 'files' | 'config' | 'root'>,
): Promise<ChildProcess & { stderr: NodeJS.ReadableStream }> {
  const sparse = `${files}sparse.squashfs`;
  await writeFile(sparse, squashfs());
  await truncate(sparse, 3e9);
  const args = ['import', '--config', config, `${files}lxd.tar.xz`, sparse];
  const child = spawn(process.execPath, [...nodeOptions, cli, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, NO_COLOR: '1' },
  });
  t.after(() => child.kill('SIGKILL'));
  await eventually('bytes in staging', async () => {
    const [folder = ''] = await staged({ root });
    const file = join(root, '.staging', folder, 'rootfs');
    return lstat(file).then(
      ({ size }) => size > 0,
      () => false,
    );
  });
  return child as ChildProcess & { stderr: NodeJS.ReadableStream };
}

describe('in the middle of an import', () => {
  test('a command that is killed leaves nothing in the daemon', async (t) => {
    const here = await place(t, { daemon: true });
    const child = await begun(t, here);
    child.kill('SIGKILL');
    const told = await here.daemon?.event('image not imported');
    assert.equal(told?.reason, 'The caller went away');
    await assertNothingLeft(here);
  });

  test('what a killed command has left goes with the next one', async (t) => {
    const here = await place(t, { daemon: false });
    const child = await begun(t, here);
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.equal((await staged(here)).length, 1);
    assert.equal((await here.importing(...split(here))).code, 0);
    assert.deepEqual(await staged(here), []);
  });

  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    test(`the command says that the daemon ended (${signal})`, async (t) => {
      const here = await place(t, { daemon: true });
      const child = await begun(t, here);
      const said = text(child.stderr);
      const ended = once(child, 'exit');
      await here.daemon?.end(signal);
      assert.match(await said, /The daemon ended in the middle of the work; .*try again/);
      assert.equal(((await ended) as [number])[0], 1);
      // A killed one leaves that to the next.
      if (signal === 'SIGTERM') await assertNothingLeft(here);
    });
  }

  test('the daemon answers other commands', async (t) => {
    const here = await place(t, { daemon: true });
    const child = await begun(t, here);
    assert.equal((await here.daemon?.status())?.ready, true);
    assert.equal((await here.importing(...split(here))).code, 0);
    assert.equal(child.exitCode, null);
    child.kill('SIGKILL');
    await here.daemon?.event('image not imported');
  });
});

describe('files', () => {
  interface Case {
    name: string;
    args: (here: Place) => string[] | Promise<string[]>;
    code: number;
    says: RegExp;
  }
  const cases: Case[] = [
    { name: 'none', args: () => [], code: 2, says: /missing required argument/ },
    { name: 'three', args: (here) => [...split(here), 'x'], code: 2, says: /too many arguments/ },
    {
      name: 'a missing one',
      args: () => ['/nowhere/x'],
      code: 2,
      says: /Cannot read \/nowhere\/x: no such file/,
    },
    { name: 'a folder', args: ({ root }) => [root], code: 2, says: /it is a folder/ },
    { name: 'a device', args: () => ['/dev/null'], code: 2, says: /it is no regular file/ },
    {
      name: 'an empty one',
      async args({ files }) {
        await writeFile(`${files}empty`, '');
        return [`${files}empty`];
      },
      code: 1,
      says: /empty is empty/,
    },
    {
      name: 'metadata and root file system swapped',
      args: (here) => split(here).toReversed(),
      code: 2,
      says: /in the wrong order; name the metadata archive first: \S+lxd.tar.xz \S+rootfs.squashfs\n$/,
    },
    {
      name: 'metadata and an archive of the root file system swapped',
      async args({ files }) {
        const { archive } = await import('../support/image-files.js');
        const root = `${files}root.tar`;
        await writeFile(root, await archive([{ name: 'etc', type: 'directory' }]));
        return [root, `${files}lxd.tar.xz`];
      },
      code: 2,
      says: /in the wrong order; name the metadata archive first: \S+lxd.tar.xz \S+root.tar\n$/,
    },
    {
      name: 'a root file system alone',
      args: (here) => split(here).slice(1),
      code: 1,
      says: /root file system alone; name its metadata archive before it/,
    },
    {
      name: 'a metadata archive alone, which has no root',
      args: (here) => split(here).slice(0, 1),
      code: 1,
      says: /lxd.tar.xz is a metadata archive alone; name its root file system after it\n$/,
    },
    {
      name: 'a text',
      args: ({ config }) => [config, config],
      code: 1,
      says: /config.toml is no metadata archive: /,
    },
    {
      name: 'a squashfs that was cut short',
      async args(here) {
        const { superblock } = await import('../support/sample-images.js');
        const [metadata = '', rootfs = ''] = split(here);
        await writeFile(rootfs, superblock(1_000_000));
        return [metadata, rootfs];
      },
      code: 1,
      says: /rootfs.squashfs was cut short/,
    },
    {
      name: 'a name that can be no alias',
      args: (here) => [...split(here), '--alias', 'a b'],
      code: 2,
      says: /"a b" cannot be an alias/,
    },
    {
      name: 'a property without a value',
      args: (here) => [...split(here), '--property', 'os'],
      code: 2,
      says: /Give a key and a value/,
    },
  ];
  for (const { name, args, code, says } of cases) {
    test(`that are no image are refused: ${name}`, async (t) => {
      const here = await place(t, { daemon: false });
      assertRefused(await here.importing(...(await args(here))), code, says);
      await assertNothingLeft(here);
    });
  }

  test('that may not be read are refused', needsRoot('setpriv'), async (t) => {
    const here = await place(t, { daemon: false });
    await chmod(`${here.files}lxd.tar.xz`, 0);
    const result = await runCli(['import', '--config', here.config, ...split(here)], 'plain');
    // As root without the right to pass over permissions; the owner is someone else.
    await chown(`${here.files}lxd.tar.xz`, 1234, 1234);
    assertRefused(result, 2, /Cannot read \S+lxd.tar.xz: permission denied/);
  });
});

test('a root that is not there is told', async (t) => {
  const here = await place(t, { daemon: false });
  const config = await writeConfig(here.files);
  const args = ['--config', config, '--root-dir', '/nowhere/root', ...split(here)];
  assertRefused(
    await runCli(['import', ...args]),
    4,
    /is not there; make it with "lxd-image-server init"/,
  );
});

describe('as another user', needsRoot('setpriv'), () => {
  const [uid, gid] = [12_345, 12_346];
  const other = ['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups'];

  async function otherTree(t: TestContext) {
    const here = await place(t, { daemon: false });
    for (const folder of ['', 'images', 'state', 'run', 'streams', 'streams/v1']) {
      await mkdir(join(here.root, folder), { recursive: true });
      await chown(join(here.root, folder), uid, gid);
    }
    return here;
  }

  test('the daemon goes on in a tree that root has imported into', async (t) => {
    const here = await otherTree(t);
    assert.equal((await here.importing(...split(here), '--alias', 'first')).code, 0);
    for (const name of await readdir(here.root, { recursive: true })) {
      if (name === 'config.toml') continue;
      const found = await lstat(join(here.root, name));
      assert.deepEqual([name, found.uid, found.gid], [name, uid, gid]);
    }
    const daemon = await startDaemon(t, here.root, { runner: other });
    const more = `${here.files}more.squashfs`;
    await writeFile(more, squashfs('more'));
    const [metadata = ''] = split(here);
    // The daemon could not read them.
    await chmod(here.files, 0o700);
    const config = join(here.root, 'config.toml');
    const args = ['import', '--config', config, metadata, more, '--alias', 'second'];
    const { code, stderr } = await runCli(args);
    assert.equal(code, 0, stderr);
    await daemon.event('image imported');
    const product = 'demo:box:amd64:default';
    const versions = ['20260101_00:00', '20260101_00:00:00'].map((name) => `${product}/${name}`);
    assert.deepEqual(await publishedVersions(here.root), versions);
  });

  test('who may not write to the tree is told, and leaves nothing', async (t) => {
    const here = await place(t, { daemon: false });
    for (const folder of [here.root, here.files]) await chmod(folder, 0o755);
    const args = [...other.slice(1), process.execPath, cli, 'import', '--config', here.config];
    const result = await outcome('setpriv', [...args, ...split(here)]);
    assertRefused(result, 1, /permission denied; run the command as the user who owns the folder/);
    await assertNothingLeft(here);
  });
});

test('a property is a key, and what comes after the first =', () => {
  const key = fc.string({ minLength: 1 }).filter((text) => !text.includes('='));
  fc.assert(
    fc.property(key, fc.string({ minLength: 1 }), key, (name, value, before) => {
      const found = addProperty(`${name}=${value}`, { [before]: 'old' });
      const expected = new Map([[before, 'old']]).set(name, value);
      assert.deepEqual(new Map(Object.entries(found)), expected);
    }),
  );
  for (const text of ['', '=', '=x', 'x', 'x=']) assert.throws(() => addProperty(text));
});
