import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type ImageIndex, indexImages } from '../../src/catalog/images.js';
import { parseImages } from '../../src/catalog/published.js';

/** A digest that begins with `start`. */
function digest(start: string): string {
  return start.padEnd(64, '0');
}

type Items = Record<string, object>;

function item(place: string, [name, ftype]: [string, string], more: object = {}): Items {
  const key = more !== undefined && 'key' in more ? String(more.key) : name;
  return {
    [key]: { ftype, path: `images/${place}/${name}`, sha256: digest('f'), size: 10, ...more },
  };
}

/** A version with a squashfs whose fingerprint is `fingerprint`. */
function split(place: string, fingerprint: string, more: Items = {}) {
  const combined = { combined_squashfs_sha256: digest(fingerprint) };
  return {
    items: {
      ...item(place, ['lxd.tar.xz', 'incus.tar.xz'], { key: 'incus.tar.xz', ...combined }),
      ...item(place, ['lxd.tar.xz', 'lxd.tar.xz'], combined),
      ...item(place, ['rootfs.squashfs', 'squashfs'], { size: 90 }),
      ...more,
    },
  };
}

function index(
  products: Record<string, { aliases?: string; versions: object; [field: string]: unknown }>,
  unified?: Map<string, 'virtual-machine'>,
): ImageIndex {
  const all = Object.entries(products).map(([id, product]) => {
    const [os, release, arch, variant] = id.split(':');
    return [id, { os, release, arch, variant, ...product }];
  });
  const text = JSON.stringify({ format: 'products:1.0', products: Object.fromEntries(all) });
  return indexImages(parseImages(text), { prefix: 'images', ...(unified && { unified }) });
}

const demo = 'demo/box/amd64/default';

describe('the images of a document', () => {
  test('have fingerprint, files, names and properties', () => {
    const { images } = index({
      'demo:box:amd64:default': {
        aliases: 'demo/box,box',
        release_title: 'Box 1',
        requirements: { secureboot: 'false' },
        versions: { '20260103_04:05': split(`${demo}/20260103_04:05`, 'a') },
      },
    });
    const place = `${demo}/20260103_04:05`;
    assert.deepEqual(images, [
      {
        fingerprint: digest('a'),
        type: 'container',
        arch: 'amd64',
        aliases: ['demo/box', 'box'],
        properties: {
          architecture: 'amd64',
          description: 'demo Box 1 amd64 (20260103_04:05)',
          os: 'demo',
          release: 'box',
          serial: '20260103_04:05',
          type: 'squashfs',
          variant: 'default',
          'requirements.secureboot': 'false',
        },
        size: 100,
        created: Date.UTC(2026, 0, 3, 4, 5),
        files: [
          { path: `images/${place}/lxd.tar.xz`, size: 10, sha256: digest('f') },
          { path: `images/${place}/rootfs.squashfs`, size: 90, sha256: digest('f') },
        ],
        product: demo,
        version: '20260103_04:05',
        places: [place],
      },
    ]);
  });

  test('are those that clients prefer, and others are found by their fingerprints', () => {
    const place = `${demo}/20260103`;
    const combined = {
      combined_squashfs_sha256: digest('a'),
      combined_rootxz_sha256: digest('b'),
      combined_sha256: digest('b'),
      'combined_disk-kvm-img_sha256': digest('c'),
      'combined_disk1-img_sha256': digest('d'),
      'combined_uefi1-img_sha256': digest('e'),
    };
    const { images, find } = index({
      'demo:box:amd64:default': {
        aliases: 'box',
        versions: {
          20260103: {
            items: {
              ...item(place, ['lxd.tar.xz', 'lxd.tar.xz'], combined),
              ...item(place, ['incus.tar.xz', 'incus.tar.xz'], {
                combined_squashfs_sha256: digest('12'),
              }),
              ...item(place, ['a.squashfs', 'squashfs']),
              ...item(place, ['root.tar.xz', 'root.tar.xz']),
              ...item(place, ['a.qcow2', 'disk-kvm.img']),
              ...item(place, ['disk1.img', 'disk1.img']),
              ...item(place, ['uefi1.img', 'uefi1.img']),
              ...item(place, ['lxd_combined.tar.gz', 'lxd_combined.tar.gz'], {
                sha256: digest('13'),
              }),
            },
          },
        },
      },
    });
    const shown = images.map(({ fingerprint, type, aliases }) => [fingerprint[0], type, aliases]);
    assert.deepEqual(shown, [
      ['a', 'container', ['box']],
      ['c', 'virtual-machine', ['box']],
    ]);
    for (const [start, name] of [
      ['a', 'a.squashfs'],
      ['b', 'root.tar.xz'],
      ['c', 'a.qcow2'],
      ['d', 'disk1.img'],
      ['e', 'uefi1.img'],
      ['12', 'a.squashfs'],
      ['13', 'lxd_combined.tar.gz'],
    ] as const) {
      assert.equal(find(digest(start))?.files.at(-1)?.path, `images/${place}/${name}`, start);
    }
    assert.equal(find(digest('12'))?.files[0]?.path, `images/${place}/incus.tar.xz`);
  });

  test('are found by the beginning of a fingerprint that only one has', () => {
    const { find } = index({
      'demo:box:amd64:default': {
        versions: {
          20260101: split(`${demo}/20260101`, 'abc1'),
          20260102: split(`${demo}/20260102`, 'abc2'),
          20260103: split(`${demo}/20260103`, 'f'),
        },
      },
    });
    const starts = ['abc1', 'abc2', 'f', 'f0', digest('f')];
    assert.deepEqual(
      starts.map((start) => find(start)?.version),
      ['20260101', '20260102', '20260103', '20260103', '20260103'],
    );
    for (const start of [
      '',
      'abc',
      'a',
      'abc0',
      'abc3',
      'ff',
      '0',
      'g',
      'F',
      `${digest('f')}0`,
      '__proto__',
    ])
      assert.equal(find(start), undefined, start);
  });

  test('give their names to the newest of each type', () => {
    const disk = (version: string, start: string) => ({
      items: {
        ...item(`${demo}/${version}`, ['lxd.tar.xz', 'lxd.tar.xz'], {
          'combined_disk-kvm-img_sha256': digest(start),
        }),
        ...item(`${demo}/${version}`, ['disk.qcow2', 'disk-kvm.img']),
      },
    });
    const { images, aliases, versions } = index({
      'demo:box:amd64:default': {
        aliases: 'box',
        versions: {
          '20260101_x': split(`${demo}/20260101_x`, 'a'),
          20260102: split(`${demo}/20260102`, 'b'),
          20260103: disk('20260103', 'c'),
        },
      },
    });
    const named = images.map(({ version, aliases }) => [version, aliases.join()]);
    assert.deepEqual(named, [
      ['20260101_x', ''],
      ['20260102', 'box'],
      ['20260103', 'box'],
    ]);
    assert.deepEqual(
      aliases.map(({ name, image }) => [name, image.version]),
      [['box', '20260102']],
    );
    assert.deepEqual(versions(demo), ['20260101_x', '20260102', '20260103']);
    assert.deepEqual(versions('demo/other/amd64/default'), []);
  });

  test('stand there once, with the names and places of all products that have them', () => {
    const other = 'demo/other/amd64/default';
    const { images, aliases } = index({
      'demo:box:amd64:default': {
        aliases: 'box',
        versions: { 20260101: split(`${demo}/20260101`, 'a') },
      },
      'demo:other:amd64:default': {
        aliases: 'other',
        versions: { 20260101: split(`${other}/20260101`, 'a') },
      },
    });
    assert.equal(images.length, 1);
    assert.deepEqual(images[0]?.aliases, ['box', 'other']);
    assert.deepEqual(images[0]?.places, [`${demo}/20260101`, `${other}/20260101`]);
    assert.deepEqual(
      aliases.map(({ name, image }) => [name, image.product]),
      [
        ['box', demo],
        ['other', demo],
      ],
    );
  });

  test('are virtual machines where that is known of a unified one', () => {
    const place = `${demo}/20260101`;
    const versions = {
      20260101: { items: item(place, ['lxd_combined.tar.gz', 'lxd_combined.tar.gz']) },
    };
    const products = { 'demo:box:amd64:default': { versions } };
    assert.equal(index(products).images[0]?.type, 'container');
    const known = new Map([[place, 'virtual-machine'] as const]);
    assert.equal(index(products, known).images[0]?.type, 'virtual-machine');
    assert.equal(index(products).find(digest('f'))?.files.length, 1);
  });

  test('are none where files lie elsewhere, or digests are missing', () => {
    for (const place of ['demo/box/amd64/20260101', 'a/../b/c/d/20260101', 'a/b/c/d/.e/20260101']) {
      const text = JSON.stringify(split(place, 'a')).replaceAll('..', '.x');
      assert.deepEqual(
        index({ 'a:b:c:d': { versions: { 20260101: JSON.parse(text) } } }).images,
        [],
      );
    }
    const place = `${demo}/20260101`;
    const items = {
      ...item(place, ['lxd.tar.xz', 'lxd.tar.xz'], { combined_squashfs_sha256: 7 }),
      ...item(place, ['rootfs.squashfs', 'squashfs']),
    };
    assert.deepEqual(index({ 'a:b:c:d': { versions: { 20260101: { items } } } }).images, []);
  });
});
