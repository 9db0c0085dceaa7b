import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  byName,
  compareNames,
  type FileRole,
  isHidden,
  isName,
  isPrintable,
  isTemporary,
  isVersionName,
  printable,
  productId,
  productPath,
  roleOf,
} from '../../src/catalog/tree.js';

/** Names of the grammar. */
const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:+~@-]{0,30}$/);

/** Any character, and halves of characters. */
const codeUnit = fc.nat({ max: 0xffff }).map((code) => String.fromCharCode(code));

describe('a name', () => {
  const right = [
    'a',
    '7',
    'ubuntu',
    'root.tar.xz',
    '20180716_12:00',
    'x86_64',
    'v1+dfsg~rc1-2@home',
    'SHA256SUMS',
    'a..b',
    'a'.repeat(255),
  ];
  const wrong = [
    ['', 'nothing'],
    ['.', 'a dot'],
    ['..', 'two dots'],
    ['.hidden', 'a dot first'],
    ['-option', 'a dash first'],
    ['_a', 'an underscore first'],
    ['~a', 'a tilde first'],
    ['a/b', 'a slash'],
    ['a\\b', 'a backslash'],
    ['a b', 'a space'],
    ['a\tb', 'a tab'],
    ['a\n', 'a newline last'],
    ['a\0', 'NUL'],
    ['a,b', 'a comma'],
    ['a"b', 'a quote'],
    ['a%2fb', 'a per cent sign'],
    ['a#b', 'a hash'],
    ['a?b', 'a question mark'],
    ['größe', 'a letter outside ASCII'],
    ['a\ufffd', 'a byte that is not UTF-8'],
    ['a'.repeat(256), '256 characters'],
  ] as const;
  for (const text of right) {
    test(`may be ${text.slice(0, 20)}`, () => assert.equal(isName(text), true));
  }
  for (const [text, what] of wrong) {
    test(`may not be or have ${what}`, () => assert.equal(isName(text), false));
  }

  test('is the same in a path, in JSON and on a line', () => {
    fc.assert(
      fc.property(fc.oneof(name, fc.string()), (text) => {
        if (!isName(text)) return;
        assert.equal(JSON.stringify(text), `"${text}"`);
        assert.equal(printable(text), text);
        assert.deepEqual(`a/${text}/b`.split('/'), ['a', text, 'b']);
      }),
    );
  });
});

describe('an upload that has not ended', () => {
  const temporary = [
    '.lxd.tar.xz.Ab3dE9', // rsync
    '.a.123456',
    '.~tmp~',
    '.rsync-partial',
    'lxd.tar.xz.part',
    'lxd.tar.xz.filepart',
    'lxd.tar.xz.partial',
    'lxd.tar.xz.crdownload',
    'lxd.tar.xz.tmp',
    'lxd.tar.xz~',
  ];
  const lasting = [
    'lxd.tar.xz',
    'part',
    'tmp',
    'a.part.xz',
    'a.tmpl',
    '.hidden',
    '.a.12345',
    '.a.1234567',
    '.a.12345_',
    '..a.123456',
    'a.123456',
    '~a',
    '20260103_12:00',
  ];
  for (const text of temporary) {
    test(`is known by ${text}`, () => assert.equal(isTemporary(text), true));
  }
  for (const text of lasting) {
    test(`is not meant by ${text}`, () => assert.equal(isTemporary(text), false));
  }
});

test('hidden is what has a dot first', () => {
  for (const text of ['.', '.a', '.staging', '..']) assert.equal(isHidden(text), true, text);
  for (const text of ['a', 'a.b', 'a.']) assert.equal(isHidden(text), false, text);
});

describe('the name of a version', () => {
  const right = [
    '20260103',
    '20180716_12:00',
    '20260103_12:00:05',
    '20260103.1',
    '20260103a',
    '202601031',
    '20240229',
    '20000229',
    '00010101',
    '99991231',
  ];
  const wrong = [
    '',
    '2026',
    '2026010',
    '2026-01-03',
    'v20260103',
    '20261301',
    '20260001',
    '20260100',
    '20260132',
    '20260431',
    '20250229',
    '19000229',
    '21000229',
    '00000101',
    '20260103 ',
    '20260103_12/00',
    '20260103\n',
    '２０２６０１０３',
    `20260103${'a'.repeat(250)}`,
  ];
  for (const text of right) {
    test(`may be ${text}`, () => assert.equal(isVersionName(text), true));
  }
  for (const text of wrong) {
    test(`may not be ${JSON.stringify(text.slice(0, 20))}`, () => {
      assert.equal(isVersionName(text), false);
    });
  }

  test('starts with a date of the calendar, for every date of three centuries', () => {
    for (let year = 1850; year <= 2150; year++) {
      for (let month = 0; month <= 13; month++) {
        for (let day = 0; day <= 32; day++) {
          const digits = `${year}${pad(month)}${pad(day)}`;
          assert.equal(isVersionName(digits), isDate(year, month, day), digits);
        }
      }
    }
  });
});

const pad = (number: number) => String(number).padStart(2, '0');

function isDate(year: number, month: number, day: number): boolean {
  const date = new Date(Date.UTC(year, month - 1, day));
  return date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
}

describe('the role of a file', () => {
  // The table of the design, row by row.
  const roles: [name: string, role: FileRole][] = [
    ['lxd.tar.xz', { kind: 'metadata', client: 'lxd' }],
    ['incus.tar.xz', { kind: 'metadata', client: 'incus' }],
    ['rootfs.squashfs', { kind: 'root', ftype: 'squashfs' }],
    ['root.squashfs', { kind: 'root', ftype: 'squashfs' }],
    ['ubuntu-26.04-server.squashfs', { kind: 'root', ftype: 'squashfs' }],
    ['root.tar.xz', { kind: 'root', ftype: 'root.tar.xz' }],
    ['rootfs.tar.xz', { kind: 'root', ftype: 'root.tar.xz' }],
    ['disk.qcow2', { kind: 'root', ftype: 'disk-kvm.img' }],
    ['disk-kvm.img', { kind: 'root', ftype: 'disk-kvm.img' }],
    ['disk1.img', { kind: 'root', ftype: 'disk1.img' }],
    ['uefi1.img', { kind: 'root', ftype: 'uefi1.img' }],
    ['lxd_combined.tar.gz', { kind: 'unified', client: 'lxd' }],
    ['incus_combined.tar.gz', { kind: 'unified', client: 'incus' }],
    ['rootfs.squashfs.vcdiff', { kind: 'delta', ftype: 'squashfs.vcdiff', stem: 'rootfs' }],
    [
      'rootfs.20260101.squashfs.vcdiff',
      { kind: 'delta', ftype: 'squashfs.vcdiff', stem: 'rootfs.20260101' },
    ],
    [
      'rootfs.20260101_12:00.vcdiff',
      { kind: 'delta', ftype: 'squashfs.vcdiff', stem: 'rootfs.20260101_12:00' },
    ],
    ['disk.qcow2.vcdiff', { kind: 'delta', ftype: 'disk-kvm.img.vcdiff', stem: 'disk' }],
    [
      'disk.20260101.qcow2.vcdiff',
      { kind: 'delta', ftype: 'disk-kvm.img.vcdiff', stem: 'disk.20260101' },
    ],
    // Their types would be their own names, and clients would take them for these.
    ['squashfs', { kind: 'root', ftype: 'squashfs' }],
    [
      'disk.qcow2.20260101.vcdiff',
      { kind: 'delta', ftype: 'disk-kvm.img.vcdiff', stem: 'disk.qcow2.20260101' },
    ],
    [
      'disk-kvm.img.20260101.1.vcdiff',
      { kind: 'delta', ftype: 'disk-kvm.img.vcdiff', stem: 'disk-kvm.img.20260101.1' },
    ],
    ['squashfs.vcdiff', { kind: 'delta', ftype: 'squashfs.vcdiff', stem: 'squashfs' }],
    ['disk-kvm.img.vcdiff', { kind: 'delta', ftype: 'disk-kvm.img.vcdiff', stem: 'disk-kvm.img' }],
    ['SHA256SUMS', { kind: 'sums' }],
    ['image.yaml', { kind: 'image-yaml' }],
    ['README', { kind: 'other' }],
    ['image.yaml.gz', { kind: 'other' }],
    ['SHA256SUMS.gpg', { kind: 'other' }],
    ['sha256sums', { kind: 'other' }],
    ['LXD.tar.xz', { kind: 'other' }],
    ['lxd.tar.gz', { kind: 'other' }],
    ['disk2.img', { kind: 'other' }],
    ['rootfs.squashfs.sig', { kind: 'other' }],
    ['vcdiff', { kind: 'other' }],
    ['qcow2', { kind: 'other' }],
    ['constructor', { kind: 'other' }],
    ['__proto__', { kind: 'other' }],
  ];
  for (const [file, role] of roles) {
    test(`${file} is ${Object.values(role).join(' ')}`, () => assert.deepEqual(roleOf(file), role));
  }

  test('is told by the name alone, however many names were asked about', () => {
    for (let index = 0; index < 25_000; index++) {
      assert.deepEqual(roleOf(`rootfs.${index}.vcdiff`), {
        kind: 'delta',
        ftype: 'squashfs.vcdiff',
        stem: `rootfs.${index}`,
      });
    }
    for (const [file, role] of roles) assert.deepEqual(roleOf(file), role);
  });

  test('any name has one, and its stem is the start of the name', () => {
    fc.assert(
      fc.property(fc.oneof(name, fc.string()), fc.constantFrom('', '.vcdiff'), (text, ending) => {
        const role = roleOf(text + ending);
        if (role.kind === 'delta') assert.ok((text + ending).startsWith(role.stem));
      }),
    );
  });
});

test('a product has an ID for documents and a path for the disk', () => {
  const product = { env: 'ubuntu', release: 'noble', arch: 'amd64', type: 'cloud' };
  assert.equal(productId(product), 'ubuntu:noble:amd64:cloud');
  assert.equal(productPath(product), 'ubuntu/noble/amd64/cloud');
});

test('names are ordered by code unit, in any locale', () => {
  const names = ['b', 'a', 'B', '10', '9', 'a.b', 'a-b', 'a:b', 'a~', 'A'];
  const ordered = ['10', '9', 'A', 'B', 'a', 'a-b', 'a.b', 'a:b', 'a~', 'b'];
  assert.deepEqual([...names].sort(compareNames), ordered);
  const entries = names.map((each) => ({ name: each })).sort(byName);
  assert.deepEqual(
    entries.map((entry) => entry.name),
    ordered,
  );
  assert.equal(compareNames('a', 'a'), 0);
});

describe('text for one line', () => {
  const cases: [text: string, shown: string][] = [
    ['plain/päth 漢字 😀', 'plain/päth 漢字 😀'],
    ['a\nb', 'a\\u000ab'],
    ['\r\t\0', '\\u000d\\u0009\\u0000'],
    ['\u001b[31m', '\\u001b[31m'],
    ['\u007f\u0085\u009b', '\\u007f\\u0085\\u009b'],
    ['\u2028\u2029', '\\u2028\\u2029'],
    ['abc\u202ecba\u2066', 'abc\\u202ecba\\u2066'],
    ['\ufffd', '\\ufffd'],
    ['a\ud800b\udfff', 'a\\ud800b\\udfff'],
  ];
  for (const [text, shown] of cases) {
    test(`is ${shown}`, () => {
      assert.equal(printable(text), shown);
      assert.equal(isPrintable(text), text === shown);
    });
  }

  test('is left as it is exactly where it is printable', () => {
    fc.assert(
      fc.property(fc.string({ unit: codeUnit }), (text) => {
        assert.equal(isPrintable(text), printable(text) === text);
        assert.ok(isPrintable(printable(text)));
        assert.equal(/[\n\r]/.test(printable(text)), false);
      }),
    );
  });
});
