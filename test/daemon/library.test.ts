/** What is asked of the images that are there, and changed in them. */
import assert from 'node:assert/strict';
import { cp, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { removedMark } from '../../src/catalog/tree.js';
import { createHoldings } from '../../src/daemon/holdings.js';
import { createRemovals } from '../../src/daemon/removals.js';
import { createTurns } from '../../src/daemon/turns.js';
import { createStaging } from '../../src/disk/staging.js';
import { markRemoved } from '../../src/disk/version-files.js';
import { writeSums } from '../support/image-tree.js';
import {
  fingerprintOf,
  type LibrarySite,
  librarySite,
  publishedPaths,
  splitParts,
  staged,
  treeOf,
  upload,
} from '../support/library-site.js';
import { memoryLog } from '../support/memory-log.js';

const product = 'demo/box/amd64/default';
const missing = 'f'.repeat(64);

/** Another product than that of {@link splitParts}. */
const other = { os: 'other', release: 'x' };

async function aliasesOf({ library }: LibrarySite): Promise<Record<string, string>> {
  const aliases = await library.aliases();
  return Object.fromEntries(aliases.map(({ name, image }) => [name, image.version]));
}

async function productYaml({ root }: LibrarySite, path = product): Promise<string | undefined> {
  return readFile(join(root, 'images', path, 'product.yaml'), 'utf8').catch(() => undefined);
}

describe('the images', () => {
  test('are none where nothing is published', async (t) => {
    const { library } = await librarySite(t);
    assert.deepEqual(await library.images(), []);
    assert.deepEqual(await library.aliases(), []);
    await assert.rejects(library.image(missing), { code: 'IMAGE_MISSING' });
    await assert.rejects(library.remove(missing), { code: 'IMAGE_MISSING' });
  });

  test('that nobody uploaded are there as well, and are told anew when they change', async (t) => {
    const site = await librarySite(t, { settle: 0 });
    const image = await upload(site, await splitParts());
    const folder = join(site.root, 'images', product, image.version);
    await rm(join(folder, '.properties.json'));
    await rename(folder, join(site.root, 'images', product, '20260102_03:04'));
    await site.runner.update({ passing: true });
    const created = Date.UTC(2026, 0, 2, 3, 4);
    const [found] = await site.library.images();
    assert.deepEqual(found, {
      ...image,
      properties: {
        architecture: 'amd64',
        description: 'Demo box amd64 (20260102_03:04)',
        os: 'Demo',
        release: 'box',
        serial: '20260102_03:04',
        type: 'squashfs',
        variant: 'default',
      },
      files: image.files.map((file) => ({
        ...file,
        path: file.path.replace(image.version, '20260102_03:04'),
      })),
      version: '20260102_03:04',
      created,
      published: created,
    });
  });

  test('keep what is known of them where they are moved', async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts(), { properties: { note: 'mine' } });
    await rename(join(site.root, 'images/demo'), join(site.root, 'images/moved'));
    await site.runner.update({ passing: true });
    const [moved] = await site.library.images();
    assert.equal(moved?.product, 'moved/box/amd64/default');
    assert.deepEqual(moved.properties, image.properties);
    assert.equal(site.results.at(-1)?.read.files, 0);
  });

  test('are one list until something changes', async (t) => {
    const site = await librarySite(t);
    const { library } = site;
    const { fingerprint } = await upload(site, await splitParts());
    let before = await library.images();
    const changes = [
      () => library.edit(fingerprint, { properties: { note: 'new' } }),
      () => library.addAlias('further', fingerprint),
      () => library.remove(fingerprint),
    ];
    for (const change of changes) {
      assert.equal(await library.images(), before);
      await change();
      const after = await library.images();
      assert.notDeepEqual(after, before);
      before = after;
    }
    assert.deepEqual(before, []);
  });

  test('go by the documents where what is kept of them is damaged', async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts());
    await site.close();
    const file = join(site.root, 'images', product, image.version, '.properties.json');
    for (const text of [
      '',
      '{',
      '[]',
      '{"properties":{"a":1}}',
      '{"properties":{},"created":-1}',
    ]) {
      await writeFile(file, text);
      const { library, events } = await librarySite(t, { root: site.root });
      assert.equal((await library.image(image.fingerprint)).properties.type, 'squashfs', text);
      assert.deepEqual(
        events.map(({ msg }) => msg),
        ['properties are damaged; not used'],
      );
    }
  });
});

describe('an edit', () => {
  test('replaces properties and expiry, lasts, and changes nothing that is published', async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts(), { expires: 5000 });
    const documents = await stat(join(site.root, 'streams/v1/images.json'));
    await site.library.edit(image.fingerprint.slice(0, 9), { properties: { a: 'b\nc', gone: '' } });
    const edited = { ...image, properties: { a: 'b c' } };
    assert.deepEqual(await site.library.image(image.fingerprint), edited);
    await site.library.edit(image.fingerprint, { properties: { a: 'c' }, expires: 0 });
    await site.runner.update({ passing: true });
    await site.close();
    const later = await librarySite(t, { root: site.root });
    assert.deepEqual(await later.library.images(), [
      { ...image, properties: { a: 'c' }, expires: 0 },
    ]);
    assert.equal(
      (await stat(join(site.root, 'streams/v1/images.json'))).mtimeMs,
      documents.mtimeMs,
    );
  });

  test('is refused with properties that are none, and of what is not there', async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts());
    for (const properties of [{ 'a\0': 'b' }, { '': 'b' }, { a: 'x'.repeat(5000) }])
      await assert.rejects(site.library.edit(image.fingerprint, { properties }), {
        code: 'IMAGE_INVALID',
      });
    await assert.rejects(site.library.edit(missing, { properties: {} }), { code: 'IMAGE_MISSING' });
    await rm(join(site.root, 'images', product, image.version), { recursive: true });
    await assert.rejects(site.library.edit(image.fingerprint, { properties: {} }), {
      code: 'IMAGE_MISSING',
    });
  });
});

describe('an alias', () => {
  test('is added, renamed and removed in the product and in the documents', async (t) => {
    const site = await librarySite(t);
    const { fingerprint, version } = await upload(site, await splitParts());
    const file = join(site.root, 'images', product, 'product.yaml');
    await site.library.addAlias('a', fingerprint);
    await writeFile(file, `# ours\n${await productYaml(site)}`);
    assert.equal((await aliasesOf(site)).a, version);
    await site.library.addAlias('b', fingerprint);
    await site.library.renameAlias('a', 'c');
    assert.equal(await productYaml(site), '# ours\naliases:\n  - c\n  - b\n');
    await site.library.removeAlias('b');
    const standard = [product, 'demo/box/default', 'demo/box'];
    assert.deepEqual(Object.keys(await aliasesOf(site)), [...standard, 'c']);
    await site.library.removeAlias('c');
    assert.deepEqual(Object.keys(await aliasesOf(site)), standard);
    assert.equal(await productYaml(site), '# ours\naliases:\n');
  });

  test('stands for the newest version', async (t) => {
    const site = await librarySite(t);
    const first = await upload(site, await splitParts('1'), { aliases: ['a'] });
    assert.equal((await aliasesOf(site)).a, '20260101_00:00');
    const second = await upload(site, await splitParts('2'), { aliases: ['a'] });
    assert.equal((await aliasesOf(site)).a, '20260101_00:00:00');
    assert.deepEqual((await site.library.image(first.fingerprint)).aliases, []);
    assert.ok((await site.library.image(second.fingerprint)).aliases.includes('a'));
  });

  test('of all that are added at once is there', async (t) => {
    const site = await librarySite(t);
    const { fingerprint } = await upload(site, await splitParts());
    const names = Array.from({ length: 20 }, (_unused, at) => `name${at}`);
    await Promise.all(names.map((name) => site.library.addAlias(name, fingerprint)));
    assert.deepEqual(
      Object.keys(await aliasesOf(site))
        .slice(3)
        .sort(),
      names.sort(),
    );
    await Promise.all(names.map((name) => site.library.removeAlias(name)));
    assert.equal(await productYaml(site), undefined);
  });

  test('is refused where another product has it, and where it is not there', async (t) => {
    const site = await librarySite(t);
    const one = await upload(site, await splitParts('1'), { aliases: ['one'] });
    const two = await upload(site, await splitParts('2', other), { aliases: ['two'] });
    const { library } = site;
    await assert.rejects(library.addAlias('one', two.fingerprint), { code: 'ALIAS_EXISTS' });
    await assert.rejects(library.addAlias('demo/box', two.fingerprint), { code: 'ALIAS_EXISTS' });
    await assert.rejects(library.renameAlias('two', 'one'), { code: 'ALIAS_EXISTS' });
    await assert.rejects(library.renameAlias('two', 'other/x'), { code: 'ALIAS_EXISTS' });
    await assert.rejects(library.renameAlias('none', 'x'), { code: 'ALIAS_MISSING' });
    await assert.rejects(library.removeAlias('none'), { code: 'ALIAS_MISSING' });
    await assert.rejects(library.addAlias('x', missing), { code: 'IMAGE_MISSING' });
    for (const name of ['', 'a b', '../x', 'a\nb', 'x'.repeat(201), '__proto__']) {
      await assert.rejects(library.addAlias(name, one.fingerprint), { code: 'IMAGE_INVALID' });
      await assert.rejects(library.renameAlias('one', name), { code: 'IMAGE_INVALID' });
    }
    const [first, second] = await Promise.allSettled([
      library.addAlias('race', one.fingerprint),
      library.addAlias('race', two.fingerprint),
    ]);
    assert.deepEqual([first?.status, second?.status], ['fulfilled', 'rejected']);
    assert.equal(await productYaml(site, 'other/x/amd64/default'), 'aliases:\n  - two\n');
  });

  test('that comes from the folders cannot be renamed, and stays when it is removed', async (t) => {
    const site = await librarySite(t);
    const { fingerprint } = await upload(site, await splitParts());
    await assert.rejects(site.library.renameAlias('demo/box', 'x'), { code: 'DENIED' });
    // Clients take a name away and give it again.
    await site.library.removeAlias('demo/box');
    await site.library.addAlias('demo/box', fingerprint);
    assert.ok('demo/box' in (await aliasesOf(site)));
    assert.equal(await productYaml(site), undefined);
  });

  test('may be that of another architecture', async (t) => {
    const site = await librarySite(t);
    const properties = { os: 'demo', release: 'box', architecture: 'arm64' };
    await upload(site, await splitParts('1'), { aliases: ['a'] });
    const second = await upload(site, await splitParts('2'), { aliases: ['a'], properties });
    assert.equal(second.arch, 'arm64');
    const all = await site.library.aliases();
    assert.deepEqual(
      all.filter(({ name }) => name === 'a').map(({ image }) => image.arch),
      ['amd64', 'arm64'],
    );
    await site.library.renameAlias('a', 'b');
    await site.library.removeAlias('b');
    assert.ok(!('b' in (await aliasesOf(site))) && !('a' in (await aliasesOf(site))));
  });

  test('is as it was where the documents cannot be written', async (t) => {
    const failure = new Error('no');
    let fails = false;
    const site = await librarySite(t, {
      runner: (runner) => ({
        ...runner,
        publish: (folder) => (fails ? Promise.reject(failure) : runner.publish(folder)),
        // Nor by a run that comes later.
        changed: (folder) => fails || runner.changed(folder),
      }),
    });
    const { fingerprint } = await upload(site, await splitParts(), { aliases: ['a'] });
    fails = true;
    await assert.rejects(site.library.addAlias('b', fingerprint), failure);
    await assert.rejects(site.library.renameAlias('a', 'c'), failure);
    await assert.rejects(site.library.removeAlias('a'), failure);
    assert.equal(await productYaml(site), 'aliases:\n  - a\n');
    fails = false;
    await site.library.addAlias('b', fingerprint);
  });
});

describe('an image that is removed', () => {
  test('leaves the documents at once, and its files stay for the grace time', async (t) => {
    const site = await librarySite(t);
    const first = await upload(site, await splitParts('1'), { aliases: ['a'] });
    const second = await upload(site, await splitParts('2'));
    await site.library.remove(second.fingerprint.slice(0, 10));
    assert.deepEqual(await publishedPaths(site), first.files.map(({ path }) => path).sort());
    await assert.rejects(site.library.image(second.fingerprint), { code: 'IMAGE_MISSING' });
    await assert.rejects(site.library.remove(second.fingerprint), { code: 'IMAGE_MISSING' });
    for (const { path } of second.files) await stat(join(site.root, path));
    assert.equal((await aliasesOf(site)).a, first.version);
    assert.deepEqual(site.results.at(-1)?.problems, []);
    // The same image can come again.
    const again = await upload(site, await splitParts('2'));
    assert.notEqual(again.version, second.version);
  });

  test('takes the names with it that no other image has, and its folders', async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts(), { aliases: ['a'] });
    await site.library.remove(image.fingerprint);
    assert.equal(await productYaml(site), undefined);
    assert.deepEqual(await site.library.images(), []);
    await upload(site, await splitParts('2', other), { aliases: ['a'] });
  });

  /** Resolves when nothing of the version is there any more. */
  const gone = async (site: LibrarySite) => {
    // Not what is below: that goes while it is listed.
    while ((await readdir(join(site.root, 'images'))).length > 0) await new Promise(setImmediate);
  };

  test('is deleted when the grace time is over, with folders that are empty then', {
    timeout: 60_000,
  }, async (t) => {
    const site = await librarySite(t, { removalGrace: 300 });
    const image = await upload(site, await splitParts());
    const link = join(site.root, 'images', product, '20260102');
    await symlink(image.version, link);
    await site.runner.publish(product);
    await site.library.remove(image.fingerprint);
    await gone(site);
    assert.deepEqual(await staged(site), []);
    assert.deepEqual(site.events, []);
  });

  test('is deleted after a restart, and after the grace time was cut', {
    timeout: 60_000,
  }, async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts());
    await site.library.remove(image.fingerprint);
    await site.close();
    const later = await librarySite(t, { root: site.root });
    await later.runner.update({ passing: true });
    await later.library.images();
    for (const { path } of image.files) await stat(join(site.root, path));
    later.library.configure({ ...later.config, publish: { removalGrace: 0 } });
    await gone(later);
  });

  test('stays while the documents still name it', async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts());
    const { paths } = site.config;
    const folder = join(site.root, 'images', product, image.version);
    await markRemoved(folder);
    const { log } = memoryLog();
    const removals = createRemovals(
      {
        imagesDir: paths.images,
        holdings: createHoldings({ paths, log }),
        staging: createStaging(paths),
        pipeline: { removed: () => [`${product}/${image.version}`], linking: () => [] },
        onDeleted: () => {},
        turns: createTurns(),
        log,
      },
      0,
    );
    t.after(() => removals.close());
    await removals.look();
    assert.equal((await readdir(folder)).length, 4);
    await site.runner.publish(product);
    await removals.look();
    assert.deepEqual(await treeOf(site), []);
  });

  test('comes back where its mark is taken away', async (t) => {
    const site = await librarySite(t);
    const image = await upload(site, await splitParts());
    await site.library.remove(image.fingerprint);
    await rm(join(site.root, 'images', product, image.version, removedMark));
    await site.runner.update({ passing: true });
    assert.deepEqual(await site.library.images(), [image]);
    assert.equal(site.results.at(-1)?.read.files, 0);
  });

  test('goes from all products that have it', async (t) => {
    const site = await librarySite(t);
    const parts = await splitParts();
    await upload(site, parts);
    const copy = join(site.root, 'images/copy');
    await cp(join(site.root, 'images/demo'), copy, { recursive: true });
    const folder = join(copy, 'box/amd64/default/20260101_00:00');
    await rm(join(folder, '.properties.json'));
    await writeSums(folder);
    await site.runner.update({ passing: true });
    assert.equal((await publishedPaths(site)).length, 4);
    assert.equal((await site.library.images()).length, 1);
    await site.library.remove(fingerprintOf(parts));
    assert.deepEqual(await publishedPaths(site), []);
  });
});

describe('uploads are counted', () => {
  test('by what became of them, with what they brought', async (t) => {
    const site = await librarySite(t, { maxSize: 10_000 });
    const { library } = site;
    const parts = await splitParts();
    const size = parts.metadata.length + parts.rootfs.length;
    await upload(site, parts);
    const { ended, bytes, running, publishing } = library.counts();
    assert.deepEqual(ended, { added: 1, refused: 0, cancelled: 0, failed: 0 });
    assert.deepEqual([bytes, running, publishing], [size, 0, 0]);

    await assert.rejects(upload(site, parts), { code: 'IMAGE_EXISTS' });
    await assert.rejects(upload(site, { unified: Buffer.alloc(20_000) }), { code: 'TOO_LARGE' });
    const { signal } = new AbortController();
    const open = await library.begin({ signal });
    assert.equal(library.counts().running, 1);
    await open.discard();
    const broken = await library.begin({ signal });
    async function* failing(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('x');
      throw new Error('the disk is on fire');
    }
    await assert.rejects(broken.write('unified', failing()));
    await broken.discard();
    await broken.discard();
    library.configure({ uploads: { enabled: false, maxSize: 1 }, publish: { removalGrace: 0 } });
    await assert.rejects(library.begin({ signal }), { code: 'UPLOADS_OFF' });
    assert.deepEqual(library.counts().ended, { added: 1, refused: 3, cancelled: 1, failed: 1 });
    assert.equal(library.counts().running, 0);
  });
});
