import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { createRecordStore, type RecordStoreOptions } from '../../src/disk/record-store.js';
import { kill, said, startChild } from '../support/children.js';
import { memoryLog } from '../support/memory-log.js';
import { byPath, makeRecords } from '../support/records.js';
import { temporaryFolder } from '../support/temporary.js';

const damaged = 'kept digests are damaged; files are read again';
const unreadable = 'kept digests cannot be read; files are read again';
const unwritable = 'digests cannot be kept; the next run reads the files again';

/** A store in a folder that is gone after the test; `said` gives its warnings since the last call. */
async function setUp(t: TestContext, options: Partial<RecordStoreOptions> = {}) {
  const { log, events } = memoryLog();
  const stateDir = join(await temporaryFolder(t), 'state');
  const given = { stateDir, imagesDir: '/i', prefix: 'images', log, ...options };
  const warnings = () => events.splice(0).map(({ msg }) => msg);
  return { stateDir: given.stateDir, store: createRecordStore(given), warnings, log };
}

/** The one file in `stateDir`. */
async function fileIn(stateDir: string): Promise<string> {
  const names = await readdir(stateDir);
  assert.equal(names.length, 1, names.join());
  return join(stateDir, names[0] as string);
}

describe('records', () => {
  for (const count of [0, 1, 2, 3, 100]) {
    test(`are the same when they come back: ${count} of them`, async (t) => {
      const { store, warnings } = await setUp(t);
      await store.save(makeRecords(count));
      assert.deepEqual((await store.load()).records, byPath(makeRecords(count)));
      assert.deepEqual(warnings(), []);
    });
  }

  test('come back to be saved and come back once more', async (t) => {
    const { store } = await setUp(t);
    await store.save(makeRecords(5));
    await store.save((await store.load()).records.values());
    assert.deepEqual((await store.load()).records, byPath(makeRecords(5)));
  });

  test('come back with what the documents made of them were', async (t) => {
    const { store } = await setUp(t);
    await store.save(makeRecords(2), 'images.json 1-2-3');
    assert.equal((await store.load()).documents, 'images.json 1-2-3');
    await store.save(makeRecords(2));
    assert.equal((await store.load()).documents, undefined);
  });

  test('are none where nothing was ever saved, without a warning', async (t) => {
    const { store, stateDir, warnings } = await setUp(t);
    assert.deepEqual((await store.load()).records, new Map());
    assert.deepEqual(warnings(), []);
    await assert.rejects(stat(stateDir), { code: 'ENOENT' });
  });

  test('are replaced as a whole', async (t) => {
    const { store } = await setUp(t);
    await store.save(makeRecords(9));
    await store.save(makeRecords(2));
    assert.deepEqual((await store.load()).records, byPath(makeRecords(2)));
  });

  test('of other folders, or under other names, are kept apart', async (t) => {
    const { store, stateDir, log } = await setUp(t);
    const others = [
      { imagesDir: '/j', prefix: 'images' },
      { imagesDir: '/i', prefix: 'other' },
    ].map((place) => createRecordStore({ stateDir, log, ...place }));
    await store.save(makeRecords(3));
    for (const other of others) assert.deepEqual((await other.load()).records, new Map());
    for (const other of others) await other.save(makeRecords(1));
    assert.deepEqual((await store.load()).records, byPath(makeRecords(3)));
  });

  test('are for the eyes of the owner and the group', async (t) => {
    const { store, stateDir } = await setUp(t);
    await store.save(makeRecords(1));
    assert.equal((await stat(stateDir)).mode & 0o7777, 0o750);
    assert.equal((await stat(await fileIn(stateDir))).mode & 0o7777, 0o640);
  });
});

describe('a damaged file', () => {
  const count = 4;
  const header = 'lxd-image-server records ';

  /** Loads each of `variants` of a good file in turn. */
  async function loadEach(t: TestContext, variants: (good: Buffer) => Iterable<Buffer>) {
    const { store, stateDir, warnings } = await setUp(t);
    await store.save(makeRecords(count));
    const file = await fileIn(stateDir);
    const results: { records: unknown; warnings: string[] }[] = [];
    for (const bytes of variants(await readFile(file))) {
      await writeFile(file, bytes);
      results.push({ records: (await store.load()).records, warnings: warnings() });
    }
    return results;
  }

  test('that was cut short anywhere is worth nothing, and one warning', async (t) => {
    const results = await loadEach(t, function* (good) {
      for (let length = 0; length < good.length; length++) yield good.subarray(0, length);
    });
    assert.ok(results.length > 1000);
    for (const result of results) {
      assert.deepEqual(result, { records: new Map(), warnings: [damaged] });
    }
  });

  test('in which one bit is other, or bytes are added, never gives wrong records', async (t) => {
    const { store, stateDir, warnings } = await setUp(t);
    await store.save(makeRecords(count));
    const file = await fileIn(stateDir);
    const good = await readFile(file);
    const position = fc.oneof(fc.nat(header.length + 12), fc.nat(good.length - 1));
    await fc.assert(
      fc.asyncProperty(position, fc.nat(7), async (at, bit) => {
        const bytes = Buffer.from(good);
        bytes[at] = (bytes[at] as number) ^ (1 << bit);
        await writeFile(file, bytes);
        assert.deepEqual((await store.load()).records, new Map());
        // The number of the format may have become another one: such a file needs no warning.
        const isOtherFormat =
          at === header.length && /\d/.test(String.fromCharCode(bytes[at] ?? 0));
        assert.deepEqual(warnings(), isOtherFormat ? [] : [damaged]);
      }),
      { numRuns: 1000 },
    );
    await writeFile(file, Buffer.concat([good, Buffer.from('x')]));
    assert.deepEqual((await store.load()).records, new Map());
    assert.deepEqual(warnings(), [damaged]);
  });

  const contents = [
    '',
    '\n',
    '{}',
    'lxd-image-server records',
    'lxd-image-server records 1 0',
    'lxd-image-server records 2',
  ];
  for (const content of contents) {
    test(`of ${JSON.stringify(content)} is worth nothing, and one warning`, async (t) => {
      const [result] = await loadEach(t, () => [Buffer.from(content)]);
      assert.deepEqual(result, { records: new Map(), warnings: [damaged] });
    });
  }

  test('is replaced by the next save', async (t) => {
    const { store, stateDir, warnings } = await setUp(t);
    await store.save(makeRecords(1));
    await writeFile(await fileIn(stateDir), 'garbage');
    await store.save(makeRecords(2));
    assert.deepEqual((await store.load()).records, byPath(makeRecords(2)));
    assert.deepEqual(warnings(), []);
  });
});

for (const format of ['0', '3', '40']) {
  test(`a file of format ${format} counts as none, without a warning`, async (t) => {
    const { store, stateDir, warnings } = await setUp(t);
    await store.save(makeRecords(3));
    const file = await fileIn(stateDir);
    const text = await readFile(file, 'latin1');
    await writeFile(file, text.replace(/^(.* records) 4 /, `$1 ${format} `), 'latin1');
    assert.deepEqual((await store.load()).records, new Map());
    assert.deepEqual(warnings(), []);
  });
}

test('a state folder that cannot be made costs a warning each time, and no more', async (t) => {
  const folder = await temporaryFolder(t);
  await writeFile(join(folder, 'file'), '');
  const { store, warnings } = await setUp(t, { stateDir: join(folder, 'file/state') });
  assert.deepEqual((await store.load()).records, new Map());
  assert.deepEqual(warnings(), [unreadable]);
  await store.save(makeRecords(2));
  assert.deepEqual(warnings(), [unwritable]);
});

test('something else in the place of the file costs a warning, and stays', async (t) => {
  const { store, stateDir, warnings } = await setUp(t);
  await store.save([]);
  const file = await fileIn(stateDir);
  const { store: other, stateDir: otherDir, warnings: otherWarnings } = await setUp(t);
  const place = join(otherDir, file.slice(stateDir.length));
  await mkdir(place, { recursive: true });
  assert.deepEqual((await other.load()).records, new Map());
  await other.save(makeRecords(1));
  assert.deepEqual(otherWarnings(), [unreadable, unwritable]);
  assert.equal(await fileIn(otherDir), place);
  assert.deepEqual(warnings(), []);
});

test('killed while it saves, it leaves the old records or the new, and nothing for long', async (t) => {
  const { store, stateDir, warnings } = await setUp(t);
  const sizes = new Set<number>();
  for (let turn = 0; turn < 20; turn++) {
    const child = startChild('save', stateDir);
    try {
      await said(child);
      await sleep(turn * 2);
    } finally {
      await kill(child);
    }
    const records = (await store.load()).records;
    assert.deepEqual(records, byPath(makeRecords(records.size)));
    sizes.add(records.size);
  }
  assert.deepEqual(warnings(), []);
  assert.ok(sizes.size > 1, 'nothing was saved before the kills');
  await store.save(makeRecords(1));
  await fileIn(stateDir);
});
