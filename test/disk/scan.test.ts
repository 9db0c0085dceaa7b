import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import {
  chmod,
  chown,
  link,
  lstat,
  mkdir,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import type { Problem, ProductFolder } from '../../src/catalog/tree.js';
import { listProducts, scanProduct } from '../../src/disk/scan.js';
import { run } from '../support/command.js';
import { type Files, writeFiles } from '../support/image-tree.js';
import { source } from '../support/module.js';
import { needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

const product = 'demo/noble/amd64/default';
const version = `${product}/20260101`;

interface Found {
  /** `product/version/file`, and `product/product.yaml`. */
  files: string[];
  temporaries: string[];
  /** `code path`. */
  problems: string[];
}

function scanAll(imagesDir: string): Found {
  const { products, problems } = listProducts(imagesDir);
  return summary(
    products.map((address) => scanProduct(imagesDir, address)),
    problems,
  );
}

function summary(folders: readonly ProductFolder[], problems: readonly Problem[]): Found {
  const files: string[] = [];
  const temporaries: string[] = [];
  const told = [...problems];
  for (const { env, release, arch, type, yaml, versions, problems } of folders) {
    const path = `${env}/${release}/${arch}/${type}`;
    if (yaml !== undefined) files.push(`${path}/${yaml.name}`);
    for (const version of versions) {
      files.push(...version.files.map(({ name }) => `${path}/${version.name}/${name}`));
      temporaries.push(...version.temporaries);
    }
    told.push(...problems);
  }
  return { files, temporaries, problems: told.map(({ code, path }) => `${code} ${path}`).sort() };
}

/** An images folder with these files in {@link version}. */
async function treeWith(t: TestContext, files: Files = {}): Promise<string> {
  const images = join(await temporaryFolder(t), 'images');
  await writeFiles(join(images, version), files);
  return images;
}

test('a scan takes up files with size, times and a stamp, sorted by name', async (t) => {
  const images = await treeWith(t, { b: '22', a: '1', Z: '333' });
  await writeFile(join(images, product, 'product.yaml'), 'os: x\n');
  await utimes(join(images, version, 'a'), 1, 1_700_000_000.5);
  const folder = scanProduct(images, ['demo', 'noble', 'amd64', 'default']);
  const [{ files = [] } = {}] = folder.versions;
  assert.deepEqual(
    files.map(({ name, size }) => [name, size]),
    [
      ['Z', 3],
      ['a', 1],
      ['b', 2],
    ],
  );
  const { ino, ctimeMs } = await lstat(join(images, version, 'a'));
  assert.equal(files[1]?.modified, 1_700_000_000_500);
  assert.equal(files[1]?.touched, Math.floor(ctimeMs));
  assert.match(files[1]?.stamp ?? '', new RegExp(`^1-1700000000500000000-${ino}$`));
  assert.equal(folder.yaml?.name, 'product.yaml');
  assert.deepEqual(folder.problems, []);
});

test('products and versions come in the order of their names', async (t) => {
  const images = await treeWith(t);
  const paths = [
    'demo/noble/arm64/default/20260101',
    'a/b/c/d/20260102',
    'a/b/c/d/20260101',
    'A/b/c/d/1',
  ];
  for (const path of paths) await mkdir(join(images, path), { recursive: true });
  const { products } = listProducts(images);
  const order = ['A/b/c/d', 'a/b/c/d', product, 'demo/noble/arm64/default'];
  assert.deepEqual(
    products.map((address) => address.join('/')),
    order,
  );
  const { versions } = scanProduct(images, ['a', 'b', 'c', 'd']);
  assert.deepEqual(
    versions.map(({ name }) => name),
    ['20260101', '20260102'],
  );
});

test('an empty images folder has nothing, one that is missing is an error', async (t) => {
  const images = await temporaryFolder(t);
  assert.deepEqual(scanAll(images), { files: [], temporaries: [], problems: [] });
  assert.throws(() => listProducts(join(images, 'missing')), { code: 'ENOENT' });
});

suite('names', () => {
  test('that are hidden are passed over in silence', async (t) => {
    const images = await treeWith(t, { '.hidden': 'x', a: 'x' });
    for (const path of ['.staging/b/c/d/20260101', `${product}/.old`]) {
      await mkdir(join(images, path), { recursive: true });
    }
    assert.deepEqual(scanAll(images), { files: [`${version}/a`], temporaries: [], problems: [] });
  });

  test('of uploads under way are told apart', async (t) => {
    const names = ['.a.Ab12Cd', 'a.part', 'b.filepart', 'c~', 'd.tmp', 'e.partial'];
    const images = await treeWith(
      t,
      Object.fromEntries([...names, 'a'].map((name) => [name, 'x'])),
    );
    const found = scanAll(images);
    assert.deepEqual(found.files, [`${version}/a`]);
    assert.deepEqual(found.temporaries.toSorted(), names.toSorted());
    assert.deepEqual(found.problems, []);
  });

  const wrong: { name: string; shown: string }[] = [
    { name: 'with space', shown: 'with space' },
    { name: 'new\nline', shown: 'new\\u000aline' },
    { name: 'esc\u001b[0m', shown: 'esc\\u001b[0m' },
    { name: '-option', shown: '-option' },
    { name: 'ümlaut', shown: 'ümlaut' },
    { name: 'a\\b', shown: 'a\\b' },
    { name: '"quoted"', shown: '"quoted"' },
    { name: '%2e%2e', shown: '%2e%2e' },
  ];
  for (const { name, shown } of wrong) {
    test(`such as ${JSON.stringify(name)} are reported, wherever they stand`, async (t) => {
      const images = await treeWith(t, { a: 'x', [name]: 'x' });
      const places = ['', 'demo/', 'demo/noble/', 'demo/noble/amd64/', `${product}/`];
      for (const place of places) await mkdir(join(images, place, name));
      const found = scanAll(images);
      assert.deepEqual(found.files, [`${version}/a`]);
      const paths = [...places, `${version}/`].map((place) => `name ${place}${shown}`);
      assert.deepEqual(found.problems, paths.sort());
    });
  }

  test('that are not UTF-8 are reported by their bytes', async (t) => {
    const images = await treeWith(t);
    const raw = (path: string, ...bytes: number[]) =>
      Buffer.concat([Buffer.from(`${images}/${path}`), Buffer.from(bytes)]);
    writeFileSync(raw(`${version}/x`, 0xff, 0x0a), 'x');
    mkdirSync(raw('demo/', 0xc3, 0x28));
    assert.deepEqual(scanAll(images).problems, ['name demo/\\xc3(', `name ${version}/x\\xff\\x0a`]);
  });

  test('of 255 characters are taken', async (t) => {
    const images = await treeWith(t, { ['a'.repeat(255)]: 'x' });
    assert.deepEqual(scanAll(images).files, [`${version}/${'a'.repeat(255)}`]);
  });
});

suite('symbolic links', () => {
  test('to files and versions of the tree are followed', async (t) => {
    const images = await treeWith(t, { a: '12345' });
    await symlink('a', join(images, version, 'b'));
    await symlink('20260101', join(images, product, '20260102'));
    const found = scanAll(images);
    const versions = ['20260101', '20260102'].flatMap((name) => [`${name}/a`, `${name}/b`]);
    const paths = versions.map((path) => `demo/noble/amd64/default/${path}`);
    assert.deepEqual(found, { files: paths, temporaries: [], problems: [] });
    const [{ files = [] } = {}] = scanProduct(images, [
      'demo',
      'noble',
      'amd64',
      'default',
    ]).versions;
    assert.equal(files[1]?.stamp, files[0]?.stamp);
    assert.equal(files[1]?.size, 5);
  });

  const targets: { what: string; target: (images: string) => string }[] = [
    { what: 'out of the tree', target: () => '/etc/passwd' },
    { what: 'to a folder out of the tree', target: () => '/etc' },
    { what: 'to the root of the file system', target: () => '/' },
    { what: 'to the images folder itself', target: (images) => images },
    {
      what: 'to a folder whose name begins as that of the images',
      target: (images) => `${images}-old`,
    },
    { what: 'to a hidden file of the tree', target: (images) => join(images, version, '.hidden') },
    { what: 'to nothing', target: () => 'nothing' },
    { what: 'to itself', target: () => 'link' },
    { what: 'through a file', target: () => 'a/b' },
  ];
  for (const { what, target } of targets) {
    test(`${what} are reported, wherever they stand`, async (t) => {
      const images = await treeWith(t, { a: 'x', '.hidden': 'x' });
      await mkdir(`${images}-old`);
      const places = ['', 'demo/', 'demo/noble/', `${product}/`, `${version}/`];
      for (const place of places) await symlink(target(images), join(images, place, 'link'));
      const found = scanAll(images);
      assert.deepEqual(found.files, [`${version}/a`]);
      assert.deepEqual(found.problems, places.map((place) => `link ${place}link`).sort());
    });
  }

  test('of folders above the versions, and to other levels, are reported: they would multiply', async (t) => {
    const images = await treeWith(t, { a: 'x' });
    await symlink('demo', join(images, 'env'));
    await symlink('noble', join(images, 'demo/release'));
    await symlink('default', join(images, 'demo/noble/amd64/type'));
    await symlink('../../../../demo', join(images, product, '20260102'));
    await symlink(join(images, version, 'a'), join(images, product, 'product.yaml'));
    const found = scanAll(images);
    assert.deepEqual(found.files, [`${version}/a`]);
    const links = ['env', 'demo/release', 'demo/noble/amd64/type'];
    assert.deepEqual(
      found.problems,
      [...links, `${product}/20260102`, `${product}/product.yaml`]
        .map((path) => `link ${path}`)
        .sort(),
    );
  });

  test('in circles of folders end', async (t) => {
    const images = await treeWith(t, { a: 'x' });
    for (const place of ['demo', 'demo/noble', 'demo/noble/amd64', product, version]) {
      await symlink('.', join(images, place, 'loop'));
      await symlink('..', join(images, place, 'up'));
    }
    const { files } = scanAll(images);
    assert.deepEqual(files, [`${version}/a`]);
  });

  test(
    'to what another user owns are reported: nginx would not follow them',
    needsRoot(),
    async (t) => {
      const images = await treeWith(t, { a: 'x' });
      await symlink('a', join(images, version, 'b'));
      await chown(join(images, version, 'a'), 1, 1);
      assert.deepEqual(scanAll(images).problems, [`link ${version}/b`]);
    },
  );
});

test('a file that only its owner may read is reported: the web server is someone else', async (t) => {
  const images = await treeWith(t, { a: 'x', b: 'x', c: 'x' });
  await chmod(join(images, version, 'a'), 0o600);
  await chmod(join(images, version, 'b'), 0o640);
  const { files, problems } = scanAll(images);
  assert.deepEqual(files, [`${version}/b`, `${version}/c`]);
  assert.deepEqual(problems, [`unreadable ${version}/a`]);
});

suite('what is neither file nor folder', () => {
  test('is reported: FIFOs, in versions and above, also behind links', async (t) => {
    const images = await treeWith(t, { a: 'x' });
    const places = [join(images, version), join(images, product), images];
    for (const place of places) await run('mkfifo', [join(place, 'fifo')]);
    await symlink('fifo', join(images, version, 'link'));
    const problems = ['kind fifo', `kind ${product}/fifo`, `kind ${version}/fifo`];
    assert.deepEqual(scanAll(images).problems, [...problems, `kind ${version}/link`].sort());
  });

  test('is reported: sockets', async (t) => {
    const images = await treeWith(t);
    const near = await temporaryFolder(t);
    await symlink(join(images, version), join(near, 'v'));
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(near, 'v/sock'), resolve));
    const { problems } = scanAll(images);
    server.close();
    assert.deepEqual(problems, [`kind ${version}/sock`]);
  });

  test('is reported: devices', needsRoot(), async (t) => {
    const images = await treeWith(t);
    await run('mknod', [join(images, version, 'null'), 'c', '1', '3']);
    await run('mknod', [join(images, version, 'disk'), 'b', '7', '0']);
    assert.deepEqual(scanAll(images).problems, [`kind ${version}/disk`, `kind ${version}/null`]);
  });
});

test('hard links are files as any other', async (t) => {
  const images = await treeWith(t, { a: 'x' });
  await link(join(images, version, 'a'), join(images, version, 'b'));
  assert.deepEqual(scanAll(images).files, [`${version}/a`, `${version}/b`]);
});

test('image files outside of versions, and folders in them, are reported; other files are not', async (t) => {
  const images = await treeWith(t, { a: 'x' });
  for (const place of ['', 'demo/', 'demo/noble/amd64/', `${product}/`]) {
    await writeFiles(join(images, place), { 'rootfs.squashfs': 'x', 'README.txt': 'x' });
  }
  await mkdir(join(images, version, 'folder'));
  const misplaced = ['', 'demo/', 'demo/noble/amd64/', `${product}/`].map(
    (place) => `misplaced ${place}rootfs.squashfs`,
  );
  const found = scanAll(images);
  assert.deepEqual(found.files, [`${version}/a`]);
  assert.deepEqual(found.problems, [...misplaced, `misplaced ${version}/folder`].sort());
});

test('a product.yaml counts where it is a file', async (t) => {
  const images = await treeWith(t, { a: 'x' });
  await mkdir(join(images, product, 'product.yaml'));
  assert.equal(scanProduct(images, ['demo', 'noble', 'amd64', 'default']).yaml, undefined);
});

test('what vanishes before it is looked at is not there, and no problem', async (t) => {
  const images = await treeWith(t, { a: 'x' });
  await rm(join(images, product), { recursive: true });
  const folder = scanProduct(images, ['demo', 'noble', 'amd64', 'default']);
  assert.deepEqual([folder.versions, folder.problems], [[], []]);
});

test(
  'folders that may not be listed are one problem each, at every level',
  needsRoot('setpriv'),
  async (t) => {
    const images = await treeWith(t, { a: 'x' });
    const closed = [
      'closed',
      'demo/closed',
      'demo/noble/closed',
      'demo/noble/amd64/closed',
      `${product}/20260102`,
    ];
    for (const path of closed) await mkdir(join(images, path), { mode: 0 });
    await mkdir(join(images, product, '20260103'));
    await writeFiles(join(images, product, '20260103'), { a: 'x' });
    // Names can be listed, but not looked at.
    await run('chmod', ['0400', join(images, product, '20260103')]);
    const code = `
    import { listProducts, scanProduct } from ${source('disk/scan.js')};
    const images = ${JSON.stringify(images)};
    const { products, problems } = listProducts(images);
    const folders = products.map((address) => scanProduct(images, address));
    console.log(JSON.stringify({ folders, problems }));
  `;
    const limit = ['--bounding-set=-all', '--inh-caps=-all', process.execPath];
    const said = await run('setpriv', [...limit, '--input-type=module', '--eval', code]);
    const { folders, problems } = JSON.parse(said) as {
      folders: ProductFolder[];
      problems: Problem[];
    };
    const found = summary(folders, problems);
    assert.deepEqual(found.files, [`${version}/a`]);
    const expected = [...closed, `${product}/20260103/a`].map((path) => `unreadable ${path}`);
    assert.deepEqual(found.problems, expected.sort());
  },
);

test('a version that was renamed or given its times after its files has been placed', async (t) => {
  const images = await treeWith(t, { a: 'x' });
  const folder = join(images, version);
  const look = () => {
    const [found] = scanProduct(images, ['demo', 'noble', 'amd64', 'default']).versions;
    return { placed: found?.placed, id: found?.id };
  };
  const id = String((await stat(folder)).ino);
  assert.deepEqual(look(), { placed: undefined, id });
  const written = (await stat(join(folder, 'a'), { bigint: true })).ctimeNs;
  do await utimes(folder, 1, 1);
  while ((await stat(folder, { bigint: true })).ctimeNs === written);
  assert.deepEqual(look(), { placed: true, id });
  await writeFile(join(folder, 'b'), 'x');
  assert.deepEqual(look(), { placed: undefined, id });
});
