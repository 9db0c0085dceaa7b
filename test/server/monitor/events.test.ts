/** The status as it changes, to clients of all kinds. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ask } from '../../support/api.js';
import { eventually } from '../../support/eventually.js';
import type { LogEvent } from '../../support/memory-log.js';
import { listenTo, serveMonitored } from '../../support/monitored.js';

const local = { headers: { 'X-Real-IP': '127.0.0.1' } };
const quick = { lookMs: 10 };

/** Why clients were dropped. */
function dropped(events: readonly LogEvent[]): unknown[] {
  const dropping = 'a client that listened to the status was dropped';
  return events.filter(({ msg }) => msg === dropping).map(({ why }) => why);
}

describe('who listens to the status', () => {
  test('gets all of it at once, and then what has changed', async (t) => {
    const { port, socket, told } = await serveMonitored(t, { limits: quick });
    told.live = { ready: false, root: '/srv', published: 1 };
    for (const place of [port, socket]) {
      told.live = { ready: false, root: '/srv', published: 1 };
      const listening = await listenTo(place, place === socket ? local : {});
      assert.equal(listening.status, 200);
      assert.equal(listening.headers['content-type'], 'text/event-stream');
      assert.equal(listening.headers['x-accel-buffering'], 'no');
      assert.equal(listening.headers['cache-control'], 'no-store');
      assert.deepEqual(await listening.next(), { event: 'status', data: told.live });
      assert.match(listening.text(), /^retry: 3000\n\n/);
      told.live = { ready: true, root: '/srv', published: 1 };
      assert.deepEqual(await listening.next(), { event: 'change', data: { ready: true } });
      told.live = { ready: true, root: '/srv', 'a\n\nb': '<script>\n\ndata: {}' };
      const data = { 'a\n\nb': '<script>\n\ndata: {}', published: null };
      assert.deepEqual(await listening.next(), { event: 'change', data });
      listening.cut();
    }
  });

  test('hears nothing where nothing has changed but the object', async (t) => {
    const { port, told } = await serveMonitored(t, { limits: quick });
    const listening = await listenTo(port);
    await listening.next();
    let asked = 0;
    told.live = {
      get ready() {
        asked += 1;
        return asked > 3 ? 'new' : true;
      },
    };
    const again = setInterval(() => {
      told.live = Object.create(null, { ready: { get: read, enumerable: true } });
    }, 5);
    const { live } = told as { live: { ready: unknown } };
    const read = () => live.ready;
    t.after(() => clearInterval(again));
    assert.deepEqual(await listening.next(), { event: 'change', data: { ready: 'new' } });
    listening.cut();
  });

  test('is told the same as all others, which is put together once', async (t) => {
    let asked = 0;
    let version = 1;
    let shown = { version };
    const live = () => {
      asked += 1;
      if (shown.version !== version) shown = { version };
      return shown;
    };
    const site = await serveMonitored(t, { monitored: { live }, limits: { lookMs: 300 } });
    const all = await Promise.all(Array.from({ length: 20 }, () => listenTo(site.port)));
    for (const each of all) await each.next();
    const before = asked;
    version = 2;
    const changes = await Promise.all(all.map((each) => each.next()));
    assert.deepEqual(new Set(changes.map((each) => JSON.stringify(each))).size, 1);
    assert.deepEqual(changes[0]?.data, { version: 2 });
    assert.ok(asked - before < 10, `put together ${asked - before} times`);
    for (const each of all) each.cut();
  });

  test('has nobody asked for anything once all have left', async (t) => {
    let asked = 0;
    const live = () => ({ asked: ++asked });
    const { port } = await serveMonitored(t, { monitored: { live }, limits: quick });
    const listening = await listenTo(port);
    await listening.next();
    await listening.next();
    listening.cut();
    let before = -1;
    await eventually('nobody asks any more', async () => {
      const still = asked === before;
      before = asked;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return still && asked === before;
    });
    const other = await listenTo(port);
    assert.deepEqual((await other.next())?.data, { asked: before + 1 });
    other.cut();
  });

  test('is one of a few: more are told to come later, until somebody leaves', async (t) => {
    const { port, events } = await serveMonitored(t, { limits: { listeners: 2 } });
    const all = await Promise.all([listenTo(port), listenTo(port)]);
    const refused = await ask(port, '/status/events');
    assert.deepEqual([refused.status, refused.headers['retry-after']], [503, '30']);
    assert.match(refused.bytes.toString(), /Too many/);
    assert.equal(events.length, 1);
    all[0]?.cut();
    await eventually('there is room again', async () => {
      const next = await listenTo(port);
      next.cut();
      return next.status === 200;
    });
    all[1]?.cut();
  });

  test('hears that the connection stands while nothing changes', async (t) => {
    const { port } = await serveMonitored(t, { limits: { heartbeatMs: 20 } });
    const listening = await listenTo(port);
    await eventually('two comments', () => /\n:\n\n:\n\n/.test(listening.text()));
    listening.cut();
  });

  test('is dropped where it takes nothing and 1 MiB waits; others are not held up', async (t) => {
    const { port, socket, told, events } = await serveMonitored(t, { limits: quick });
    const slow = await Promise.all([listenTo(port), listenTo(socket, local)]);
    const good = await listenTo(port);
    await good.next();
    for (const each of slow) each.pause();
    // The kernel keeps some MiB of a connection; what is more waits here.
    for (let count = 0; dropped(events).length < slow.length; count += 1) {
      assert.ok(count < 1000, 'somebody who takes nothing was sent 100 MB');
      told.live = { count, text: `${count}`.padEnd(100_000) };
      const { data } = (await good.next()) ?? {};
      assert.equal((data as { count: number }).count, count);
    }
    assert.deepEqual(dropped(events), ['it takes none', 'it takes none']);
    good.cut();
  });

  test('is sent away when it may see the status no more', async (t) => {
    const { port, told, events } = await serveMonitored(t, { limits: { heartbeatMs: 20 } });
    const listening = await listenTo(port);
    await listening.next();
    told.statusFrom = ['192.0.2.0/24'];
    assert.equal(await listening.ended, 'cut');
    assert.deepEqual(dropped(events), ['it may see the status no more']);
  });

  test('hears the end of the server, and does not hold it up', async (t) => {
    const { port, socket, close, service } = await serveMonitored(t);
    const all = await Promise.all([listenTo(port), listenTo(socket, local), listenTo(port)]);
    for (const each of all) await each.next();
    service.close();
    const ends = await Promise.all(all.map((each) => each.ended));
    assert.deepEqual(ends, ['end', 'end', 'end']);
    assert.equal((await ask(port, '/status/events')).status, 503);
    await close();
  });

  test('goes on hearing after a failure of ours, which is logged', async (t) => {
    let fails = false;
    let shown = { n: 1 };
    const live = () => {
      if (fails) throw new Error('out of order');
      return shown;
    };
    const { port, events } = await serveMonitored(t, { monitored: { live }, limits: quick });
    const listening = await listenTo(port);
    await listening.next();
    fails = true;
    await eventually('it is logged', () => events.length === 1);
    fails = false;
    shown = { n: 2 };
    assert.deepEqual(await listening.next(), { event: 'change', data: { n: 2 } });
    listening.cut();
  });
});
