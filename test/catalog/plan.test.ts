import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { nextRemoval, nextStage, type PlanOptions, type Stage } from '../../src/catalog/plan.js';
import type { Present } from '../../src/catalog/present.js';
import {
  type Content,
  Cut,
  type ModelGeneration,
  type ModelMirror,
  modelGeneration,
  modelMirror,
} from '../support/model-mirror.js';

const grace = 60_000;

function optionsFor(
  mirror: ModelMirror,
  generation: ModelGeneration,
  { isFull = false } = {},
): PlanOptions {
  return { now: mirror.now(), grace, images: 'images', generation: generation.id, isFull };
}

const paths = ['p', 'q'].flatMap((product) =>
  ['20260101', '20260102'].flatMap((version) =>
    ['meta', 'root'].map((file) => `images/e/r/${product}/t/${version}/${file}`),
  ),
);
const content = fc.constantFrom('a1', 'b1', 'c2');
const tree = fc
  .array(fc.tuple(fc.constantFrom(...paths), content), { maxLength: 8 })
  .map((entries) => new Map<string, Content>(entries));
const generation = fc
  .tuple(tree, fc.boolean())
  .map(([files, gzip]) => modelGeneration(files, { gzip }));

/** What happens after so many changes to the mirror: the process ends, a newer generation comes, time goes by. */
interface Happening {
  after: number;
  what: 'crash' | 'generation' | 'crash and generation';
  generation: ModelGeneration;
  inspect: boolean;
  seconds: number;
  /** What comes then finds no room at first. */
  isFull: boolean;
}
const happening = fc.record<Happening>({
  after: fc.nat(12),
  what: fc.constantFrom('crash', 'generation', 'crash and generation'),
  generation,
  inspect: fc.boolean(),
  seconds: fc.nat(90),
  isFull: fc.boolean(),
});

/** Notes what is named now, and that nothing is named that is not there. */
function watch(mirror: ModelMirror): void {
  assert.deepEqual(mirror.lies(), []);
  for (const { names } of mirror.documents.values()) {
    for (const path of names.keys()) mirror.lastNamed.set(path, mirror.now());
  }
}

interface Course {
  start: ModelGeneration;
  happenings: readonly Happening[];
  /** An order for the parts of a stage. */
  random: () => number;
  afterStep?: () => void;
}

/** Lets replication go its course through all that happens, to its end; gives what it ended with. */
function goThrough(mirror: ModelMirror, { start, happenings, random, afterStep }: Course) {
  let wanted = start;
  let present = mirror.look(wanted, true);
  const left = [...happenings];
  let until = left[0]?.after;
  let isFull = false;
  const check = afterStep ?? (() => watch(mirror));
  const step = () => {
    check();
    mirror.tick();
    if (until === undefined) return;
    if (until-- === 0) throw new Cut();
  };
  const shuffle = <T>(items: readonly T[]) =>
    items
      .map((item) => ({ item, at: random() }))
      .sort((a, b) => a.at - b.at)
      .map(({ item }) => item);
  for (let stages = 0; ; stages++) {
    assert.ok(stages < 500, 'it comes to an end');
    try {
      const stage = nextStage(wanted, present, optionsFor(mirror, wanted, { isFull }));
      if (stage === undefined) {
        check();
        if (left.length === 0) return { wanted, present };
        throw new Cut();
      }
      mirror.run(stage, { generation: wanted, present, step, shuffle, grace });
    } catch (error) {
      if (!(error instanceof Cut)) throw error;
      check();
      const now = left.shift() as Happening;
      for (let second = 0; second < now.seconds; second++) {
        mirror.tick();
        check();
      }
      if (now.what !== 'crash') wanted = now.generation;
      if (now.what !== 'generation') present = mirror.look(wanted, now.inspect);
      until = left[0]?.after;
      ({ isFull } = now);
    }
  }
}

/** That `mirror` has what it should, and nothing is left to be done. */
function assertConverged(mirror: ModelMirror, wanted: ModelGeneration): void {
  for (const [path, each] of wanted.tree) assert.equal(mirror.files.get(path)?.content, each);
  assert.deepEqual(
    [...mirror.documents.values()].map(({ sha256 }) => sha256).sort(),
    wanted.documents.map(({ sha256 }) => sha256).sort(),
  );
  for (const inspect of [false, true]) {
    const again = mirror.look(wanted, inspect);
    // Whoever looks closely may find what an interrupted removal has left.
    if (inspect && [...mirror.files.keys()].some((path) => !wanted.tree.has(path))) continue;
    assert.equal(nextStage(wanted, again, optionsFor(mirror, wanted)), undefined);
  }
}

/** Lets the grace time go by; then a close look leaves nothing but the generation, or all where that has nothing. */
function assertCleanInTheEnd(mirror: ModelMirror, wanted: ModelGeneration): void {
  const before = [...mirror.files.keys()].sort();
  for (let round = 0; round < 2; round++) {
    goThrough(mirror, { start: wanted, happenings: [], random: () => 0 });
    for (let second = 0; second <= grace / 1000; second++) mirror.tick();
    watch(mirror);
  }
  goThrough(mirror, { start: wanted, happenings: [], random: () => 0 });
  const left = wanted.tree.size > 0 ? [...wanted.tree.keys()].sort() : before;
  assert.deepEqual([...mirror.files.keys()].sort(), left);
}

const course = fc.record({
  start: generation,
  happenings: fc.array(happening, { maxLength: 6 }),
  seed: fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })),
});

const randomOf = (seed: Iterator<number>) => () => Number(seed.next().value);

describe('a plan for a mirror', () => {
  test('keeps the rule at every step, through crashes and newer generations, and converges', () => {
    fc.assert(
      fc.property(course, ({ start, happenings, seed }) => {
        const mirror = modelMirror();
        const { wanted } = goThrough(mirror, { start, happenings, random: randomOf(seed) });
        assertConverged(mirror, wanted);
        assertCleanInTheEnd(mirror, wanted);
      }),
      { numRuns: 3000 },
    );
  });

  test('keeps the rule where a mirror of someone else is taken up, and converges', () => {
    fc.assert(
      fc.property(course, tree, generation, (each, others, served) => {
        const mirror = modelMirror();
        for (const [path, there] of [...others, ...served.tree]) {
          mirror.files.set(path, { content: there, mtime: mirror.tick() });
        }
        for (const document of served.documents) {
          mirror.documents.set(document.path, { ...document, names: served.tree });
        }
        mirror.tick();
        watch(mirror);
        const { wanted } = goThrough(mirror, { ...each, random: randomOf(each.seed) });
        assertConverged(mirror, wanted);
        assertCleanInTheEnd(mirror, wanted);
      }),
      { numRuns: 2000 },
    );
  });

  test('mends what was changed by hand, and what its manifest lies about, once it looks closely', () => {
    fc.assert(
      fc.property(course, tree, tree, generation, (each, changed, claimed, next) => {
        const mirror = modelMirror();
        goThrough(mirror, { ...each, random: randomOf(each.seed) });
        mirror.tick();
        for (const [path, there] of changed) {
          if (there === 'c2') mirror.files.delete(path);
          else mirror.files.set(path, { content: there, mtime: mirror.tick() });
        }
        // Whoever lies about content that was there before the manifest is not found out: see verify.
        for (const [path, lie] of claimed) {
          if (mirror.manifest === undefined || mirror.files.has(path)) continue;
          const entries = new Map(mirror.manifest.entries).set(path, { size: 1, sha256: lie });
          mirror.manifest = { ...mirror.manifest, entries };
        }
        const damaged = new Set(mirror.lies());
        const afterStep = () => {
          assert.deepEqual(
            mirror.lies().filter((lie) => !damaged.has(lie)),
            [],
            'nothing that was true becomes a lie',
          );
        };
        const random = randomOf(each.seed);
        const { wanted } = goThrough(mirror, { start: next, happenings: [], random, afterStep });
        assertConverged(mirror, wanted);
      }),
      { numRuns: 2000 },
    );
  });
});

/** The stages that bring `mirror` to `wanted`. */
function stagesTo(mirror: ModelMirror, wanted: ModelGeneration, given?: Present): Stage[] {
  const present = given ?? mirror.look(wanted, true);
  const stages: Stage[] = [];
  const shuffle = <T>(items: readonly T[]) => [...items];
  for (;;) {
    const stage = nextStage(wanted, present, optionsFor(mirror, wanted));
    if (stage === undefined) return stages;
    stages.push(stage);
    mirror.run(stage, { generation: wanted, present, step: () => {}, shuffle, grace });
  }
}

const at = (version: string, file = 'root') => `images/e/r/p/t/${version}/${file}`;
const plain = (entries: [string, Content][]) => modelGeneration(new Map(entries), { gzip: false });
const kinds = (stages: readonly Stage[]) => stages.map((stage) => stage.do);

describe('the stages', () => {
  test('of a first sync send the newest version first, and name the index last', () => {
    const wanted = modelGeneration(
      new Map([
        [at('20260101'), 'a1'],
        [at('20260103'), 'b1'],
        [at('20260102'), 'c2'],
      ]),
      { gzip: true },
    );
    const stages = stagesTo(modelMirror(), wanted);
    assert.deepEqual(kinds(stages), ['send', 'publish', 'record']);
    const [sent, named] = stages;
    assert.ok(sent?.do === 'send' && named?.do === 'publish');
    assert.deepEqual(
      sent.files.map(({ path }) => path),
      [at('20260103'), at('20260102'), at('20260101')],
    );
    assert.deepEqual(
      named.documents.map(({ path }) => path),
      ['images.json.gz', 'images.json'],
    );
  });

  test('are none where nothing is to be done, and the manifest alone tells', () => {
    const mirror = modelMirror();
    const wanted = plain([[at('20260101'), 'a1']]);
    stagesTo(mirror, wanted);
    assert.deepEqual(stagesTo(mirror, wanted, mirror.look(wanted, false)), []);
  });

  test('take content that the mirror has under another name, and send no content twice', () => {
    const mirror = modelMirror();
    stagesTo(mirror, plain([[at('20260101'), 'a1']]));
    const [first, second] = stagesTo(
      mirror,
      plain([
        [at('20260102'), 'a1'],
        [at('20260103'), 'b1'],
        [at('20260104'), 'b1'],
      ]),
    );
    assert.ok(first?.do === 'send' && second?.do === 'send');
    assert.deepEqual(
      first.files.map(({ path, from }) => [path, from]),
      [
        [at('20260104'), undefined],
        [at('20260102'), at('20260101')],
      ],
    );
    assert.deepEqual(
      second.files.map(({ path, from }) => [path, from]),
      [[at('20260103'), at('20260104')]],
    );
  });

  test('take a version out of the documents while a file of it is replaced, and only then', () => {
    const mirror = modelMirror();
    const other: [string, Content] = [at('20260102'), 'a1'];
    stagesTo(mirror, plain([[at('20260101'), 'b1'], other]));
    const wanted = plain([[at('20260101'), 'c2'], other]);
    const present = mirror.look(wanted, false);
    const stages = stagesTo(mirror, wanted, present);
    assert.deepEqual(kinds(stages), ['send', 'retract', 'send', 'publish', 'record']);
    const [held, retracted, named] = stages;
    assert.ok(held?.do === 'send' && retracted?.do === 'retract' && named?.do === 'send');
    assert.deepEqual([held.files[0]?.hold, named.files[0]?.hold], [true, false]);
    assert.deepEqual([...retracted.missing], [at('20260101')]);
    assert.deepEqual(held.record?.documents, [], 'the manifest does not vouch for the documents');
  });

  test('take what is lost out of the documents before they mend it', () => {
    const mirror = modelMirror();
    const wanted = plain([
      [at('20260101'), 'b1'],
      [at('20260102'), 'a1'],
    ]);
    stagesTo(mirror, wanted);
    mirror.tick();
    mirror.files.delete(at('20260101'));
    mirror.files.set(at('20260102'), { content: 'b1', mtime: mirror.tick() });
    const stages = stagesTo(mirror, wanted);
    assert.deepEqual(kinds(stages).slice(0, 4), ['check', 'record', 'retract', 'send']);
    const [, , retracted] = stages;
    assert.ok(retracted?.do === 'retract');
    assert.deepEqual([...retracted.missing].sort(), [at('20260101'), at('20260102')]);
  });

  test('read what nobody has recorded before they rely on it', () => {
    const mirror = modelMirror();
    mirror.files.set(at('20260101'), { content: 'a1', mtime: 1 });
    mirror.files.set(at('20260102'), { content: 'b1', mtime: 1 });
    const wanted = plain([
      [at('20260101'), 'a1'],
      [at('20260102'), 'a1'],
    ]);
    const [checked, sent] = stagesTo(mirror, wanted);
    assert.ok(checked?.do === 'check' && sent?.do === 'send');
    assert.equal(checked.files.length, 2);
    assert.deepEqual(
      sent.files.map(({ path, from }) => [path, from]),
      [[at('20260102'), at('20260101')]],
    );
  });

  test('remove at the end of the grace time, not a moment before, and never outside the images', () => {
    const mirror = modelMirror();
    mirror.files.set('backup/x', { content: 'a1', mtime: 1 });
    const kept: [string, Content] = [at('20260102'), 'b1'];
    stagesTo(mirror, plain([[at('20260101'), 'a1'], kept]));
    const wanted = plain([kept]);
    stagesTo(mirror, wanted);
    const present = mirror.look(wanted, false);
    assert.equal(present.entries.get(at('20260101'))?.since, mirror.now());
    const due = nextRemoval(wanted, present, { grace });
    assert.equal(due, mirror.now() + grace);
    present.entries.set('backup/x', { size: 1, since: 0 });
    const plan = (now: number) => {
      const settings = { ...optionsFor(mirror, wanted), now };
      const recorded = present.recorded && { ...present.recorded, entries: present.entries };
      return nextStage(wanted, { ...present, recorded }, settings);
    };
    assert.equal(plan(Number(due) - 1), undefined);
    const stage = plan(Number(due));
    assert.ok(stage?.do === 'remove');
    assert.deepEqual(stage.files, [at('20260101')]);
    assert.equal(stage.record.entries.has(at('20260101')), false);
  });

  test('remove nothing while nothing is published, and what is gone by then once something is', () => {
    const mirror = modelMirror();
    stagesTo(mirror, plain([[at('20260101'), 'a1']]));
    const nothing = plain([]);
    stagesTo(mirror, nothing);
    for (let second = 0; second <= grace / 1000; second++) mirror.tick();
    assert.deepEqual(stagesTo(mirror, nothing), []);
    assert.equal(nextRemoval(nothing, mirror.look(nothing, false), { grace }), undefined);
    assert.equal(mirror.files.has(at('20260101')), true);
    stagesTo(mirror, plain([[at('20260102'), 'b1']]));
    assert.deepEqual([...mirror.files.keys()], [at('20260102')]);
  });

  test('have the manifest forget a file before its name gets other content', () => {
    const mirror = modelMirror();
    stagesTo(mirror, plain([[at('20260101'), 'a1']]));
    stagesTo(mirror, plain([]));
    const wanted = plain([[at('20260101'), 'b1']]);
    const stages = stagesTo(mirror, wanted, mirror.look(wanted, false));
    assert.deepEqual(kinds(stages), ['record', 'send', 'publish', 'record']);
    const [first] = stages;
    assert.ok(first?.do === 'record');
    assert.equal(first.record.entries.size, 0);
  });

  test('remove what nobody knows of after the grace time, and take no document back for that', () => {
    const mirror = modelMirror();
    const wanted = plain([[at('20260101'), 'a1']]);
    stagesTo(mirror, wanted);
    mirror.files.set(at('20260102'), { content: 'c2', mtime: 1 });
    const present = mirror.look(wanted, true);
    assert.deepEqual(kinds(stagesTo(mirror, wanted, present)), ['record']);
    for (let second = 0; second < grace / 1000; second++) mirror.tick();
    assert.deepEqual(kinds(stagesTo(mirror, wanted, present)), ['remove']);
    assert.deepEqual([...mirror.files.keys()], [at('20260101')]);
  });

  test('do not take up the grace time of a file again that was named in between', () => {
    const mirror = modelMirror();
    const first: [string, Content] = [at('20260101'), 'a1'];
    stagesTo(mirror, plain([first]));
    stagesTo(mirror, plain([]));
    const present = mirror.look(plain([]), false);
    const shuffle = <T>(items: readonly T[]) => [...items];
    const until = (wanted: ModelGeneration, last: Stage['do']) => {
      for (;;) {
        const stage = nextStage(wanted, present, optionsFor(mirror, wanted));
        if (stage === undefined || stage.do === last) return;
        mirror.run(stage, { generation: wanted, present, step: () => {}, shuffle, grace });
        watch(mirror);
      }
    };
    // Its name is to get other content: the manifest forgets it. Then a newer generation has it as it was.
    until(plain([[first[0], 'b1']]), 'send');
    until(plain([first]), 'record');
    assert.deepEqual([...(mirror.documents.get('images.json')?.names.keys() ?? [])], [first[0]]);
    const named = mirror.tick() * 1000;
    until(plain([]), 'remove');
    assert.equal(mirror.manifest?.entries.get(first[0])?.since, named);
  });

  test('make room on a full mirror: old versions go after their time, and new ones need not be there', () => {
    const mirror = modelMirror();
    const kept: [string, Content] = [at('20260102'), 'a1'];
    stagesTo(mirror, plain([[at('20260101'), 'b1'], kept]));
    mirror.files.set(at('20260101', 'meta'), { content: 'c2', mtime: 0 });
    const wanted = plain([kept, [at('20260103'), 'c2'], [at('20260104'), 'd1']]);
    const present = mirror.look(wanted, true);
    present.entries.set(at('20260101', 'meta'), { size: 2, sha256: 'c2' });
    const shuffle = <T>(items: readonly T[]) => [...items];
    const untilSending = () => {
      const stages: Stage[] = [];
      for (;;) {
        const stage = nextStage(wanted, present, optionsFor(mirror, wanted, { isFull: true }));
        assert.ok(stage);
        if (stage.do === 'send') return kinds(stages);
        stages.push(stage);
        mirror.run(stage, { generation: wanted, present, step: () => {}, shuffle, grace });
        watch(mirror);
      }
    };
    assert.deepEqual(untilSending(), ['record', 'retract', 'record']);
    assert.deepEqual([...(mirror.documents.get('images.json')?.names.keys() ?? [])], [kept[0]]);
    for (let second = 1; second < grace / 1000; second++) mirror.tick();
    assert.deepEqual(untilSending(), []);
    mirror.tick();
    assert.deepEqual(untilSending(), ['remove']);
    // What others can be made from stays.
    assert.deepEqual([...mirror.files.keys()], [kept[0], at('20260101', 'meta')]);
    // With room, all goes its way.
    assert.deepEqual(kinds(stagesTo(mirror, wanted, present)), [
      'send',
      'publish',
      'record',
      'remove',
    ]);
  });

  test('take away compressed documents that nobody keeps up to date before they replace the others', () => {
    const mirror = modelMirror();
    stagesTo(mirror, modelGeneration(new Map([[at('20260101'), 'a1']]), { gzip: true }));
    const stages = stagesTo(mirror, plain([[at('20260102'), 'a1']]));
    assert.deepEqual(kinds(stages), ['send', 'withdraw', 'record']);
    assert.deepEqual([...mirror.documents.keys()].sort(), ['images.json', 'index.json']);
  });
});
