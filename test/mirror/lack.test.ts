/** What a mirror lacks, counted along, is what counting anew gives; and it is not counted anew. */
import assert from 'node:assert/strict';
import { posix } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { FileFacts } from '../../src/catalog/generation.js';
import type { Entry } from '../../src/catalog/manifest.js';
import { missingFiles } from '../../src/catalog/plan.js';
import type { Present } from '../../src/catalog/present.js';
import { createKnowledge, createLagMeter, know, note } from '../../src/mirror/knowledge.js';

function presentOf(entries: Map<string, Entry>): Present {
  return {
    entries,
    named: new Set(),
    documents: new Map(),
    held: new Set(),
    recorded: undefined,
  };
}

/** Files that tell how many of them somebody has looked at. */
class WatchedFiles extends Map<string, FileFacts> {
  looks = 0;
  override get(path: string) {
    this.looks += 1;
    return super.get(path);
  }
  override *[Symbol.iterator]() {
    for (const pair of super.entries()) {
      this.looks += 1;
      yield pair;
    }
    return undefined;
  }
  override *keys() {
    for (const [path] of super.entries()) {
      this.looks += 1;
      yield path;
    }
    return undefined;
  }
}

const path = fc
  .tuple(fc.constantFrom('a', 'b'), fc.constantFrom('1', '2'))
  .map(([folder, name]) => `images/${folder}/${name}`);
const facts = fc.record({ size: fc.nat(1), sha256: fc.constantFrom('x', 'y') });
const entry = fc.oneof(facts, fc.record({ size: fc.nat(1) }));
const files = fc.array(fc.tuple(path, facts)).map((pairs) => new Map(pairs));
const step = fc.oneof(
  fc.record({ do: fc.constant('want' as const), files }),
  fc.record({ do: fc.constant('note' as const), path, entry: fc.option(entry) }),
  fc.record({
    do: fc.constant('know' as const),
    entries: fc.array(fc.tuple(path, entry)),
    isCounted: fc.boolean(),
  }),
  fc.record({ do: fc.constant('forget' as const) }),
);

describe('what a mirror lacks', () => {
  test('is what counting all of it anew gives, whatever came and went', () => {
    fc.assert(
      fc.property(files, fc.array(step, { minLength: 20, maxLength: 40 }), (first, steps) => {
        const knowledge = createKnowledge();
        const lag = createLagMeter(knowledge);
        let wanted = first;
        for (const each of steps) {
          if (each.do === 'want') wanted = each.files;
          else if (each.do === 'forget') know(knowledge, undefined);
          else if (each.do === 'note') note(knowledge, each.path, each.entry ?? undefined);
          else {
            const present = presentOf(new Map(each.entries));
            know(knowledge, present, each.isCounted ? wanted : undefined);
          }
          assert.equal(lag({ files: wanted }), countedAnew(wanted, knowledge.present));
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('costs as much as what has changed, not as much as what is stored', () => {
    const wanted = new WatchedFiles();
    for (let at = 0; at < 30_000; at += 1) {
      wanted.set(`images/${Math.floor(at / 3)}/${at}`, { size: 1, sha256: 'x' });
    }
    const next = new WatchedFiles(wanted);
    next.delete('images/0/0');
    next.set('images/new/1', { size: 1, sha256: 'x' });
    const mirrors = Array.from({ length: 20 }, () => {
      const knowledge = createKnowledge();
      know(knowledge, presentOf(new Map()), wanted);
      return { knowledge, lag: createLagMeter(knowledge) };
    });
    wanted.looks = 0;
    for (const { knowledge, lag } of mirrors) {
      note(knowledge, 'images/1/3', { size: 1, sha256: 'x' });
      assert.equal(lag({ files: wanted }), 10_000);
    }
    assert.ok(wanted.looks <= 3 * mirrors.length, `${wanted.looks} looks`);

    // The first asked compares the generations, for all.
    const [first, ...others] = mirrors;
    assert.equal(first?.lag({ files: next }), 10_001);
    wanted.looks = 0;
    next.looks = 0;
    for (const { lag } of others) assert.equal(lag({ files: next }), 10_001);
    assert.ok(
      next.looks + wanted.looks <= 10 * others.length,
      `${next.looks + wanted.looks} looks`,
    );
  });
});

function countedAnew(wanted: Map<string, FileFacts>, present: Present | undefined) {
  if (present === undefined) return undefined;
  return new Set([...missingFiles(wanted, present.entries).keys()].map(posix.dirname)).size;
}
