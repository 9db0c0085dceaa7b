import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  type Changes,
  changesBetween,
  type Entry,
  entriesOf,
  headText,
  isBelow,
  largestHead,
  listText,
  ManifestError,
  type ManifestHead,
  parseHead,
  parseList,
  withChanges,
} from '../../src/catalog/manifest.js';

const images = 'images';
const digit = fc.constantFrom(...'0123456789abcdef');
const sha256 = fc.string({ unit: digit, minLength: 64, maxLength: 64 });
const size = fc.maxSafeNat();
const path = fc
  .array(
    fc.string({ minLength: 1, maxLength: 20 }).filter((part) => !/^\.\.?$|[/\0]/.test(part)),
    { minLength: 1, maxLength: 6 },
  )
  .map((parts) => `images/${parts.join('/')}`);
const entry = fc.record(
  { size, sha256, since: size },
  { requiredKeys: ['size'], noNullPrototype: true },
);
const changes = fc
  .array(fc.tuple(path, fc.option(entry, { nil: undefined })))
  .map((all): Changes => new Map(all));
const entries = fc.array(fc.tuple(path, entry)).map((all): Map<string, Entry> => new Map(all));

const a = 'a'.repeat(64);
const head: ManifestHead = {
  master: { id: 'a3', host: 'master.example' },
  generation: a,
  documents: [{ path: 'streams/v1/images.json', size: 1, sha256: a }],
  lists: [{ sha256: a, size: 10 }],
  recent: new Map<string, Entry | undefined>([
    ['images/x', { size: 1, sha256: a, since: 5 }],
    ['images/y', undefined],
    ['images/z', { size: 2 }],
  ]),
};

describe('a manifest', () => {
  test('is read as it was written', () => {
    assert.deepEqual(parseHead(headText(head), { images }), head);
    const young = { ...head, generation: undefined, documents: [], lists: [], recent: new Map() };
    assert.deepEqual(parseHead(headText(young), { images }), young);
    fc.assert(
      fc.property(changes, (recent) => {
        assert.deepEqual(parseHead(headText({ ...head, recent }), { images }).recent, recent);
        assert.deepEqual(parseList(listText(recent), { images }), recent);
      }),
    );
  });

  /** The head, with `change` made to what stands in the file. */
  const changed = (change: object) =>
    JSON.stringify({ ...(JSON.parse(headText(head)) as object), ...change });
  const entryCases = [
    [1],
    ['images/x', -1, a],
    ['images/x', 1.5, a],
    ['images/x', 2 ** 53, a],
    ['images/x', '1', a],
    ['images/x', 1],
    ['images/x', 1, 'A'.repeat(64)],
    ['images/x', 1, a, -1],
    ['images/x', 1, a, 1, 1],
    ['images/../x', 1, a],
    ['images/./x', 1, a],
    ['images//x', 1, a],
    ['images/x/', 1, a],
    ['images', 1, a],
    ['imagesx/y', 1, a],
    ['/images/x', 1, a],
    ['streams/v1/index.json', 1, a],
    ['images/a\0b', 1, a],
    [`images/${'x'.repeat(256)}`, 1, a],
    [`images/${'x/'.repeat(3000)}x`, 1, a],
  ];
  const cases: [title: string, text: string][] = [
    ['is cut short', headText(head).slice(0, -2)],
    ['is empty', ''],
    ['is null', 'null'],
    ['is a list', '[]'],
    ['is of another format', changed({ format: 2 })],
    ['has no master', changed({ master: undefined })],
    ['has a master of two lines', changed({ master: { id: 'a', host: 'a\nb' } })],
    ['has a master that is long', changed({ master: { id: 'a', host: 'a'.repeat(256) } })],
    ['has documents outside the root', changed({ documents: [['../x', 1, a]] })],
    ['has an absolute document', changed({ documents: [['/x', 1, a]] })],
    ['has too many lists', changed({ lists: Array(65).fill([a, 1]) })],
    ['has a list of absurd size', changed({ lists: [[a, 2 ** 40]] })],
    ['has a list by another name', changed({ lists: [['../../x', 1]] })],
    ['names a file twice', changed({ recent: [['images/x'], ['images/x']] })],
    ['is deeper than any stack', '['.repeat(1_000_000)],
    ...entryCases.map((each): [string, string] => [
      `has the entry ${JSON.stringify(each).slice(0, 50)}`,
      changed({ recent: [each] }),
    ]),
  ];
  for (const [title, text] of cases) {
    test(`is refused where it ${title}`, () => {
      assert.throws(() => parseHead(text, { images }), ManifestError);
    });
  }

  test('is read or refused, whatever it is', () => {
    const anything = fc.oneof(
      fc.string(),
      fc.json(),
      fc.jsonValue().map((recent) => changed({ recent: [recent] })),
    );
    fc.assert(
      fc.property(anything, (text) => {
        for (const parse of [parseHead, parseList]) {
          try {
            parse(text, { images });
          } catch (error) {
            assert.ok(error instanceof ManifestError, String(error));
          }
        }
      }),
    );
  });
});

test('a path is below the images, or it is refused', () => {
  fc.assert(fc.property(path, (each) => assert.ok(isBelow(images, each))));
  for (const each of ['', 'images', 'images/', 'images/..', '../images/x', 'x/images/y']) {
    assert.equal(isBelow(images, each), false, each);
  }
  assert.equal(isBelow('', 'x'), false, 'where the images are the root, nothing is ours to remove');
});

describe('lists', () => {
  test('tell all that has changed, and nothing else', () => {
    fc.assert(
      fc.property(entries, entries, (before, after) => {
        const between = changesBetween(before, after);
        const told = entriesOf([before, between]);
        assert.deepEqual(told, new Map([...told.keys()].map((each) => [each, after.get(each)])));
        assert.equal(told.size, after.size);
        assert.equal(changesBetween(after, new Map(after)).size, 0);
      }),
    );
  });

  interface List {
    changes: Changes;
  }

  /** Lets `after` be told on top of `layers`. */
  function tell(layers: { lists: List[]; recent: Changes }, between: Changes) {
    const { lists, added, recent } = withChanges(layers, between);
    return { added, layers: { lists: added ? [...lists, { changes: added }] : lists, recent } };
  }

  test('say the same however changes were spread over them, and stay few', () => {
    const course = fc.array(
      fc.array(fc.tuple(fc.nat(3000), fc.option(fc.nat(5), { nil: undefined })), {
        minLength: 1,
        maxLength: 500,
        size: 'max',
      }),
      { maxLength: 12, size: 'max' },
    );
    fc.assert(
      fc.property(course, (rounds) => {
        let layers = { lists: [] as List[], recent: new Map() as Changes };
        const all = new Map<string, Entry>();
        for (const round of rounds) {
          const before = new Map(all);
          for (const [file, length] of round) {
            if (length === undefined) all.delete(`images/${file}`);
            else all.set(`images/${file}`, { size: length });
          }
          ({ layers } = tell(layers, changesBetween(before, all)));
          const told = entriesOf([...layers.lists.map((list) => list.changes), layers.recent]);
          assert.deepEqual([...told].sort(), [...all].sort());
          const sizes = layers.lists.map((list) => list.changes.size);
          assert.deepEqual(
            sizes,
            [...sizes].sort((x, y) => y - x),
            'each is longer than the next',
          );
          assert.equal(new Set(sizes).size, sizes.length);
          assert.ok(![...(layers.lists[0]?.changes.values() ?? [])].includes(undefined));
        }
      }),
      { numRuns: 50 },
    );
  });

  test('are not written anew for one small version among 10,000', () => {
    const before = new Map<string, Entry>();
    for (let n = 0; n < 20_000; n++) {
      before.set(`images/product${n % 100}/version${n}/file`, { size: n, sha256: a });
    }
    const first = tell({ lists: [], recent: new Map() }, before);
    assert.equal(first.added?.size, 20_000);
    const version = new Map(before).set('images/new', { size: 1, sha256: a });
    const second = tell(first.layers, changesBetween(before, version));
    assert.equal(second.added, undefined);
    const text = headText({ ...head, lists: [], recent: second.layers.recent });
    assert.ok(text.length < 700 && text.length < largestHead, `${text.length} bytes`);
  });
});
