import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { suite, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { pack } from 'tar-stream';
import { findMetadataYaml, largestSearch } from '../../src/disk/archive.js';
import { filter, missingPrograms, outcome, run } from '../support/command.js';
import { type ArchiveEntry, archive } from '../support/image-files.js';
import { type Compression, compress } from '../support/image-tree.js';
import { temporaryFolder } from '../support/temporary.js';

const content = 'architecture: x86_64\ncreation_date: 1767225600\n';
const wanted: ArchiveEntry = { name: 'metadata.yaml', type: 'file', content };
const other: ArchiveEntry = { name: 'templates/a.tpl', type: 'file', content: 'x'.repeat(700) };
const whole = { whole: true };
const part = { whole: false };

const compressions: { compression: Compression; skip: string | false }[] = [
  { compression: 'none', skip: false },
  { compression: 'gzip', skip: false },
  { compression: 'xz', skip: missingPrograms('xz') },
  { compression: 'zstd', skip: missingPrograms('zstd') },
];

suite('metadata.yaml is found', () => {
  const places: { place: string; entries: ArchiveEntry[] }[] = [
    { place: 'as the only entry', entries: [wanted] },
    { place: 'as the last of several', entries: [other, { ...other, name: 'b' }, wanted] },
    {
      place: 'under the name ./metadata.yaml',
      entries: [
        { name: './', type: 'directory' },
        { ...wanted, name: './metadata.yaml' },
      ],
    },
    {
      place: 'behind folders, links and an empty file',
      entries: [
        { name: 'rootfs', type: 'directory' },
        { name: 'rootfs/link', type: 'symlink', linkname: '../metadata.yaml' },
        { name: 'rootfs/metadata.yaml', type: 'file', content: 'not this one' },
        { name: 'empty', type: 'file', content: '' },
        wanted,
      ],
    },
  ];
  for (const { compression, skip } of compressions) {
    for (const { place, entries } of places) {
      test(`${place} (${compression})`, { skip }, async () => {
        const bytes = await compress(await archive(entries), compression);
        assert.deepEqual(await findMetadataYaml(bytes, whole), { found: content });
      });
    }
  }

  const flavours = ['gnu', 'pax', 'posix', 'ustar', 'v7'];
  for (const format of flavours) {
    test(`in what GNU tar writes as --format=${format}`, async (t) => {
      const folder = await temporaryFolder(t);
      const long = `${'long'.repeat(20)}.tpl`;
      await writeFile(join(folder, long), 'x');
      await writeFile(join(folder, 'metadata.yaml'), content);
      const args = ['--create', `--format=${format}`, '--file=a.tar', `./${long}`];
      await run('tar', [...args, './metadata.yaml'], { cwd: folder });
      const bytes = await readFile(join(folder, 'a.tar'));
      assert.deepEqual(await findMetadataYaml(bytes, whole), { found: content });
    });
  }

  test('behind names longer than a header takes, of GNU and of POSIX', async (t) => {
    const folder = await temporaryFolder(t);
    const long = 'l'.repeat(200);
    await writeFile(join(folder, long), 'x');
    await writeFile(join(folder, 'metadata.yaml'), content);
    for (const format of ['gnu', 'pax']) {
      const args = ['--create', `--format=${format}`, '--file=a.tar', long, 'metadata.yaml'];
      await run('tar', args, { cwd: folder });
      const bytes = await readFile(join(folder, 'a.tar'));
      assert.deepEqual(await findMetadataYaml(bytes, whole), { found: content });
    }
  });

  test('in .xz files of several blocks, of several streams, at -9 and with each common check', {
    skip: missingPrograms('xz'),
  }, async () => {
    const tar = await archive([{ ...other, content: Buffer.alloc(300_000, 'abc') }, wanted]);
    const half = tar.length / 2;
    const streams = [tar.subarray(0, half), tar.subarray(half)].map((bytes) =>
      filter('xz', ['--stdout'], bytes),
    );
    const forms = [
      filter('xz', ['--stdout', '-9'], tar),
      filter('xz', ['--stdout', '--extreme'], tar),
      filter('xz', ['--stdout', '--block-size=65536'], tar),
      filter('xz', ['--stdout', '--block-size=65536', '--threads=2'], tar),
      ...['none', 'crc32', 'crc64'].map((check) =>
        filter('xz', ['--stdout', `--check=${check}`], tar),
      ),
      Promise.all(streams).then((both) => Buffer.concat(both)),
    ];
    for (const [index, bytes] of (await Promise.all(forms)).entries()) {
      assert.deepEqual(await findMetadataYaml(bytes, whole), { found: content }, `form ${index}`);
    }
  });

  test('in gzip of several members', async () => {
    const tar = await archive([other, wanted]);
    const members = [tar.subarray(0, 600), tar.subarray(600)].map((bytes) => gzipSync(bytes));
    assert.deepEqual(await findMetadataYaml(Buffer.concat(members), whole), { found: content });
  });

  test('in zstd at -19, with a check sum and of several frames', {
    skip: missingPrograms('zstd'),
  }, async () => {
    const tar = await archive([{ ...other, content: Buffer.alloc(300_000, 'abc') }, wanted]);
    const half = tar.length / 2;
    const frames = [tar.subarray(0, half), tar.subarray(half)].map((bytes) =>
      filter('zstd', ['--stdout', '--quiet'], bytes),
    );
    const forms = [
      filter('zstd', ['--stdout', '--quiet', '-19'], tar),
      filter('zstd', ['--stdout', '--quiet', '-1', '--check'], tar),
      Promise.all(frames).then((both) => Buffer.concat(both)),
    ];
    for (const bytes of await Promise.all(forms)) {
      assert.deepEqual(await findMetadataYaml(bytes, whole), { found: content });
    }
  });

  test('in the first part of a file that goes on', async () => {
    for (const { compression, skip } of compressions) {
      if (skip !== false) continue;
      const filler: ArchiveEntry = { name: 'root', type: 'file', content: noise(400_000) };
      const bytes = await compress(await archive([wanted, filler]), compression);
      const head = bytes.subarray(0, 250_000);
      assert.deepEqual(await findMetadataYaml(head, part), { found: content }, compression);
    }
  });
});

suite('metadata.yaml is not found', () => {
  test('where the archive is whole and has none', async () => {
    for (const { compression, skip } of compressions) {
      if (skip !== false) continue;
      const bytes = await compress(await archive([other]), compression);
      assert.deepEqual(await findMetadataYaml(bytes, whole), { missing: true }, compression);
    }
  });

  test('where only a folder, a link or a file elsewhere is called so', async () => {
    const entries: ArchiveEntry[] = [
      { name: 'metadata.yaml', type: 'directory' },
      { name: 'metadata.yaml', type: 'symlink', linkname: '/etc/passwd' },
      { ...wanted, name: 'rootfs/metadata.yaml' },
      { ...wanted, name: 'xmetadata.yaml' },
    ];
    assert.deepEqual(await findMetadataYaml(await archive(entries), whole), { missing: true });
  });

  test('yet, where the part that was read ends before it', async () => {
    for (const { compression, skip } of compressions) {
      if (skip !== false) continue;
      const filler: ArchiveEntry = { name: 'root', type: 'file', content: noise(400_000) };
      const bytes = await compress(await archive([filler, wanted]), compression);
      const found = await findMetadataYaml(bytes.subarray(0, 250_000), part);
      assert.deepEqual(found, { unknown: true }, compression);
    }
  });

  const strangers: { what: string; bytes: Buffer; broken: string }[] = [
    { what: 'a text', bytes: Buffer.from('<!DOCTYPE html>'), broken: 'is not a tar archive' },
    { what: 'a long text', bytes: Buffer.alloc(5000, 'words '), broken: 'is not a tar archive' },
    { what: 'zeros', bytes: Buffer.alloc(5000), broken: 'is not a tar archive' },
    { what: 'noise', bytes: noise(5000), broken: 'is not a tar archive' },
    { what: 'a text in gzip', bytes: gzipSync('hello'), broken: 'is not a tar archive' },
    {
      what: 'something behind the magic of gzip',
      bytes: Buffer.concat([Buffer.from([0x1f, 0x8b]), noise(5000)]),
      broken: 'is damaged or was cut short',
    },
    {
      what: 'something behind the magic of xz',
      bytes: Buffer.concat([Buffer.from('\xfd7zXZ\0\0\x01', 'latin1'), noise(5000)]),
      broken: 'is damaged or was cut short',
    },
    {
      what: 'something behind the magic of zstd',
      bytes: Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0x58]), noise(5000)]),
      broken: 'is damaged or was cut short',
    },
  ];
  for (const { what, bytes, broken } of strangers) {
    test(`in ${what}`, async () => {
      assert.deepEqual(await findMetadataYaml(bytes, whole), { broken });
    });
  }

  test('in xz with a dictionary that the decoder has no room for, which may hold it all the same', async () => {
    const tar = await archive([{ name: 'metadata.yaml', type: 'file', content: 'a: b' }]);
    const lzma2 = (size: string) => filter('xz', ['--stdout', `--lzma2=dict=${size}`], tar);
    assert.deepEqual(await findMetadataYaml(await lzma2('96MiB'), whole), { unknown: true });
    assert.deepEqual(await findMetadataYaml(await lzma2('64MiB'), whole), { found: 'a: b' });
  });

  test('in bzip2 and lzma, which may hold it all the same', async () => {
    for (const magic of ['BZh91AY&SY', ']\0\0\x80\0']) {
      const bytes = Buffer.concat([Buffer.from(magic, 'latin1'), noise(100)]);
      assert.deepEqual(await findMetadataYaml(bytes, whole), { unknown: true });
    }
  });

  const unread: { form: string; command: [string, ...string[]] }[] = [
    { form: 'xz with a check of SHA-256', command: ['xz', '--stdout', '--check=sha256'] },
    { form: 'zstd with a large window', command: ['zstd', '--stdout', '--quiet', '--long=27'] },
  ];
  for (const { form, command } of unread) {
    const [program, ...args] = command;
    test(`in ${form}, which may hold it all the same`, {
      skip: missingPrograms(program),
    }, async () => {
      const bytes = await filter(program, args, await archive([wanted]));
      assert.deepEqual(await findMetadataYaml(bytes, whole), { unknown: true });
    });
  }

  test('where it is larger than 1 MiB, whatever comes of the rest', async () => {
    const huge: ArchiveEntry = { ...wanted, content: Buffer.alloc(1024 * 1024 + 1, 'a') };
    const most: ArchiveEntry = { ...wanted, content: Buffer.alloc(1024 * 1024, 'a') };
    const broken = { broken: 'has a metadata.yaml of more than 1 MiB' };
    const tar = await archive([huge]);
    assert.deepEqual(await findMetadataYaml(tar, whole), broken);
    assert.deepEqual(await findMetadataYaml(tar.subarray(0, 512), part), broken);
    assert.ok('found' in (await findMetadataYaml(await archive([most]), whole)));
  });

  test('behind an entry whose size is said in base 256 and reaches beyond the end', async () => {
    const tar = await archive([other, wanted]);
    const header = tar.subarray(0, 512);
    header.fill(0, 124, 136);
    header[124] = 0x80;
    header.writeUInt32BE(2 ** 31, 132);
    writeChecksum(header);
    assert.deepEqual(await findMetadataYaml(tar, whole), { broken: 'was cut short' });
    assert.deepEqual(await findMetadataYaml(tar, part), { unknown: true });
  });
});

suite('an archive that was cut short', () => {
  for (const { compression, skip } of compressions) {
    test(`anywhere is never taken for whole (${compression})`, { skip }, async () => {
      const filler: ArchiveEntry = { ...other, content: noise(2000) };
      const tar = await archive([other, filler, wanted, filler]);
      const bytes = await compress(tar, compression);
      // Zeros end a plain tar; without some of them it is as good as whole.
      const needed = compression === 'none' ? tar.length - 1024 : bytes.length;
      for (let length = 0; length < needed; length += 64) {
        const cut = bytes.subarray(0, length);
        const found = await findMetadataYaml(cut, whole);
        assert.ok('broken' in found, `${length} of ${bytes.length}: ${JSON.stringify(found)}`);
        const begun = await findMetadataYaml(cut, part);
        if ('found' in begun) assert.equal(begun.found, content);
        else assert.ok('unknown' in begun, `${length}: ${JSON.stringify(begun)}`);
      }
    });
  }

  test('does not spoil the next one', { skip: missingPrograms('xz') }, async () => {
    const good = await compress(await archive([wanted]), 'xz');
    const bad = Buffer.from(good);
    bad.fill(0xff, 30, 40);
    const mixed = [bad, good.subarray(0, 50), good, Buffer.alloc(0), good];
    const results = await Promise.all(mixed.map((bytes) => findMetadataYaml(bytes, whole)));
    assert.deepEqual(
      results.map((result) => Object.keys(result)[0]),
      ['broken', 'broken', 'found', 'broken', 'found'],
    );
  });
});

test('any bit that is flipped gives another answer or the same, but never an exception', async () => {
  for (const { compression, skip } of compressions) {
    if (skip !== false) continue;
    const bytes = await compress(await archive([other, wanted]), compression);
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length * 8 - 1), async (bit) => {
        const flipped = Buffer.from(bytes);
        flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
        const found = await findMetadataYaml(flipped, whole);
        // Check sums of these two cover the content.
        if (compression === 'gzip' || compression === 'xz') {
          if ('found' in found) assert.equal(found.found, content);
        }
      }),
      { numRuns: 100 },
    );
  }
});

test('any archive gives its metadata.yaml, whatever pieces it comes in', async () => {
  const name = fc.stringMatching(/^[a-z]{1,20}(\/[a-z]{1,90}){0,2}$/);
  const entry = fc.record({ name, size: fc.nat(3000) });
  const text = fc.stringMatching(/^[a-z: \n]{0,2000}$/);
  await fc.assert(
    fc.asyncProperty(
      fc.array(entry, { maxLength: 8 }),
      fc.array(entry, { maxLength: 8 }),
      fc.option(text, { nil: undefined }),
      fc.array(fc.nat(20_000), { maxLength: 5 }),
      async (before, after, yaml, cuts) => {
        const tar = pack();
        for (const { name, size } of before) tar.entry({ name }, Buffer.alloc(size, 'x'));
        if (yaml !== undefined) tar.entry({ name: 'metadata.yaml' }, yaml);
        for (const { name, size } of after) tar.entry({ name }, Buffer.alloc(size, 'y'));
        tar.finalize();
        const bytes = await buffer(tar);
        const ends = [...cuts.sort((a, b) => a - b), bytes.length];
        const members = ends.map((end, index) =>
          gzipSync(bytes.subarray(ends[index - 1] ?? 0, end)),
        );
        const none = before.length + after.length === 0 ? 'broken' : 'missing';
        for (const form of [bytes, Buffer.concat(members)]) {
          const found = await findMetadataYaml(form, whole);
          if (yaml !== undefined) assert.deepEqual(found, { found: yaml });
          else assert.ok(none in found);
        }
      },
    ),
    { numRuns: 150 },
  );
});

suite('decompression bombs', () => {
  // In a process of its own, whose peak memory is its own too.
  const bombs: { bomb: string; command: [string, ...string[]] }[] = [
    { bomb: 'gzip', command: ['gzip', '-9'] },
    { bomb: 'xz', command: ['xz', '-0'] },
    { bomb: 'zstd', command: ['zstd', '--quiet'] },
    { bomb: 'zstd with a window of 1 GiB', command: ['zstd', '--quiet', '--long=30'] },
  ];
  for (const { bomb, command } of bombs) {
    test(`of gigabytes in ${bomb} cost no more than what is looked at`, {
      skip: missingPrograms(command[0]),
    }, async (t) => {
      const folder = await temporaryFolder(t);
      const file = join(folder, 'bomb');
      const [program, ...args] = command;
      const part = await filter(program, args, Buffer.alloc(128 * 1024 * 1024));
      // All these formats allow one stream after the other: 4 GiB of zeros.
      await writeFile(file, Buffer.concat(Array.from({ length: 32 }, () => part)));
      const script = `
        import { readFileSync } from 'node:fs';
        import { findMetadataYaml } from ${JSON.stringify(new URL('../../src/disk/archive.js', import.meta.url).href)};
        const head = readFileSync(${JSON.stringify(file)}).subarray(0, 8 * 1024 * 1024);
        const before = process.resourceUsage().maxRSS;
        const result = await findMetadataYaml(head, { whole: true });
        const peak = (process.resourceUsage().maxRSS - before) / 1024;
        const { user, system } = process.cpuUsage();
        console.log(JSON.stringify({ result, peak, seconds: (user + system) / 1e6 }));
      `;
      const { stdout, stderr } = await outcome(process.execPath, [
        '--input-type=module',
        '--eval',
        script,
      ]);
      const { result, peak, seconds } = JSON.parse(stdout || `"${stderr}"`);
      t.diagnostic(`${Math.round(peak)} MiB, ${seconds} s`);
      assert.ok('broken' in result || 'unknown' in result, JSON.stringify(result));
      assert.ok(peak < 150, `${peak} MiB`);
      assert.ok(seconds < 10, `${seconds} s of processor time`);
    });
  }

  test('are told with the limit', async () => {
    const result = await findMetadataYaml(gzipSync(Buffer.alloc(largestSearch + 1)), whole);
    assert.deepEqual(result, { broken: 'unpacks to more than 64 MiB without a metadata.yaml' });
  });
});

function writeChecksum(header: Buffer): void {
  header.fill(' ', 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
}

/** Bytes that no one can compress, the same ones each time. */
function noise(size: number): Buffer {
  const bytes = Buffer.alloc(size);
  let state = 1;
  for (let at = 0; at < size; at++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    bytes[at] = state >>> 16;
  }
  return bytes;
}
