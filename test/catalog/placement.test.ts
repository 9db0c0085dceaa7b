import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { lxdArchitecture, treeArchitecture } from '../../src/catalog/architectures.js';
import {
  folderName,
  type PlacementFacts,
  placementOf,
  versionNames,
  versionTime,
} from '../../src/catalog/placement.js';
import { isName, isTemporary, isVersionName, productPath } from '../../src/catalog/tree.js';

const fingerprint = 'c0ffee'.padEnd(64, '0');

function placed(facts: Partial<PlacementFacts>): string | undefined {
  const place = placementOf({
    properties: {},
    architectures: ['x86_64'],
    aliases: [],
    fingerprint,
    ...facts,
  });
  return place && productPath(place);
}

describe('an image goes', () => {
  const cases: [name: string, facts: Partial<PlacementFacts>, path: string | undefined][] = [
    [
      'where its properties say',
      { properties: { os: 'Ubuntu', release: 'jammy', variant: 'cloud' }, aliases: ['x/y'] },
      'ubuntu/jammy/amd64/cloud',
    ],
    [
      'without a variant to default',
      { properties: { os: 'a', release: 'b' } },
      'a/b/amd64/default',
    ],
    [
      'where an alias says, if one of os and release is missing',
      { properties: { os: 'Ubuntu' }, aliases: ['plain', 'Demo/Box/vim'] },
      'demo/box/amd64/vim',
    ],
    [
      'where an alias of two names says',
      { properties: { variant: 'cloud' }, aliases: ['demo/box'] },
      'demo/box/amd64/cloud',
    ],
    [
      'else to custom, by its alias',
      { aliases: ['bionic-vim'] },
      'custom/bionic-vim/amd64/default',
    ],
    ['by its alias of many parts', { aliases: ['a/b/c/d'] }, 'custom/a-b-c-d/amd64/default'],
    ['else by its fingerprint', {}, 'custom/c0ffee000000/amd64/default'],
    [
      'by the first architecture that is one',
      { architectures: ['', '../x', 'ARM64', 'x86_64'] },
      'custom/c0ffee000000/arm64/default',
    ],
    ['nowhere without an architecture', { architectures: ['', 'vax'] }, undefined],
  ];
  for (const [name, facts, path] of cases) {
    test(name, () => assert.equal(placed(facts), path));
  }

  test('where the grammar of the tree has a place, whatever it says of itself', () => {
    const text = fc.oneof(hostile, fc.string({ unit: 'binary', maxLength: 60 }));
    const property = fc.dictionary(fc.constantFrom('os', 'release', 'variant'), text);
    fc.assert(
      fc.property(property, fc.array(text, { maxLength: 3 }), (properties, aliases) => {
        const place = placementOf({ properties, aliases, architectures: ['x86_64'], fingerprint });
        assert.ok(place);
        for (const name of [place.env, place.release, place.arch, place.type]) {
          assert.ok(isName(name) && !isTemporary(name) && !name.includes(':'), name);
          assert.equal(name, name.toLowerCase());
          assert.equal(folderName(name), name);
        }
      }),
      { numRuns: 3000 },
    );
  });
});

const hostile = fc.constantFrom(
  ...[
    '',
    '.',
    '..',
    '../',
    '../../etc/passwd',
    '/etc',
    'a/../../b',
    '\0',
    'a\0b',
    'a\nb',
    '-rf',
    ' ',
  ],
  ...[
    '.hidden',
    'x.part',
    'x.tmp',
    'x~',
    'x.filepart',
    '.x.a1b2c3',
    'a:b',
    'ﬀ',
    'É',
    '日本',
    '\ud800',
  ],
  ...[
    'x'.repeat(4096),
    '.'.repeat(4096),
    '\ufdfa'.repeat(4096),
    'a.tmp'.repeat(20),
    'CON',
    '__proto__',
  ],
);

describe('a version is called', () => {
  const names = (time: number) => {
    const all = versionNames(time);
    return Array.from({ length: 4 }, () => all.next().value);
  };

  test('each after those before it, as clients compare them', () => {
    const all = versionNames(Date.UTC(2026, 0, 3, 4, 5, 6));
    const first = Array.from({ length: 250 }, () => all.next().value);
    assert.deepEqual(first, [...new Set(first)].sort());
    assert.ok(first.every((name) => isVersionName(name) && isName(name) && !isTemporary(name)));
    assert.ok(first.every((name) => versionTime(name) >= Date.UTC(2026, 0, 3, 4, 5)));
  });

  test('by the time at which it was made', () => {
    assert.deepEqual(names(Date.UTC(2026, 0, 3, 4, 5, 6)), [
      '20260103_04:05',
      '20260103_04:05:06',
      '20260103_04:05:06-02',
      '20260103_04:05:06-03',
    ]);
  });

  test('so that LXD takes it, whatever time that is, and the name tells it again', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true }), (time) => {
        for (const name of names(time)) assert.ok(isVersionName(name), name);
      }),
    );
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4_000_000_000 }), (seconds) => {
        const [minute = '', second = ''] = names(seconds * 1000);
        assert.equal(versionTime(second), seconds * 1000);
        assert.equal(versionTime(minute), Math.floor(seconds / 60) * 60_000);
      }),
    );
  });

  test('by a date alone, or by other things after it', () => {
    assert.equal(versionTime('20260103'), Date.UTC(2026, 0, 3));
    assert.equal(versionTime('20260103-rc1'), Date.UTC(2026, 0, 3));
    assert.equal(versionTime('20260103_9999'), Date.UTC(2026, 0, 3));
    assert.equal(versionTime('20260231_00:00'), 0);
  });
});

test('names of folders are made of any text', () => {
  for (const [text, name] of [
    ['Rocky Linux 9 (Blue Onyx)', 'rocky-linux-9-blue-onyx'],
    ['Éire~', 'eire'],
    ['a:b', 'a-b'],
    ['v1.part', 'v1-part'],
    ['g++', 'g++'],
    ['..', undefined],
    ['日本', undefined],
  ] as const) {
    assert.equal(folderName(text), name, text);
  }
});

test('architectures have the names of the tree and of LXD', () => {
  for (const [tree, lxd] of [
    ['amd64', 'x86_64'],
    ['arm64', 'aarch64'],
    ['armhf', 'armv7l'],
    ['i386', 'i686'],
    ['ppc64el', 'ppc64le'],
    ['s390x', 's390x'],
    ['riscv64', 'riscv64'],
  ] as const) {
    assert.equal(treeArchitecture(lxd), tree);
    assert.equal(treeArchitecture(tree), tree);
    assert.equal(lxdArchitecture(tree), lxd);
  }
  assert.equal(treeArchitecture('toString'), undefined);
  assert.equal(lxdArchitecture('vax'), 'vax');
});
