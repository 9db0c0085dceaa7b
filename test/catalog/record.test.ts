import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  digestsOf,
  draftRecord,
  type KnownDigests,
  makeRecord,
  type ProductRecord,
  recall,
  recallDigests,
  recordFormat,
  withoutDigests,
} from '../../src/catalog/record.js';
import type { ProductFolder, VersionFolder } from '../../src/catalog/tree.js';
import {
  aFile,
  aProduct,
  aSumsFile,
  aVersion,
  type FileValue,
  settled,
  sha256,
  someFault,
} from '../support/tree-values.js';

const fingerprint = 'what the scan saw';
const recordOf = (folder: ProductFolder) => makeRecord({ folder, fingerprint }, settled);

/** What a record keeps of digests, as the next run gets it. */
const kept = ({ digests }: ProductRecord) => JSON.parse(digests.toString()) as KnownDigests;

/** `folder` as the next scan finds it: the same files, and nothing known of them. */
function scannedAgain(folder: ProductFolder): ProductFolder {
  const text = JSON.stringify(folder, (key, value) =>
    key === 'digest' || key === 'failure' || key === 'fleeting' ? undefined : value,
  );
  return JSON.parse(text) as ProductFolder;
}

/** A product with all that a record can be made of. */
function richProduct(): ProductFolder {
  const facts = {
    os: 'Demo',
    releaseTitle: 'One',
    requirements: [{ values: { nesting: 'true' } }],
  };
  const files = [
    aFile('lxd.tar.xz', { found: { facts } }),
    aFile('incus.tar.xz', { found: { facts } }),
    aFile('image.yaml', { found: { facts: { releaseAliases: { one: ['1.0', 'current'] } } } }),
    'rootfs.squashfs',
    'root.tar.xz',
    'disk.qcow2',
    'disk1.img',
    'uefi1.img',
    'rootfs.20260101.vcdiff',
    'disk.qcow2.vcdiff',
    'README',
    aSumsFile({ README: sha256('README') }),
  ];
  return aProduct({
    yaml: aFile('product.yaml', {
      found: { facts: { aliases: ['mine'], requirements: [{ values: { secureboot: 'false' } }] } },
    }),
    versions: [
      '20260101',
      aVersion('20260102', { files: ['lxd_combined.tar.gz'] }),
      aVersion('20260103', { files }),
      aVersion('20260104', { files: ['rootfs.squashfs'] }),
      aVersion('latest', { files: ['README'] }),
    ],
    problems: [{ ...someFault, path: 'demo/one/amd64/default/a b' }],
  });
}

test('who changes what a record holds raises recordFormat', () => {
  const { digests, entry, ...rest } = recordOf(richProduct());
  const text = JSON.stringify([
    rest,
    digests.toString(),
    entry && [entry.head, entry.versions.toString()],
  ]);
  // A record that an earlier release kept is used as long as the format is the same. If this hash is not
  // what it was, the same tree gives another record now: raise recordFormat, and put both here.
  assert.deepEqual(
    [recordFormat, sha256(text)],
    [4, '25c2b0347da9418e550a23136d7136d54308046d0dc4943abadaec2041c2bbe6'],
  );
});

describe('the digests in a record', () => {
  test('are given back to the files that they are of', () => {
    const folder = richProduct();
    const again = scannedAgain(folder);
    recallDigests(again, kept(recordOf(folder)));
    assert.deepEqual(again, folder);
    assert.deepEqual(digestsOf(again), digestsOf(folder));
  });

  test('are the same in a draft', () => {
    const folder = richProduct();
    const draft = draftRecord({ folder, fingerprint });
    assert.deepEqual(kept(draft), digestsOf(folder));
    assert.deepEqual(draft, {
      path: 'demo/one/amd64/default',
      fingerprint,
      final: false,
      restless: [],
      filled: [],
      totals: { versions: 0, bytes: 0 },
      problems: [],
      digests: draft.digests,
    });
  });

  test('are not given to a file with another stamp, nor to one in another version', () => {
    const folder = aProduct({ yaml: aFile('product.yaml') });
    const again = scannedAgain(folder);
    const [version] = again.versions;
    const [lxd, root] = version?.files ?? [];
    assert.ok(version !== undefined && lxd !== undefined && root !== undefined);
    assert.ok(again.yaml !== undefined);
    again.yaml.stamp = 'another';
    lxd.stamp = 'another';
    again.versions.push({ ...version, name: '20260104', files: [{ ...root }] });
    recallDigests(again, digestsOf(folder));
    const known = [again.yaml, lxd, root, again.versions[1]?.files[0]];
    assert.deepEqual(
      known.map((file) => file?.digest !== undefined),
      [false, false, true, false],
    );
  });

  test('are not kept of a file that could change under the same stamp', () => {
    const files = [
      aFile('lxd.tar.xz', { fleeting: true }),
      aFile('a.squashfs', { fleeting: false }),
    ];
    const folder = aProduct({
      yaml: aFile('product.yaml', { fleeting: true }),
      versions: [aVersion('20260103', { files })],
    });
    const known = kept(recordOf(folder));
    assert.deepEqual(known[''], []);
    assert.deepEqual(
      known['20260103']?.map(([name]) => name),
      ['a.squashfs'],
    );
  });

  for (const name of ['constructor', 'toString', 'hasOwnProperty']) {
    test(`are none of a new version called ${name}`, () => {
      const known = kept(recordOf(aProduct()));
      const folder = aProduct({ versions: [aVersion(name, { files: [unread('README')] })] });
      recallDigests(folder, known);
      assert.equal(folder.versions[0]?.files[0]?.digest, undefined);
    });
  }

  test('are kept and given back, whatever the files', () => {
    const name = fc.oneof(
      fc.constantFrom('lxd.tar.xz', 'a.squashfs', 'constructor'),
      fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:+~@-]{0,8}$/),
    );
    const value: fc.Arbitrary<FileValue> = fc.record({
      unread: fc.boolean(),
      fleeting: fc.boolean(),
      found: fc.record({ sums: fc.dictionary(name, name, { noNullPrototype: true }) }),
    });
    const files = fc.dictionary(name, value, { noNullPrototype: true, maxKeys: 4 });
    const versions = fc.dictionary(name, files, { noNullPrototype: true, maxKeys: 3 });
    fc.assert(
      fc.property(versions, (list) => {
        const folder = aProduct({
          versions: Object.entries(list).map(([each, entries]) =>
            aVersion(each, { files: Object.entries(entries).map((file) => aFile(...file)) }),
          ),
        });
        const again = scannedAgain(folder);
        recallDigests(again, JSON.parse(JSON.stringify(digestsOf(folder))) as KnownDigests);
        for (const [index, version] of folder.versions.entries()) {
          for (const [at, file] of version.files.entries()) {
            const expected = file.fleeting === true ? undefined : file.digest;
            assert.deepEqual(again.versions[index]?.files[at]?.digest, expected);
          }
        }
      }),
    );
  });
});

function unread(name: string) {
  return aFile(name, { unread: true });
}

describe('a record', () => {
  const withFile = (name: string, value: FileValue) =>
    aProduct({ versions: [aVersion('20260103', { files: ['lxd.tar.xz', aFile(name, value)] })] });
  const cases: [title: string, folder: ProductFolder, final: boolean][] = [
    ['of a product that is published', aProduct(), true],
    ['of a product that is held back by its names', aProduct({ versions: ['latest'] }), true],
    ['of a product without versions', aProduct({ versions: [] }), true],
    ['of a faulty file', withFile('a.squashfs', { found: { fault: someFault } }), true],
    ['of a file that need not be read', withFile('README', { unread: true }), true],
    ['of a file that could not be read', withFile('a.squashfs', { failure: someFault }), false],
    [
      'of a product.yaml that could not be read',
      aProduct({ yaml: aFile('product.yaml', { unread: true, failure: someFault }) }),
      false,
    ],
    [
      'of a product.yaml that was not read in time',
      aProduct({ yaml: aFile('product.yaml', { unread: true }) }),
      false,
    ],
    ['of a file read too young', withFile('a.squashfs', { fleeting: true }), false],
    ['of a product.yaml read too young', aProduct({ yaml: aFile('a', { fleeting: true }) }), false],
    [
      'of a version that is settling',
      withFile('a.squashfs', { touched: settled.now, unread: true }),
      false,
    ],
    ['of a file touched since it was read', withFile('a.squashfs', { touched: settled.now }), true],
    [
      // It was settling when files were read, and had settled when it was judged.
      'of a version that was not read in time',
      withFile('a.squashfs', { unread: true }),
      false,
    ],
  ];
  for (const [title, folder, final] of cases) {
    test(`${title} is ${final ? 'final' : 'looked at again'}`, () => {
      assert.equal(recordOf(folder).final, final);
    });
  }

  const { now, settle } = settled;
  const moments: [title: string, folder: ProductFolder, again: number | undefined][] = [
    ['never, where all is said', aProduct(), undefined],
    [
      'when a version will have settled',
      withFile('a.squashfs', { touched: now - 500, unread: true }),
      now - 500 + settle,
    ],
    ['soon, where a file was not read', withFile('a.squashfs', { unread: true }), now + 1000],
    [
      'soon, where product.yaml was not read',
      aProduct({ yaml: aFile('product.yaml', { unread: true }) }),
      now + 1000,
    ],
    [
      'when a stamp can be relied upon',
      withFile('a.squashfs', { fleeting: true, touched: now - settle }),
      now + 2100,
    ],
  ];
  for (const [title, folder, again] of moments) {
    test(`is made again ${title}`, () => assert.equal(recordOf(folder).again, again));
  }

  test('names the versions that were read in vain, and these alone are marked when it is recalled', () => {
    const sums = aSumsFile({ 'rootfs.squashfs': sha256('other') });
    const versions = [
      aVersion('20260101'),
      aVersion('20260102', { files: ['lxd.tar.xz', 'rootfs.squashfs', sums] }),
      aVersion('20260103', { files: ['lxd.tar.xz', aFile('a.squashfs', { unread: true })] }),
    ];
    const record = recordOf(aProduct({ versions }));
    assert.deepEqual(record.restless, ['20260102', '20260103']);
    const again = scannedAgain(aProduct({ versions }));
    recall(again, record);
    const marks = again.versions.map(({ restless }) => restless);
    assert.deepEqual(marks, [undefined, true, true]);
    assert.deepEqual(digestsOf(again), digestsOf(aProduct({ versions })));
  });

  test('names the versions whose folders were there before their files: they never count as put in place', () => {
    const [old, filled, placed] = ['20260101', '20260102', '20260103'].map((name) =>
      aVersion(name),
    ) as [VersionFolder, VersionFolder, VersionFolder];
    const record = recordOf(
      aProduct({ versions: [old, { ...filled, id: '7' }, { ...placed, id: '8', placed: true }] }),
    );
    assert.deepEqual(record.filled, ['20260102 7']);
    const versions = [
      { ...filled, id: '7', placed: true as const },
      { ...placed, id: '7', placed: true as const },
      { ...filled, id: '8', placed: true as const },
    ];
    for (const known of [record, withoutDigests(record)]) {
      const again = aProduct({ versions: versions.map((version) => ({ ...version })) });
      recall(again, known);
      const marks = again.versions.map(({ placed: isPlaced }) => isPlaced);
      assert.deepEqual(marks, [undefined, true, true]);
      assert.deepEqual(recordOf(again).filled, ['20260102 7']);
    }
    assert.deepEqual(kept(withoutDigests(record)), {});
  });

  test('says what is published, and counts a file under two names once', () => {
    const record = recordOf(aProduct({ versions: ['20260101', '20260103', 'latest'] }));
    assert.equal(record.path, 'demo/one/amd64/default');
    assert.equal(record.fingerprint, fingerprint);
    assert.deepEqual(record.totals, { versions: 2, bytes: 2 * 200 });
    assert.deepEqual(
      record.problems.map(({ code }) => code),
      ['date'],
    );
    const versions = JSON.parse(record.entry?.versions.toString().slice(0, -1) ?? '') as object;
    assert.deepEqual(Object.keys(versions), ['20260101', '20260103']);
  });

  test('has no entry where nothing is published', () => {
    const record = recordOf(aProduct({ versions: ['latest'] }));
    assert.equal('entry' in record, false);
    assert.deepEqual(record.totals, { versions: 0, bytes: 0 });
  });
});
