import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { createPageKeeper } from '../../src/disk/page.js';
import { memoryLog } from '../support/memory-log.js';
import { temporaryFolder } from '../support/temporary.js';

const pageOf = (text: string) =>
  `<!doctype html><meta name="generator" content="lxd-image-server"><p>${text}</p>`;
const foreign = '<!doctype html><title>Our own</title>';

/** A root without a page, and a program with one. */
async function setUp(t: TestContext) {
  const folder = await temporaryFolder(t);
  const [root, pagesDir] = [join(folder, 'root'), join(folder, 'pages')];
  await Promise.all([root, pagesDir].map((each) => mkdir(each)));
  const [file, packaged] = [join(root, 'index.html'), join(pagesDir, 'index.html')];
  await writeFile(packaged, pageOf('new'));
  const { log, events } = memoryLog();
  const warnings = () => events.map(({ msg }) => msg);
  return { root, file, packaged, warnings, keeper: createPageKeeper({ root, pagesDir, log }) };
}

describe('the catalogue page', () => {
  test('is put where there is none, for everyone to read', async (t) => {
    const umask = process.umask(0o077);
    t.after(() => process.umask(umask));
    const { root, file, keeper } = await setUp(t);
    assert.deepEqual(await keeper.publish(), ['index.html']);
    assert.equal(await readFile(file, 'utf8'), pageOf('new'));
    assert.equal((await stat(file)).mode & 0o777, 0o644);
    assert.deepEqual(await readdir(root), ['index.html']);
  });

  test('is left alone where it is in place', async (t) => {
    const { file, keeper } = await setUp(t);
    await keeper.publish();
    const { ino, ctimeMs } = await stat(file);
    assert.deepEqual(await keeper.publish(), []);
    const after = await stat(file);
    assert.deepEqual([after.ino, after.ctimeMs], [ino, ctimeMs]);
  });

  test('takes the place of another of ours, as of an older version', async (t) => {
    const { file, keeper } = await setUp(t);
    await writeFile(file, pageOf('old'));
    assert.deepEqual(await keeper.publish(), ['index.html']);
    assert.equal(await readFile(file, 'utf8'), pageOf('new'));
  });

  test('is replaced when the program gets another', async (t) => {
    const { file, packaged, keeper } = await setUp(t);
    await keeper.publish();
    const before = await keeper.present();
    await writeFile(packaged, pageOf('newer still'));
    assert.notEqual(await keeper.present(), before);
    assert.deepEqual(await keeper.publish(), ['index.html']);
    assert.equal(await readFile(file, 'utf8'), pageOf('newer still'));
  });

  test('is written anew where not everyone can read it', async (t) => {
    const { file, keeper } = await setUp(t);
    await keeper.publish();
    await chmod(file, 0o600);
    assert.deepEqual(await keeper.publish(), ['index.html']);
    assert.equal((await stat(file)).mode & 0o777, 0o644);
  });

  const others: [string, (file: string) => Promise<void>][] = [
    ['a page of an administrator', (file) => writeFile(file, foreign)],
    ['a page that names us far below', (file) => writeFile(file, ' '.repeat(5000) + pageOf('x'))],
    ['an empty page', (file) => writeFile(file, '')],
    ['a folder', (file) => mkdir(file)],
    ['a link to nowhere', (file) => symlink('nowhere', file)],
    [
      'a link to one of ours',
      async (file) => {
        await writeFile(`${file}.old`, pageOf('old'));
        await symlink('index.html.old', file);
      },
    ],
  ];
  for (const [what, arrange] of others) {
    test(`never takes the place of ${what}`, async (t) => {
      const { root, file, keeper } = await setUp(t);
      await arrange(file);
      const before = await stateOf(root);
      assert.deepEqual(await keeper.publish(), []);
      assert.deepEqual(await stateOf(root), before);
    });
  }

  test('that cannot be written costs no publication, and is told of once', async (t) => {
    const { root, keeper, warnings } = await setUp(t);
    await rm(root, { recursive: true });
    assert.deepEqual(await keeper.publish(), []);
    assert.deepEqual(await keeper.publish(), []);
    assert.deepEqual(warnings(), ['the catalogue page cannot be put in place']);
  });

  test('that the program lacks is told of, and the one that is there stays', async (t) => {
    const { file, packaged, keeper, warnings } = await setUp(t);
    await keeper.publish();
    await rm(packaged);
    assert.deepEqual(await keeper.publish(), []);
    assert.equal(await readFile(file, 'utf8'), pageOf('new'));
    assert.deepEqual(warnings(), ['the catalogue page cannot be put in place']);
  });

  test('leaves nothing behind of a write that was killed', async (t) => {
    const { root, keeper } = await setUp(t);
    await writeFile(join(root, '.index.html.a1b2c3'), 'half');
    await keeper.publish();
    assert.deepEqual(await readdir(root), ['index.html']);
  });
});

describe('what mirrors get', () => {
  test('is the page that is there, also an administrator’s own', async (t) => {
    const { file, keeper } = await setUp(t);
    assert.equal(await keeper.content(), undefined);
    await writeFile(file, foreign);
    assert.equal((await keeper.content())?.toString(), foreign);
  });

  test('is what a link in the root leads to, but nothing outside of it', async (t) => {
    const { root, file, packaged, keeper, warnings } = await setUp(t);
    await writeFile(join(root, 'own.html'), foreign);
    await symlink('own.html', file);
    assert.equal((await keeper.content())?.toString(), foreign);
    await rm(file);
    await symlink(packaged, file);
    assert.equal(await keeper.content(), undefined);
    assert.deepEqual(warnings(), ['mirrors do not get the catalogue page']);
  });

  test('is no page of several megabytes', async (t) => {
    const { file, keeper, warnings } = await setUp(t);
    await writeFile(file, Buffer.alloc(4 * 2 ** 20 + 1));
    assert.equal(await keeper.content(), undefined);
    assert.deepEqual(warnings(), ['mirrors do not get the catalogue page']);
  });
});

/** What there is in `root`, with what tells that it was written anew. */
async function stateOf(root: string): Promise<unknown> {
  const names = (await readdir(root)).sort();
  return await Promise.all(
    names.map(async (name) => {
      const found = await stat(join(root, name)).catch(() => undefined);
      return [name, found?.ino, found?.ctimeMs];
    }),
  );
}
