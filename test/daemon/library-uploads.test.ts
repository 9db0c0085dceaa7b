/** What becomes of uploads: where they go, what is refused, and that nothing of that stays. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cp, mkdir, readdir, readFile, rename, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { ServerError } from '../../src/errors.js';
import type { LibraryImage, Upload, UploadFacts } from '../../src/server/lxd/contract.js';
import { filter } from '../support/command.js';
import { archive } from '../support/image-files.js';
import { addVersion, metadataYaml, qcow2, squashfs } from '../support/image-tree.js';
import {
  fingerprintOf,
  type LibrarySite,
  librarySite,
  metadataOf,
  type Parts,
  piecesOf,
  publishedPaths,
  splitParts,
  staged,
  treeOf,
  upload,
} from '../support/library-site.js';
import { needs } from '../support/programs.js';

const place = 'demo/box/amd64/default/20260101_00:00';

/** Nothing is in the tree, in staging or in the documents. */
async function assertNothing(site: LibrarySite): Promise<void> {
  assert.deepEqual(await treeOf(site), []);
  assert.deepEqual(await staged(site), []);
  assert.deepEqual(await site.library.images(), []);
}

describe('an upload', () => {
  test('is published when it is finished, whole and under its names, and is not read again', async (t) => {
    const site = await librarySite(t);
    const parts = await splitParts();
    const began = Date.now();
    const image = await upload(site, parts, {
      aliases: ['vim', 'demo/box'],
      properties: { description: 'mine', release: 'box' },
      expires: 7000,
    });
    const fingerprint = fingerprintOf(parts);
    assert.ok(image.published >= began && image.published <= Date.now());
    assert.deepEqual(image, {
      fingerprint,
      type: 'container',
      arch: 'amd64',
      aliases: ['demo/box/amd64/default', 'demo/box/default', 'demo/box', 'vim'],
      properties: { os: 'Demo', release: 'box', description: 'mine' },
      size: parts.metadata.length + parts.rootfs.length,
      created: Date.UTC(2026, 0, 1),
      published: image.published,
      expires: 7000,
      files: image.files,
      product: 'demo/box/amd64/default',
      version: '20260101_00:00',
    });
    assert.deepEqual(await publishedPaths(site), [
      `images/${place}/lxd.tar.xz`,
      `images/${place}/rootfs.squashfs`,
    ]);
    assert.deepEqual(await readFile(join(site.root, image.files[0]?.path ?? '')), parts.metadata);
    assert.deepEqual(await readFile(join(site.root, image.files[1]?.path ?? '')), parts.rootfs);
    const yaml = join(site.root, 'images/demo/box/amd64/default/product.yaml');
    assert.equal(await readFile(yaml, 'utf8'), 'aliases:\n  - vim\n');
    assert.deepEqual(await staged(site), []);
    assert.deepEqual(await site.library.images(), [image]);
    assert.deepEqual(await site.library.image(fingerprint.slice(0, 12)), image);
    const read = site.results.map((result) => result.read);
    assert.deepEqual(read, [{ files: 0, bytes: 0 }]);
    assert.deepEqual(
      site.results.flatMap(({ problems }) => problems),
      [],
    );
  });

  test('is the same after all is read anew', async (t) => {
    const site = await librarySite(t);
    const before = await upload(site, await splitParts(), { aliases: ['vim'] });
    const documents = await readFile(join(site.root, 'streams/v1/images.json'), 'utf8');
    const { read, published } = await site.runner.update({ rebuild: true, passing: true });
    assert.equal(read.files, 3);
    assert.deepEqual(published, []);
    assert.equal(await readFile(join(site.root, 'streams/v1/images.json'), 'utf8'), documents);
    assert.deepEqual(await site.library.images(), [before]);
  });

  test('can be read by all, whatever the umask, when it is in its place and not before', async (t) => {
    const site = await librarySite(t);
    const old = process.umask(0o077);
    t.after(() => process.umask(old));
    const parts = await splitParts();
    const going = await site.library.begin({ signal: new AbortController().signal });
    await going.write('metadata', piecesOf(parts.metadata));
    const [id = ''] = await staged(site);
    for (const folder of ['.staging', `.staging/${id}`]) {
      assert.equal((await stat(join(site.root, folder))).mode & 0o777, 0o700);
    }
    await going.write('rootfs', piecesOf(parts.rootfs));
    await going.finish({ aliases: ['vim'] });
    for (const name of await treeOf(site)) {
      const { mode } = await stat(join(site.root, 'images', name));
      const wanted = /\.(?:xz|squashfs|json|yaml)$/.test(name) ? 0o644 : 0o755;
      assert.equal(mode & 0o777, wanted, name);
    }
  });

  const forms: [name: string, parts: () => Promise<Parts>, files: string[], type: string][] = [
    [
      'a disk',
      async () => ({ ...(await splitParts()), rootfs: qcow2() }),
      ['lxd.tar.xz', 'disk.qcow2'],
      'virtual-machine',
    ],
    [
      'a root file system in an archive',
      async () => ({
        ...(await splitParts()),
        rootfs: gzipSync(await archive([{ name: 'etc', type: 'directory' }])),
      }),
      ['lxd.tar.xz', 'rootfs.tar.xz'],
      'container',
    ],
    [
      'metadata in a plain archive',
      async () => ({
        ...(await splitParts()),
        metadata: await metadataOf(metadataYaml({ os: 'demo', release: 'box' }), 'none'),
      }),
      ['lxd.tar.xz', 'rootfs.squashfs'],
      'container',
    ],
    ['one archive with all', () => unified('rootfs/etc'), ['lxd_combined.tar.gz'], 'container'],
    [
      'one archive with a disk',
      () => unified('rootfs.img'),
      ['lxd_combined.tar.gz'],
      'virtual-machine',
    ],
    [
      'one large archive with a disk',
      () => unified('rootfs.img', randomBytes(9 * 1024 * 1024)),
      ['lxd_combined.tar.gz'],
      'virtual-machine',
    ],
  ];
  for (const [name, parts, files, type] of forms) {
    test(`of ${name} has the file names of its content and its type, also after a restart`, async (t) => {
      const site = await librarySite(t);
      const image = await upload(site, await parts());
      const names = image.files.map(({ path }) => path.split('/').at(-1));
      assert.deepEqual(names, files);
      assert.equal(image.type, type);
      assert.deepEqual(site.results.at(-1)?.read, { files: 0, bytes: 0 });
      await site.close();
      const later = await librarySite(t, { root: site.root });
      assert.deepEqual(await later.library.images(), [image]);
    });
  }

  test('of xz and zstd is taken as well', needs('xz', 'zstd'), async (t) => {
    const site = await librarySite(t);
    for (const compression of ['xz', 'zstd'] as const) {
      const metadata = await metadataOf(
        metadataYaml({ os: compression, release: 'box' }),
        compression,
      );
      const image = await upload(site, { metadata, rootfs: squashfs(compression) });
      assert.equal(image.product, `${compression}/box/amd64/default`);
    }
    assert.deepEqual(
      site.results.map(({ read }) => read.files),
      [0, 0],
    );
  });

  test('of bzip2 goes by what is told of it, or is refused', needs('bzip2'), async (t) => {
    const site = await librarySite(t);
    const metadata = await filter('bzip2', ['--stdout'], await metadataOf(metadataYaml(), 'none'));
    const parts = { metadata, rootfs: squashfs('bz') };
    await assert.rejects(upload(site, parts, { properties: { os: 'a', release: 'b' } }), {
      code: 'IMAGE_INVALID',
      message: /compressed/,
    });
    await assertNothing(site);
    const properties = { os: 'a', release: 'b', architecture: 'aarch64' };
    assert.equal((await upload(site, parts, { properties })).product, 'a/b/arm64/default');
  });

  test('into a product that is there leaves its file and versions as they are', async (t) => {
    const site = await librarySite(t);
    await addVersion(site.root, 'demo/box/amd64/default/20250101');
    const yaml = join(site.root, 'images/demo/box/amd64/default/product.yaml');
    await writeFile(yaml, '# ours\nrelease_title: Box\naliases: [old]\n');
    const image = await upload(site, await splitParts(), { aliases: ['new', 'old'] });
    assert.equal(await readFile(yaml, 'utf8'), '# ours\nrelease_title: Box\naliases: [old, new]\n');
    assert.deepEqual(image.aliases.slice(-2), ['old', 'new']);
  });
});

describe('of uploads at once', () => {
  test('the same image is taken once', async (t) => {
    const site = await librarySite(t);
    const parts = await splitParts();
    const ends = await Promise.allSettled(Array.from({ length: 4 }, () => upload(site, parts)));
    const codes = ends.map((end) => (end.status === 'fulfilled' ? 'done' : end.reason.code)).sort();
    assert.deepEqual(codes, ['IMAGE_EXISTS', 'IMAGE_EXISTS', 'IMAGE_EXISTS', 'done']);
    assert.equal((await site.library.images()).length, 1);
    assert.deepEqual(await staged(site), []);
    await assert.rejects(upload(site, parts), { code: 'IMAGE_EXISTS' });
  });

  test('different images of one time have versions of their own, and names once', async (t) => {
    const site = await librarySite(t);
    await mkdir(join(site.root, 'images', place), { recursive: true });
    const seeds = ['a', 'b', 'c', 'd', 'e'];
    const images = await Promise.all(
      seeds.map(async (seed) => upload(site, await splitParts(seed))),
    );
    const versions = images.map(({ version }) => version).sort();
    assert.deepEqual(versions, [
      '20260101_00:00:00',
      '20260101_00:00:00-02',
      '20260101_00:00:00-03',
      '20260101_00:00:00-04',
      '20260101_00:00:00-05',
    ]);
    const fingerprints = (await site.library.images()).map(({ fingerprint }) => fingerprint);
    assert.deepEqual(fingerprints.sort(), images.map(({ fingerprint }) => fingerprint).sort());
    assert.deepEqual(
      site.results.flatMap(({ read }) => read.files),
      site.results.map(() => 0),
    );
  });

  test('one gets an alias that two products want', async (t) => {
    const site = await librarySite(t);
    const ends = await Promise.allSettled(
      ['a', 'b', 'c'].map(async (release) =>
        upload(site, await splitParts(release, { os: 'demo', release }), { aliases: ['mine'] }),
      ),
    );
    const codes = ends.map((end) => (end.status === 'fulfilled' ? 'done' : end.reason.code)).sort();
    assert.deepEqual(codes, ['ALIAS_EXISTS', 'ALIAS_EXISTS', 'done']);
    assert.equal((await site.library.images()).length, 1);
    assert.equal((await treeOf(site)).filter((name) => name.endsWith('default')).length, 1);
  });
});

describe('a name that the folders of a new product would have', () => {
  const variant = { os: 'demo', release: 'box', variant: 'cloud' };
  const first = { os: 'demo', release: 'box' };

  test('is not taken from the product that has it as an alias', async (t) => {
    const site = await librarySite(t);
    await upload(site, await splitParts('1', variant), { aliases: ['demo/box'] });
    const before = await treeOf(site);
    await assert.rejects(upload(site, await splitParts('2', first)), {
      code: 'ALIAS_EXISTS',
      message: 'The alias "demo/box" belongs to demo/box/amd64/cloud already',
      hint: /^delete it first, or choose another os/,
    });
    assert.deepEqual(await treeOf(site), before);
    await site.library.removeAlias('demo/box');
    await upload(site, await splitParts('2', first));
  });

  test('was taken in the tree already: then uploads go on', async (t) => {
    const site = await librarySite(t, { settle: 0 });
    await upload(site, await splitParts('1', first));
    const products = ['default', 'cloud'].map((type) =>
      join(site.root, 'images/demo/box/amd64', type),
    );
    const [taken = '', taker = ''] = products;
    await cp(taken, taker, { recursive: true });
    await writeFile(join(taker, 'product.yaml'), 'aliases: [demo/box]\n');
    const { problems } = await site.runner.update({ rebuild: true, passing: true });
    assert.deepEqual(
      problems.map(({ code }) => code),
      ['alias'],
    );
    await upload(site, await splitParts('2', first));
  });
});

/** Metadata and root in one archive; `root` is a file of the root file system, or its disk. */
async function unified(root: string, content: string | Uint8Array = 'root'): Promise<Parts> {
  const entries = [
    { name: 'metadata.yaml', content: metadataYaml({ os: 'demo', release: 'box' }) },
    // Unpacking gives the root later than metadata.yaml.
    { name: 'templates/hostname.tpl', content: 'x'.repeat(1_000_000) },
    { name: root, content },
  ];
  const files = entries.map((entry) => ({ ...entry, type: 'file' }) as const);
  return { unified: gzipSync(await archive(files)) };
}

describe('an upload is refused, and nothing of it stays,', () => {
  const good = () => splitParts();
  const yaml = async (text: string) => ({ metadata: await metadataOf(text), rootfs: squashfs() });
  const cases: [
    name: string,
    parts: () => Promise<Parts>,
    facts: UploadFacts,
    code: string,
    text: RegExp,
  ][] = [
    [
      'with another fingerprint',
      good,
      { fingerprint: 'a'.repeat(64) },
      'IMAGE_INVALID',
      /fingerprint/,
    ],
    ['of nothing', async () => ({}), {}, 'IMAGE_INVALID', /No image/],
    [
      'of metadata alone',
      async () => ({ metadata: (await good()).metadata }),
      {},
      'IMAGE_INVALID',
      /root file system is missing/,
    ],
    [
      'of a root file alone',
      async () => ({ rootfs: squashfs() }),
      {},
      'IMAGE_INVALID',
      /cannot come after nothing/,
    ],
    [
      'of parts in the wrong order',
      async () => ({ unified: (await good()).metadata, rootfs: squashfs() }),
      {},
      'IMAGE_INVALID',
      /cannot come after unified/,
    ],
    [
      'of an empty part',
      async () => ({ ...(await good()), rootfs: Buffer.alloc(0) }),
      {},
      'IMAGE_INVALID',
      /rootfs file is empty/,
    ],
    [
      'of a root file that is none',
      async () => ({ ...(await good()), rootfs: Buffer.from('MZ program') }),
      {},
      'IMAGE_INVALID',
      /neither squashfs/,
    ],
    [
      'of metadata that are none',
      async () => ({ ...(await good()), metadata: squashfs() }),
      {},
      'IMAGE_INVALID',
      /no tar archive/,
    ],
    [
      'of a squashfs cut short',
      async () => ({ ...(await good()), rootfs: squashfs('', 9000).subarray(0, 5000) }),
      {},
      'IMAGE_INVALID',
      /cut short/,
    ],
    [
      'of a disk cut short',
      async () => ({ ...(await good()), rootfs: qcow2('', 9000).subarray(0, 200) }),
      {},
      'IMAGE_INVALID',
      /cut short/,
    ],
    [
      'of an archive cut short',
      async () => ({ ...(await good()), metadata: (await good()).metadata.subarray(0, -9) }),
      {},
      'IMAGE_INVALID',
      /cut short|damaged/,
    ],
    [
      'without metadata.yaml',
      async () => ({
        ...(await good()),
        metadata: gzipSync(await archive([{ name: 'a', type: 'directory' }])),
      }),
      {},
      'IMAGE_INVALID',
      /no metadata.yaml/,
    ],
    [
      'with a bomb',
      async () => ({ ...(await good()), metadata: gzipSync(Buffer.alloc(70 * 1024 * 1024)) }),
      {},
      'IMAGE_INVALID',
      /unpacks to more|not a tar/,
    ],
    [
      'with a huge metadata.yaml',
      () => yaml(`# ${'x'.repeat(1024 * 1024)}`),
      {},
      'IMAGE_INVALID',
      /more than 1 MiB/,
    ],
    [
      'with YAML that refers to itself many times',
      () => yaml('a: &a [x,x]\nb: &b [*a,*a]\nproperties: {os: *b}'),
      {},
      'IMAGE_INVALID',
      /not a text/,
    ],
    [
      'without an architecture',
      () => yaml('properties: {os: a, release: b}'),
      {},
      'IMAGE_INVALID',
      /no architecture/,
    ],
    [
      'with an unknown architecture',
      () => yaml('architecture: ../../vax'),
      {},
      'IMAGE_INVALID',
      /vax/,
    ],
    [
      'with properties that are none',
      good,
      { properties: { 'a\nb': 'c' } },
      'IMAGE_INVALID',
      /control characters/,
    ],
    [
      'with a long property',
      good,
      { properties: { a: 'x'.repeat(5000) } },
      'IMAGE_INVALID',
      /longer/,
    ],
    [
      'with an alias that is none',
      good,
      { aliases: ['../up'] },
      'IMAGE_INVALID',
      /cannot be an alias/,
    ],
    [
      'with too many aliases',
      good,
      { aliases: Array.from({ length: 101 }, (_unused, at) => `a${at}`) },
      'IMAGE_INVALID',
      /more than 100/,
    ],
  ];
  for (const [name, parts, facts, code, text] of cases) {
    test(name, async (t) => {
      const site = await librarySite(t);
      await assert.rejects(upload(site, await parts(), facts), {
        name: 'ServerError',
        code,
        message: text,
      });
      await assertNothing(site);
    });
  }

  test('where it is too large, while it comes', async (t) => {
    const site = await librarySite(t, { maxSize: 500_000 });
    let given = 0;
    const endless = (async function* () {
      for (;;) {
        given += 65_536;
        yield new Uint8Array(65_536);
      }
    })();
    const going = await site.library.begin({ signal: new AbortController().signal });
    await assert.rejects(going.write('unified', endless), { code: 'TOO_LARGE' });
    assert.equal(given, 8 * 65_536);
    await assert.rejects(going.finish({}), { code: 'IMAGE_INVALID' });
    await going.discard();
    await assertNothing(site);
  });

  test('where its source fails, with what that says', async (t) => {
    const site = await librarySite(t);
    const broken = new Error('cut off');
    const source = (async function* () {
      yield new Uint8Array(10);
      throw broken;
    })();
    const going = await site.library.begin({ signal: new AbortController().signal });
    await assert.rejects(going.write('metadata', source), (error) => error === broken);
    await assert.rejects(going.write('metadata', piecesOf(squashfs())), { code: 'IMAGE_INVALID' });
    await going.discard();
    await assertNothing(site);
  });

  test('where its source hangs and it is cancelled, in each way', async (t) => {
    const site = await librarySite(t);
    const hanging = (pulled: () => void): AsyncIterable<Uint8Array> => ({
      [Symbol.asyncIterator]: () => ({
        next: () => {
          pulled();
          return new Promise(() => {});
        },
      }),
    });
    const ways: ((going: Upload, caller: AbortController) => Promise<void>)[] = [
      async (going, caller) => {
        caller.abort();
        await going.discard();
      },
      (going) => going.discard(),
      () => site.close(),
    ];
    for (const way of ways) {
      const caller = new AbortController();
      const going = await site.library.begin({ signal: caller.signal });
      let writing: Promise<number> | undefined;
      await new Promise<void>((pulled) => {
        writing = going.write('metadata', hanging(pulled));
      });
      const refused = assert.rejects(writing as Promise<number>, { code: 'INTERRUPTED' });
      await way(going, caller);
      await refused;
      assert.deepEqual(await staged(site), []);
    }
    await assert.rejects(site.library.begin({ signal: new AbortController().signal }), {
      code: 'INTERRUPTED',
    });
  });

  test('where the server takes none, which can change', async (t) => {
    const site = await librarySite(t);
    const signal = new AbortController().signal;
    const set = (enabled: boolean) =>
      site.library.configure({ ...site.config, uploads: { enabled, maxSize: 1e9 } });
    set(false);
    await assert.rejects(site.library.begin({ signal }), { code: 'UPLOADS_OFF' });
    assert.deepEqual(await staged(site), []);
    set(true);
    await upload(site, await splitParts());
  });

  test('where a product lies behind a symbolic link', async (t) => {
    const site = await librarySite(t);
    const outside = join(site.root, 'outside');
    await mkdir(outside);
    await symlink(outside, join(site.root, 'images/demo'));
    await assert.rejects(upload(site, await splitParts()), { code: 'IO', message: /not a folder/ });
    assert.deepEqual(await treeOf(site), ['demo']);
    assert.deepEqual(await staged(site), []);
  });

  test('where the file of its product cannot be used', async (t) => {
    const site = await librarySite(t);
    const product = 'demo/box/amd64/default';
    await addVersion(site.root, `${product}/20250101`);
    await writeFile(join(site.root, 'images', product, 'product.yaml'), 'os: [broken');
    const tree = await treeOf(site);
    await assert.rejects(upload(site, await splitParts(), { aliases: ['mine'] }), {
      code: 'IMAGE_INVALID',
      message: /product.yaml cannot be used/,
    });
    assert.deepEqual(await treeOf(site), tree);
    assert.deepEqual(await staged(site), []);
    await upload(site, await splitParts());
  });

  test('where it is held back, with the reason', async (t) => {
    const site = await librarySite(t, {
      runner: (runner) => ({
        ...runner,
        async publish(folder) {
          await writeFile(join(site.root, 'images', place, 'more.part'), '');
          return runner.publish(folder);
        },
      }),
    });
    await assert.rejects(upload(site, await splitParts(), { aliases: ['mine'] }), {
      code: 'IMAGE_INVALID',
      message: /^It cannot be published: .*more.part/,
    });
    await assertNothing(site);
  });

  test('unless another run has published it', async (t) => {
    const failure = new ServerError('IO', 'not this one');
    const site = await librarySite(t, {
      runner: (runner) => ({
        ...runner,
        async publish(folder) {
          await runner.publish(folder);
          throw failure;
        },
      }),
    });
    const image = await upload(site, await splitParts());
    assert.deepEqual(await site.library.images(), [image]);
  });

  test('where the documents cannot be written, and nothing of it is published later', async (t) => {
    const site = await librarySite(t);
    const other = await upload(site, await splitParts('other', { os: 'other', release: 'x' }));
    const streams = join(site.root, 'streams/v1');
    await writeFile(join(site.root, 'streams/blocked'), '');
    await rename(streams, `${streams}.away`);
    await writeFile(streams, 'no folder');
    await assert.rejects(upload(site, await splitParts(), { aliases: ['mine'] }), {
      name: 'ServerError',
    });
    await rename(streams, `${streams}.file`);
    await rename(`${streams}.away`, streams);
    await site.runner.update({ passing: true });
    assert.deepEqual(await site.library.images(), [other]);
    assert.ok(!(await treeOf(site)).includes('demo'));
    assert.deepEqual(await staged(site), []);
  });
});

test('whatever an upload says of itself, it is in the tree and published, or nothing of it is', async (t) => {
  const site = await librarySite(t);
  const text = fc.oneof(
    fc.constantFrom(
      '../up',
      'a/../../b',
      '\0',
      'a\nb',
      '.',
      '',
      'x.part',
      'x~',
      '-',
      'é',
      '\u202e',
      'x'.repeat(5000),
    ),
    fc.string({ unit: 'binary', maxLength: 12 }),
    fc.constantFrom('demo', 'box', 'demo/box', '22.04'),
  );
  const properties = fc.dictionary(
    fc.constantFrom('os', 'release', 'variant', 'architecture', 'x'),
    text,
  );
  const yaml = fc.oneof(
    {
      weight: 4,
      arbitrary: properties.map((given) =>
        JSON.stringify({ architecture: 'x86_64', properties: given }),
      ),
    },
    { weight: 1, arbitrary: fc.json().map((json) => `architecture: x86_64\nproperties: ${json}`) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 50 }) },
  );
  const aliases = fc.array(text, { maxLength: 2 });
  const facts = fc.record({ properties, aliases }, { requiredKeys: [] });
  let number = 0;
  let taken = 0;
  await fc.assert(
    fc.asyncProperty(yaml, facts, async (yamlText, told) => {
      const parts = { metadata: await metadataOf(yamlText), rootfs: squashfs(String(number++)) };
      const before = await publishedPaths(site).catch(() => []);
      const tree = await treeOf(site);
      const ended = await upload(site, parts, told).catch((error: unknown) => error);
      assert.deepEqual(await staged(site), []);
      assert.deepEqual((await readdir(site.root)).sort().slice(0, 2), ['.staging', 'images']);
      if (ended instanceof ServerError) {
        assert.ok(['IMAGE_INVALID', 'ALIAS_EXISTS'].includes(ended.code), ended.message);
        assert.deepEqual(await publishedPaths(site).catch(() => []), before);
        assert.deepEqual(await treeOf(site), tree);
        return;
      }
      taken++;
      const { files, product, version } = ended as LibraryImage;
      const paths = await publishedPaths(site);
      assert.equal(paths.length, before.length + 2);
      for (const { path } of files) {
        assert.ok(path.startsWith(`images/${product}/${version}/`) && paths.includes(path), path);
      }
    }),
    { numRuns: 150 },
  );
  assert.ok(taken > 10, `only ${taken} were taken`);
  const { problems, published } = await site.runner.update({ rebuild: true, passing: true });
  assert.deepEqual([problems, published], [[], []]);
});
