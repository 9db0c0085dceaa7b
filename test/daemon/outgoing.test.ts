/** Which versions a name means, and that no name leads elsewhere. */
import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type ImageIndex, indexImages } from '../../src/catalog/images.js';
import { namedVersions, withLinks } from '../../src/daemon/outgoing.js';
import { ServerError } from '../../src/errors.js';
import { librarySite, publishedPaths, splitParts, upload } from '../support/library-site.js';
import { temporaryFolder } from '../support/temporary.js';

const product = 'demo/one/amd64/default';
const nothing: ImageIndex = indexImages({ products: {} }, { prefix: 'images' });

/** What {@link namedVersions} finds, or the code of its error. */
async function found(name: string, imagesDir: string): Promise<string[] | string> {
  return namedVersions(name, { index: nothing, imagesDir }).catch((error: unknown) => {
    if (error instanceof ServerError) return error.code;
    throw error;
  });
}

describe('a name means', () => {
  test('a version or a product that is in the tree, and nothing that is not', async (t) => {
    const root = await temporaryFolder(t);
    const images = join(root, 'images');
    for (const path of [`${product}/20260101`, `${product}/20260102_12:00`, `${product}/.hidden`]) {
      await mkdir(join(images, path), { recursive: true });
    }
    await mkdir(join(images, product, '20260103'));
    await writeFile(join(images, product, '20260103/.removed'), '');
    await writeFile(join(images, product, 'product.yaml'), '');
    await mkdir(join(root, 'outside/one/amd64/default/20260101'), { recursive: true });
    const both = [`${product}/20260101`, `${product}/20260102_12:00`];
    assert.deepEqual([...(await found(product, images))].sort(), both);
    assert.deepEqual([...(await found('demo:one:amd64:default', images))].sort(), both);
    for (const path of both) assert.deepEqual(await found(path, images), [path]);
    const wrong = [
      ...['', '/', ':', 'demo', 'demo/one', 'demo/one/amd64', `${product}/`, `/${product}`],
      ...[`${product}/.hidden`, `${product}/product.yaml`, `${product}/20260103`],
      ...[`${product}/20260101/lxd.tar.xz`, 'demo:one:amd64:default:20260101'],
      ...['../outside/one/amd64/default', '../outside/one/amd64/default/20260101'],
      ...[`${product}/../default/20260101`, `${product}/20260101\0`, 'f'.repeat(64)],
    ];
    for (const name of wrong) assert.equal(await found(name, images), 'NOT_FOUND', name);
  });

  test('what cannot be looked at is told, and not taken for missing', async (t) => {
    const images = await temporaryFolder(t);
    await mkdir(join(images, 'demo/one/amd64'), { recursive: true });
    await symlink('default', join(images, product));
    for (const name of [product, `${product}/20260101`]) {
      await assert.rejects(namedVersions(name, { index: nothing, imagesDir: images }), {
        code: 'DENIED',
        message: `Cannot look at ${name}: symbolic links lead in a circle`,
      });
    }
  });

  test('nothing outside the images, whatever it is', async (t) => {
    const root = await temporaryFolder(t);
    const images = join(root, 'images');
    await mkdir(join(images, product, '20260101'), { recursive: true });
    await mkdir(join(root, 'a/a/a/20260101'), { recursive: true });
    const part = fc.oneof(
      fc.constantFrom(...product.split('/'), '20260101', '..', '.', '', 'images', 'a'),
      fc.string({ unit: 'binary', maxLength: 5 }),
    );
    const names = fc
      .tuple(fc.array(part, { maxLength: 8 }), fc.constantFrom('/', ':'))
      .map(([parts, between]) => parts.join(between));
    await fc.assert(
      fc.asyncProperty(names, async (name) => {
        const versions = await found(name, images);
        assert.ok(versions === 'NOT_FOUND' || versions[0] === `${product}/20260101`, name);
      }),
      { numRuns: 500 },
    );
  });
});

test('versions that have gone are no links to each other', async (t) => {
  const images = ['a', 'b'].map((name) => ({ places: [`${product}/2026010${name}`] }));
  const index = { ...nothing, images: images as unknown as ImageIndex['images'] };
  const gone = [`${product}/2026010a`];
  assert.deepEqual(await withLinks(gone, { index, imagesDir: await temporaryFolder(t) }), gone);
});

test('what is taken out is told, and none of it where one name is wrong', async (t) => {
  const site = await librarySite(t);
  const first = await upload(site, await splitParts('1'), { aliases: ['mine'] });
  const second = await upload(site, await splitParts('2'));
  const before = await publishedPaths(site);
  await assert.rejects(site.library.takeOut([first.fingerprint, 'demo/none/amd64/default']), {
    code: 'NOT_FOUND',
  });
  assert.deepEqual(await publishedPaths(site), before);
  const taken = await site.library.takeOut([first.fingerprint.slice(0, 12), first.fingerprint]);
  assert.deepEqual(taken, [`${first.product}/${first.version}`]);
  assert.deepEqual(await publishedPaths(site), second.files.map(({ path }) => path).sort());
  // It goes with the last version.
  assert.ok((await site.library.aliases()).some(({ name }) => name === 'mine'));
  await site.library.takeOut([first.product]);
  assert.deepEqual(await publishedPaths(site), []);
  const third = await upload(site, await splitParts('3'));
  assert.equal(third.product, first.product);
  assert.ok(!(await site.library.aliases()).some(({ name }) => name === 'mine'));
});
