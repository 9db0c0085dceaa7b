import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFile,
  chmod,
  chown,
  mkdir,
  open,
  readdir,
  readFile,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { createGzip } from 'node:zlib';
import { publishedVersions, type Rights, runCli, writeConfig } from '../support/cli.js';
import { run } from '../support/command.js';
import { archive } from '../support/image-files.js';
import {
  addVersion,
  compress,
  metadataArchive,
  splitImage,
  squashfs,
  writeFiles,
  writeSums,
} from '../support/image-tree.js';
import { needs, needsRoot } from '../support/programs.js';
import { inTemporaryFolder, temporaryFolder } from '../support/temporary.js';

const good = 'demo/good/amd64/default/20260101';
const bad = 'demo/bad/amd64/default/20260101';
const published = {
  good: 'demo:good:amd64:default/20260101',
  bad: 'demo:bad:amd64:default/20260101',
};

interface Case {
  name: string;
  /** Puts the bad input into the tree below `root`. */
  arrange: (root: string) => Promise<unknown>;
  /** What the one line on standard error must say: the thing, what is wrong, and the cure. */
  says: RegExp;
  /** Whether the version at `bad` is published all the same. Default: no. */
  bad?: 'published';
  /** `plain` takes root, and a program of its own. */
  rights?: Rights;
  programs?: string[];
}

/** A metadata archive of the entries given, with gzip. */
async function metadataOf(content: string | undefined): Promise<Buffer> {
  const entries =
    content === undefined ? [] : [{ name: 'metadata.yaml', type: 'file' as const, content }];
  return compress(await archive([{ name: 'templates', type: 'directory' }, ...entries]), 'gzip');
}

async function withMetadata(root: string, metadata: Buffer): Promise<void> {
  await addVersion(root, bad, { ...(await splitImage(bad)), 'lxd.tar.xz': metadata });
}

/** An archive that unpacks to 512 MiB before anything else comes. */
async function bomb(): Promise<Buffer> {
  const gzip = createGzip({ level: 1 });
  const packed = buffer(gzip);
  const [entry] = [await archive([{ name: 'zeros', type: 'file', content: '' }])];
  const header = Buffer.from(entry.subarray(0, 512));
  const size = 512 * 1024 * 1024;
  header.write(`${size.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  header.write('        ', 148, 'latin1');
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  gzip.write(header);
  const zeros = Buffer.alloc(1024 * 1024);
  for (let written = 0; written < size; written += zeros.length) {
    if (!gzip.write(zeros)) await once(gzip, 'drain');
  }
  gzip.end();
  return packed;
}

const cases: Case[] = [
  {
    name: 'a version without metadata',
    arrange: (root) => addVersion(root, bad, { 'rootfs.squashfs': squashfs() }),
    says: /demo\/bad\/amd64\/default\/20260101: it has no metadata; add lxd\.tar\.xz/,
  },
  {
    name: 'a version without root',
    arrange: async (root) => addVersion(root, bad, { 'lxd.tar.xz': await metadataArchive() }),
    says: /20260101: it has metadata, but no root file; add a \.squashfs/,
  },
  {
    name: 'an empty version',
    arrange: (root) => mkdir(join(root, 'images', bad), { recursive: true }),
    says: /20260101: it has no metadata; add/,
  },
  {
    name: 'an empty root file',
    arrange: async (root) => truncate(join(await addVersion(root, bad), 'rootfs.squashfs')),
    says: /rootfs\.squashfs is empty; upload it again/,
  },
  {
    name: 'an empty metadata file',
    arrange: async (root) => truncate(join(await addVersion(root, bad), 'lxd.tar.xz')),
    says: /lxd\.tar\.xz is empty; upload it again/,
  },
  {
    name: 'a truncated root file',
    arrange: async (root) => truncate(join(await addVersion(root, bad), 'rootfs.squashfs'), 500),
    says: /rootfs\.squashfs was cut short.*; upload it again/,
  },
  {
    name: 'a truncated metadata file',
    arrange: async (root) => {
      const metadata = await metadataArchive({}, 'xz');
      await withMetadata(root, metadata.subarray(0, metadata.length - 20));
    },
    says: /lxd\.tar\.xz is damaged or was cut short; build the image again/,
    programs: ['xz'],
  },
  {
    name: 'metadata that is no archive',
    arrange: (root) => withMetadata(root, Buffer.from('metadata'.repeat(200))),
    says: /lxd\.tar\.xz is not a tar archive; build the image again/,
  },
  {
    name: 'a metadata archive without metadata.yaml',
    arrange: async (root) => withMetadata(root, await metadataOf(undefined)),
    says: /lxd\.tar\.xz has no metadata\.yaml in it; build the image again/,
  },
  {
    name: 'a huge metadata.yaml',
    arrange: async (root) => withMetadata(root, await metadataOf(`a: ${'x'.repeat(2 ** 21)}`)),
    says: /lxd\.tar\.xz has a metadata\.yaml of more than 1 MiB; build/,
  },
  {
    name: 'a metadata.yaml that is not YAML',
    arrange: async (root) => withMetadata(root, await metadataOf('a: [b\n}: c')),
    says: /metadata\.yaml cannot be used: it is not YAML.*; correct metadata\.yaml/,
  },
  {
    name: 'a metadata.yaml that is no mapping',
    arrange: async (root) => withMetadata(root, await metadataOf('- a\n- b\n')),
    says: /metadata\.yaml cannot be used: the document is not a mapping; correct metadata\.yaml/,
  },
  {
    name: 'a decompression bomb as metadata',
    arrange: async (root) => withMetadata(root, await bomb()),
    says: /lxd\.tar\.xz unpacks to more than 64 MiB without a metadata\.yaml; build/,
  },
  {
    name: 'a wrong SHA256SUMS',
    arrange: async (root) => {
      const folder = await addVersion(root, bad);
      await writeSums(folder);
      await writeFile(join(folder, 'rootfs.squashfs'), squashfs('other'));
    },
    says: /rootfs\.squashfs does not have the digest that SHA256SUMS states; upload rootfs\.squashfs again/,
  },
  {
    name: 'a SHA256SUMS that names what is not there',
    arrange: async (root) => {
      const folder = await addVersion(root, bad);
      await writeSums(folder);
      await appendFile(join(folder, 'SHA256SUMS'), `${'0'.repeat(64)}  missing.vcdiff\n`);
    },
    says: /SHA256SUMS names missing\.vcdiff, which is not there; upload it, or take its line out/,
  },
  {
    name: 'a SHA256SUMS that is none',
    arrange: async (root) =>
      addVersion(root, bad, { ...(await splitImage(bad)), SHA256SUMS: 'what?\n' }),
    says: /line 1 of SHA256SUMS is not a SHA-256 digest and a file name; write it with/,
  },
  {
    name: 'a version whose name has no date',
    arrange: (root) => addVersion(root, 'demo/bad/amd64/default/20261301'),
    says: /default\/20261301: its name does not start with a date.*; name the folder YYYYMMDD/,
  },
  {
    name: 'a name outside the grammar',
    arrange: (root) => addVersion(root, 'demo/bad/amd64/my type/20260101'),
    says: /demo\/bad\/amd64\/my type: its name has characters.*; rename it/,
  },
  {
    name: 'a name with a newline',
    arrange: (root) => addVersion(root, 'demo/bad/amd64/new\nline/20260101'),
    says: /demo\/bad\/amd64\/new\\u000aline: its name has characters.*; rename it/,
  },
  {
    name: 'a name that is not UTF-8',
    arrange: async (root) => {
      await mkdir(join(root, 'images/demo'), { recursive: true });
      await mkdir(Buffer.concat([Buffer.from(join(root, 'images/demo/b')), Buffer.from([0xe9])]));
    },
    says: /demo\/b\\xe9: its name has characters.*; rename it/,
  },
  {
    name: 'symbolic links in a circle',
    arrange: async (root) => {
      const folder = await addVersion(root, bad, { 'lxd.tar.xz': await metadataArchive() });
      await symlink('rootfs.squashfs', join(folder, 'rootfs.squashfs'));
    },
    says: /20260101\/rootfs\.squashfs: it is a symbolic link that cannot be followed: .*circle; put the file itself/,
  },
  {
    name: 'a symbolic link out of the tree',
    arrange: async (root) => {
      await writeFile(join(root, 'secret.squashfs'), squashfs());
      const folder = await addVersion(root, bad, { 'lxd.tar.xz': await metadataArchive() });
      await symlink(join(root, 'secret.squashfs'), join(folder, 'rootfs.squashfs'));
    },
    says: /20260101\/rootfs\.squashfs: it is a symbolic link that leaves the images folder; put the file itself/,
  },
  {
    name: 'an environment that is a symbolic link out of the tree',
    arrange: async (root) => {
      await mkdir(join(root, 'elsewhere'));
      await symlink(join(root, 'elsewhere'), join(root, 'images/elsewhere'));
    },
    says: /: elsewhere: it is a symbolic link that leaves the images folder; put/,
  },
  {
    name: 'a FIFO in place of a root file',
    arrange: async (root) => {
      const folder = await addVersion(root, bad, { 'lxd.tar.xz': await metadataArchive() });
      await run('mkfifo', [join(folder, 'rootfs.squashfs')]);
    },
    says: /20260101\/rootfs\.squashfs: it is neither a file nor a folder.*; remove it/,
  },
  {
    name: 'an unreadable file',
    arrange: async (root) => chmod(join(await addVersion(root, bad), 'rootfs.squashfs'), 0),
    says: /rootfs\.squashfs: the web server, as another user, may not read it; make it readable: chmod a\+r/,
    rights: 'plain',
  },
  {
    name: 'an unreadable version',
    arrange: async (root) => chmod(await addVersion(root, bad), 0),
    says: /default\/20260101: it cannot be listed: permission denied; make it readable: chmod a\+rx/,
    rights: 'plain',
  },
  {
    name: 'an unreadable environment',
    arrange: async (root) => {
      await addVersion(root, 'closed/bad/amd64/default/20260101');
      await chmod(join(root, 'images/closed'), 0);
    },
    says: /: closed: it cannot be listed: permission denied; make it readable: chmod a\+rx/,
    rights: 'plain',
  },
  {
    name: 'an image file outside a version',
    arrange: (root) =>
      writeFiles(join(root, 'images/demo/bad/amd64/default'), { 'rootfs.squashfs': squashfs() }),
    says: /default\/rootfs\.squashfs: it is an image file outside a version; move it/,
  },
  {
    name: 'an upload that has not ended',
    arrange: async (root) =>
      addVersion(root, bad, { ...(await splitImage(bad)), '.rootfs.squashfs.a1B2c3': 'x' }),
    says: /an upload into it has not ended \(\.rootfs\.squashfs\.a1B2c3\); wait for it to end/,
  },
  {
    name: 'an empty image.yaml and an empty delta, which cost only themselves',
    arrange: async (root) => {
      await addVersion(root, bad, {
        ...(await splitImage(bad)),
        'image.yaml': '',
        '20250101.squashfs.vcdiff': '',
      });
      const metadata = await metadataArchive();
      await addVersion(root, 'demo/worse/amd64/default/20260101', { 'lxd.tar.xz': metadata });
    },
    says: /demo\/worse\/amd64\/default\/20260101: it has metadata, but no root file/,
    bad: 'published',
  },
  {
    name: 'two root files of one type',
    arrange: async (root) =>
      addVersion(root, bad, { ...(await splitImage(bad)), 'b.squashfs': squashfs('b') }),
    says: /b\.squashfs and rootfs\.squashfs are both of type squashfs; keep one/,
  },
  {
    name: 'two products that claim one alias',
    arrange: async (root) => {
      await addVersion(root, bad);
      const yaml = join(root, 'images/demo/good/amd64/default/product.yaml');
      await writeFile(yaml, 'aliases: [demo/bad]\n');
    },
    says: /demo\/good\/amd64\/default: its alias "demo\/bad" belongs to demo\/bad\/amd64\/default already; take the alias out/,
    bad: 'published',
  },
  {
    name: 'a product.yaml that is not YAML',
    arrange: async (root) => {
      await addVersion(root, bad);
      await writeFile(join(root, 'images/demo/bad/amd64/default/product.yaml'), 'os: [');
    },
    says: /default\/product\.yaml: product\.yaml cannot be used: it is not YAML.*; correct product\.yaml/,
    bad: 'published',
  },
];

describe('update, beside a good version, with', () => {
  for (const { name, arrange, says, rights, programs = [], ...expected } of cases) {
    const needed = rights === 'plain' ? needsRoot('setpriv', ...programs) : needs(...programs);
    test(name, needed, async (t) => {
      const root = await temporaryFolder(t);
      await addVersion(root, good);
      await arrange(root);
      const before = await snapshot(root);
      const { code, stderr } = await runCli(
        ['update', '--config', await writeConfig(root)],
        rights,
      );
      const lines = stderr.split('\n').filter((line) => line !== '');
      assert.equal(lines.length, 1, stderr);
      assert.match(lines[0] ?? '', says);
      assert.equal(code, 3);
      const versions =
        expected.bad === 'published' ? [published.bad, published.good] : [published.good];
      assert.deepEqual(await publishedVersions(root), versions);
      assert.equal(await snapshot(root), before);
    });
  }

  test('a file that changes while it is read', async (t) => {
    const root = await temporaryFolder(t);
    await addVersion(root, good);
    const file = join(await addVersion(root, bad), 'rootfs.squashfs');
    await truncate(file, 1024 ** 3);
    const script = `const fs = require('fs'); setInterval(() => fs.appendFileSync(process.argv[1], 'x'), 5); console.log()`;
    const writer = spawn(process.execPath, ['-e', script, file], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => writer.kill());
    await once(writer.stdout, 'data');
    const { code, stderr } = await runCli(['update', '--config', await writeConfig(root)]);
    assert.match(
      stderr,
      /^[^\n]*rootfs\.squashfs (?:came or changed while the tree|changed while it) was read; it is taken up when its upload has ended[^\n]*\n$/,
    );
    assert.equal(code, 3);
    assert.deepEqual(await publishedVersions(root), [published.good]);
  });

  for (const [name, content] of [
    [
      'that was cut short',
      '{"content_id":"images","datatype":"image-downloads","format":"products:1.0","products":{"a',
    ],
    ['of another program', '{"format": "products:1.0", "products": {}}'],
  ] as const) {
    test(`an images.json ${name}: it is kept aside and written anew`, async (t) => {
      const root = await temporaryFolder(t);
      await addVersion(root, good);
      await writeFiles(join(root, 'streams/v1'), { 'images.json': content });
      const { code, stderr } = await runCli(['update', '--config', await writeConfig(root)]);
      assert.match(
        stderr,
        /^warning: images\.json was cut short or not written by this server; it is written anew[^\n]*\n$/,
      );
      assert.equal(code, 0);
      assert.deepEqual(await publishedVersions(root), [published.good]);
      assert.equal(await readFile(join(root, 'streams/v1/.images.json.replaced'), 'utf8'), content);
    });
  }

  test('a full disk: the documents stay what they were', needsRoot('mount', 'umount'), () =>
    inTemporaryFolder(async (root) => {
      await run('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', root]);
      try {
        await publishOnFullDisk(root);
      } finally {
        await run('umount', [root]);
      }
    }),
  );
});

async function publishOnFullDisk(root: string): Promise<void> {
  await addVersion(root, good);
  const config = await writeConfig(root);
  assert.equal((await runCli(['update', '--config', config])).code, 0);
  await addVersion(root, bad);
  const before = await snapshot(join(root, 'streams'));
  const filler = await open(join(root, 'filler'), 'w');
  await assert.rejects(filler.writeFile(Buffer.alloc(1024 * 1024)), { code: 'ENOSPC' });
  await filler.close();
  const { code, stderr } = await runCli(['update', '--config', config]);
  assert.match(
    stderr,
    /^error: Cannot write \S+: no space left on the disk; make room, then try again\n$/m,
  );
  assert.equal(code, 1);
  assert.equal(await snapshot(join(root, 'streams')), before);
  await truncate(join(root, 'filler'));
  assert.equal((await runCli(['update', '--config', config])).code, 0);
  assert.deepEqual(await publishedVersions(root), [published.bad, published.good]);
}

describe('update, on a root', () => {
  test('that is missing, says so and does not make it: it may be unmounted', async (t) => {
    const folder = await temporaryFolder(t);
    const { code, stderr } = await runCli(['update', '--root-dir', join(folder, 'gone')]);
    assert.match(
      stderr,
      /^error: The root \S+gone is not there; make it with "lxd-image-server init"[^\n]*\n$/,
    );
    assert.equal(code, 4);
    assert.deepEqual(await readdir(folder), []);
  });

  test('without an images folder, publishes nothing: it may be unmounted', async (t) => {
    const root = await temporaryFolder(t);
    const { code, stderr } = await runCli(['update', '--config', await writeConfig(root)]);
    assert.match(
      stderr,
      /^error: Cannot use the images folder \S+: no such file or folder; make it with[^\n]*\n$/,
    );
    assert.equal(code, 4);
  });

  test('that is a file', async (t) => {
    const file = join(await temporaryFolder(t), 'file');
    await writeFile(file, '');
    const { code, stderr } = await runCli(['update', '--root-dir', file]);
    assert.match(
      stderr,
      /^error: The root \S+file is not a folder; move what is there away[^\n]*\n$/,
    );
    assert.equal(code, 2);
  });

  test('that is not ours to write', needsRoot('setpriv'), async (t) => {
    const root = await temporaryFolder(t);
    await addVersion(root, good);
    const config = await writeConfig(root);
    await chown(root, 1, 1);
    await chmod(root, 0o755);
    const { code, stderr } = await runCli(['update', '--config', config], 'plain');
    assert.match(
      stderr,
      /^error: Cannot write \S+: permission denied; run the command as the user who owns the folder, or as root\n$/,
    );
    assert.equal(code, 1);
  });

  test('whose images we may not list', needsRoot('setpriv'), async (t) => {
    const root = await temporaryFolder(t);
    await addVersion(root, good);
    await chmod(join(root, 'images'), 0);
    const { code, stderr } = await runCli(['update', '--config', await writeConfig(root)], 'plain');
    assert.match(
      stderr,
      /^error: Cannot use the images folder \S+: permission denied; run the command as[^\n]*\n$/,
    );
    assert.equal(code, 1);
  });
});

/** Names, sizes, times and inodes of all files in `folder`, but for what a run may write beside images. */
function snapshot(folder: string): Promise<string> {
  const skipped = ['./index.html', './streams', './state', './.lxd-image-server', './config.toml'];
  const skip = skipped.flatMap((path) => ['-path', path, '-prune', '-o']);
  return run('find', ['.', ...skip, '-type', 'f', '-printf', '%p %s %T@ %i\\n'], { cwd: folder });
}
