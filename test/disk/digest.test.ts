import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  appendFileSync,
  renameSync,
  statSync,
  truncateSync,
  unlinkSync,
  utimesSync,
} from 'node:fs';
import { mkdir, readFile, rename, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mock, suite, type TestContext, test } from 'node:test';
import type { FileRequest } from '../../src/catalog/completeness.js';
import { roleOf } from '../../src/catalog/tree.js';
import { type FileOutcome, runDigestJob, Stopped } from '../../src/disk/digest.js';
import { stampOf } from '../../src/disk/stamp.js';
import { missingPrograms, outcome, run } from '../support/command.js';
import {
  type Files,
  metadataArchive,
  qcow2,
  squashfs,
  unifiedArchive,
  writeFiles,
} from '../support/image-tree.js';
import { source, startModule } from '../support/module.js';
import { needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

/** Files in a folder, old enough to have settled, and the means to have them read. */
async function folderWith(t: TestContext, files: Files) {
  const root = await temporaryFolder(t);
  const folder = join(root, 'v');
  await writeFiles(folder, files);
  const hourAgo = Date.now() / 1000 - 3600.5;
  for (const name of Object.keys(files)) await utimes(join(folder, name), hourAgo, hourAgo);
  const request = (name: string, extra: Partial<FileRequest> = {}): FileRequest => {
    const role = roleOf(name);
    const { size } = statSync(join(folder, name));
    const stamp = stampOf(statSync(join(folder, name), { bigint: true }));
    const read = role.kind === 'delta' || role.kind === 'other' ? 'plain' : role.kind;
    return {
      name,
      size,
      stamp,
      read,
      ...(role.kind === 'root' && { ftype: role.ftype }),
      ...extra,
    };
  };
  let bytes = 0;
  const digest = async (
    requests: FileRequest[] = Object.keys(files).map((name) => request(name)),
    onBytes: (bytes: number) => void = () => {},
  ): Promise<Map<string, FileOutcome>> => {
    bytes = 0;
    const result = await runDigestJob(root, { path: 'v', files: requests }, (more) => {
      bytes += more;
      onBytes(more);
    });
    assert.equal(result.path, 'v');
    return new Map(result.files.map((file) => [file.name, file]));
  };
  return { root, folder, request, digest, bytesRead: () => bytes };
}

async function opensslDigest(folder: string, ...names: readonly string[]): Promise<string> {
  const input = Buffer.concat(await Promise.all(names.map((name) => readFile(join(folder, name)))));
  const line = await outcome('openssl', ['dgst', '-sha256', '-r'], { input });
  return line.stdout.slice(0, 64);
}

suite('digests are those of openssl', { skip: missingPrograms('openssl') }, () => {
  const roots: { name: string; content: () => Buffer | Promise<Buffer> }[] = [
    { name: 'rootfs.squashfs', content: () => squashfs('s', 700_001) },
    { name: 'rootfs.tar.xz', content: () => metadataArchive({ a: 'root' }) },
    { name: 'root.tar.xz', content: () => metadataArchive({ a: 'root' }) },
    { name: 'disk.qcow2', content: () => qcow2('q', 262_144) },
    { name: 'disk-kvm.img', content: () => qcow2('q', 262_145) },
    { name: 'disk1.img', content: () => Buffer.alloc(5000, 'd') },
    { name: 'uefi1.img', content: () => Buffer.alloc(1, 'u') },
  ];
  for (const { name, content } of roots) {
    test(`of ${name} and of it after each metadata file, which are all read once`, async (t) => {
      const { folder, digest, bytesRead } = await folderWith(t, {
        [name]: await content(),
        'lxd.tar.xz': await metadataArchive({ for: 'lxd' }),
        'incus.tar.xz': await metadataArchive({ for: 'incus' }),
      });
      const files = await digest();
      const metadata = ['lxd.tar.xz', 'incus.tar.xz'];
      for (const file of [name, ...metadata]) {
        assert.equal(files.get(file)?.digest?.sha256, await opensslDigest(folder, file));
        assert.equal(files.get(file)?.fleeting, false);
      }
      const combined: Record<string, string> = {};
      for (const file of metadata) {
        combined[await opensslDigest(folder, file)] = await opensslDigest(folder, file, name);
      }
      assert.deepEqual(files.get(name)?.digest?.combined, combined);
      const sizes = [name, ...metadata].map((file) => statSync(join(folder, file)).size);
      assert.equal(
        bytesRead(),
        sizes.reduce((sum, size) => sum + size, 0),
      );
    });
  }

  test('of files of every other kind, without combined ones', async (t) => {
    const { folder, digest } = await folderWith(t, {
      'lxd_combined.tar.gz': await unifiedArchive(),
      'rootfs.20260101.vcdiff': 'delta',
      'README.txt': 'hello',
      empty: '',
    });
    for (const [name, { digest: found }] of await digest()) {
      assert.equal(found?.sha256, await opensslDigest(folder, name));
      assert.equal(found?.combined, undefined);
    }
  });
});

test('a version of several roots and both metadata files opens each of them once', {
  skip: missingPrograms('strace'),
}, async (t) => {
  const { root, folder, request } = await folderWith(t, {
    'lxd.tar.xz': await metadataArchive(),
    'incus.tar.xz': await metadataArchive({ for: 'incus' }),
    'rootfs.squashfs': squashfs(),
    'disk.qcow2': qcow2(),
    'image.yaml': 'simplestream: {}\n',
  });
  const names = ['lxd.tar.xz', 'incus.tar.xz', 'rootfs.squashfs', 'disk.qcow2', 'image.yaml'];
  const job = { path: 'v', files: names.map((name) => request(name)) };
  const code = `
    import { runDigestJob } from ${source('disk/digest.js')};
    await runDigestJob(${JSON.stringify(root)}, ${JSON.stringify(job)}, () => {});
  `;
  const trace = join(root, 'trace');
  const line = ['-f', '-qq', '-e', 'trace=openat,open', '-o', trace, process.execPath];
  await run('strace', [...line, '--input-type=module', '--eval', code]);
  const opened = (await readFile(trace, 'utf8'))
    .split('\n')
    .flatMap((call) => /"([^"]+)"/.exec(call)?.[1] ?? [])
    .filter((path) => path.startsWith(folder));
  assert.deepEqual(opened.toSorted(), names.map((name) => join(folder, name)).sort());
});

suite('what is known', () => {
  test('is not read again', async (t) => {
    const { request, digest, bytesRead } = await folderWith(t, {
      'lxd.tar.xz': await metadataArchive(),
      'rootfs.squashfs': squashfs(),
    });
    const first = await digest();
    const again = await digest(
      [...first].map(([name, { digest: known }]) => request(name, known && { known })),
    );
    assert.equal(bytesRead(), 0);
    for (const [name, { digest: found }] of again) {
      assert.deepEqual(found, first.get(name)?.digest);
      assert.equal(again.get(name)?.fleeting, undefined);
    }
  });

  test('of metadata is not enough where a root is new: both are read, others not', async (t) => {
    const files = {
      'lxd.tar.xz': await metadataArchive(),
      'rootfs.squashfs': squashfs(),
      'disk.qcow2': qcow2(),
    };
    const { folder, request, digest, bytesRead } = await folderWith(t, files);
    const first = await digest();
    const requests = ['lxd.tar.xz', 'disk.qcow2'].map((name) => {
      const known = first.get(name)?.digest;
      return request(name, known && { known });
    });
    const again = await digest([...requests, request('rootfs.squashfs')]);
    assert.deepEqual(again.get('rootfs.squashfs'), first.get('rootfs.squashfs'));
    const sizes = ['lxd.tar.xz', 'rootfs.squashfs'].map(
      (name) => statSync(join(folder, name)).size,
    );
    assert.equal(bytesRead(), (sizes[0] ?? 0) + (sizes[1] ?? 0));
  });

  test('of a root is not enough where metadata is new', async (t) => {
    const { folder, request, digest } = await folderWith(t, {
      'lxd.tar.xz': await metadataArchive(),
      'rootfs.squashfs': squashfs(),
    });
    const known = (await digest()).get('rootfs.squashfs')?.digest;
    await writeFile(join(folder, 'lxd.tar.xz'), await metadataArchive({ os: 'New' }));
    const again = await digest([
      request('lxd.tar.xz'),
      request('rootfs.squashfs', known && { known }),
    ]);
    const metadata = again.get('lxd.tar.xz')?.digest?.sha256 ?? '';
    assert.equal(
      again.get('rootfs.squashfs')?.digest?.combined?.[metadata],
      await opensslDigest(folder, 'lxd.tar.xz', 'rootfs.squashfs'),
    );
  });
});

suite('a file that changes', () => {
  const size = 1024 * 1024;
  const changes: { how: string; change: (file: string) => void; code: string }[] = [
    { how: 'grows', change: (file) => appendFileSync(file, 'x'), code: 'changed' },
    { how: 'shrinks', change: (file) => truncateSync(file, size - 1), code: 'changed' },
    { how: 'is touched', change: (file) => utimesSync(file, 1, 1), code: 'changed' },
  ];
  for (const { how, change, code } of changes) {
    test(`while it is read, that is ${how}, has no digest`, async (t) => {
      const { folder, digest } = await folderWith(t, { 'disk1.img': Buffer.alloc(size) });
      let reads = 0;
      const files = await digest(undefined, () => {
        if (++reads === 2) change(join(folder, 'disk1.img'));
      });
      assert.equal(files.get('disk1.img')?.failure?.code, code);
      assert.equal(files.get('disk1.img')?.digest, undefined);
    });

    test(`before it is read, that is ${how}, is not read`, async (t) => {
      const { folder, request, digest, bytesRead } = await folderWith(t, {
        'disk1.img': Buffer.alloc(size),
      });
      const requests = [request('disk1.img')];
      change(join(folder, 'disk1.img'));
      assert.equal((await digest(requests)).get('disk1.img')?.failure?.code, code);
      assert.equal(bytesRead(), 0);
    });
  }

  test('its name to another file while it is read, is what it was', async (t) => {
    const { folder, digest } = await folderWith(t, { 'disk1.img': Buffer.alloc(size, 'a') });
    const expected = await opensslDigest(folder, 'disk1.img');
    await writeFile(join(folder, 'new'), Buffer.alloc(size, 'b'));
    let reads = 0;
    const files = await digest(undefined, () => {
      if (++reads === 2) renameSync(join(folder, 'new'), join(folder, 'disk1.img'));
    });
    // The next scan sees another stamp.
    assert.equal(files.get('disk1.img')?.digest?.sha256, expected);
  });

  test('at the hands of another process never has a digest that is kept', async (t) => {
    const { folder, request, digest } = await folderWith(t, {
      'disk1.img': Buffer.alloc(16 * size),
    });
    const code = `
      import { closeSync, openSync, writeSync } from 'node:fs';
      const fd = openSync(process.argv[1], 'r+');
      console.log('ready');
      for (let at = 0; ; at = (at + 4096) % ${16 * size}) writeSync(fd, 'x', at);
    `;
    const writer = startModule(code, join(folder, 'disk1.img'));
    t.after(() => writer.kill('SIGKILL'));
    await once(writer.stdout, 'data');
    for (let round = 0; round < 10; round++) {
      const asked = request('disk1.img');
      const age = Date.now() - statSync(join(folder, 'disk1.img')).mtimeMs;
      const outcome = (await digest([asked])).get('disk1.img');
      // A writer that gets no turn for long leaves a file that has not changed, and is old enough.
      const kept = outcome?.fleeting === false;
      if (kept) assert.ok(age > 19, `${age} ms`);
      else
        assert.equal(
          outcome?.failure?.code ?? outcome?.fleeting,
          outcome?.failure ? 'changed' : true,
        );
    }
  });

  test('away is told to be gone', async (t) => {
    const { folder, request, digest } = await folderWith(t, { 'disk1.img': 'x' });
    const requests = [request('disk1.img')];
    unlinkSync(join(folder, 'disk1.img'));
    assert.equal((await digest(requests)).get('disk1.img')?.failure?.code, 'gone');
  });
});

suite('what has taken the place of a file', () => {
  const swaps: { what: string; swap: (path: string) => Promise<unknown>; code: string }[] = [
    { what: 'a FIFO', swap: (path) => run('mkfifo', [path]), code: 'changed' },
    { what: 'a folder', swap: (path) => mkdir(path), code: 'changed' },
    { what: 'a link to a device', swap: (path) => symlink('/dev/zero', path), code: 'changed' },
    {
      what: 'a link to another file',
      swap: (path) => symlink('/etc/passwd', path),
      code: 'changed',
    },
    { what: 'a link to itself', swap: (path) => symlink('disk1.img', path), code: 'unreadable' },
    { what: 'a link to nothing', swap: (path) => symlink('nothing', path), code: 'gone' },
  ];
  for (const { what, swap, code } of swaps) {
    test(`is not read: ${what}`, async (t) => {
      const { folder, request, digest, bytesRead } = await folderWith(t, { 'disk1.img': 'x' });
      const requests = [request('disk1.img')];
      await rename(join(folder, 'disk1.img'), join(folder, 'old'));
      await swap(join(folder, 'disk1.img'));
      assert.equal((await digest(requests)).get('disk1.img')?.failure?.code, code);
      assert.equal(bytesRead(), 0);
    });
  }

  test(
    'a file that may not be opened has a failure, with what to do',
    needsRoot('setpriv'),
    async (t) => {
      const { root, folder, request } = await folderWith(t, { 'disk1.img': 'x', 'uefi1.img': 'y' });
      await run('chmod', ['0', join(folder, 'disk1.img')]);
      const job = { path: 'v', files: [request('disk1.img'), request('uefi1.img')] };
      const code = `
      import { runDigestJob } from ${source('disk/digest.js')};
      const result = await runDigestJob(${JSON.stringify(root)}, ${JSON.stringify(job)}, () => {});
      console.log(JSON.stringify(result.files));
    `;
      const limit = ['--bounding-set=-all', '--inh-caps=-all', process.execPath];
      const said = await run('setpriv', [...limit, '--input-type=module', '--eval', code]);
      const [closed, open] = JSON.parse(said) as FileOutcome[];
      assert.deepEqual(closed?.failure, {
        code: 'unreadable',
        reason: 'disk1.img cannot be read: permission denied',
        cure: 'make it readable: chmod a+r disk1.img',
      });
      assert.equal(open?.failure, undefined);
    },
  );
});

suite('the content of a file is judged', () => {
  const whole = squashfs('', 5000);
  const disk = qcow2('', 5000);
  const cut = /was cut short/;
  const cases: { what: string; name: string; content: string | Buffer; fault?: RegExp }[] = [
    { what: 'a whole squashfs', name: 'a.squashfs', content: whole },
    { what: 'a padded squashfs', name: 'a.squashfs', content: Buffer.concat([whole, whole]) },
    {
      what: 'a squashfs without its last byte',
      name: 'a.squashfs',
      content: whole.subarray(0, -1),
      fault: cut,
    },
    {
      what: 'a squashfs of a few bytes',
      name: 'a.squashfs',
      content: whole.subarray(0, 40),
      fault: cut,
    },
    { what: 'a whole qcow2', name: 'a.qcow2', content: disk },
    {
      what: 'a qcow2 without its tables',
      name: 'a.qcow2',
      content: disk.subarray(0, 256),
      fault: cut,
    },
    { what: 'a qcow2 of a few bytes', name: 'a.qcow2', content: disk.subarray(0, 50), fault: cut },
    { what: 'a raw disk', name: 'disk1.img', content: Buffer.alloc(5000) },
    { what: 'a root that is no known format', name: 'rootfs.tar.xz', content: 'x' },
    { what: 'SHA256SUMS that is none', name: 'SHA256SUMS', content: 'x\n', fault: /line 1/ },
    { what: 'an empty SHA256SUMS', name: 'SHA256SUMS', content: '', fault: /names no file/ },
    {
      what: 'a huge SHA256SUMS',
      name: 'SHA256SUMS',
      content: Buffer.alloc(2 ** 20 + 1, '#'),
      fault: /larger than 1 MiB/,
    },
    {
      what: 'a huge image.yaml',
      name: 'image.yaml',
      content: Buffer.alloc(2 ** 20 + 1, '#'),
      fault: /larger than 1 MiB/,
    },
    { what: 'an empty image.yaml', name: 'image.yaml', content: '' },
    { what: 'an image.yaml that is not YAML', name: 'image.yaml', content: '{', fault: /not YAML/ },
    { what: 'metadata that is none', name: 'lxd.tar.xz', content: 'x', fault: /not a tar archive/ },
  ];
  for (const { what, name, content, fault } of cases) {
    test(what, async (t) => {
      const { digest } = await folderWith(t, { [name]: content });
      const found = (await digest()).get(name)?.digest;
      if (fault === undefined) assert.equal(found?.fault, undefined);
      else assert.match(found?.fault?.reason ?? '', fault);
      assert.match(found?.sha256 ?? '', /^[0-9a-f]{64}$/);
    });
  }

  test('a root in .xz that was cut short anywhere', { skip: missingPrograms('xz') }, async (t) => {
    const content = await metadataArchive({}, 'xz');
    for (let length = 16; length < content.length; length += 4) {
      const { digest } = await folderWith(t, { 'rootfs.tar.xz': content.subarray(0, length) });
      assert.match((await digest()).get('rootfs.tar.xz')?.digest?.fault?.reason ?? '', cut);
    }
    const padded = Buffer.concat([content, Buffer.alloc(8)]);
    const { digest } = await folderWith(t, { 'rootfs.tar.xz': padded });
    assert.equal((await digest()).get('rootfs.tar.xz')?.digest?.fault, undefined);
  });

  test('for what it says', async (t) => {
    const sum = 'a'.repeat(64);
    const { request, digest } = await folderWith(t, {
      'lxd.tar.xz': await metadataArchive({ os: 'Demo', release: 'Noble' }),
      'image.yaml': 'simplestream: {distro_name: Other}\n',
      'product.yaml': 'aliases: [stable]\n',
      SHA256SUMS: `${sum}  lxd.tar.xz\n`,
    });
    const files = await digest([
      request('lxd.tar.xz'),
      request('image.yaml'),
      request('product.yaml', { read: 'product-yaml' }),
      request('SHA256SUMS'),
    ]);
    assert.deepEqual(files.get('lxd.tar.xz')?.digest?.facts, { os: 'Demo', releaseTitle: 'Noble' });
    assert.deepEqual(files.get('image.yaml')?.digest?.facts, { os: 'Other' });
    assert.deepEqual(files.get('product.yaml')?.digest?.facts, { aliases: ['stable'] });
    assert.deepEqual(files.get('SHA256SUMS')?.digest?.sums, { 'lxd.tar.xz': sum });
  });
});

suite('a digest is fleeting', () => {
  const now = Date.UTC(2026, 0, 1);
  const ages: { what: string; age: number; fleeting: boolean }[] = [
    { what: 'of a file of this moment', age: 0.5, fleeting: true },
    { what: 'of a file of a few milliseconds', age: 10.5, fleeting: true },
    { what: 'never of a file that is older', age: 50.5, fleeting: false },
    { what: 'of a file of this whole second', age: 1000, fleeting: true },
    { what: 'never of a file of an earlier whole second', age: 3000, fleeting: false },
    { what: 'never of a file from the future', age: -3_600_000.5, fleeting: false },
  ];
  for (const { what, age, fleeting } of ages) {
    test(`${what}, by the clock as its reading begins`, async (t) => {
      const { folder, request, digest } = await folderWith(t, { 'disk1.img': 'x' });
      const modified = (now - age) / 1000;
      await utimes(join(folder, 'disk1.img'), modified, modified);
      mock.timers.enable({ apis: ['Date'], now });
      t.after(() => mock.timers.reset());
      const files = await digest([request('disk1.img')], () => mock.timers.tick(10_000));
      assert.equal(files.get('disk1.img')?.fleeting, fleeting);
    });
  }
});

test('a stop leaves the file that is being read, and keeps those before it', async (t) => {
  const { digest } = await folderWith(t, {
    'lxd.tar.xz': await metadataArchive(),
    'a.squashfs': squashfs('', 600_000),
    'disk1.img': Buffer.alloc(600_000),
  });
  let reads = 0;
  const files = await digest(undefined, () => {
    // One piece of metadata, three of the first root.
    if (++reads === 6) throw new Stopped();
  });
  assert.deepEqual([...files.keys()], ['lxd.tar.xz', 'a.squashfs']);
  await assert.rejects(
    digest(undefined, () => {
      throw new TypeError('ours');
    }),
    { message: 'ours' },
  );
});
