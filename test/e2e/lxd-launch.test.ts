import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { splitImagePrograms } from '../support/busybox-image.js';
import { closeAll } from '../support/close-all.js';
import { missingPrograms } from '../support/command.js';
import { machine } from '../support/image-files.js';
import { lxdMissing, type PrivateLxd, startLxd } from '../support/lxd.js';
import { type Nginx, startNginx } from '../support/nginx.js';
import { type PublishedImages, publishImages } from '../support/published-images.js';
import { succeed } from '../support/site.js';

const skip = lxdMissing() || missingPrograms(...splitImagePrograms, 'nginx');

/** What `lxc image list --format json` tells of an image. */
interface ListedImage {
  fingerprint: string;
  architecture: string;
  type: string;
  aliases: { name: string }[];
}

describe('LXD, with the server as a simplestreams remote', { skip }, () => {
  let images: PublishedImages;
  let lxd: PrivateLxd;
  let nginx: Nginx;

  before(async () => {
    images = await publishImages();
    nginx = await startNginx(images.site, join(images.site.root, '../nginx'));
    lxd = await startLxd();
    const { certificate } = images.server;
    await lxd.addRemote('demo', { url: images.site.url, certificate });
    await lxd.addRemote('nginx', { url: nginx.url, certificate });
  });
  after(() => closeAll(lxd, nginx, images));

  /** Launches `image`, runs a command in the container, and gives what that printed. */
  async function launchAndExec(image: string, name: string): Promise<string> {
    await lxd.lxc('launch', image, name);
    return lxd.lxc('exec', name, '--', 'sh', '-c', 'hostname; cat /etc/hostname /etc/motd');
  }

  /** The fingerprint that `lxc image info` shows. */
  async function shownFingerprint(image: string): Promise<string | undefined> {
    const info = await lxd.lxc('image', 'info', image);
    return /^Fingerprint: ([0-9a-f]{64})$/m.exec(info)?.[1];
  }

  test('lists the images with fingerprints, aliases and kind', async () => {
    const listed: ListedImage[] = JSON.parse(await lxd.lxc('image', 'list', 'demo:', '-f', 'json'));
    const shown = listed.map(({ aliases, ...image }) => ({
      fingerprint: image.fingerprint,
      architecture: image.architecture,
      type: image.type,
      hasAlias: aliases.some(({ name }) => ['demo/busybox', 'demo/unified'].includes(name)),
    }));
    const expected = [images.split, images.unified].map(({ fingerprint }) => ({
      fingerprint,
      architecture: machine.metadata,
      type: 'container',
      hasAlias: true,
    }));
    assert.deepEqual(shown, expected);
  });

  test('knows a split image by the SHA-256 of its metadata followed by its root', async () => {
    assert.equal(await shownFingerprint('demo:demo/busybox'), images.split.fingerprint);
  });

  test('knows a unified image by the SHA-256 of its file', async () => {
    assert.equal(await shownFingerprint('demo:demo/unified'), images.unified.fingerprint);
  });

  test('finds an image under each alias of its product', async () => {
    const variants = ['', '/default', `/${machine.folder}/default`];
    const found = await Promise.all(
      variants.map((rest) => shownFingerprint(`demo:demo/busybox${rest}`)),
    );
    assert.deepEqual(
      found,
      variants.map(() => images.split.fingerprint),
    );
  });

  test('launches a container from a split image', async () => {
    assert.equal(await launchAndExec('demo:demo/busybox', 'split'), 'split\nsplit\nfirst\n');
  });

  test('launches a container from a unified image', async () => {
    assert.equal(await launchAndExec('demo:demo/unified', 'whole'), 'whole\nwhole\nunified\n');
  });

  test('launches a container behind the nginx site that init installs', async () => {
    await lxd.lxc('delete', '--force', 'split');
    await lxd.lxc('image', 'delete', images.split.fingerprint);
    assert.equal(await launchAndExec('nginx:demo/busybox', 'proxied'), 'proxied\nproxied\nfirst\n');
  });

  test('gets a new version under the same alias once it is published', async () => {
    const newer = await images.addSplitVersion('20260102_00:00', {
      files: { 'etc/motd': 'second\n' },
    });
    assert.equal(await shownFingerprint('demo:demo/busybox'), images.split.fingerprint);
    await succeed(images.site, 'update');
    assert.equal(await shownFingerprint('demo:demo/busybox'), newer.fingerprint);

    // The daemon keeps an index for an hour, by address: under another one it reads the new index.
    const url = images.site.url.replace('127.0.0.1', 'localhost');
    await lxd.addRemote('renamed', { url, certificate: images.server.certificate });
    assert.equal(await launchAndExec('renamed:demo/busybox', 'newer'), 'newer\nnewer\nsecond\n');
  });
});
