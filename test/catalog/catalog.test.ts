import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { resolveAliases, withoutTwins } from '../../src/catalog/aliases.js';
import { catalogueProduct } from '../../src/catalog/catalog.js';
import {
  type CatalogueOptions,
  missingDigests,
  settlingTimes,
} from '../../src/catalog/completeness.js';
import type { Item, ProductHead } from '../../src/catalog/product.js';
import type {
  Facts,
  FileEntry,
  ProblemCode,
  ProductFolder,
  RequirementRule,
  VersionFolder,
} from '../../src/catalog/tree.js';
import { roleOf } from '../../src/catalog/tree.js';
import {
  aFile,
  answer,
  aProduct,
  aSumsFile,
  aVersion,
  combined,
  type FileValue,
  madeAt,
  type ProductValue,
  type Reader,
  settled,
  sha256,
  someFault,
} from '../support/tree-values.js';

const path = 'demo/one/amd64/default';

function itemsOf(version: VersionFolder, product: ProductValue = {}): Item[] {
  const folder = aProduct({ ...product, versions: [...(product.versions ?? []), version] });
  const { product: built, problems } = catalogueProduct(folder, settled);
  assert.deepEqual(problems, []);
  return built?.versions.find(({ name }) => name === version.name)?.items ?? [];
}

function headOf(folder: ProductFolder): ProductHead {
  const { product } = catalogueProduct(folder, settled);
  assert.ok(product !== undefined, 'the product is published');
  return product.head;
}

describe('a version is published', () => {
  const complete: [title: string, files: (string | FileEntry)[]][] = [
    ['with LXD metadata and a squashfs', ['lxd.tar.xz', 'rootfs.squashfs']],
    ['with Incus metadata and a squashfs', ['incus.tar.xz', 'rootfs.squashfs']],
    ['with a tar archive for a root', ['lxd.tar.xz', 'rootfs.tar.xz']],
    ['with a disk alone', ['lxd.tar.xz', 'disk.qcow2']],
    [
      'with roots of each type',
      ['lxd.tar.xz', 'a.squashfs', 'root.tar.xz', 'disk1.img', 'a.qcow2'],
    ],
    ['as a unified image for LXD', ['lxd_combined.tar.gz']],
    ['as a unified image for Incus', ['incus_combined.tar.gz']],
    ['unified, with metadata that has no root', ['lxd.tar.xz', 'lxd_combined.tar.gz']],
    ['with empty files of no meaning', ['lxd.tar.xz', 'a.squashfs', aFile('README', { size: 0 })]],
    [
      'with a faulty image.yaml',
      ['lxd.tar.xz', 'a.squashfs', aFile('image.yaml', { found: { fault: someFault } })],
    ],
    ['with a SHA256SUMS that names none of the rest', ['lxd.tar.xz', 'a.squashfs', aSumsFile({})]],
  ];
  for (const [title, files] of complete) {
    test(title, () => {
      const { product, again } = catalogueProduct(
        aProduct({ versions: [aVersion('20260103', { files })] }),
        settled,
      );
      assert.deepEqual(
        product?.versions.map(({ name }) => name),
        ['20260103'],
      );
      assert.equal(again, undefined);
    });
  }
});

describe('a version is held back', () => {
  const full = ['lxd.tar.xz', 'rootfs.squashfs'];
  const fresh = { touched: settled.now - 1_000, unread: true };
  interface Held {
    title: string;
    version: VersionFolder;
    code: ProblemCode;
    reason: string;
    /** Whether it is to be judged again though nothing in it changes. Default: no. */
    pending?: true;
  }
  const cases: Held[] = [
    {
      title: 'with a name that is no date',
      version: aVersion('20261301'),
      code: 'date',
      reason: 'its name does not start with a date, and clients skip such versions',
    },
    {
      title: 'while an upload into it goes on',
      version: aVersion('20260103', { temporaries: ['.rootfs.squashfs.Ab3dE9'] }),
      code: 'uploading',
      reason: 'an upload into it has not ended (.rootfs.squashfs.Ab3dE9)',
    },
    {
      title: 'without metadata',
      version: aVersion('20260103', { files: ['rootfs.squashfs'] }),
      code: 'metadata-missing',
      reason: 'it has no metadata',
    },
    {
      title: 'without any file',
      version: aVersion('20260103', { files: [] }),
      code: 'metadata-missing',
      reason: 'it has no metadata',
    },
    {
      title: 'without root',
      version: aVersion('20260103', { files: ['lxd.tar.xz', 'rootfs.squashfs.vcdiff'] }),
      code: 'root-missing',
      reason: 'it has metadata, but no root file',
    },
    ...['lxd.tar.xz', 'a.squashfs', 'SHA256SUMS'].map(
      (name): Held => ({
        title: `with an empty ${name}`,
        version: aVersion('20260103', {
          files: [...full.filter((each) => each !== name), aFile(name, { size: 0 })],
        }),
        code: 'empty',
        reason: `${name} is empty`,
      }),
    ),
    {
      title: 'with two roots of one type',
      version: aVersion('20260103', { files: [...full, 'other.squashfs'] }),
      code: 'root-twice',
      reason: 'other.squashfs and rootfs.squashfs are both of type squashfs',
    },
    {
      title: 'with two disks of one type',
      version: aVersion('20260103', { files: ['lxd.tar.xz', 'disk-kvm.img', 'disk.qcow2'] }),
      code: 'root-twice',
      reason: 'disk-kvm.img and disk.qcow2 are both of type disk-kvm.img',
    },
    {
      title: 'that was changed a moment ago',
      version: aVersion('20260103', { files: ['lxd.tar.xz', aFile('a.squashfs', fresh)] }),
      code: 'settling',
      reason: 'it was changed a moment ago',
      pending: true,
    },
    {
      title: 'with a file that has not been read',
      version: aVersion('20260103', {
        files: ['lxd.tar.xz', aFile('a.squashfs', { unread: true })],
      }),
      code: 'changed',
      reason: 'a.squashfs came or changed while the tree was read',
      pending: true,
    },
    {
      title: 'with a root that has not been read after its metadata',
      version: aVersion('20260103', {
        files: ['lxd.tar.xz', aFile('a.squashfs', { found: { combined: {} } })],
      }),
      code: 'changed',
      reason: 'a.squashfs came or changed while the tree was read',
      pending: true,
    },
    ...(['unreadable', 'changed', 'gone'] as const).map(
      (code): Held => ({
        title: `with a file whose reading ended with "${code}", whatever is known of it`,
        version: aVersion('20260103', {
          files: [
            aFile('lxd.tar.xz', { unread: true }),
            aFile('a.squashfs', { failure: { ...someFault, code } }),
          ],
        }),
        code,
        reason: someFault.reason,
      }),
    ),
    ...(['damaged', 'metadata-invalid', 'sums-invalid'] as const).map(
      (code): Held => ({
        title: `with a file whose content is at fault: "${code}"`,
        version: aVersion('20260103', {
          files: [
            aFile('lxd.tar.xz', { unread: true }),
            aFile('rootfs.squashfs', { found: { fault: { ...someFault, code } } }),
          ],
        }),
        code,
        reason: someFault.reason,
      }),
    ),
    {
      title: 'with a file missing that SHA256SUMS names, whatever has been read',
      version: aVersion('20260103', {
        files: [
          aFile('lxd.tar.xz', { unread: true }),
          aFile('a.squashfs', { ...fresh, unread: true }),
          aSumsFile({ 'lxd.tar.xz': sha256('lxd.tar.xz'), 'README.txt': sha256('') }),
        ],
      }),
      code: 'sums-missing',
      reason: 'SHA256SUMS names README.txt, which is not there',
    },
    {
      title: 'with another digest than SHA256SUMS states',
      version: aVersion('20260103', {
        files: [...full, aSumsFile({ 'rootfs.squashfs': sha256('another') })],
      }),
      code: 'sums-mismatch',
      reason: 'rootfs.squashfs does not have the digest that SHA256SUMS states',
    },
  ];
  for (const { title, version, code, reason, pending = false } of cases) {
    test(title, () => {
      const result = catalogueProduct(aProduct({ versions: [version] }), settled);
      assert.equal(result.product, undefined);
      assert.equal(result.again !== undefined, pending);
      const [problem, ...more] = result.problems;
      assert.deepEqual(more, []);
      assert.equal(problem?.path, `${path}/${version.name}`);
      assert.deepEqual([problem?.code, problem?.reason], [code, reason]);
      assert.notEqual(problem?.cure, '');
    });
  }

  test('by itself: those beside it are published', () => {
    const versions = ['20260101', 'latest', '20260103'];
    const { product, problems } = catalogueProduct(aProduct({ versions }), settled);
    assert.deepEqual(
      product?.versions.map(({ name }) => name),
      ['20260101', '20260103'],
    );
    assert.deepEqual(
      problems.map((problem) => problem.path),
      [`${path}/latest`],
    );
  });

  const spoken: [at: string, code: ProblemCode, explained: boolean][] = [
    ['20260103', 'unreadable', true],
    ['20260103/lxd.tar.xz', 'unreadable', true],
    ['20260103/lxd.tar.xz', 'link', true],
    ['20260103/lxd.tar.xz', 'kind', true],
    ['20260103/l d.tar.xz', 'name', true],
    ['20260103/folder', 'misplaced', false],
    ['20260103_2', 'unreadable', false],
    ['20260103_2/lxd.tar.xz', 'unreadable', false],
  ];
  for (const [at, code, explained] of spoken) {
    const title = explained ? 'without another word' : 'with its own reason';
    test(`${title}, where the scan has reported "${code}" at ${at} and a part is missing`, () => {
      const version = aVersion('20260103', { files: ['rootfs.squashfs'] });
      const problem = { ...someFault, code, path: `${path}/${at}` };
      const folder = aProduct({ versions: [version], problems: [problem] });
      assert.deepEqual(
        catalogueProduct(folder, settled).problems.map((each) => each.code),
        explained ? [code] : [code, 'metadata-missing'],
      );
    });
  }

  test('in one line, whatever the name of an upload', () => {
    const version = aVersion('20260103', { temporaries: ['a\nb.part'] });
    const [problem] = catalogueProduct(aProduct({ versions: [version] }), settled).problems;
    assert.equal(problem?.reason, 'an upload into it has not ended (a\\u000ab.part)');
  });

  test('beside what the scan has found', () => {
    const problem = { ...someFault, path: `${path}/x y` };
    const folder = aProduct({ problems: [problem] });
    assert.deepEqual(catalogueProduct(folder, settled).problems, [problem]);
    assert.deepEqual(folder.problems, [problem]);
  });
});

describe('YAML beside the images', () => {
  const faulty = { found: { fault: someFault } };

  test('that is at fault is reported, and holds nothing back', () => {
    const imageYaml = aFile('image.yaml', faulty);
    const folder = aProduct({
      yaml: aFile('product.yaml', faulty),
      versions: [aVersion('20260103', { files: ['lxd.tar.xz', 'a.squashfs', imageYaml] })],
    });
    const { product, problems } = catalogueProduct(folder, settled);
    assert.equal(product?.head.os, 'demo');
    assert.deepEqual(problems, [
      { ...someFault, path: `${path}/product.yaml` },
      { ...someFault, path: `${path}/20260103/image.yaml` },
    ]);
  });

  test('that cannot be read is reported', () => {
    const yaml = aFile('product.yaml', { unread: true, failure: someFault });
    assert.deepEqual(catalogueProduct(aProduct({ yaml }), settled).problems, [
      { ...someFault, path: `${path}/product.yaml` },
    ]);
  });

  test('counts in the newest version alone', () => {
    const old = aVersion('20260101', {
      files: ['lxd.tar.xz', 'a.squashfs', aFile('image.yaml', faulty)],
    });
    const folder = aProduct({ versions: [old, '20260103'] });
    assert.deepEqual(catalogueProduct(folder, settled).problems, []);
  });
});

describe('the settle time', () => {
  const touchedAt = (touched: number) =>
    aProduct({ versions: [aVersion('20260103', { files: ['lxd.tar.xz', fileAt(touched)] })] });
  const fileAt = (touched: number) => aFile('rootfs.squashfs', { touched, fleeting: true });
  const now = madeAt + 1_000_000;
  const cases: [title: string, touched: number, settle: number, until: number | undefined][] = [
    ['is over when it has passed', now - 2_000, 2_000, undefined],
    ['is not over a millisecond before', now - 1_999, 2_000, now + 1],
    ['has just begun', now, 2_000, now + 2_000],
    ['counts from a time a little in the future', now + 500, 2_000, now + 2_500],
    ['does not wait for a clock that is far behind', now + 2_000, 2_000, undefined],
    ['does not wait for years', now + 1e12, 2_000, undefined],
    ['may be none', now, 0, undefined],
    ['may be none, with a clock that is behind', now + 500, 0, undefined],
  ];
  for (const [title, touched, settle, until] of cases) {
    test(title, () => {
      const options = { ...settled, now, settle };
      const folder = touchedAt(touched);
      assert.deepEqual(settlingTimes(folder, options), until && { first: until, last: until });
      assert.equal(catalogueProduct(folder, options).again, until);
      assert.equal(catalogueProduct(folder, options).product === undefined, until !== undefined);
    });
  }

  test('is that of the file touched last, and told of the first and the last version', () => {
    const versions = [now - 1_500, now - 500, now - 1_000].map((touched, index) =>
      aVersion(`2026010${index + 1}`, { files: ['lxd.tar.xz', fileAt(touched)] }),
    );
    const options = { ...settled, now, settle: 2_000 };
    const folder = aProduct({ versions });
    assert.deepEqual(settlingTimes(folder, options), { first: now + 500, last: now + 1_500 });
    assert.equal(catalogueProduct(folder, options).again, now + 500);
  });

  test('is not waited for where names alone hold a version back', () => {
    const files = [aFile('rootfs.squashfs', { touched: now })];
    const folder = aProduct({ versions: [aVersion('20260103', { files })] });
    assert.equal(settlingTimes(folder, { ...settled, now }), undefined);
  });

  const young = { touched: now, unread: true };
  const versionOf = (value: FileValue) =>
    aVersion('20260103', { files: ['lxd.tar.xz', aFile('rootfs.squashfs', value)] });
  const timesOf = (version: VersionFolder) =>
    settlingTimes(aProduct({ versions: [version] }), { ...settled, now });

  test('is not asked of a file that was read as it is, whatever touched it since', () => {
    assert.equal(timesOf(versionOf({ touched: now })), undefined);
    assert.notEqual(timesOf(versionOf({ touched: now, fleeting: true })), undefined);
    assert.notEqual(timesOf(versionOf(young)), undefined);
  });

  test('is not asked of a version that was put in its place whole', () => {
    const version = versionOf(young);
    assert.equal(timesOf({ ...version, placed: true }), undefined);
    const folder = aProduct({ versions: [{ ...version, placed: true }] });
    const asked = missingDigests(folder, { ...settled, now }).flatMap((job) => job.files);
    assert.deepEqual(
      asked.map((file) => file.name),
      ['lxd.tar.xz', 'rootfs.squashfs'],
    );
  });

  test('comes to an end: the version is published then', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: -10_000, max: 10_000 }),
        fc.nat({ max: 5_000 }),
        (ago, settle) => {
          const options = { ...settled, now, settle };
          const folder = touchedAt(now - ago);
          const until = settlingTimes(folder, options)?.last;
          if (until !== undefined) assert.ok(until > now && until <= now + 2 * settle);
          const later = { ...options, now: until ?? now };
          assert.ok(catalogueProduct(folder, later).product !== undefined);
        },
      ),
    );
  });
});

describe('SHA256SUMS', () => {
  const now = settled.now;
  const fresh = { touched: now, unread: true };
  const names = ['lxd.tar.xz', 'rootfs.squashfs'];
  const sums = Object.fromEntries(names.map((name) => [name, sha256(name)]));
  const unreadFiles = () => names.map((name) => aFile(name, fresh));
  const asked = (folder: ProductFolder) =>
    missingDigests(folder, settled).flatMap((job) => job.files.map((file) => file.name));

  test('is read first and alone, without waiting', () => {
    const files = [...unreadFiles(), aFile('SHA256SUMS', fresh)];
    const folder = aProduct({ versions: [aVersion('20260103', { files })] });
    assert.deepEqual(asked(folder), ['SHA256SUMS']);
  });

  test('that names a file in vain lets nothing else be read, and nothing be waited for', () => {
    const files = [
      ...unreadFiles(),
      aSumsFile({ ...sums, more: sha256('more') }, { touched: now }),
    ];
    const folder = aProduct({ versions: [aVersion('20260103', { files })] });
    assert.deepEqual(asked(folder), []);
    assert.equal(settlingTimes(folder, settled), undefined);
  });

  test('that is not valid lets nothing else be read', () => {
    const files = [
      ...names.map((name) => aFile(name, { unread: true })),
      aFile('SHA256SUMS', { found: { fault: someFault } }),
    ];
    assert.deepEqual(asked(aProduct({ versions: [aVersion('20260103', { files })] })), []);
  });

  test('has the version published at once where every digest is met', () => {
    const files = [...unreadFiles(), aSumsFile(sums, { touched: now })];
    const folder = aProduct({ versions: [aVersion('20260103', { files })] });
    assert.deepEqual(asked(folder), ['SHA256SUMS', ...names]);
    answer(folder, missingDigests(folder, settled), reader());
    const { product, again } = catalogueProduct(folder, settled);
    assert.equal(product?.versions.length, 1);
    assert.equal(again, undefined);
  });

  for (const [settle, wait] of [
    [500, 500],
    [2000, 1000],
    [3_600_000, 1000],
  ] as const) {
    test(`lets a version that was read in vain rest for ${wait} of ${settle} ms, and stay marked`, () => {
      const files = [...unreadFiles(), aSumsFile(sums, { touched: now })];
      const version = aVersion('20260103', { files });
      const folder = aProduct({ versions: [{ ...version, restless: true }] });
      const options = { ...settled, settle, now };
      assert.deepEqual(missingDigests(folder, options), []);
      assert.deepEqual(settlingTimes(folder, options), { first: now + wait, last: now + wait });
      assert.deepEqual(catalogueProduct(folder, options).restless, ['20260103']);
      assert.equal(missingDigests(folder, { ...options, now: now + wait }).length, 1);
    });
  }

  const strangers = ['README', 'constructor', 'toString'];
  for (const name of strangers) {
    test(`does not speak for a file it does not name, such as ${name}`, () => {
      const files = [...names, aFile(name, fresh), aSumsFile(sums, { touched: now })];
      const folder = aProduct({ versions: [aVersion('20260103', { files })] });
      assert.equal(settlingTimes(folder, settled)?.first, now + settled.settle);
    });
  }

  test('is not listed, and neither is image.yaml', () => {
    const files = [...names, aSumsFile(sums), 'image.yaml'];
    const keys = itemsOf(aVersion('20260103', { files })).map((item) => item.key);
    assert.deepEqual(keys, ['incus.tar.xz', 'lxd.tar.xz', 'rootfs.squashfs']);
  });
});

/** Reads any file: its content is its path, but for what `given` says. */
function reader(given: Record<string, ReturnType<Reader>> = {}): Reader {
  return (file) => {
    const name = file.slice(file.lastIndexOf('/') + 1);
    return given[name] ?? { digest: { sha256: sha256(name) } };
  };
}

describe('what must be read', () => {
  test('is nothing where all is known', () => {
    assert.deepEqual(missingDigests(aProduct({ yaml: aFile('product.yaml') }), settled), []);
  });

  test('is asked for with what is known of it, metadata and root together', () => {
    const yaml = aFile('product.yaml', { unread: true, size: 7 });
    const lxd = aFile('lxd.tar.xz');
    const files = [lxd, ...['a.squashfs', 'note', 'a.qcow2.vcdiff', 'image.yaml'].map(unreadFile)];
    const versions = [aVersion('20260103', { files }), aVersion('20260104')];
    const wanted = { size: 100 };
    assert.deepEqual(missingDigests(aProduct({ yaml, versions }), settled), [
      {
        path,
        files: [
          { name: 'product.yaml', size: 7, stamp: 'stamp of product.yaml', read: 'product-yaml' },
        ],
      },
      {
        path: `${path}/20260103`,
        files: [
          { ...wanted, name: 'a.qcow2.vcdiff', stamp: 'stamp of a.qcow2.vcdiff', read: 'plain' },
          {
            ...wanted,
            name: 'a.squashfs',
            stamp: 'stamp of a.squashfs',
            read: 'root',
          },
          { ...wanted, name: 'image.yaml', stamp: 'stamp of image.yaml', read: 'image-yaml' },
          {
            ...wanted,
            name: 'lxd.tar.xz',
            stamp: 'stamp of lxd.tar.xz',
            read: 'metadata',
            known: lxd.digest,
          },
          { ...wanted, name: 'note', stamp: 'stamp of note', read: 'plain' },
        ],
      },
    ]);
  });

  const cases: [title: string, version: VersionFolder][] = [
    ['has no date', aVersion('latest', { files: allUnread() })],
    ['is being uploaded', aVersion('20260103', { files: allUnread(), temporaries: ['a.part'] })],
    ['has no root', aVersion('20260103', { files: [unreadFile('lxd.tar.xz')] })],
    [
      'has not settled',
      aVersion('20260103', {
        files: ['lxd.tar.xz', aFile('a.squashfs', { unread: true, touched: settled.now })],
      }),
    ],
    [
      'has a file that cannot be read',
      aVersion('20260103', {
        files: [...allUnread(), aFile('README', { unread: true, failure: someFault })],
      }),
    ],
    [
      'has a file that could not be read again',
      aVersion('20260103', {
        files: ['lxd.tar.xz', aFile('a.squashfs', { found: { combined: {} }, failure: someFault })],
      }),
    ],
  ];
  for (const [title, version] of cases) {
    test(`is nothing in a version that ${title}`, () => {
      assert.deepEqual(missingDigests(aProduct({ versions: [version] }), settled), []);
    });
  }

  test('is the root again where metadata was replaced', () => {
    const folder = aProduct();
    const [lxd] = folder.versions[0]?.files ?? [];
    assert.ok(lxd !== undefined);
    delete lxd.digest;
    const read = answer(folder, missingDigests(folder, settled), reader());
    assert.deepEqual(read, [`${path}/20260103/lxd.tar.xz`]);
    lxd.digest = { sha256: sha256('new') };
    const replaced = { 'lxd.tar.xz': { digest: { sha256: sha256('new') } } };
    const again = answer(folder, missingDigests(folder, settled), reader(replaced));
    assert.deepEqual(again, [`${path}/20260103/lxd.tar.xz`, `${path}/20260103/rootfs.squashfs`]);
    assert.deepEqual(missingDigests(folder, settled), []);
  });
});

function unreadFile(name: string): FileEntry {
  return aFile(name, { unread: true });
}

function allUnread(): FileEntry[] {
  return ['lxd.tar.xz', 'rootfs.squashfs'].map(unreadFile);
}

describe('reading what is missing, whatever is there and known, and whatever fails', () => {
  const fileNames = [
    'lxd.tar.xz',
    'incus.tar.xz',
    'lxd_combined.tar.gz',
    'rootfs.squashfs',
    'disk.qcow2',
    'SHA256SUMS',
    'image.yaml',
    'README',
    'rootfs.20260101.vcdiff',
  ];
  const file = fc.record({
    name: fc.constantFrom(...fileNames),
    state: fc.constantFrom('unread', 'unread', 'known', 'alone', 'fresh', 'empty'),
  });
  const version = fc.record({
    date: fc.constantFrom('20260101', '20260102', '20260103', 'latest'),
    files: fc.uniqueArray(file, { selector: ({ name }) => name, maxLength: 8 }),
    temporaries: fc.constantFrom<string[]>([], [], [], ['a.part']),
  });
  const versions = fc.uniqueArray(version, { selector: ({ date }) => date, maxLength: 3 });
  const outcome = fc.constantFrom('fine', 'fine', 'fine', 'failing', 'faulty');
  const outcomes = fc.dictionary(fc.constantFrom(...fileNames, 'product.yaml'), outcome, {
    noNullPrototype: true,
  });
  const stated = fc.dictionary(fc.constantFrom(...fileNames), fc.boolean(), {
    noNullPrototype: true,
  });

  function folderOf(list: readonly { date: string; files: { name: string; state: string }[] }[]) {
    return aProduct({
      yaml: unreadFile('product.yaml'),
      versions: list
        .map(({ date, files }) =>
          aVersion(date, {
            files: files.map(({ name, state }) =>
              aFile(name, {
                size: state === 'empty' ? 0 : 100,
                touched: state === 'fresh' ? settled.now : madeAt,
                unread: state === 'unread' || state === 'fresh',
                ...(state === 'alone' ? { found: { combined: {} } } : {}),
              }),
            ),
          }),
        )
        .sort((a, b) => (a.name < b.name ? -1 : 1)),
    });
  }

  function readerOf(how: Record<string, string>, sums: Record<string, boolean>): Reader {
    const right = Object.entries(sums).map(([name, met]) => [name, sha256(met ? name : 'other')]);
    return (each) => {
      const name = each.slice(each.lastIndexOf('/') + 1);
      if (how[name] === 'failing') return { failure: someFault };
      const digest = { sha256: sha256(name) };
      if (how[name] === 'faulty') return { digest: { ...digest, fault: someFault } };
      if (name !== 'SHA256SUMS') return { digest };
      return { digest: { ...digest, sums: Object.fromEntries(right) } };
    };
  }

  test('ends soon, reads no file three times, and everything published has its digests', () => {
    fc.assert(
      fc.property(versions, outcomes, stated, (list, how, sums) => {
        const folder = folderOf(list);
        const read = readerOf(how, sums);
        const paths: string[] = [];
        let rounds = 0;
        for (;;) {
          const jobs = missingDigests(folder, settled);
          if (jobs.length === 0) break;
          const now = answer(folder, jobs, read);
          assert.ok(now.length > 0, 'a job has something to read');
          paths.push(...now);
          assert.ok(++rounds <= 3, `${rounds} rounds`);
        }
        for (const each of new Set(paths)) {
          assert.ok(paths.filter((other) => other === each).length <= 2, each);
        }
        assertPublishable(folder, settled);
      }),
      { numRuns: 1000 },
    );
  });

  function assertPublishable(folder: ProductFolder, options: CatalogueOptions): void {
    const { product, problems } = catalogueProduct(folder, options);
    assert.equal(problems.filter(({ reason }) => /not been read/.test(reason)).length, 0);
    for (const { items } of product?.versions ?? []) {
      const types = items.map((item) => roleOf(item.path.slice(item.path.lastIndexOf('/') + 1)));
      const roots = types.filter(({ kind }) => kind === 'root').length;
      for (const item of items) {
        assert.match(item.sha256, /^[0-9a-f]{64}$/);
        if (item.combined !== undefined) {
          assert.equal(Object.keys(item.combined).length, roots);
        }
      }
    }
  }
});

describe('the items of a version', () => {
  const at = (name: string) => `images/${path}/20260103/${name}`;
  const plain = (key: string, name = key): Item => ({
    key,
    ftype: key,
    path: at(name),
    size: 100,
    sha256: sha256(name),
  });
  const fingerprint = (metadata: string, root: string) =>
    combined({ sha256: sha256(metadata) }, { sha256: sha256(root) });

  for (const [own, other] of [
    ['lxd', 'incus'],
    ['incus', 'lxd'],
  ]) {
    test(`${own} metadata stands under the names of both clients`, () => {
      const name = `${own}.tar.xz`;
      const digests = { combined_squashfs_sha256: fingerprint(name, 'a.squashfs') };
      const items = itemsOf(aVersion('20260103', { files: [name, 'a.squashfs'] }));
      const expected = [
        { ...plain('a.squashfs'), ftype: 'squashfs' },
        { ...plain(name), combined: digests },
        { ...plain(`${other}.tar.xz`, name), combined: digests },
      ].sort((a, b) => (a.key < b.key ? -1 : 1));
      assert.deepEqual(items, expected);
    });

    test(`a unified image for ${own} stands under the names of both clients`, () => {
      const name = `${own}_combined.tar.gz`;
      assert.deepEqual(itemsOf(aVersion('20260103', { files: [name] })), [
        plain('incus_combined.tar.gz', name),
        plain('lxd_combined.tar.gz', name),
      ]);
    });
  }

  test('each client has a file of its own where there is one', () => {
    const files = ['lxd.tar.xz', 'incus.tar.xz', 'a.squashfs'];
    const unified = ['lxd_combined.tar.gz', 'incus_combined.tar.gz'];
    assert.deepEqual(itemsOf(aVersion('20260103', { files: [...files, ...unified] })), [
      { ...plain('a.squashfs'), ftype: 'squashfs' },
      {
        ...plain('incus.tar.xz'),
        combined: { combined_squashfs_sha256: fingerprint('incus.tar.xz', 'a.squashfs') },
      },
      plain('incus_combined.tar.gz'),
      {
        ...plain('lxd.tar.xz'),
        combined: { combined_squashfs_sha256: fingerprint('lxd.tar.xz', 'a.squashfs') },
      },
      plain('lxd_combined.tar.gz'),
    ]);
  });

  const fields: [root: string, ftype: string, fields: string[]][] = [
    ['a.squashfs', 'squashfs', ['combined_squashfs_sha256']],
    ['root.tar.xz', 'root.tar.xz', ['combined_rootxz_sha256', 'combined_sha256']],
    ['rootfs.tar.xz', 'root.tar.xz', ['combined_rootxz_sha256', 'combined_sha256']],
    ['a.qcow2', 'disk-kvm.img', ['combined_disk-kvm-img_sha256']],
    ['disk-kvm.img', 'disk-kvm.img', ['combined_disk-kvm-img_sha256']],
    ['disk1.img', 'disk1.img', ['combined_disk1-img_sha256']],
    ['uefi1.img', 'uefi1.img', ['combined_uefi1-img_sha256']],
  ];
  for (const [root, ftype, names] of fields) {
    test(`${root} is of type ${ftype}; its fingerprint stands in ${names.join(' and ')}`, () => {
      const items = itemsOf(aVersion('20260103', { files: ['lxd.tar.xz', root] }));
      const expected = fingerprint('lxd.tar.xz', root);
      const metadata = items.find((item) => item.key === 'lxd.tar.xz');
      assert.deepEqual(
        metadata?.combined,
        Object.fromEntries(names.map((name) => [name, expected])),
      );
      assert.deepEqual(
        items.find((item) => item.key === root),
        { ...plain(root), ftype },
      );
    });
  }

  test('metadata has the fingerprints of all roots, in the order of their fields', () => {
    const roots = ['a.squashfs', 'root.tar.xz', 'a.qcow2', 'disk1.img', 'uefi1.img'];
    const items = itemsOf(aVersion('20260103', { files: ['lxd.tar.xz', ...roots] }));
    const metadata = items.find((item) => item.key === 'lxd.tar.xz');
    assert.deepEqual(Object.keys(metadata?.combined ?? {}), [
      'combined_disk-kvm-img_sha256',
      'combined_disk1-img_sha256',
      'combined_rootxz_sha256',
      'combined_sha256',
      'combined_squashfs_sha256',
      'combined_uefi1-img_sha256',
    ]);
  });

  test('any other file is listed by its own name', () => {
    const files = ['lxd_combined.tar.gz', 'README', 'disk.qcow2.sig'];
    const items = itemsOf(aVersion('20260103', { files }));
    assert.deepEqual(
      items.filter((item) => !item.key.endsWith('.gz')),
      [plain('README'), plain('disk.qcow2.sig')],
    );
  });

  test('have paths below the folder that the options name', () => {
    const { product } = catalogueProduct(aProduct(), { ...settled, prefix: 'a/b c' });
    assert.equal(
      product?.versions[0]?.items.at(-1)?.path,
      `a/b c/${path}/20260103/rootfs.squashfs`,
    );
  });
});

describe('a delta', () => {
  const published = ['20260101', '20260102_12:00', '20260102.1', '20260104'];
  const cases: [file: string, ftype: string, base: string | undefined][] = [
    ['rootfs.squashfs.vcdiff', 'squashfs.vcdiff', '20260102_12:00'],
    ['disk.qcow2.vcdiff', 'disk-kvm.img.vcdiff', '20260102_12:00'],
    ['rootfs.20260101.vcdiff', 'squashfs.vcdiff', '20260101'],
    ['20260101.vcdiff', 'squashfs.vcdiff', '20260101'],
    ['rootfs.20260102_12:00.vcdiff', 'squashfs.vcdiff', '20260102_12:00'],
    ['rootfs.20260102.1.vcdiff', 'squashfs.vcdiff', '20260102.1'],
    ['rootfs.20260101.squashfs.vcdiff', 'squashfs.vcdiff', '20260101'],
    ['disk.20260101.qcow2.vcdiff', 'disk-kvm.img.vcdiff', '20260101'],
    ['a.b.20260101.vcdiff', 'squashfs.vcdiff', '20260101'],
    ['rootfs.20260104.vcdiff', 'squashfs.vcdiff', '20260104'],
    ['rootfs.20251231.vcdiff', 'squashfs.vcdiff', undefined],
    ['rootfs.20260103.vcdiff', 'squashfs.vcdiff', undefined],
  ];
  const withDelta = (file: string) =>
    aVersion('20260103', { files: ['lxd.tar.xz', 'a.squashfs', file] });
  for (const [file, ftype, base] of cases) {
    const title = base === undefined ? 'starts from nothing that is there' : `starts from ${base}`;
    test(`${file} ${title}`, () => {
      const versions = [...published.slice(0, 3), withDelta(file), ...published.slice(3)];
      const folder = aProduct({
        versions: versions
          .map((each) => (typeof each === 'string' ? aVersion(each) : each))
          .sort((a, b) => (a.name < b.name ? -1 : 1)),
      });
      const { product, problems } = catalogueProduct(folder, settled);
      const item = product?.versions
        .find(({ name }) => name === '20260103')
        ?.items.find(({ key }) => key === file);
      assert.deepEqual(problems, []);
      if (base === undefined) return assert.equal(item, undefined);
      assert.deepEqual([item?.ftype, item?.deltaBase], [ftype, base]);
    });
  }

  test('is not listed in the oldest version', () => {
    const keys = itemsOf(withDelta('a.squashfs.vcdiff')).map(({ key }) => key);
    assert.deepEqual(keys, ['a.squashfs', 'incus.tar.xz', 'lxd.tar.xz']);
  });

  test('does not start from a version that is held back', () => {
    const broken = aVersion('20260102', { files: ['lxd.tar.xz'] });
    const versions = ['20260101', broken, withDelta('a.squashfs.vcdiff')];
    const { product } = catalogueProduct(aProduct({ versions }), settled);
    const item = product?.versions.at(-1)?.items.find(({ deltaBase }) => deltaBase !== undefined);
    assert.equal(item?.deltaBase, '20260101');
  });
});

describe('what a product is called', () => {
  const files = ['lxd.tar.xz', 'a.squashfs'];
  const described = (facts: {
    metadata?: Facts;
    image?: Facts;
    product?: Facts;
  }): ProductFolder => {
    const { metadata = {}, image, product } = facts;
    const newest = aVersion('20260103', {
      files: [
        aFile('lxd.tar.xz', { found: { facts: metadata } }),
        'a.squashfs',
        ...(image === undefined ? [] : [aFile('image.yaml', { found: { facts: image } })]),
      ],
    });
    return aProduct({
      versions: [newest],
      ...(product && { yaml: aFile('product.yaml', { found: { facts: product } }) }),
    });
  };

  test('comes from its folders where no file says otherwise', () => {
    const { env, release, arch, type, os, releaseTitle, requirements } = headOf(aProduct());
    assert.deepEqual(
      { env, release, arch, type },
      {
        env: 'demo',
        release: 'one',
        arch: 'amd64',
        type: 'default',
      },
    );
    assert.deepEqual(
      { os, releaseTitle, requirements },
      {
        os: 'demo',
        releaseTitle: 'one',
        requirements: {},
      },
    );
  });

  test('comes from metadata.yaml, then image.yaml, then product.yaml', () => {
    const metadata = { os: 'M', releaseTitle: 'm' };
    const image = { os: 'I' };
    const product = { os: 'P', releaseTitle: 'p' };
    const cases: [Parameters<typeof described>[0], os: string, title: string][] = [
      [{ metadata }, 'M', 'm'],
      [{ metadata, image }, 'I', 'm'],
      [{ metadata, image, product }, 'P', 'p'],
      [{ metadata, product }, 'P', 'p'],
      [{ image }, 'I', 'one'],
      [{ metadata: { os: 'M' }, product: { releaseTitle: 'p' } }, 'M', 'p'],
    ];
    for (const [facts, os, title] of cases) {
      const head = headOf(described(facts));
      assert.deepEqual([head.os, head.releaseTitle], [os, title]);
    }
  });

  test('comes from the newest version that is published', () => {
    const version = (name: string, os: string, more: string[] = []) =>
      aVersion(name, {
        files: [aFile('lxd.tar.xz', { found: { facts: { os } } }), 'a.squashfs', ...more],
      });
    const versions = [
      version('20260101', 'old'),
      version('20260102', 'new'),
      version('20260103', 'broken', ['b.squashfs']),
    ];
    assert.equal(headOf(aProduct({ versions })).os, 'new');
  });

  test('comes from the metadata of LXD before that of Incus, and from split images before unified', () => {
    const saying = (name: string) => aFile(name, { found: { facts: { os: name } } });
    const cases: [files: string[], os: string][] = [
      [['incus.tar.xz', 'lxd.tar.xz'], 'lxd.tar.xz'],
      [['incus.tar.xz', 'lxd_combined.tar.gz'], 'incus.tar.xz'],
      [['incus_combined.tar.gz', 'lxd_combined.tar.gz'], 'lxd_combined.tar.gz'],
    ];
    for (const [names, os] of cases) {
      const version = aVersion('20260103', { files: ['a.squashfs', ...names.map(saying)] });
      assert.equal(headOf(aProduct({ versions: [version] })).os, os);
    }
  });

  test('updated is the time of the newest published file or of what describes it', () => {
    const times = (modified: number) => aFile('README', { modified });
    const version = (name: string, modified: number) =>
      aVersion(name, { files: [...files, times(modified)] });
    const versions = [version('20260101', madeAt + 5), version('20260102', madeAt + 3)];
    assert.equal(headOf(aProduct({ versions })).updated, madeAt + 5);
    const yaml = aFile('product.yaml', { modified: madeAt + 9 });
    assert.equal(headOf(aProduct({ versions, yaml })).updated, madeAt + 9);
    const broken = aVersion('20260103', { files: ['lxd.tar.xz', times(madeAt + 99)] });
    assert.equal(headOf(aProduct({ versions: [...versions, broken] })).updated, madeAt + 5);
  });

  describe('requirements', () => {
    const requiring = (...rules: RequirementRule[]) =>
      headOf({ ...described({ image: { requirements: rules } }), type: 'cloud' }).requirements;
    const values = { a: '1' };
    const cases: [title: string, rule: RequirementRule, fits: boolean][] = [
      ['for all', { values }, true],
      ['for its release', { values, releases: ['two', 'one'] }, true],
      ['for another release', { values, releases: ['two'] }, false],
      ['for its architecture', { values, architectures: ['amd64'] }, true],
      ['for another architecture', { values, architectures: ['arm64'] }, false],
      ['for its type', { values, types: ['cloud'] }, true],
      ['for another type', { values, types: ['default'] }, false],
      ['for no release', { values, releases: [] }, false],
      [
        'for its release and another type',
        { values, releases: ['one'], types: ['default'] },
        false,
      ],
    ];
    for (const [title, rule, fits] of cases) {
      test(`${title} ${fits ? 'hold' : 'do not hold'}`, () => {
        assert.deepEqual(requiring(rule), fits ? values : {});
      });
    }

    test('of later rules take the place of earlier ones, and are sorted', () => {
      const merged = requiring({ values: { b: '1', a: '1' } }, { values: { c: '2', b: '2' } });
      assert.deepEqual(Object.entries(merged), [
        ['a', '1'],
        ['b', '2'],
        ['c', '2'],
      ]);
    });

    test('of all sources are put together, product.yaml having the last word', () => {
      const rule = (values: Record<string, string>) => ({ requirements: [{ values }] });
      const folder = described({
        metadata: rule({ a: 'm', b: 'm', c: 'm' }),
        image: rule({ b: 'i', c: 'i' }),
        product: rule({ c: 'p' }),
      });
      assert.deepEqual(headOf(folder).requirements, { a: 'm', b: 'i', c: 'p' });
    });
  });

  describe('aliases', () => {
    const cases: [folder: ProductValue, aliases: string[]][] = [
      [{ type: 'cloud' }, ['demo/one/amd64/cloud', 'demo/one/cloud']],
      [{}, ['demo/one/amd64/default', 'demo/one/default', 'demo/one']],
      [
        { release: 'current' },
        ['demo/current/amd64/default', 'demo/current/default', 'demo/current', 'demo'],
      ],
      [{ release: 'current', type: 'cloud' }, ['demo/current/amd64/cloud', 'demo/current/cloud']],
    ];
    for (const [folder, aliases] of cases) {
      test(`of ${folder.release ?? 'one'} ${folder.type ?? 'default'}: ${aliases.join(', ')}`, () => {
        assert.deepEqual(headOf(aProduct(folder)).aliases, aliases);
      });
    }

    test('are made for further names of the release too, then come those of product.yaml', () => {
      const folder = described({
        image: { releaseAliases: { one: ['1.0', 'current'], two: ['2.0'] } },
        product: { aliases: ['mine', 'demo/1.0'] },
      });
      assert.deepEqual(headOf(folder).aliases, [
        'demo/one/amd64/default',
        'demo/one/default',
        'demo/one',
        'demo/1.0/amd64/default',
        'demo/1.0/default',
        'demo/1.0',
        'demo/current/amd64/default',
        'demo/current/default',
        'demo/current',
        'demo',
        'mine',
      ]);
    });

    for (const release of ['constructor', 'toString', 'valueOf']) {
      test(`of a release called ${release} are like any other`, () => {
        const folder = { ...described({ image: { releaseAliases: { one: ['a'] } } }), release };
        assert.equal(headOf(folder).aliases.length, 3);
      });
    }
  });
});

describe('an alias that several products claim', () => {
  const head = (value: ProductValue, aliases: string[]) => ({
    ...headOf(aProduct(value)),
    aliases,
  });

  test('stays with the first of its architecture, and a problem names both', () => {
    const first = head({ release: 'one' }, ['a', 'x', 'b']);
    const second = head({ release: 'two' }, ['x', 'c']);
    const third = head({ release: 'three' }, ['x']);
    const { aliases, problems } = resolveAliases([first, second, third]);
    assert.deepEqual([...aliases.values()], [['a', 'x', 'b'], ['c'], []]);
    assert.deepEqual(problems, [
      {
        path: 'demo/two/amd64/default',
        code: 'alias',
        reason: 'its alias "x" belongs to demo/one/amd64/default already',
        cure: 'take the alias out of the product.yaml or image.yaml of one of them',
      },
      {
        path: 'demo/three/amd64/default',
        code: 'alias',
        reason: 'its alias "x" belongs to demo/one/amd64/default already',
        cure: 'take the alias out of the product.yaml or image.yaml of one of them',
      },
    ]);
  });

  test('is shared between architectures', () => {
    const heads = ['amd64', 'arm64'].map((arch) => head({ arch }, ['x', 'y']));
    const { aliases, problems } = resolveAliases(heads);
    assert.deepEqual(
      heads.map((each) => aliases.get(each)),
      [
        ['x', 'y'],
        ['x', 'y'],
      ],
    );
    assert.deepEqual(problems, []);
  });

  test('has one owner for each architecture, whoever claims what', () => {
    const claim = fc.record({
      arch: fc.constantFrom('amd64', 'arm64'),
      release: fc.stringMatching(/^[a-z]{1,3}$/),
      aliases: fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd')),
    });
    fc.assert(
      fc.property(fc.array(claim), (claims) => {
        const heads = claims.map(({ aliases, ...value }) => head(value, aliases));
        const { aliases, problems } = resolveAliases(heads);
        const kept = heads.flatMap((each) =>
          (aliases.get(each) ?? []).map((alias) => `${each.arch} ${alias}`),
        );
        assert.equal(new Set(kept).size, kept.length);
        const wanted = claims.flatMap((each) =>
          each.aliases.map((alias) => `${each.arch} ${alias}`),
        );
        assert.deepEqual(new Set(kept), new Set(wanted));
        assert.equal(kept.length + problems.length, wanted.length);
      }),
    );
  });
});

describe('products with one ID', () => {
  const heads = [
    aProduct({ env: 'a:b', release: 'c' }),
    aProduct({ env: 'a', release: 'b:c' }),
    aProduct({ env: 'a', release: 'd' }),
  ].map((folder) => ({ head: headOf(folder) }));

  test('are reported, and the one whose path comes first is published', () => {
    const { products, problems } = withoutTwins(heads);
    assert.deepEqual(products, [heads[1], heads[2]]);
    assert.deepEqual(problems, [
      {
        path: 'a:b/c/amd64/default',
        code: 'name',
        reason: 'its product ID a:b:c:amd64:default is that of a/b:c/amd64/default as well',
        cure: 'rename one of the folders: without colons above the version no two IDs are the same',
      },
    ]);
  });

  test('are told apart the same way in whatever order they come', () => {
    const again = withoutTwins([...heads].reverse());
    assert.deepEqual(again.products, [heads[2], heads[1]]);
    assert.deepEqual(again.problems, withoutTwins(heads).problems);
  });
});
