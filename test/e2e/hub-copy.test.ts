import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { standIn } from '../support/hub.js';
import { describeWithHub, type Stage } from '../support/hub-stage.js';
import { type PublishedImages, publishImages } from '../support/published-images.js';
import { fingerprintOf, type Sample, shapes } from '../support/sample-images.js';

/** What `image list --format json` tells of an image. */
interface ListedImage {
  fingerprint: string;
  type: string;
  public: boolean;
  aliases: { name: string }[];
  properties: Record<string, string>;
}

/** What the hub's list says of an image, as any client sees it. */
async function listed({ manager }: Stage, { fingerprint }: Sample) {
  const images: ListedImage[] = JSON.parse(
    await manager.run('image', 'list', 'hub:', '--format', 'json'),
  );
  const image = images.find((candidate) => candidate.fingerprint === fingerprint);
  assert.ok(image, `the hub lists no image ${fingerprint}`);
  return { ...image, names: image.aliases.map(({ name }) => name).sort() };
}

/** The image is published now, and its bytes come back as they were. */
async function assertArrived(stage: Stage, sample: Sample): Promise<void> {
  assert.equal((await stage.hub.published()).get(sample.fingerprint), sample.type);
  const { type } = await listed(stage, sample);
  assert.equal(type, sample.type);
  const folder = await stage.folder();
  await stage.manager.run('image', 'export', `hub:${sample.fingerprint}`, `${folder}/`);
  const names = await readdir(folder);
  // Of a split image the metadata comes first.
  const files = names.sort((a, b) => Number(b.startsWith('meta-')) - Number(a.startsWith('meta-')));
  assert.equal(files.length, sample.files.length);
  assert.equal(await fingerprintOf(files.map((name) => join(folder, name))), sample.fingerprint);
}

const modes = ['pull', 'push', 'relay'] as const;

await describeWithHub('copies and imports', (stage, way) => {
  // Whether nginx is between makes no difference to what an image is.
  const isAll = way === 'directly';
  const kinds = isAll ? shapes : (['split', 'unified, gzip', 'virtual machine'] as const);
  const compressions = isAll ? ['default', 'none', 'gzip', 'xz', 'zstd', 'bzip2'] : ['default'];

  after(async () => {
    assert.deepEqual(await stage.hub.leftovers(), []);
  });

  for (const mode of modes) {
    for (const shape of kinds) {
      // A stand-in takes it for a container: the client does not say what it is.
      const skip = standIn && mode === 'push' && shape === 'virtual machine';
      test(`image copy --mode=${mode}: ${shape}`, { skip }, async () => {
        const alias = `${mode} ${shapes.indexOf(shape)}`.replace(' ', '-');
        const sample = await stage.local(shape, alias);
        await stage.manager.run('image', 'copy', alias, 'hub:', `--mode=${mode}`);
        await assertArrived(stage, sample);
      });
    }

    test(`image copy --mode=${mode} --copy-aliases --alias --public gives the aliases`, async () => {
      const sample = await stage.local('split', `${mode}-own`);
      const words = ['--copy-aliases', '--alias', `${mode}/further`, '--public'];
      await stage.manager.run('image', 'copy', `${mode}-own`, 'hub:', `--mode=${mode}`, ...words);
      const image = await listed(stage, sample);
      const given = [`${mode}-own`, `${mode}/further`];
      assert.deepEqual(
        given.filter((name) => image.names.includes(name)),
        given,
      );
      assert.equal(image.public, true);
      for (const name of given) {
        const info = await stage.manager.run('image', 'info', `hub:${name}`);
        assert.equal(/^Fingerprint: (.*)$/m.exec(info)?.[1], sample.fingerprint);
      }
    });
  }

  // Clients that push or relay a public image do not look up its alias, and fail by themselves.
  test('image copy of a public image: the alias is all that the hub is told', async () => {
    const sample = await stage.sample('split');
    const { run } = stage.manager;
    await run('image', 'import', ...sample.files, '--alias', 'open', '--public');
    await run('image', 'copy', 'open', 'hub:', '--copy-aliases');
    await assertArrived(stage, sample);
    assert.ok((await listed(stage, sample)).names.includes('open'));
  });

  test('image copy --auto-update', async () => {
    const sample = await stage.local('split', 'kept-new');
    await stage.manager.run('image', 'copy', 'kept-new', 'hub:', '--auto-update');
    await assertArrived(stage, sample);
  });

  for (const shape of kinds) {
    test(`image import: ${shape}`, async () => {
      const sample = await stage.sample(shape);
      const alias = `imported-${shapes.indexOf(shape)}`;
      await stage.manager.run('image', 'import', ...sample.files, 'hub:', '--alias', alias);
      await assertArrived(stage, sample);
      assert.ok((await listed(stage, sample)).names.includes(alias));
    });
  }

  test('image import with properties: they are what the hub shows', async () => {
    const sample = await stage.sample('split');
    const words = ['os=Given', 'release=by hand & more', 'note=a=b'];
    await stage.manager.run('image', 'import', ...sample.files, 'hub:', ...words);
    await assertArrived(stage, sample);
    const { properties } = await listed(stage, sample);
    const { os, release, note } = properties;
    assert.deepEqual(
      { os, release, note },
      { os: 'Given', release: 'by hand & more', note: 'a=b' },
    );
  });

  for (const compression of compressions) {
    test(`publish of a container to the hub, compression: ${compression}`, async () => {
      await stage.local('split', `for-${compression}`);
      const { run } = stage.manager;
      const name = `c-${compression}`;
      await run('init', `for-${compression}`, name);
      const words = compression === 'default' ? [] : ['--compression', compression];
      const said = await run('publish', name, 'hub:', '--alias', `from-${compression}`, ...words);
      await run('delete', name);
      const fingerprint = /fingerprint: ([0-9a-f]{64})$/m.exec(said)?.[1] ?? '';
      await assertArrived(stage, { files: ['one'], fingerprint, type: 'container' });
      const { names } = await listed(stage, { files: [], fingerprint, type: 'container' });
      assert.ok(names.includes(`from-${compression}`));
    });
  }

  describe('from a simplestreams server', () => {
    let images: PublishedImages;
    before(async () => {
      images = await publishImages();
      const { certificate } = images.server;
      await stage.manager.addRemote('elsewhere', { url: images.site.url, certificate });
    });
    after(() => images.close());

    for (const mode of ['pull', 'relay']) {
      for (const kind of ['split', 'unified'] as const) {
        test(`image copy --mode=${mode}: ${kind}`, async () => {
          const { alias, fingerprint } = images[kind];
          const words = [`--mode=${mode}`, '--alias', `${mode}ed/${kind}`];
          // Clients that relay a public image do not look up its alias.
          const name = mode === 'relay' ? fingerprint : alias;
          const copy = ['image', 'copy', `elsewhere:${name}`, 'hub:', ...words];
          const { code, stderr } = await stage.manager.outcome(...copy);
          assert.deepEqual([code, stderr], [0, '']);
          const files = kind === 'split' ? ['metadata', 'root'] : ['whole'];
          await assertArrived(stage, { files, fingerprint, type: 'container' });
          await stage.manager.run('image', 'delete', `hub:${fingerprint}`);
        });
      }
    }
  });

  test('a second upload of an image that is there: pull is content, the others say so', async () => {
    const sample = await stage.local('split', 'twice');
    const copy = (mode: string) =>
      stage.manager.outcome('image', 'copy', 'twice', 'hub:', `--mode=${mode}`);
    assert.equal((await copy('pull')).code, 0);
    assert.equal((await copy('pull')).code, 0);
    const push = await copy('push');
    assert.deepEqual(
      [push.code, /Image with same fingerprint already exists/.test(push.stderr)],
      [1, true],
    );
    const again = await stage.manager.outcome('image', 'import', ...sample.files, 'hub:');
    assert.equal(again.code, 1);
    assert.match(again.stderr, /Image with same fingerprint already exists/);
    await assertArrived(stage, sample);
  });
});
