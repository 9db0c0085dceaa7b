/** The page's connection, with sources that do as they are told. */
import assert from 'node:assert/strict';
import { mock, type TestContext, test } from 'node:test';
import { type Connection, follow, type Source } from '../../../src/pages/status/live.js';
import type { Status } from '../../../src/pages/status/status.js';

interface FakeSource extends Source {
  readyState: number;
  isClosed: boolean;
  say(type: string, data?: object): void;
}

function setUp(t: TestContext) {
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const sources: FakeSource[] = [];
  const heard: (Connection | Partial<Status>)[] = [];
  const open = () => {
    const listeners: Record<string, (event: { data?: string }) => void> = {};
    const source: FakeSource = {
      readyState: 1,
      isClosed: false,
      addEventListener: (type, listener) => {
        listeners[type] = listener;
      },
      close: () => {
        source.isClosed = true;
        source.readyState = 2;
      },
      say: (type, data) =>
        listeners[type]?.(data === undefined ? {} : { data: JSON.stringify(data) }),
    };
    sources.push(source);
    return source;
  };
  const following = follow({
    open,
    onStatus: (status) => heard.push(status),
    onConnection: (connection) => heard.push(connection),
  });
  const newest = () => sources.at(-1) as FakeSource;
  const take = () => heard.splice(0);
  return { sources, newest, take, following };
}

test('what is heard is put together, and shown before it is called live', (t) => {
  const { newest, take } = setUp(t);
  newest().say('change', { pid: 3 });
  assert.deepEqual(take(), ['connecting'], 'there is nothing yet that could change');
  newest().say('status', { version: '1', pid: 1 });
  newest().say('change', { pid: 2 });
  assert.deepEqual(take(), [{ version: '1', pid: 1 }, 'live', { version: '1', pid: 2 }]);
});

test('a connection that the browser makes again is lost until it tells something', (t) => {
  const { newest, take, sources } = setUp(t);
  newest().say('status', { pid: 1 });
  take();
  newest().readyState = 0;
  newest().say('error');
  newest().say('error');
  assert.deepEqual(take(), ['lost']);
  newest().say('status', { pid: 2 });
  assert.deepEqual(take(), [{ pid: 2 }, 'live']);
  assert.equal(sources.length, 1);
});

test('one that was refused is made again after a while, again and again', (t) => {
  const { newest, take, sources } = setUp(t);
  for (let tries = 1; tries < 4; tries += 1) {
    newest().readyState = 2;
    newest().say('error');
    mock.timers.tick(4999);
    assert.equal(sources.length, tries);
    mock.timers.tick(1);
    assert.equal(sources.length, tries + 1);
  }
  assert.deepEqual(take(), ['connecting', 'lost']);
  newest().say('status', { pid: 2 });
  assert.deepEqual(take(), [{ pid: 2 }, 'live']);
});

test('while nobody looks there is none, and there is one when somebody does', (t) => {
  const { newest, take, sources, following } = setUp(t);
  newest().say('status', { pid: 1 });
  following.look(false);
  mock.timers.tick(59_999);
  following.look(true);
  mock.timers.tick(600_000);
  assert.deepEqual([sources.length, newest().isClosed], [1, false]);
  following.look(false);
  mock.timers.tick(60_000);
  assert.equal(newest().isClosed, true);
  newest().say('status', { pid: 9 });
  following.restart();
  assert.equal(sources.length, 1, 'nobody looks');
  following.look(true);
  assert.deepEqual(take(), ['connecting', { pid: 1 }, 'live', 'paused', 'connecting']);
  assert.equal(sources.length, 2);
});

test('another network has another connection, and the old one says nothing more', (t) => {
  const { sources, take, following } = setUp(t);
  following.restart();
  sources[0]?.say('status', { pid: 1 });
  sources[0]?.say('error');
  assert.deepEqual([sources[0]?.isClosed, take()], [true, ['connecting']]);
});
