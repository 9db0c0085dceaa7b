/** When mirrors are tried, and what that makes of them; a host with a clock of its own, and answers that the test gives. */
import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import { createProbes, type Probed, type ProbesOptions } from '../../src/daemon/probes.js';
import { ServerError } from '../../src/errors.js';
import { simulateHost } from '../support/clock.js';
import { memoryLog } from '../support/memory-log.js';

const second = 1000;
const interval = 10 * second;
/** How finely time goes by, in milliseconds. */
const step = 100;
/** An interval, and the steps that a try takes. */
const nextTry = interval + second / 2;
const eu = { name: 'eu', url: 'https://eu.example' };

interface Try {
  name: string;
  file: string | undefined;
  at: number;
}

/** Mirrors that answer in 20 ms, unless there is a fault or they hang for five seconds. */
function setUp(t: TestContext, options: Partial<ProbesOptions<string>> = {}) {
  const host = simulateHost(new Date('2026-01-01T00:00:00Z'));
  /** What a timer sets going takes a step to begin another. */
  const pass = async (milliseconds: number) => {
    for (let left = milliseconds; left > 0; left -= step) await host.block(Math.min(left, step));
  };
  const { log, events } = memoryLog('info');
  const tries: Try[] = [];
  const faults = new Map<string, ServerError>();
  const hanging = new Set<string>();
  /** What each is believed to have, and what of that is not there. */
  const believed = new Map<string, string[]>([['eu', ['a', 'b']]]);
  const lost = new Set<string>();
  const told = { missing: 0, unknown: 0 };
  let stuck: Promise<void> | undefined;
  /** No answer is heard from now on. @returns what ends that */
  const block = () => {
    let end = () => {};
    stuck = new Promise((resolve) => {
      end = resolve;
    });
    return () => {
      stuck = undefined;
      end();
    };
  };
  let turn = 0;
  let [underWay, peak] = [0, 0];
  const probe: ProbesOptions<string>['probe'] = async ({ name }, { file, signal }) => {
    tries.push({ name, file, at: Math.round(performance.now()) });
    underWay += 1;
    peak = Math.max(peak, underWay);
    const ms = hanging.has(name) ? 5 * second : 20;
    await stuck;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      signal.addEventListener('abort', () => resolve(clearTimeout(timer)));
    });
    underWay -= 1;
    signal.throwIfAborted();
    const fault = faults.get(name);
    if (fault !== undefined) throw fault;
    if (hanging.has(name)) throw new ServerError('MIRROR_DOWN', 'nothing within 5 s');
    if (file !== undefined && lost.has(file)) throw new ServerError('MIRROR_MISSING', 'lost');
    return { ms };
  };
  const probes = createProbes<string>({
    probe,
    sample: (name) => {
      const files = believed.get(name) ?? [];
      turn += 1;
      return files[turn % files.length];
    },
    holds: (name, file) => believed.get(name)?.includes(file) ?? false,
    missing: () => {
      told.missing += 1;
    },
    unknown: () => {
      told.unknown += 1;
    },
    log,
    random: () => 0,
    ...options,
  });
  const apply = (mirrors: readonly Probed[] = [eu], every = interval) =>
    probes.apply(mirrors, { interval: every });
  t.after(async () => {
    await probes.close();
    host.restore();
  });
  const logged = () => events.map(({ level, msg }) => [level, msg]);
  const peakOf = () => peak;
  return {
    pass,
    block,
    probes,
    apply,
    tries,
    faults,
    hanging,
    believed,
    lost,
    told,
    logged,
    peakOf,
  };
}

const down = new ServerError('MIRROR_DOWN', 'connection refused', { hint: 'start it' });
const stateOf = ({ probes }: Pick<ReturnType<typeof setUp>, 'probes'>) => probes.state('eu')?.state;

describe('a mirror', () => {
  test('gets no clients before it has answered, and shown a file', async (t) => {
    const site = setUp(t);
    await site.apply();
    const { since, ...before } = site.probes.state('eu') ?? {};
    assert.deepEqual(before, { state: 'unknown' });
    assert.equal(since, '2026-01-01T00:00:00.000Z');
    assert.equal(site.probes.isUsable('eu'), false);
    await site.pass(second);
    assert.equal(stateOf(site), 'healthy');
    assert.equal(site.probes.state('eu')?.ms, 20);
    assert.equal(site.probes.isUsable('eu'), true);
    assert.equal(site.probes.isUsable('us'), false);
    assert.equal(site.probes.state('us'), undefined);
  });

  test('of which no file is known answers, but gets no clients; somebody is told', async (t) => {
    const site = setUp(t);
    site.believed.delete('eu');
    await site.apply();
    await site.pass(second);
    assert.equal(stateOf(site), 'healthy');
    assert.equal(site.probes.isUsable('eu'), false);
    assert.equal(site.told.unknown, 1);
    site.believed.set('eu', ['a']);
    await site.pass(nextTry);
    assert.equal(site.probes.isUsable('eu'), true);
  });

  test('is tried every ten seconds at most, each time with another file', async (t) => {
    const site = setUp(t, { random: () => 0.5 });
    await site.apply();
    await site.pass(60 * second);
    const times = site.tries.map(({ at }) => at);
    const pauses = times.slice(1).map((at, index) => at - (times[index] ?? 0));
    assert.ok(
      times.length >= 6 && pauses.every((pause) => pause > 8 * second && pause <= interval),
    );
    assert.deepEqual([...new Set(site.tries.map(({ file }) => file))].sort(), ['a', 'b']);
  });

  for (const [how, ms] of [
    ['refuses', 20],
    ['hangs', 5 * second],
  ] as const) {
    test(`that ${how} is out within 30 seconds, though one failure may be an accident, and comes back`, async (t) => {
      const site = setUp(t);
      await site.apply();
      await site.pass(second);
      if (how === 'hangs') site.hanging.add('eu');
      else site.faults.set('eu', down);
      await site.pass(nextTry + ms);
      assert.equal(site.tries.length, 2);
      assert.equal(site.probes.isUsable('eu'), true);
      await site.pass(3 * second + ms);
      assert.equal(site.tries.length, 3);
      assert.equal(site.probes.isUsable('eu'), false);
      assert.equal(stateOf(site), 'failing');
      assert.ok(performance.now() - second < 30 * second);
      await site.pass(60 * second);
      site.faults.clear();
      site.hanging.clear();
      await site.pass(nextTry + ms);
      assert.equal(site.probes.isUsable('eu'), true);
      assert.deepEqual(site.logged(), [
        [30, 'the mirror answers clients'],
        [40, 'no clients are sent to the mirror: it does not serve them'],
        [30, 'the mirror answers clients again'],
      ]);
      assert.equal(site.probes.state('eu')?.failure, undefined);
    });
  }

  test('whose failure is over at the next try has not been out', async (t) => {
    const site = setUp(t);
    await site.apply();
    await site.pass(second);
    for (let times = 0; times < 3; times += 1) {
      site.faults.set('eu', down);
      const before = site.tries.length;
      while (site.tries.length === before) await site.pass(step);
      await site.pass(second);
      site.faults.clear();
      await site.pass(3 * second);
      assert.equal(site.probes.isUsable('eu'), true);
    }
    assert.deepEqual(site.logged(), [[30, 'the mirror answers clients']]);
  });

  test('says why it fails, and how to mend it', async (t) => {
    const site = setUp(t);
    site.faults.set('eu', down);
    await site.apply();
    await site.pass(second);
    assert.equal(stateOf(site), 'unknown');
    assert.deepEqual(site.probes.state('eu')?.failure, {
      message: 'connection refused',
      hint: 'start it',
    });
    await site.pass(3 * second);
    assert.equal(stateOf(site), 'failing');
  });

  test('that is this server itself is out at once', async (t) => {
    const site = setUp(t);
    await site.apply();
    await site.pass(second);
    assert.equal(site.probes.isUsable('eu'), true);
    site.faults.set('eu', new ServerError('CONFIG', 'leads to this server itself'));
    await site.pass(nextTry);
    assert.equal(site.probes.isUsable('eu'), false);
    assert.equal(stateOf(site), 'failing');
  });

  test('that was not heard of for 30 seconds gets no clients, whatever kept us from asking', async (t) => {
    const site = setUp(t);
    await site.apply();
    await site.pass(second);
    const goOn = site.block();
    await site.pass(28 * second);
    assert.equal(site.probes.isUsable('eu'), true);
    await site.pass(2 * second);
    assert.equal(site.probes.isUsable('eu'), false);
    goOn();
    await site.pass(second);
    assert.equal(site.probes.isUsable('eu'), true);
  });
});

describe('a file that is not there', () => {
  test('has the mirror looked at; what that finds to be gone is no fault of its server', async (t) => {
    const site = setUp(t);
    await site.apply();
    await site.pass(second);
    site.lost.add('a').add('b');
    site.believed.set('eu', ['a', 'b']);
    await site.pass(nextTry);
    assert.equal(site.told.missing, 1);
    site.believed.delete('eu');
    await site.pass(10 * second);
    assert.equal(stateOf(site), 'healthy', 'it is being looked at');
    site.believed.set('eu', ['c']);
    await site.pass(3 * second);
    assert.equal(stateOf(site), 'healthy');
    assert.equal(site.probes.state('eu')?.failure, undefined);
    assert.equal(site.probes.isUsable('eu'), true);
    assert.equal(site.told.missing, 1);
  });

  test('though the look has found it means that another folder is shown', async (t) => {
    const site = setUp(t);
    await site.apply();
    await site.pass(second);
    site.lost.add('a').add('b');
    await site.pass(nextTry);
    site.believed.delete('eu');
    await site.pass(5 * second);
    assert.equal(stateOf(site), 'healthy');
    site.believed.set('eu', ['a', 'b']);
    await site.pass(3 * second);
    assert.equal(stateOf(site), 'failing');
    assert.equal(site.probes.isUsable('eu'), false);
    await site.pass(300 * second);
    assert.equal(site.told.missing, 1, 'it is not looked at again and again');
    site.lost.clear();
    await site.pass(nextTry);
    assert.equal(site.probes.isUsable('eu'), true);
  });
});

describe('many mirrors', () => {
  const all = Array.from({ length: 200 }, (_, index) => ({
    name: `m${index}`,
    url: `https://m${index}.example`,
  }));

  test('are spread over time, and no more than some are tried at once', async (t) => {
    let seed = 1;
    const random = () => {
      seed = (seed * 16_807) % 2_147_483_647;
      return seed / 2_147_483_647;
    };
    const site = setUp(t, { random, most: 16 });
    for (const { name } of all) site.hanging.add(name);
    await site.apply(all);
    await site.pass(20 * second);
    assert.equal(site.peakOf(), 16);
    site.hanging.clear();
    await site.pass(120 * second);
    const from = site.tries.length;
    await site.pass(nextTry);
    const last = site.tries.slice(from);
    assert.ok(last.length >= 200, 'each was tried');
    const seconds = new Set(last.map(({ at }) => Math.floor(at / second)));
    assert.ok(seconds.size >= 9, 'in every second some');
  });

  test('that hang do not keep others from being tried in time', async (t) => {
    const site = setUp(t);
    site.believed.set('m199', ['x']);
    for (const { name } of all.slice(0, 199)) site.hanging.add(name);
    await site.apply(all);
    for (let at = 0; at < 120; at += 1) {
      await site.pass(second);
      if (at > 30) assert.equal(site.probes.isUsable('m199'), true, `second ${at}`);
    }
  });
});

describe('another configuration', () => {
  test('goes on with what is as before, begins what is new or changed, and ends what is gone', async (t) => {
    const site = setUp(t);
    const us = { name: 'us', url: 'https://us.example' };
    site.believed.set('us', ['x']);
    await site.apply([eu]);
    await site.pass(second);
    await site.apply([eu, us]);
    assert.equal(site.probes.isUsable('eu'), true);
    await site.pass(second);
    assert.equal(site.probes.isUsable('us'), true);
    assert.equal(site.tries.length, 2);
    await site.apply([eu, { ...us, tlsCa: '/ca.pem' }]);
    assert.equal(site.probes.isUsable('us'), false);
    await site.pass(second);
    assert.equal(site.probes.isUsable('us'), true);
    await site.apply([{ ...eu, url: 'https://other.example' }]);
    assert.equal(site.probes.isUsable('eu'), false);
    assert.equal(site.probes.state('us'), undefined);
    const before = site.tries.length;
    await site.apply([]);
    await site.pass(60 * second);
    assert.equal(site.tries.length, before);
  });

  test('of a shorter interval holds at once', async (t) => {
    const site = setUp(t);
    await site.apply([eu], 600 * second);
    await site.pass(second);
    assert.equal(site.tries.length, 1);
    await site.apply([eu], 2 * second);
    await site.pass(5 * second);
    assert.equal(site.tries.length, 3);
  });

  test('ends what is under way', async (t) => {
    const site = setUp(t);
    site.hanging.add('eu');
    await site.apply();
    await site.pass(second);
    assert.equal(site.tries.length, 1);
    await site.probes.close();
    assert.deepEqual(site.logged(), []);
  });
});
