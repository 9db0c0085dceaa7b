import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { type ErrorCode, ServerError } from '../../src/errors.js';
import { type Mirror, resumeWindow } from '../../src/mirror/mirror.js';
import { stagingFolder, stagingPath } from '../../src/mirror/names.js';
import { pauseAfter, type RetryOptions, withRetry } from '../../src/mirror/retry.js';
import { memoryLog } from '../support/memory-log.js';
import { type MemoryMirrorOptions, memoryMirror } from '../support/memory-mirror.js';
import { failsWith, sourceOf } from './conformance.js';

const failure = (code: ErrorCode, message = 'It has failed') =>
  new ServerError(code, message, { hint: 'wait' });
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

type Operation = Exclude<keyof Mirror, 'parallel' | 'close'>;

interface Fault {
  /** Before it is done, or in place of its answer. */
  when: 'before' | 'after';
  error?: ServerError;
}

interface SetUpOptions extends MemoryMirrorOptions {
  /** What operations meet with, one call after the other. */
  faults?: { [Name in Operation]?: readonly (Fault | undefined)[] };
  retry?: Partial<RetryOptions>;
}

/** A mirror in memory behind the wrapper; no time goes by in its pauses. */
function setUp({ faults = {}, retry = {}, ...options }: SetUpOptions = {}) {
  const memory = memoryMirror(options);
  const calls: string[] = [];
  const link: Mirror['link'] = async (from, to) =>
    // As sshd, which does not say why.
    !memory.files.has(to) && (await memory.link(from, to));
  const inner = new Proxy(
    { ...memory, link },
    {
      get(target, name: keyof Mirror) {
        if (name === 'parallel') return target.parallel;
        return async (...given: never[]) => {
          const fault = faults[name as Operation]?.[calls.filter((each) => each === name).length];
          calls.push(name);
          const error = fault?.error ?? failure('MIRROR_DOWN');
          if (fault?.when === 'before') throw error;
          const result = await (target[name] as (...given: never[]) => Promise<unknown>)(...given);
          if (fault?.when === 'after') throw error;
          return result;
        };
      },
    },
  );
  const pauses: number[] = [];
  const mirror = withRetry(inner, {
    log: memoryLog().log,
    random: () => 0,
    pause: async (milliseconds) => void pauses.push(milliseconds),
    ...retry,
  });
  const put = (path: string, text: string) => memory.write(path, [Buffer.from(text)]);
  return { memory, mirror, calls, pauses, put };
}

/** Pauses that do not end by themselves. */
function endlessPause({ late = false } = {}) {
  const asked: AbortSignal[] = [];
  let resolve = () => {};
  const begun = new Promise<void>((begin) => {
    resolve = begin;
  });
  const pause = (_: number, signal: AbortSignal) => {
    asked.push(signal);
    resolve();
    return new Promise<void>((_resolve, reject) => {
      signal.addEventListener('abort', () => {
        if (late) setImmediate(reject);
        else reject(signal.reason);
      });
    });
  };
  return { pause, asked, begun };
}

const before: Fault = { when: 'before' };
const after: Fault = { when: 'after' };
const always = Array.from({ length: 100 }, () => before);

const content = Buffer.from('the content');
const staged = stagingPath(sha256(content));

/** Each operation, and what it gives in a tree with `file`, the staged content and two folders. */
const operations: [Operation, (mirror: Mirror) => Promise<unknown>][] = [
  ['capabilities', (mirror) => mirror.capabilities()],
  ['stat', (mirror) => mirror.stat('file')],
  ['list', (mirror) => mirror.list('')],
  ['read', (mirror) => mirror.read('file', { maxBytes: 100 })],
  ['hash', (mirror) => mirror.hash('file')],
  ['put', (mirror) => mirror.put(sourceOf(content), 'new')],
  ['write', (mirror) => mirror.write('new', [content])],
  ['rename', (mirror) => mirror.rename(staged, 'file')],
  ['link', (mirror) => mirror.link('file', 'new')],
  ['copy', (mirror) => mirror.copy('file', 'new')],
  ['remove', (mirror) => mirror.remove('file')],
  ['makeFolder', (mirror) => mirror.makeFolder('a/b')],
  ['removeFolder', (mirror) => mirror.removeFolder('empty')],
  ['sync', (mirror) => mirror.sync('')],
  ['space', (mirror) => mirror.space()],
];

test('the owner is told when something was under way on a connection that was lost', async () => {
  const inOrder: (typeof operations)[number] = [
    'renameInOrder',
    (mirror) => mirror.renameInOrder([[{ from: staged, to: 'file' }]]),
  ];
  for (const [name, call] of [...operations, inOrder]) {
    let told = 0;
    const onLost = () => {
      told += 1;
    };
    const { memory, mirror, put } = setUp({ faults: { [name]: [after] }, retry: { onLost } });
    for (const folder of [stagingFolder, 'empty']) memory.folders.add(folder);
    for (const path of ['file', staged]) await put(path, content.toString());
    await call(mirror);
    assert.equal(told, 1, name);
  }
  const { mirror } = setUp({ retry: { onLost: () => assert.fail('nothing was lost') } });
  await mirror.stat('file');
});

test('names that were given before the answer was lost are given no second time', async () => {
  const texts = ['one', 'two', 'three'];
  const from = (text: string) => stagingPath(sha256(Buffer.from(text)));
  for (const done of [0, 1, 2, 3]) {
    const { memory, mirror, put } = setUp({ faults: { renameInOrder: [before] } });
    memory.folders.add(stagingFolder);
    for (const text of texts) await put(from(text), text);
    // So far the server came.
    for (const text of texts.slice(0, done)) await memory.rename(from(text), text);
    const [one, two, three] = texts.map((text) => ({ from: from(text), to: text }));
    assert.ok(one && two && three);
    await mirror.renameInOrder([[one, two], [three]]);
    for (const text of texts) assert.equal(memory.files.get(text)?.content.toString(), text);
  }
  // Somebody else's content under the name is not ours.
  const { memory, mirror, put } = setUp({ faults: { renameInOrder: [before] } });
  memory.folders.add(stagingFolder);
  await put('one', 'other');
  const renaming = mirror.renameInOrder([[{ from: from('one'), to: 'one' }]]);
  await assert.rejects(renaming, failsWith('MIRROR_DOWN'));
});

async function fill({ memory, put }: ReturnType<typeof setUp>): Promise<void> {
  await memory.makeFolder(stagingFolder);
  await memory.makeFolder('empty');
  await put('file', 'what was there');
  await put(staged, content.toString());
}

describe('a mirror that is cut off for a moment', () => {
  for (const [name, operation] of operations) {
    for (const fault of [before, after]) {
      test(`does ${name} again where it failed ${fault.when} it was done`, async () => {
        const calm = setUp();
        await fill(calm);
        const expected = await operation(calm.mirror);
        assert.deepEqual(calm.calls, [name]);
        const shaken = setUp({ faults: { [name]: [fault] } });
        await fill(shaken);
        const result = await operation(shaken.mirror);
        // What was sent twice is counted twice.
        const isSentTwice = name === 'put' && fault === after;
        assert.deepEqual(result, isSentTwice ? { start: 0, sent: 2 * content.length } : expected);
        assert.deepEqual(contentsOf(shaken), contentsOf(calm));
        assert.deepEqual(shaken.pauses, [375]);
      });
    }
  }

  test('fails at once with all that is no interruption', async () => {
    const bug = new TypeError('a bug');
    const codes = ['AUTH', 'FULL', 'DENIED', 'MISSING', 'DAMAGED'] as const;
    for (const error of [...codes.map((code) => failure(`MIRROR_${code}`)), bug]) {
      const { mirror, pauses } = setUp({
        faults: { stat: [{ when: 'before', error: error as ServerError }] },
      });
      await assert.rejects(mirror.stat('file'), (thrown) => thrown === error);
      assert.deepEqual(pauses, []);
    }
  });

  test('is given up after a few attempts, with the last error', async () => {
    const last = failure('MIRROR_DOWN', 'the last');
    const logins = [...Array.from({ length: 4 }, () => before), { ...before, error: last }];
    const { mirror, calls, pauses } = setUp({ faults: { stat: always, capabilities: logins } });
    await assert.rejects(mirror.stat('file'), (error) => error === last);
    assert.deepEqual(pauses, [375, 750, 1500, 2500, 2500]);
    assert.deepEqual(calls, ['stat', ...Array.from({ length: 5 }, () => 'capabilities')]);
  });

  test('is given up, too, where logins succeed and the operation never does', async () => {
    const { mirror, calls } = setUp({ faults: { stat: always }, retry: { attempts: 3 } });
    await assert.rejects(mirror.stat('file'), failsWith('MIRROR_DOWN'));
    assert.deepEqual(calls, ['stat', 'capabilities', 'stat', 'capabilities', 'stat']);
  });

  test('is not given up while others get somewhere', async () => {
    const faults = { stat: always.slice(0, 20) };
    // As long as the others take.
    const pause = async () => {
      for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
    };
    const { mirror, calls } = setUp({ faults, retry: { attempts: 3, pause } });
    let isOver = false;
    const stat = mirror.stat('').finally(() => {
      isOver = true;
    });
    while (!isOver) await mirror.list('');
    assert.equal((await stat)?.kind, 'folder');
    assert.equal(calls.filter((each) => each === 'stat').length, 21);
  });

  test('is given up where its silence has taken long enough', async () => {
    let time = 0;
    const pause = async () => {
      time += 1000;
    };
    const retry = { now: () => time, pause, patience: 1500, attempts: 100 };
    const { mirror, calls } = setUp({ faults: { stat: always, capabilities: always }, retry });
    await assert.rejects(mirror.stat('file'), failsWith('MIRROR_DOWN'));
    assert.deepEqual(calls, ['stat', 'capabilities', 'capabilities']);
  });

  test('fails with what its return is met with', async () => {
    const error = failure('MIRROR_AUTH');
    const { mirror } = setUp({
      faults: { stat: [before], capabilities: [{ when: 'before', error }] },
    });
    await assert.rejects(mirror.stat('file'), (thrown) => thrown === error);
  });

  test('is pardoned for earlier failures when it was given up', async () => {
    const faults = { stat: always.slice(0, 2) };
    const { mirror, pauses } = setUp({ faults, retry: { attempts: 2 } });
    await assert.rejects(mirror.stat(''), failsWith('MIRROR_DOWN'));
    assert.equal((await mirror.stat(''))?.kind, 'folder');
    assert.deepEqual(pauses, [375]);
  });
});

function contentsOf({ memory }: ReturnType<typeof setUp>) {
  const files = [...memory.files].map(([path, file]) => [path, file.content.toString()]);
  return { files: new Map(files as [string, string][]), folders: memory.folders };
}

describe('many operations that fail at the same moment', () => {
  test('share one pause and one login', async () => {
    const faults = { stat: always, capabilities: [before, before] };
    const { mirror, calls, pauses } = setUp({ faults });
    await Promise.all(Array.from({ length: 100 }, () => mirror.stat('')));
    assert.deepEqual(pauses, [375, 750, 1500]);
    assert.equal(calls.filter((each) => each === 'capabilities').length, 3);
    assert.equal(calls.length, 203);
  });

  test('fail with one error where the mirror does not come back', async () => {
    const { mirror, calls } = setUp({ faults: { stat: always, capabilities: always } });
    const results = await Promise.allSettled(Array.from({ length: 100 }, () => mirror.stat('')));
    const reasons = results.map((result) => result.status === 'rejected' && result.reason);
    assert.equal(new Set(reasons).size, 1);
    failsWith('MIRROR_DOWN')(reasons[0]);
    assert.equal(calls.length, 105);
  });

  test('hold up those that begin meanwhile', async () => {
    const { begun, pause } = endlessPause();
    const { mirror, calls } = setUp({ faults: { stat: [before] }, retry: { pause } });
    const first = assert.rejects(mirror.stat(''), failsWith('MIRROR_DOWN'));
    await begun;
    const second = assert.rejects(mirror.list(''), failsWith('MIRROR_DOWN'));
    await new Promise(setImmediate);
    assert.deepEqual(calls, ['stat']);
    await mirror.close();
    await Promise.all([first, second]);
    assert.deepEqual(calls, ['stat', 'close']);
  });

  test('end each with its own signal, and the pause with the last', async () => {
    const { begun, pause, asked } = endlessPause({ late: true });
    const { mirror, calls } = setUp({ faults: { stat: always.slice(0, 2) }, retry: { pause } });
    const endings = [new AbortController(), new AbortController()];
    const waiting = endings.map(({ signal }) => mirror.stat('', { signal }));
    const ends = waiting.map((each, index) =>
      assert.rejects(each, (error) => error === `reason ${index}`),
    );
    await begun;
    endings[0]?.abort('reason 0');
    await ends[0];
    assert.equal(asked[0]?.aborted, false);
    endings[1]?.abort('reason 1');
    await ends[1];
    assert.equal(asked[0]?.aborted, true);
    // Nobody waits any more: the next one asks the mirror.
    assert.equal((await mirror.stat(''))?.kind, 'folder');
    assert.deepEqual(calls, ['stat', 'stat', 'stat']);
  });

  test('can be asked for again by those who are told first that all is given up', async () => {
    const faults = { stat: always.slice(0, 2), capabilities: [before] };
    const { mirror } = setUp({ faults, retry: { attempts: 2 } });
    const first = mirror.stat('').catch(() => mirror.stat(''));
    const { signal } = new AbortController();
    const second = assert.rejects(mirror.stat('', { signal }), failsWith('MIRROR_DOWN'));
    assert.equal((await first)?.kind, 'folder');
    await second;
  });

  test('leave no pause behind where they were ended meanwhile', async () => {
    const { pause, asked } = endlessPause();
    const ending = new AbortController();
    const { mirror } = setUp({
      retry: { pause },
      fault: () => {
        ending.abort('the reason');
        throw failure('MIRROR_DOWN');
      },
    });
    const removing = mirror.remove('file', { signal: ending.signal });
    await assert.rejects(removing, (error) => error === 'the reason');
    assert.deepEqual(asked, []);
  });

  test('are not tried again once the mirror is closed', async () => {
    const { mirror, pauses } = setUp({ faults: { stat: always } });
    await mirror.close();
    await assert.rejects(mirror.stat(''), failsWith('MIRROR_DOWN'));
    assert.deepEqual(pauses, []);
  });

  test('wait by a timer of their own', async () => {
    const { memory } = setUp();
    let calls = 0;
    const inner = {
      ...memory,
      stat: async () => {
        if (++calls === 1) throw failure('MIRROR_DOWN');
        return undefined;
      },
    };
    assert.equal(await withRetry(inner, { log: memoryLog().log }).stat(''), undefined);
    assert.equal(calls, 2);
  });
});

describe('a rename whose answer is lost', () => {
  test('is known by the content of a staged file', async () => {
    const shaken = setUp({ faults: { rename: [after] } });
    await fill(shaken);
    await shaken.mirror.rename(staged, 'file');
    assert.deepEqual(shaken.calls, ['rename', 'capabilities', 'stat', 'hash']);
  });

  test('is not taken for done where the target has other content, or is none', async () => {
    for (const target of ['file', 'none', 'empty']) {
      const shaken = setUp({ faults: { rename: [before] } });
      await fill(shaken);
      await shaken.memory.remove(staged);
      await assert.rejects(shaken.mirror.rename(staged, target), failsWith('MIRROR_DOWN'));
    }
  });

  test('is not taken for done where nothing tells what has to be there', async () => {
    const shaken = setUp({ faults: { rename: [after] } });
    await fill(shaken);
    const name = `${'x'.repeat(stagingFolder.length)}/${sha256(content)}`;
    await shaken.memory.makeFolder('x'.repeat(stagingFolder.length));
    await shaken.put(name, content.toString());
    await assert.rejects(shaken.mirror.rename(name, 'file'), failsWith('MIRROR_DOWN'));
    assert.deepEqual(shaken.calls, ['rename', 'capabilities', 'stat']);
  });

  test('is known, too, where it was done after the look', async () => {
    const late = { when: 'after', error: failure('MIRROR_MISSING') } as const;
    for (const name of [staged, 'other']) {
      const shaken = setUp({ faults: { rename: [before, late] } });
      await fill(shaken);
      await shaken.put('other', 'x');
      const renaming = shaken.mirror.rename(name, 'file');
      if (name === staged) await renaming;
      else await assert.rejects(renaming, failsWith('MIRROR_MISSING'));
    }
  });

  test('tells what is missing where no answer was lost', async () => {
    const { mirror, calls } = setUp();
    await assert.rejects(mirror.rename(staged, 'file'), failsWith('MIRROR_MISSING'));
    assert.deepEqual(calls, ['rename']);
  });
});

test('a link whose answer is lost is taken for done where it is there, or else cannot be made', async () => {
  const cannot = setUp({ faults: { link: [before] }, link: false });
  await fill(cannot);
  assert.equal(await cannot.mirror.link('file', 'new'), false);
  // What stands there makes a second one fail, as where there are no links at all.
  const shaken = setUp({ faults: { link: [before] }, link: false });
  await fill(shaken);
  await shaken.put('new', 'linked by the first attempt');
  assert.equal(await shaken.mirror.link('file', 'new'), true);
});

describe('counts', () => {
  const large = Buffer.alloc(60 * 2 ** 20, 'x');
  const piece = large.length / 3;

  test('of what is read again are taken back', async () => {
    const { mirror, put } = setUp({ faults: { hash: [after, before, after] } });
    await put('file', 'content');
    const counts: number[] = [];
    await mirror.hash('file', { onBytes: (count) => counts.push(count) });
    assert.deepEqual(counts, [7, -7, 7, -7, 7]);
  });

  test('of what is sent again are taken back, and it starts once', async () => {
    let puts = 0;
    const { mirror, memory, calls } = setUp({
      fault: (when, operation) => {
        if (operation === 'put' && when === 'before' && ++puts === 3) throw failure('MIRROR_DOWN');
      },
    });
    const counts: [string, number][] = [];
    const result = await mirror.put(sourceOf(large), 'file', {
      onStart: (offset) => counts.push(['start', offset]),
      onBytes: (count) => counts.push(['bytes', count]),
    });
    const start = 2 * piece - resumeWindow;
    assert.deepEqual(counts, [
      ['start', 0],
      ['bytes', piece],
      ['bytes', piece],
      ['bytes', -resumeWindow],
      ['bytes', piece],
      ['bytes', large.length - start - piece],
    ]);
    assert.deepEqual(result, { start, sent: large.length + resumeWindow });
    assert.ok(memory.files.get('file')?.content.equals(large));
    assert.deepEqual(calls, ['put', 'capabilities', 'put']);
  });

  test('are continued only from what has been sent, where it starts anew', async () => {
    for (const fault of [before, after]) {
      const { mirror, memory, calls } = setUp({ faults: { put: [fault] } });
      await memory.write('file', [Buffer.alloc(large.length, 'other')]);
      const { start } = await mirror.put(sourceOf(large), 'file', { resume: false });
      assert.equal(start, fault === before ? 0 : large.length - resumeWindow);
      assert.ok(memory.files.get('file')?.content.equals(large));
      assert.deepEqual(calls, ['put', 'capabilities', 'put']);
    }
  });

  test('that rise let an upload fail more often than otherwise', async () => {
    let pieces = 0;
    const { mirror, memory, calls } = setUp({
      retry: { attempts: 2 },
      // The second piece of every attempt.
      fault: (when, operation) => {
        if (operation === 'put' && when === 'before' && ++pieces % 2 === 0) {
          throw failure('MIRROR_DOWN');
        }
      },
    });
    await mirror.put(sourceOf(large), 'file', {});
    assert.ok(memory.files.get('file')?.content.equals(large));
    assert.ok(calls.filter((each) => each === 'put').length > 5);
  });

  test('that rise to the same again do not', async () => {
    let pieces = 0;
    const { mirror, calls } = setUp({
      retry: { attempts: 4 },
      // The second piece of every attempt, which does not come far enough to be continued.
      fault: (when, operation) => {
        if (operation === 'put' && when === 'before' && ++pieces % 2 === 0) {
          throw failure('MIRROR_DOWN');
        }
      },
    });
    const counts: number[] = [];
    const source = sourceOf(large.subarray(0, 24 * 2 ** 20));
    const putting = mirror.put(source, 'file', { onBytes: (count) => counts.push(count) });
    await assert.rejects(putting, failsWith('MIRROR_DOWN'));
    assert.equal(calls.filter((each) => each === 'put').length, 4);
    const third = 8 * 2 ** 20;
    assert.deepEqual(counts, [third, -third, third, -third, third, -third, third]);
  });
});

describe('a pause', () => {
  const random = fc.double({ min: 0, max: 1, noNaN: true });
  const failures = fc.integer({ min: 1, max: 100_000 });
  const at = (count: number, value: number) =>
    pauseAfter(failure('MIRROR_DOWN'), { failures: count, random: () => value }) ?? Number.NaN;

  test('is from half of what is due up to all of it, however often it has failed', () => {
    fc.assert(
      fc.property(failures, random, (count, value) => {
        const due = Math.min(300_000, 1000 * 2 ** (count - 1));
        const pause = at(count, value);
        assert.ok(pause >= due / 2 && pause <= due, `${pause}`);
      }),
    );
  });

  test('is never shorter after more failures with the same chance', () => {
    fc.assert(
      fc.property(failures, failures, random, (one, other, value) => {
        assert.ok(at(Math.min(one, other), value) <= at(Math.max(one, other), value));
      }),
    );
  });

  test('begins later where room or rights are missing, and there is none where waiting is no use', () => {
    const after = (code: ErrorCode, failures: number) =>
      pauseAfter(failure(code), { failures, random: () => 1, first: 100, longest: 1500 });
    for (const code of ['MIRROR_FULL', 'MIRROR_DENIED'] as const) {
      const pauses = [1, 2, 3, 50].map((failures) => after(code, failures));
      assert.deepEqual(pauses, [500, 1000, 1500, 1500], code);
    }
    assert.equal(after('MIRROR_DOWN', 1), 100);
    for (const code of ['MIRROR_AUTH', 'MIRROR_TAKEN'] as const) {
      assert.equal(after(code, 1), undefined, code);
    }
  });
});
