/** Which image a name stands for in the documents of a simplestreams server. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ServerError } from '../../../../src/errors.js';
import {
  chooseImage,
  imagePaths,
  type Wish,
} from '../../../../src/server/lxd/uploads/simplestreams.js';

const digest = (digit: string) => digit.repeat(64);
const item = (ftype: string, digit: string, more: object = {}) => ({
  [ftype]: { ftype, path: `images/${digit}/${ftype}`, size: 1, sha256: digest(digit), ...more },
});
const split = (hash: string, digit: string) => ({
  ...item('lxd.tar.xz', '1', { [hash]: digest(digit) }),
  ...item('squashfs', '2'),
  ...item('disk-kvm.img', '3'),
});
const product = (arch: string, versions: Record<string, object>, aliases = 'a, a/b') => ({
  ...{ aliases, arch, os: 'A', release: 'b', release_title: 'B', variant: '' },
  versions: Object.fromEntries(Object.entries(versions).map(([name, items]) => [name, { items }])),
});

const products = {
  products: {
    'a:b:arm64': product('arm64', { '20260101': split('combined_squashfs_sha256', 'a') }),
    'a:b:amd64': product('amd64', {
      '20260102': split('combined_squashfs_sha256', 'c'),
      '20260103': {
        ...split('combined_squashfs_sha256', 'd'),
        ...item('lxd.tar.xz', '1', {
          combined_squashfs_sha256: digest('d'),
          'combined_disk-kvm-img_sha256': digest('e'),
        }),
      },
      '20260104': item('squashfs', '2'),
      '20260105': { ...item('incus.tar.xz', '1'), ...item('squashfs', '2') },
    }),
    'u:b:amd64': product('amd64', { '20260101': item('incus_combined.tar.gz', 'f') }, 'u'),
    'x:b:amd64': product(
      'amd64',
      {
        '20260101': {
          ...item('lxd.tar.xz', '1', { combined_squashfs_sha256: digest('b') }),
          ...item('squashfs', '2', { path: '../../etc/passwd' }),
        },
      },
      'x',
    ),
  },
};

const choose = (wish: Partial<Wish>) =>
  chooseImage(products, { name: 'a', type: '', arch: 'amd64', ...wish });

describe('the image that is meant', () => {
  const cases: [what: string, wish: Partial<Wish>, digit: string][] = [
    ['is the newest whole one of the own architecture', {}, 'd'],
    ['has the alias after a comma as well', { name: 'a/b' }, 'd'],
    ['is that of another architecture', { arch: 'arm64' }, 'a'],
    ['is that of any architecture where there is none of the own', { arch: 'riscv64' }, 'a'],
    ['is that of a virtual machine', { type: 'virtual-machine' }, 'e'],
    ['is an older one by its fingerprint', { name: digest('c') }, 'c'],
    ['is one by twelve digits of its fingerprint', { name: 'e'.repeat(12) }, 'e'],
    ['is a unified one', { name: 'u' }, 'f'],
  ];
  for (const [what, wish, digit] of cases) {
    test(what, () => assert.equal(choose(wish).fingerprint, digest(digit)));
  }

  test('comes with its files, metadata first, and with properties', () => {
    const { files, properties, type, arch } = choose({ type: 'virtual-machine' });
    assert.deepEqual(
      files.map(({ path }) => path),
      ['images/1/lxd.tar.xz', 'images/3/disk-kvm.img'],
    );
    assert.deepEqual({ type, arch }, { type: 'virtual-machine', arch: 'amd64' });
    assert.deepEqual(properties, {
      ...{ architecture: 'amd64', description: 'A B amd64 (20260103)' },
      ...{ os: 'A', release: 'b', serial: '20260103' },
    });
  });

  for (const wish of [
    { name: 'A' },
    { name: '' },
    { name: 'd'.repeat(11) },
    { name: 'u', type: 'virtual-machine' as const },
    // Its path leads elsewhere.
    { name: 'x' },
  ]) {
    test(`is missing for ${JSON.stringify(wish)}`, () => {
      assert.throws(
        () => choose(wish),
        (error) => error instanceof ServerError && error.code === 'IMAGE_MISSING',
      );
    });
  }
});

test('documents are where the index says, of images alone, and below the server', () => {
  const index = {
    index: {
      images: { datatype: 'image-downloads', path: 'streams/v1/images.json' },
      other: { datatype: 'content-download', path: 'streams/v1/other.json' },
      evil: { datatype: 'image-downloads', path: '../images.json' },
    },
  };
  assert.deepEqual(imagePaths(index), ['streams/v1/images.json']);
});

test('no more than a few documents are read', () => {
  const entries = (count: number) =>
    Array.from({ length: count }, (_, n) => [
      `images${n}`,
      { datatype: 'image-downloads', path: `streams/v1/images${n}.json` },
    ]);
  assert.equal(imagePaths({ index: Object.fromEntries(entries(16)) }).length, 16);
  const tooMany = { index: Object.fromEntries(entries(17)) };
  assert.throws(() => imagePaths(tooMany), /names more than 16 lists of images/);
});

test('whatever the documents say, they are read or refused', () => {
  const wish: Wish = { name: 'a', type: '', arch: 'amd64' };
  const value = fc.oneof(
    fc.jsonValue(),
    fc.record({
      products: fc.dictionary(
        fc.string(),
        fc.record(
          { aliases: fc.jsonValue(), versions: fc.jsonValue(), arch: fc.jsonValue() },
          { requiredKeys: [] },
        ),
      ),
      index: fc.jsonValue(),
    }),
  );
  fc.assert(
    fc.property(value, (document) => {
      for (const read of [() => chooseImage(document, wish), () => imagePaths(document)]) {
        try {
          read();
        } catch (error) {
          assert.ok(error instanceof ServerError, String(error));
        }
      }
    }),
    { numRuns: 500 },
  );
});
