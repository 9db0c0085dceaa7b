import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { splitImagePrograms } from '../support/busybox-image.js';
import { closeAll } from '../support/close-all.js';
import { missingPrograms } from '../support/command.js';
import { machine } from '../support/image-files.js';
import { type IncusTools, incusMissing, incusTools } from '../support/incus.js';
import { type PublishedImages, publishImages } from '../support/published-images.js';

const skip = missingPrograms(...splitImagePrograms) || (await incusMissing());

/** What `incus image list --format json` tells of an image. */
interface ListedImage {
  fingerprint: string;
  architecture: string;
  type: string;
  filename: string;
}

describe('Incus, with the server as a simplestreams remote', { skip }, () => {
  let images: PublishedImages;
  let tools: IncusTools;

  before(async () => {
    images = await publishImages();
    tools = await incusTools();
    const { certificate } = images.server;
    await tools.addRemote('demo', { url: images.site.url, certificate });
  });
  after(() => closeAll(tools, images));

  test('lists the images with fingerprint and kind', async () => {
    const listed: ListedImage[] = JSON.parse(
      await tools.incus('image', 'list', 'demo:', '--format', 'json'),
    );
    const shown = listed.map(({ fingerprint, architecture, type }) => ({
      fingerprint,
      architecture,
      type,
    }));
    const common = { architecture: machine.metadata, type: 'container' };
    assert.deepEqual(shown, [
      { fingerprint: images.split.fingerprint, ...common },
      { fingerprint: images.unified.fingerprint, ...common },
    ]);
  });

  for (const kind of ['split', 'unified'] as const) {
    test(`shows a ${kind} image under its fingerprint`, async () => {
      const { alias, fingerprint } = images[kind];
      const info = await tools.incus('image', 'info', `demo:${alias}`);
      assert.equal(/^Fingerprint: (.*)$/m.exec(info)?.[1], fingerprint);
    });
  }

  test('incus-simplestreams verify finds nothing wrong with the published tree', async () => {
    assert.equal(await tools.simplestreams(images.site.root, 'verify'), '');
  });

  test('incus-simplestreams list shows each image once', async () => {
    const rows: { fingerprint: string }[] = JSON.parse(
      await tools.simplestreams(images.site.root, 'list', '--format', 'json'),
    );
    assert.deepEqual(
      rows.map(({ fingerprint }) => fingerprint).sort(),
      [images.split.fingerprint, images.unified.fingerprint].sort(),
    );
  });
});
