import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { acquireLock } from '../../src/disk/lock.js';
import { setAside } from '../../src/verify.js';
import { cli, publishedVersions, runCli, writeConfig } from '../support/cli.js';
import { outcome } from '../support/command.js';
import { addVersion, splitImage, squashfs } from '../support/image-tree.js';
import { needs } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

const noble = 'ubuntu/noble/amd64/default';

/** A root with two versions, published. */
async function publishedRoot(t: Parameters<typeof temporaryFolder>[0]) {
  const root = await temporaryFolder(t);
  const folder = await addVersion(root, `${noble}/20260101`);
  await age(join(folder, 'rootfs.squashfs'));
  await addVersion(root, `${noble}/20260102`);
  const config = await writeConfig(root);
  assert.equal((await runCli(['update', '--config', config])).code, 0);
  return { root, config };
}

/** Dates a file so far back that its content is remembered for as long as it has this time. */
async function age(file: string): Promise<void> {
  const long = new Date('2026-01-01T00:00:00Z');
  await utimes(file, long, long);
}

/** Changes a byte of an {@link age}d file as a failing disk does: size, time and inode stay. */
async function rot(file: string): Promise<void> {
  const content = await readFile(file);
  content[500] = (content[500] ?? 0) ^ 1;
  await writeFile(file, content);
  await age(file);
}

describe('the command line', () => {
  const usages: { name: string; args: string[]; code: number; says: RegExp }[] = [
    { name: 'shows help', args: ['--help'], code: 0, says: /Usage: lxd-image-server/ },
    { name: 'shows its version', args: ['--version'], code: 0, says: /^\d+\.\d+\.\d+\n$/ },
    {
      name: 'knows no other command',
      args: ['upgrade'],
      code: 2,
      says: /unknown command 'upgrade'/,
    },
    { name: 'wants a command', args: [], code: 2, says: /Usage: lxd-image-server/ },
    {
      name: 'knows no other option, and says which is near',
      args: ['update', '--rebuilt'],
      code: 2,
      says: /unknown option '--rebuilt'\n\(Did you mean --rebuild\?\)/,
    },
    {
      name: 'knows no other log level',
      args: ['list', '--log-level', 'loud'],
      code: 2,
      says: /There is no log level "loud"; take one of trace, debug/,
    },
    {
      name: 'wants the configuration that it is told of',
      args: ['list', '--config', '/nowhere/config.toml'],
      code: 2,
      says: /Cannot read the configuration \/nowhere\/config\.toml: no such file/,
    },
    {
      name: 'says where nothing is published',
      args: ['list', '--root-dir', '/nowhere'],
      code: 4,
      says: /Cannot read \/nowhere\/streams\/v1\/images\.json: no such file or folder; run/,
    },
    {
      name: 'cannot verify where nothing is published',
      args: ['verify', '--root-dir', '/nowhere'],
      code: 4,
      says: /Nothing is published in \/nowhere\/streams\/v1; run/,
    },
    ...[
      ['update', '--root-dir'],
      ['update', '--img-dir'],
      ['update', '--streams-dir'],
      ['init', '--ssl-dir'],
      ['init', '--nginx-dir'],
      ['serve', '--ssl-dir'],
      ['list', '--config'],
    ].map(([verb = '', option = '']) => ({
      name: `wants ${verb} ${option} not to be empty`,
      // Where it is not refused, there is no configuration, and nothing is done on this host.
      args: [
        verb,
        ...(option === '--config' ? [] : ['--config', '/nowhere/config.toml']),
        option,
        '',
      ],
      code: 2,
      says: new RegExp(
        `^error: option '${option} <\\w+>' argument '' is invalid\\. Name a path, or leave the option out\\.\n$`,
      ),
    })),
    ...['init', 'update', 'serve', 'list', 'status', 'reload', 'verify'].map((verb) => ({
      name: `shows help on ${verb}`,
      args: [verb, '--help'],
      code: 0,
      says: new RegExp(`Usage: lxd-image-server ${verb} \\[options\\]`),
    })),
  ];
  for (const { name, args, code, says } of usages) {
    test(name, async () => {
      const result = await runCli(args);
      assert.match(result.stdout + result.stderr, says);
      assert.equal(result.code, code);
      assert.doesNotMatch(result.stderr, /\n\s+at /);
    });
  }

  test('reads a broken configuration to the line', async (t) => {
    const root = await temporaryFolder(t);
    const config = await writeConfig(root, '[publish]\nsettel = "1s"\n');
    const { code, stderr } = await runCli(['update', '--config', config]);
    assert.match(stderr, /config\.toml:\d+/);
    assert.equal(code, 2);
  });

  test('takes the spelling of the older server', async (t) => {
    const root = await temporaryFolder(t);
    await addVersion(root, `${noble}/20260101`);
    const { code, stdout } = await runCli([
      '--verbose',
      'update',
      `--img_dir=${root}/images`,
      '--streams_dir',
      `${root}/streams/v1`,
      '--config',
      await writeConfig(await temporaryFolder(t)),
    ]);
    assert.equal(code, 0);
    assert.match(stdout, /^1 product, 1 version, /);
    assert.deepEqual(await publishedVersions(root), ['ubuntu:noble:amd64:default/20260101']);
  });

  test('reads the configuration that the environment names', async (t) => {
    const { config } = await publishedRoot(t);
    const env = { LXD_IMAGE_SERVER_CONFIG: config };
    const { code, stdout } = await outcome(process.execPath, [cli, 'list', '--json'], { env });
    assert.equal(code, 0);
    assert.equal(JSON.parse(stdout).length, 1);
  });

  test('says nothing when the reader of its output goes', async (t) => {
    const { config } = await publishedRoot(t);
    const script = '"$0" "$@" | head -c 1';
    const result = await outcome('sh', [
      '-c',
      script,
      process.execPath,
      cli,
      'list',
      '--config',
      config,
    ]);
    assert.deepEqual([result.stdout, result.stderr], ['P', '']);
  });

  for (const { name, args, code } of [
    { name: 'a run with problems', args: ['update'], code: 3 },
    { name: 'damage', args: ['verify'], code: 5 },
    { name: 'a wrong option', args: ['update', '--rebuilt'], code: 2 },
    { name: 'a failure', args: ['update', '--root-dir', '/nowhere'], code: 4 },
  ]) {
    test(`ends with the exit code of ${name} also when nobody reads its output`, async (t) => {
      const { root, config } = await publishedRoot(t);
      await rm(join(root, `images/${noble}/20260101/rootfs.squashfs`));
      const script = 'read go; exec "$0" "$@"';
      const child = spawn('sh', ['-c', script, process.execPath, cli, ...args, '--config', config]);
      const exited = once(child, 'exit');
      const closed = [child.stdout, child.stderr].map((output) => once(output, 'close'));
      for (const output of [child.stdout, child.stderr]) output.destroy();
      await Promise.all(closed);
      child.stdin.end('go\n');
      assert.deepEqual(await exited, [code, null]);
    });
  }
});

describe('update', () => {
  test('tells what it did, and that there is nothing new', async (t) => {
    const root = await temporaryFolder(t);
    await addVersion(root, `${noble}/20260101`);
    const config = await writeConfig(root);
    const first = await runCli(['update', '--config', config]);
    assert.match(
      first.stdout,
      /^1 product, 1 version, [\d.]+ KiB: read 2 files \([\d.]+ KiB\); wrote index\.json, images\.json and index\.html\n$/,
    );
    const second = await runCli(['update', '--config', config]);
    assert.match(second.stdout, /^1 product, 1 version, [\d.]+ KiB: nothing new\n$/);
  });

  test('prints its result as JSON', async (t) => {
    const root = await temporaryFolder(t);
    const folder = await addVersion(root, `${noble}/20260101`);
    await addVersion(root, `${noble}/20260102`, { 'rootfs.squashfs': squashfs() });
    const { code, stdout } = await runCli([
      '--json',
      'update',
      '--config',
      await writeConfig(root),
    ]);
    const { ms, ...result } = JSON.parse(stdout);
    const { size } = await stat(join(folder, 'lxd.tar.xz'));
    assert.deepEqual(Object.keys(ms), ['scan', 'digest', 'publish']);
    assert.deepEqual(result, {
      products: 1,
      versions: 1,
      bytes: size + 1000,
      read: { files: 2, bytes: size + 1000 },
      published: ['index.html', 'images.json.gz', 'images.json', 'index.json.gz', 'index.json'],
      problems: [
        {
          path: `${noble}/20260102`,
          code: 'metadata-missing',
          reason: 'it has no metadata',
          cure: 'add lxd.tar.xz or incus.tar.xz, or a unified lxd_combined.tar.gz',
        },
      ],
    });
    assert.equal(code, 3);
  });

  test('logs the first hundred of many problems, and how many more there are', async (t) => {
    const root = await temporaryFolder(t);
    for (let number = 1; number <= 103; number++) {
      await mkdir(join(root, 'images', noble, `undated-${number}`), { recursive: true });
    }
    const args = ['update', '--config', await writeConfig(root)];
    const { code, stderr } = await runCli(args);
    const lines = stderr.trimEnd().split('\n');
    assert.equal(lines.length, 101);
    assert.match(lines[99] ?? '', /^warning: not published: /);
    assert.equal(lines[100], 'warning: … and more; --json lists them all (count=3)');
    assert.equal(code, 3);
    assert.equal(JSON.parse((await runCli([...args, '--json'])).stdout).problems.length, 103);
  });

  test('ends soon after Ctrl-C, and does not read again what it had read', async (t) => {
    const root = await temporaryFolder(t);
    const large = join(await addVersion(root, `${noble}/20260101`), 'rootfs.squashfs');
    await truncate(large, 64 * 1024 ** 3);
    await addVersion(root, `${noble}/20260102`);
    const config = await writeConfig(root);
    const child = spawn(process.execPath, [cli, 'update', '--config', config], { stdio: 'ignore' });
    const exited = once(child, 'exit');
    // The small version shares its thread with nothing, and is done when the large file is still read.
    await untilRead(child.pid ?? 0, 256 * 1024 * 1024);
    child.kill('SIGINT');
    assert.deepEqual(await exited, [130, null]);
    await rm(large);
    const { stdout } = await runCli(['update', '--json', '--config', config]);
    assert.deepEqual(JSON.parse(stdout).read, { files: 0, bytes: 0 });
    assert.deepEqual(await publishedVersions(root), ['ubuntu:noble:amd64:default/20260102']);
  });

  test('refuses to work beside another one', async (t) => {
    const root = await temporaryFolder(t);
    const large = join(await addVersion(root, `${noble}/20260101`), 'rootfs.squashfs');
    await truncate(large, 64 * 1024 ** 3);
    const config = await writeConfig(root);
    const child = spawn(process.execPath, [cli, 'update', '--config', config], { stdio: 'ignore' });
    t.after(() => child.kill('SIGKILL'));
    await untilRead(child.pid ?? 0, 64 * 1024 * 1024);
    const { code, stderr } = await runCli(['update', '--config', config]);
    assert.equal(
      stderr,
      `error: Another lxd-image-server (process ${child.pid}) is at work here; wait for it to end; a running daemon publishes by itself\n`,
    );
    assert.equal(code, 1);
  });
});

/** Waits until a process has read that many bytes, as the kernel counts them. */
async function untilRead(pid: number, bytes: number): Promise<void> {
  for (;;) {
    const io = await readFile(`/proc/${pid}/io`, 'utf8');
    if (Number(/^rchar: (\d+)$/m.exec(io)?.[1]) >= bytes) return;
    await new Promise(setImmediate);
  }
}

describe('init', () => {
  test('makes all that is missing, and changes nothing when run again', async (t) => {
    const root = await temporaryFolder(t);
    await mkdir(join(root, 'nginx/sites-available'), { recursive: true });
    await mkdir(join(root, 'nginx/sites-enabled'));
    const config = await writeConfig(root);
    const args = [
      'init',
      '--config',
      config,
      '--ssl-dir',
      join(root, 'ssl'),
      '--nginx-dir',
      join(root, 'nginx'),
    ];
    const first = await runCli(args);
    assert.equal(first.code, 0, first.stderr);
    assert.match(
      first.stdout,
      /certificate: \S+nginx\.crt \(made\), SHA-256 [0-9a-f]{64}\nnginx: site installed/,
    );
    assert.equal((await stat(join(root, 'ssl/nginx.key'))).mode & 0o777, 0o600);
    assert.match(
      await readFile(join(root, 'nginx/sites-enabled/lxd-image-server'), 'utf8'),
      new RegExp(root),
    );
    assert.deepEqual(await publishedVersions(root), []);
    const files = await tree(root);
    const second = await runCli([...args, '--json']);
    const { certificate, nginx, published } = JSON.parse(second.stdout);
    assert.deepEqual([certificate.created, nginx, published], [false, 'present', []]);
    assert.deepEqual(await tree(root), files);
  });

  test('makes what it publishes readable for the web server, whatever the umask', async (t) => {
    const root = join(await temporaryFolder(t), 'root');
    const shell = ['-c', 'umask 077; exec "$0" "$@"', process.execPath, cli];
    const options = ['--ssl-skip', '--nginx-skip', '--root-dir', root];
    const config = await writeConfig(await temporaryFolder(t));
    const { code, stderr } = await outcome('sh', [
      ...shell,
      'init',
      ...options,
      '--config',
      config,
    ]);
    assert.deepEqual([code, stderr], [0, '']);
    const modes = [
      '',
      'images',
      'streams',
      'streams/v1',
      'streams/v1/images.json',
      'streams/v1/index.json.gz',
    ];
    const found = await Promise.all(
      modes.map(async (path) => (await stat(join(root, path))).mode & 0o777),
    );
    assert.deepEqual(found, [0o755, 0o755, 0o755, 0o755, 0o644, 0o644]);
    await chmod(join(root, 'streams/v1/images.json'), 0o400);
    await runCli(['update', '--root-dir', root, '--config', config]);
    assert.equal((await stat(join(root, 'streams/v1/images.json'))).mode & 0o777, 0o644);
  });

  test('leaves out what it is told to leave out', async (t) => {
    const root = await temporaryFolder(t);
    const config = await writeConfig(root);
    const { code, stdout } = await runCli([
      'init',
      '--ssl-skip',
      '--nginx-skip',
      '--json',
      '--config',
      config,
    ]);
    const { certificate, nginx } = JSON.parse(stdout);
    assert.deepEqual([code, certificate, nginx], [0, null, 'skipped']);
  });
});

/** All that is below `root`, files with what tells a new one from an old one; but for locks, which come and go. */
async function tree(root: string): Promise<string[]> {
  const names = (await readdir(root, { recursive: true })).filter(
    (name) => !name.includes('lock.'),
  );
  return Promise.all(
    names.sort().map(async (name) => {
      const found = await stat(join(root, name));
      return found.isFile() ? `${name} ${found.ino} ${found.size} ${found.mtimeMs}` : name;
    }),
  );
}

describe('list', () => {
  test('shows products and versions in a table', async (t) => {
    const { config } = await publishedRoot(t);
    const { stdout } = await runCli(['list', '--config', config]);
    const [head, ...lines] = stdout.trimEnd().split('\n');
    assert.match(head ?? '', /^PRODUCT +VERSION +FILES +SIZE +FINGERPRINT$/);
    assert.deepEqual(
      lines.map((line) => line.split(/ {2,}/).slice(0, 3)),
      [
        ['ubuntu:noble:amd64:default', '20260101', 'squashfs'],
        ['ubuntu:noble:amd64:default', '20260102', 'squashfs'],
        ['1 product, 2 versions'],
      ],
    );
  });

  test('says what to do where images.json is not one', async (t) => {
    const { root, config } = await publishedRoot(t);
    await truncate(join(root, 'streams/v1/images.json'), 100);
    const { code, stderr } = await runCli(['list', '--config', config]);
    assert.match(
      stderr,
      /^error: \S+images\.json is not JSON, or was cut short; run "lxd-image-server update"\n$/,
    );
    assert.equal(code, 5);
  });
});

describe('verify', () => {
  const older = `images/${noble}/20260101`;
  const damages: {
    name: string;
    damage: (root: string) => Promise<unknown>;
    says: RegExp;
    kept: string[];
  }[] = [
    {
      name: 'a changed byte',
      damage: (root) => rot(join(root, older, 'rootfs.squashfs')),
      says: /20260101\/rootfs\.squashfs: has SHA-256 [0-9a-f]{64}, published is [0-9a-f]{64}/,
      kept: ['20260102'],
    },
    {
      name: 'a truncated file',
      damage: (root) => truncate(join(root, older, 'rootfs.squashfs'), 500),
      says: /20260101\/rootfs\.squashfs: has SHA-256/,
      kept: ['20260102'],
    },
    {
      name: 'a missing file',
      damage: (root) => rm(join(root, older, 'rootfs.squashfs')),
      says: /20260101\/rootfs\.squashfs: rootfs\.squashfs is not there any more/,
      kept: ['20260102'],
    },
    {
      name: 'a .gz with other content',
      damage: (root) => writeFile(join(root, 'streams/v1/images.json.gz'), gzipSync('{}')),
      says: /streams\/v1\/images\.json\.gz: is not images\.json compressed/,
      kept: ['20260101', '20260102'],
    },
    {
      name: 'a .gz with a flipped bit',
      damage: async (root) => {
        const file = join(root, 'streams/v1/images.json.gz');
        const content = await readFile(file);
        content[60] = (content[60] ?? 0) ^ 1;
        await writeFile(file, content);
      },
      says: /streams\/v1\/images\.json\.gz: is not images\.json compressed/,
      kept: ['20260101', '20260102'],
    },
    {
      name: 'an index.json that lists other products',
      damage: async (root) => {
        const file = join(root, 'streams/v1/index.json');
        await writeFile(file, (await readFile(file, 'utf8')).replace('noble', 'jammy'));
      },
      says: /streams\/v1\/index\.json: lists other products than images\.json has/,
      kept: ['20260101', '20260102'],
    },
    {
      name: 'an images.json that was cut short',
      damage: (root) => truncate(join(root, 'streams/v1/images.json'), 300),
      says: /streams\/v1\/images\.json: is not JSON, or was cut short/,
      kept: ['20260101', '20260102'],
    },
    {
      name: 'an images.json with a wrong fingerprint',
      damage: (root) =>
        rewriteImages(root, '(combined_squashfs_sha256":")[0-9a-f]{8}', '$100000000'),
      says: /20260101\/lxd\.tar\.xz: the combined_squashfs_sha256 published with it is not that of its files/,
      kept: ['20260101', '20260102'],
    },
    {
      name: 'an images.json with a wrong size',
      damage: (root) => rewriteImages(root, '"size":1000\\b', '"size":1001'),
      says: /20260101\/rootfs\.squashfs: the size published with it, 1001, is not its own, 1000/,
      kept: ['20260101', '20260102'],
    },
    {
      name: 'an images.json that names a document as an item',
      damage: (root) =>
        rewriteImages(root, '"images/[^"]+rootfs.squashfs"', '"streams/v1/index.json"'),
      says: /streams\/v1\/images\.json: names "streams\/v1\/index\.json", which is no file of a version/,
      kept: ['20260101', '20260102'],
    },
  ];

  /** Replaces the first of what `pattern` matches in images.json. */
  async function rewriteImages(root: string, pattern: string, replacement: string) {
    const file = join(root, 'streams/v1/images.json');
    const text = await readFile(file, 'utf8');
    await writeFile(file, text.replace(new RegExp(pattern), replacement));
  }

  for (const { name, damage, says, kept } of damages) {
    test(`finds ${name}, and --repair publishes what is whole`, async (t) => {
      const { root, config } = await publishedRoot(t);
      const versions = kept.map((version) => `ubuntu:noble:amd64:default/${version}`);
      assert.equal((await runCli(['verify', '--config', config])).code, 0);
      await damage(root);
      const found = await runCli(['verify', '--config', config]);
      assert.match(found.stderr, says);
      assert.equal(found.code, 5);
      const repaired = await runCli(['verify', '--repair', '--config', config]);
      assert.equal(repaired.code, 5);
      assert.match(repaired.stdout, /damaged files were set aside, the documents written anew/);
      const again = await runCli(['verify', '--config', config]);
      assert.equal(again.code, 0, again.stderr);
      assert.deepEqual(await publishedVersions(root), versions);
    });
  }

  const hidden = (file: string) => join(dirname(file), `.${basename(file)}.damaged`);

  test('deletes nothing when it repairs', async (t) => {
    const { root, config } = await publishedRoot(t);
    const file = join(root, older, 'rootfs.squashfs');
    await rot(file);
    const content = await readFile(file);
    const args = ['verify', '--repair', '--json', '--config', config];
    const { moved } = JSON.parse((await runCli(args)).stdout);
    const aside = hidden(file);
    assert.deepEqual(moved, [relative(root, aside)]);
    assert.deepEqual(await readFile(aside), content);
    await rename(aside, file);
    assert.equal((await runCli(['update', '--config', config])).code, 0);
    assert.equal((await publishedVersions(root)).length, 2);
  });

  test('logs the first hundred of much damage, and how much more there is', async (t) => {
    const { root, config } = await publishedRoot(t);
    const item = { ftype: 'squashfs', path: 'stray', sha256: '0'.repeat(64), size: 1 };
    const items = Object.fromEntries(Array.from({ length: 103 }, (_, key) => [key, item]));
    const products = { 'a:b:c:d': { arch: 'c', versions: { 20260101: { items } } } };
    const images = JSON.stringify({ format: 'products:1.0', products });
    for (const [name, content] of [
      ['images.json', images],
      ['images.json.gz', gzipSync(images)],
    ] as const) {
      await writeFile(join(root, 'streams/v1', name), content);
    }
    const { stderr } = await runCli(['verify', '--config', config]);
    const lines = stderr.trimEnd().split('\n');
    assert.equal(lines.length, 101);
    // With index.json, which lists other products.
    assert.equal(lines[100], 'warning: … and more; --json lists them all (count=4)');
  });

  test('keeps what was set aside before when it repairs again', async (t) => {
    const { root, config } = await publishedRoot(t);
    const file = join(root, older, 'rootfs.squashfs');
    const rotten: Buffer[] = [];
    for (const content of ['a', 'b', 'c']) {
      await writeFile(file, squashfs(content));
      await age(file);
      await runCli(['update', '--config', config]);
      await rot(file);
      rotten.push(await readFile(file));
      await runCli(['verify', '--repair', '--config', config]);
    }
    const aside = ['', '.2', '.3'].map((end) => readFile(`${hidden(file)}${end}`));
    assert.deepEqual(await Promise.all(aside), rotten);
  });

  test('sets nothing aside that a symbolic link has moved out of the tree', async (t) => {
    const { root, config } = await publishedRoot(t);
    await rename(join(root, older), join(root, 'elsewhere'));
    await symlink(join(root, 'elsewhere'), join(root, older));
    const file = join(root, 'elsewhere/rootfs.squashfs');
    await rot(file);
    const moved = await setAside(
      { root, images: join(root, 'images'), streams: join(root, 'streams/v1') },
      [{ path: `${older}/rootfs.squashfs`, reason: 'has other content', kind: 'content' }],
    );
    assert.deepEqual(moved, []);
    assert.deepEqual((await readdir(join(root, 'elsewhere'))).sort(), [
      'lxd.tar.xz',
      'rootfs.squashfs',
    ]);
    assert.equal((await runCli(['verify', '--repair', '--config', config])).code, 5);
    assert.equal((await stat(file)).size, 1000);
  });

  test('publishes what was replaced since the last publication, and sets nothing aside', async (t) => {
    const { root, config } = await publishedRoot(t);
    const file = join(root, older, 'rootfs.squashfs');
    const content = squashfs('replaced');
    await writeFile(file, content);
    const { code, stderr } = await runCli(['verify', '--repair', '--config', config]);
    assert.match(stderr, /^error: damaged: \S+20260101\/rootfs\.squashfs: has SHA-256 [^\n]+\n$/);
    assert.equal(code, 5);
    assert.deepEqual(await readFile(file), Buffer.from(content));
    assert.deepEqual(await publishedVersions(root), [
      'ubuntu:noble:amd64:default/20260101',
      'ubuntu:noble:amd64:default/20260102',
    ]);
  });

  test('repairs nothing beside another one at work', async (t) => {
    const { root, config } = await publishedRoot(t);
    const file = join(root, older, 'rootfs.squashfs');
    await rot(file);
    const content = await readFile(file);
    const lock = await acquireLock(root);
    t.after(() => lock.release());
    const { code, stderr } = await runCli(['verify', '--repair', '--config', config]);
    assert.match(stderr, /^error: damaged: \S+rootfs\.squashfs: /);
    assert.match(stderr, /^error: Another lxd-image-server \(process \d+\) is at work here/m);
    assert.equal(code, 1);
    assert.deepEqual(await readFile(file), content);
  });

  test('prints its result as JSON', async (t) => {
    const { root, config } = await publishedRoot(t);
    const good = JSON.parse((await runCli(['verify', '--json', '--config', config])).stdout);
    assert.deepEqual(good, {
      ...{ files: 4, bytes: good.bytes, damage: [], repaired: false, moved: [] },
      problems: [],
    });
    await rm(join(root, older, 'lxd.tar.xz'));
    const bad = JSON.parse((await runCli(['verify', '--json', '--config', config])).stdout);
    assert.deepEqual(bad.damage, [
      { path: `${older}/lxd.tar.xz`, reason: 'lxd.tar.xz is not there any more', kind: 'gone' },
    ]);
  });
});

describe('serve', () => {
  test('says what to do without a certificate', async (t) => {
    const { root, config } = await publishedRoot(t);
    const { code, stderr } = await runCli([
      'serve',
      '--config',
      config,
      '--ssl-dir',
      join(root, 'ssl'),
    ]);
    assert.match(stderr, /^error: [^\n]*run lxd-image-server init\n$/);
    assert.equal(code, 1);
  });

  test('serves what is published until it is told to end', needs('curl'), async (t) => {
    const { root, config } = await publishedRoot(t);
    const ssl = ['--config', config, '--ssl-dir', join(root, 'ssl')];
    assert.equal((await runCli(['init', '--nginx-skip', ...ssl])).code, 0);
    const child = spawn(process.execPath, [cli, 'serve', '--listen', '127.0.0.1:0', ...ssl], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    t.after(() => child.kill('SIGKILL'));
    const exited = once(child, 'exit');
    const [said] = (await once(child.stderr, 'data')) as [Buffer];
    const url = /https:\/\/127\.0\.0\.1:\d+/.exec(said.toString())?.[0] ?? '';
    const curl = ['--silent', '--fail', '--cacert', join(root, 'ssl/nginx.crt')];
    const { stdout } = await outcome('curl', [...curl, `${url}/${older('rootfs.squashfs')}`]);
    assert.equal(Buffer.byteLength(stdout, 'latin1') > 0, true);
    const images = await outcome('curl', [...curl, `${url}/streams/v1/images.json`]);
    assert.equal(images.stdout, await readFile(join(root, 'streams/v1/images.json'), 'utf8'));
    child.kill('SIGTERM');
    assert.deepEqual(await exited, [0, null]);
  });

  const older = (name: string) => `images/${noble}/20260101/${name}`;
});

test('a new version appears with the next update, an old one goes', async (t) => {
  const { root, config } = await publishedRoot(t);
  await addVersion(root, `${noble}/20260103`, await splitImage('new'));
  await rm(join(root, `images/${noble}/20260101`), { recursive: true });
  assert.equal((await runCli(['update', '--config', config])).code, 0);
  assert.deepEqual(await publishedVersions(root), [
    'ubuntu:noble:amd64:default/20260102',
    'ubuntu:noble:amd64:default/20260103',
  ]);
});
