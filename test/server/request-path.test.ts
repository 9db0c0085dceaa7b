import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isServedName, parseRequestPath } from '../../src/server/request-path.js';

const image = '/images/ubuntu/24.04/amd64/default/20260103_12:00/rootfs.squashfs';

const understood: [target: string, expected: unknown][] = [
  ['/', { kind: 'page', home: true }],
  ['/?x=1', { kind: 'page', home: true }],
  ['/index.html', { kind: 'page', home: false }],
  ['/streams/v1/index.json', { kind: 'document', name: 'index.json', gz: false }],
  ['/streams/v1/images.json', { kind: 'document', name: 'images.json', gz: false }],
  ['/streams/v1/images.json.gz', { kind: 'document', name: 'images.json', gz: true }],
  ['/streams/v1/images.json?a=/../..', { kind: 'document', name: 'images.json', gz: false }],
  ['https://host:8443/streams/v1/index.json', { kind: 'document', name: 'index.json', gz: false }],
  [image, { kind: 'image', path: image.slice('/images/'.length) }],
  [image.replace(':', '%3A'), { kind: 'image', path: image.slice('/images/'.length) }],
  [image.replace(':', '%3a'), { kind: 'image', path: image.slice('/images/'.length) }],
];

for (const [target, expected] of understood) {
  test(`the target ${target} is understood`, () => {
    assert.deepEqual(parseRequestPath(target, ['images']), expected);
  });
}

const below = '/images/e/r/a/t/v';
const refused = [
  '*',
  '//',
  '/.',
  '/..',
  '/streams',
  '/streams/v1/',
  '/streams/v1/index.json/',
  '/streams/v1/index.json.gz.gz',
  '/streams/v1/other.json',
  '/streams/v1/.index.json',
  '/images',
  '/images/',
  below,
  `${below}/`,
  `${below}/f/g`,
  `${below}//f`,
  '/images/e/r/a/t/product.yaml',
  `${below}/..`,
  `${below}/.hidden`,
  `${below}/%2ehidden`,
  `${below}/%2e%2e`,
  `${below}/%252e%252e`,
  `${below}/a%2fb`,
  `${below}/a%5cb`,
  `${below}/a\\b`,
  `${below}/a%00`,
  `${below}/a%0a`,
  `${below}/a%`,
  `${below}/a%zz`,
  `${below}/%ff%fe`,
  `${below}/%c3%a9`,
  `${below}/f.part`,
  `${below}/f.filepart`,
  `${below}/f~`,
  `${below}/f.tmp`,
  `${below}/-f`,
  '/images/../../../../../etc/passwd',
  'file:///etc/passwd',
  'https://host/../etc/passwd',
];

for (const target of refused) {
  test(`the target ${JSON.stringify(target)} is refused`, () => {
    assert.equal(parseRequestPath(target, ['images']), undefined);
  });
}

test('the folder of the images may have any name and depth', () => {
  const wanted = { kind: 'image', path: 'e/r/a/t/v/f' };
  assert.deepEqual(parseRequestPath('/data/img/e/r/a/t/v/f', ['data', 'img']), wanted);
  assert.equal(parseRequestPath('/images/e/r/a/t/v/f', ['data', 'img']), undefined);
});

const hostile = fc.constantFrom(
  ...['..', '.', '', '%2e%2e', '%2f', '%5c', '%00', '%252e', '\\', 'a', 'b', '~', 'x.tmp'],
);

test('whatever the target, an image path has six served names and no way out', () => {
  const segment = fc.oneof(hostile, fc.string(), fc.webSegment());
  const target = fc.array(segment, { maxLength: 8 }).map((parts) => `/images/${parts.join('/')}`);
  fc.assert(
    fc.property(target, (text) => {
      const wanted = parseRequestPath(text, ['images']);
      if (wanted?.kind !== 'image') return;
      const names = wanted.path.split('/');
      assert.equal(names.length, 6);
      assert.ok(names.every((name) => isServedName(name) && !name.startsWith('.')));
    }),
  );
});

test('every path of valid names is found again, encoded or raw', () => {
  const first = 'abcXYZ019';
  const name = fc
    .tuple(
      fc.constantFrom(...first),
      fc.string({ unit: fc.constantFrom(...`${first}._:+~@-`), maxLength: 12 }),
    )
    .map((parts) => parts.join(''))
    .filter(isServedName);
  const names = fc.array(name, { minLength: 6, maxLength: 6 });
  fc.assert(
    fc.property(names, fc.boolean(), (parts, encoded) => {
      const path = parts.map((part) => (encoded ? encodeURIComponent(part) : part)).join('/');
      const expected = { kind: 'image', path: parts.join('/') };
      assert.deepEqual(parseRequestPath(`/images/${path}`, ['images']), expected);
    }),
  );
});
