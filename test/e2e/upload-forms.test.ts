/** The real clients and a real LXD daemon bring images, in each form that they have for it. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { makeSplitImage, makeUnifiedImage, splitImagePrograms } from '../support/busybox-image.js';
import { closeAll } from '../support/close-all.js';
import { type IncusTools, incusMissing, incusTools } from '../support/incus.js';
import { lxdMissing, type PrivateLxd, startLxd } from '../support/lxd.js';
import { freePort } from '../support/ports.js';
import { needs } from '../support/programs.js';
import { type PublishedImages, publishImages } from '../support/published-images.js';
import { startUploadSite, type UploadSite } from '../support/upload-site.js';

async function fingerprintOf(...paths: string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const path of paths) hash.update(await readFile(path));
  return hash.digest('hex');
}

/** Starts a site, and has `use` use it. */
async function withSite(use: (site: UploadSite) => Promise<void>, options = {}): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'upload-forms-'));
  const site = await startUploadSite({ folder, ...options });
  try {
    await use(site);
    assert.equal(site.library.open(), 0);
    assert.equal((await readdir(folder)).length, (await site.library.images()).length);
  } finally {
    await site.close();
    await rm(folder, { recursive: true });
  }
}

const split = needs(...splitImagePrograms);

describe('lxc and LXD', { skip: lxdMissing() || split.skip }, () => {
  let folder: string;
  let lxd: PrivateLxd;
  const images: Record<string, { files: string[]; fingerprint: string }> = {};

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'upload-images-'));
    lxd = await startLxd();
    await mkdir(join(folder, 'split'));
    await mkdir(join(folder, 'unified'));
    const { metadata, root } = await makeSplitImage(join(folder, 'split'));
    const file = await makeUnifiedImage(join(folder, 'unified'));
    await lxd.lxc('config', 'set', 'core.https_address', `127.0.0.1:${await freePort()}`);
    for (const [name, files] of [
      ['split', [metadata, root]],
      ['unified', [file]],
    ] as const) {
      images[name] = { files: [...files], fingerprint: await fingerprintOf(...files) };
      await lxd.lxc('image', 'import', ...files, '--alias', name);
    }
  });

  after(async () => {
    await lxd?.close();
    await rm(folder, { recursive: true, force: true });
  });

  async function assertCame(site: UploadSite, name: string): Promise<void> {
    const { fingerprint = '', files = [] } = images[name] ?? {};
    const image = await site.library.image(fingerprint);
    assert.equal(image.files.length, files.length);
  }

  for (const name of ['split', 'unified']) {
    for (const mode of ['pull', 'push', 'relay']) {
      test(`copy a ${name} image by ${mode}, and then again`, async () => {
        await withSite(async (site) => {
          await lxd.lxc('remote', 'add', `${mode}-${name}`, site.url, '--accept-certificate');
          const copy = ['image', 'copy', name, `${mode}-${name}:`, `--mode=${mode}`];
          assert.match(await lxd.lxc(...copy, '--copy-aliases', '--public'), /copied successfully/);
          await assertCame(site, name);
          const { properties = {} } = site.library.told.get(images[name]?.fingerprint ?? '') ?? {};
          // Relay does not tell them: they are in metadata.yaml.
          assert.equal(properties.os, mode === 'relay' ? undefined : 'BusyBox');
          const again = lxd.lxc(...copy);
          if (mode === 'push') await assert.rejects(again, /Image with same fingerprint already/);
          else await again;
        });
      });
    }

    test(`import a ${name} image, and then again`, async () => {
      await withSite(async (site) => {
        await lxd.lxc('remote', 'add', `import-${name}`, site.url, '--accept-certificate');
        const { files = [] } = images[name] ?? {};
        const run = () => lxd.lxc('image', 'import', ...files, `import-${name}:`, 'note=a b&c');
        assert.match(await run(), /imported with fingerprint/);
        await assertCame(site, name);
        const told = site.library.told.get(images[name]?.fingerprint ?? '');
        assert.deepEqual(told?.properties, { note: 'a b&c' });
        await assert.rejects(run(), /Error: Image with same fingerprint already exists/);
      });
    });
  }

  test('say in the words of the server why an image is refused, however long it is', async () => {
    const refusal = 'This certificate is not trusted: ask for a token';
    const large = join(folder, 'large.tar.gz');
    await writeFile(large, Buffer.alloc(200 * 1024 * 1024));
    const client = { name: 'client', fingerprint: '' };
    let caller: { client: typeof client } | { refusal: string } = { client };
    await withSite(
      async (site) => {
        await lxd.lxc('remote', 'add', 'refusing', site.url, '--accept-certificate');
        caller = { refusal };
        const sent = lxd.lxc('image', 'import', large, 'refusing:');
        await assert.rejects(sent, new RegExp(`Error: ${refusal}`));
      },
      { judge: () => caller, limits: { drain: { bytes: 1024 * 1024, ms: 10_000 } } },
    );
  });
});

describe('incus', { skip: split.skip || (await incusMissing()) }, () => {
  let folder: string;
  let incus: IncusTools;
  let published: PublishedImages;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'upload-images-'));
    incus = await incusTools();
    published = await publishImages();
    const certificate = published.server.certificate;
    await incus.addRemote('streams', { url: published.site.url, certificate });
  });

  after(async () => {
    await closeAll(published, incus);
    await rm(folder, { recursive: true, force: true });
  });

  test('imports a split image', async () => {
    await withSite(async (site) => {
      const { metadata, root } = await makeSplitImage(folder);
      await incus.incus('remote', 'add', 'import', site.url, '--accept-certificate');
      await incus.incus('image', 'import', metadata, root, 'import:', 'note=a b');
      const fingerprint = await fingerprintOf(metadata, root);
      assert.deepEqual(site.library.told.get(fingerprint)?.properties, { note: 'a b' });
    });
  });

  for (const kind of ['split', 'unified'] as const) {
    for (const mode of ['pull', 'relay']) {
      test(`copies a ${kind} image of a simplestreams server by ${mode}`, async () => {
        await withSite(async (site) => {
          const { alias, fingerprint } = published[kind];
          const hub = `${kind}-${mode}`;
          await incus.incus('remote', 'add', hub, site.url, '--accept-certificate');
          // The client finds no alias of such a server where it relays.
          const image = `streams:${mode === 'relay' ? fingerprint : alias}`;
          const options = [`--mode=${mode}`, '--alias', 'mine'];
          await incus.incus('image', 'copy', image, `${hub}:`, ...options);
          assert.deepEqual(site.library.told.get(fingerprint)?.aliases, ['mine']);
          await site.library.image(fingerprint);
        });
      });
    }
  }
});
