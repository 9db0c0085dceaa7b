/** `status` on terminals: what fits, what a terminal must not be told, and `--watch` beside a real daemon. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import fc from 'fast-check';
import picocolors from 'picocolors';
import { statusText } from '../../src/cli/status-text.js';
import type { DaemonStatus, MirrorStatus } from '../../src/daemon/status.js';
import { cli } from '../support/cli.js';
import { daemonConfig, emptyRoot, launchDaemon, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { addVersion } from '../support/image-tree.js';
import { mirrorStatus } from '../support/metrics-sources.js';
import { needs } from '../support/programs.js';

const esc = '\u001b';
const now = Date.parse('2026-03-01T12:00:00Z');
const at = new Date(now - 90_000).toISOString();

function daemonStatus(more: Partial<DaemonStatus> = {}): DaemonStatus {
  return {
    ...{ version: '1.0.0', pid: 4711, started: at, root: '/srv', ready: true },
    activity: { doing: 'idle', since: at },
    catalogue: { products: 2, versions: 7, bytes: 300 },
    publications: Array.from({ length: 20 }, () => ({
      ...{ at, ms: 12, products: 2, versions: 7, bytes: 100 },
    })),
    held: [],
    heldCount: 0,
    watching: { mode: 'events', folders: 10 },
    server: { url: 'https://localhost:8443' },
    jobs: [
      { name: 'rescan', schedule: '*/10 * * * *', state: 'idle', missed: 0 },
      { name: 'verify', schedule: '', state: 'idle', missed: 0 },
    ],
    mirrors: [],
    process: { memory: 2 ** 27, longestPauseMs: 4 },
    ...more,
  };
}

const states = ['synced', 'waiting', 'syncing', 'stopped', 'behind'] as const;

function mirrors(count: number): MirrorStatus[] {
  return Array.from({ length: count }, (_, number) => {
    const state = states[number % states.length] ?? 'synced';
    const failure = { at, message: `Mirror m${number}: no answer`, hint: 'see to it' };
    const failing = state === 'waiting' || state === 'stopped';
    return mirrorStatus(`m${number}`, { state, ...(failing && { failure }) });
  });
}

function held(count: number): Pick<DaemonStatus, 'held' | 'heldCount'> {
  const one = { code: 'empty', reason: 'it has no files', cure: 'add some' } as const;
  return {
    held: Array.from({ length: count }, (_, number) => ({ ...one, path: `a/b/c/d/${number}` })),
    heldCount: count,
  };
}

function textOn(
  daemon: DaemonStatus | null,
  { screen, colour = false }: { screen?: { columns: number; rows: number }; colour?: boolean } = {},
): string {
  const colors = picocolors.createColors(colour);
  const found = { daemon, catalogue: null, documents: null };
  return statusText(found, { now, colors, root: '/srv', screen });
}

describe('status on a screen', () => {
  test('fits, however much there is to tell, and tells some of each', () => {
    const size = fc.record({
      columns: fc.integer({ min: 30, max: 200 }),
      rows: fc.integer({ min: 24, max: 100 }),
    });
    fc.assert(
      fc.property(size, fc.nat(250), fc.nat(1000), fc.boolean(), (screen, many, back, ill) => {
        const health = ill
          ? { ok: false, reason: 'cannot publish', detail: '/srv/x' }
          : { ok: true };
        const daemon = daemonStatus({ mirrors: mirrors(many), ...held(back), health });
        const lines = textOn(daemon, { screen }).split('\n');
        // On the narrowest the facts alone may take more than there is.
        if (screen.columns >= 60) {
          assert.ok(lines.length < Math.min(screen.rows, 50), `${lines.length} lines`);
        }
        const longest = Math.max(...lines.map((line) => line.length));
        assert.ok(longest <= screen.columns, `${longest} characters`);
        const has = (text: RegExp) => lines.some((line) => text.test(line));
        assert.ok(has(/^lately/));
        assert.equal(has(/^mirrors/), many > 0);
        assert.ok(has(/^held back/));
        assert.equal(has(/^health {6}not well/), ill);
      }),
      { numRuns: 300 },
    );
  });

  test('shows the mirrors that are not in order, and counts the others', () => {
    const some = [...mirrors(100).filter(({ state }) => state !== 'waiting')];
    const text = textOn(daemonStatus({ mirrors: some }), { screen: { columns: 100, rows: 30 } });
    assert.match(text, /^mirrors {5}20 stopped, 20 behind, 20 syncing, 20 synced$/m);
    const shown = [...text.matchAll(/^ {2}m\d+ +(\w+)/gm)].map(([, state]) => state);
    assert.ok(shown.length >= 3 && shown.every((state) => state === 'stopped'), String(shown));
    assert.match(text, new RegExp(`^ {2}… and ${80 - shown.length} more$`, 'm'));
    assert.match(text, /^ {4}Mirror m3: no answer; see to it$/m);
  });

  test('shows all where there is room for all', () => {
    const daemon = daemonStatus({ mirrors: mirrors(6), ...held(4) });
    const text = textOn(daemon, { screen: { columns: 100, rows: 50 } });
    assert.equal([...text.matchAll(/^ {2}m\d/gm)].length, 6);
    assert.equal([...text.matchAll(/^ {2}a\/b\/c\/d\/\d$/gm)].length, 4);
    assert.doesNotMatch(text, /more/);
  });

  test('has fewer columns where it is narrow', () => {
    const daemon = daemonStatus({ mirrors: [mirrorStatus('eu')] });
    const head = (columns: number) =>
      /^ {2}MIRROR.*$/m.exec(textOn(daemon, { screen: { columns, rows: 24 } }))?.[0];
    assert.match(head(80) ?? '', /^ {2}MIRROR +STATE +BEHIND +IN SYNC +CLIENTS +NOW$/);
    assert.match(head(40) ?? '', /^ {2}MIRROR +STATE +BEHIND$/);
  });

  test('paints by state, and what is cut no further than it is shown', () => {
    const daemon = daemonStatus({ mirrors: mirrors(5) });
    const screen = { columns: 50, rows: 50 };
    const painted = textOn(daemon, { screen, colour: true });
    const paints = ['32', '33', '36', '31'].map((code) => `\u001b[${code}m`);
    for (const [index, code] of paints.entries()) {
      assert.ok(painted.includes(`${code}  m${index} `), `m${index}`);
    }
    const plain = painted.replaceAll(new RegExp(`${esc}\\[\\d+m`, 'g'), '');
    assert.equal(plain, textOn(daemon, { screen }));
  });

  test('tells a terminal nothing that somebody else has written', () => {
    const evil = '\u001b]0;x\u0007\u009b2J\u202e\nmirrors';
    const daemon = daemonStatus({
      mirrors: [mirrorStatus(evil, { failure: { at, message: evil, hint: evil } })],
      held: [{ path: evil, code: 'name', reason: evil, cure: evil }],
      heldCount: 1,
      activity: { doing: 'waiting', detail: evil, since: at },
      health: { ok: false, reason: evil, detail: evil },
    });
    for (const screen of [undefined, { columns: 80, rows: 40 }]) {
      const text = textOn(daemon, screen && { screen });
      assert.doesNotMatch(text.replaceAll('\n', ''), /[\p{Cc}\u202e]/u);
      assert.match(text, /\\u001b/);
    }
  });
});

interface Watched {
  /** All that came on the terminal. */
  said: () => string;
  press: (keys: string) => void;
  closed: Promise<unknown[]>;
}

/** Runs the command on a terminal of its own (script(1)) of that size. */
function onTerminal(t: TestContext, args: readonly string[], size = 'cols 90 rows 30'): Watched {
  const words = [process.execPath, cli, ...args].map((word) => `'${word}'`).join(' ');
  const child = spawn('script', ['-qefc', `stty ${size}; exec ${words}`, '/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, TERM: 'xterm' },
  });
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  const closed = once(child, 'close');
  t.after(() => void child.kill('SIGKILL'));
  return { said: () => said, press: (keys) => void child.stdin.write(keys), closed };
}

const enter = '\u001b[?1049h\u001b[?25l';
const leave = '\u001b[?25h\u001b[?1049l';

describe('status --watch', () => {
  test(
    'on a terminal follows a daemon that goes and comes back, and leaves all as it was',
    needs('script', 'stty'),
    async (t) => {
      const root = await emptyRoot(t);
      const first = await startDaemon(t, root);
      const config = join(root, 'config.toml');
      const { said, press, closed } = onTerminal(t, ['status', '--watch=0.1', '--config', config]);
      const since = (text: string) => said().slice(said().lastIndexOf(text));
      await eventually('it is shown', () => /now {9}\S*idle/.test(said()));
      assert.ok(said().startsWith(enter), JSON.stringify(said().slice(0, 40)));
      await addVersion(root, 'demo/one/amd64/default/20260101');
      await eventually('what is new is shown', () => said().includes('1 product, 1 version,'));
      await first.end();
      await eventually('it is gone', () => since('\u001b[H').includes('not running'));
      const second = await launchDaemon(t, root);
      await eventually('it is back', () => said().includes(`process ${second.pid}`));
      press('\u0003');
      assert.deepEqual(await closed, [0, null]);
      assert.equal(said().split(enter).length, 2, 'one screen of its own');
      const after = said().slice(said().indexOf(leave) + leave.length);
      assert.ok(said().includes(leave) && after.startsWith('daemon'), 'what was seen last stays');
      assert.ok(['H', 'J', 'K', '?'].every((code) => !after.includes(`${esc}[${code}`)));
      // Frames are written over each other, never onto a screen that was cleared.
      assert.ok(!said().includes('\u001b[2J'));
      const frames = said().split('\u001b[H').slice(1);
      for (const frame of frames) assert.ok(frame.split('\r\n').length <= 31);
      await second.end();
    },
  );

  test('prints blocks where there is no terminal, and a document a line as JSON', async (t) => {
    const root = await emptyRoot(t);
    await startDaemon(t, root);
    const config = join(root, 'config.toml');
    for (const [args, pattern] of [
      [[], /^daemon.+?held back {3}nothing\n\ndaemon.+?held back {3}nothing\n/s],
      [['--json'], /^\{"daemon":\{.+\}\n\{"daemon":\{.+\}\n/],
    ] as const) {
      const command = ['status', '--watch=0.1', ...args, '--config', config];
      const child = spawn(process.execPath, [cli, ...command], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      t.after(() => void child.kill('SIGKILL'));
      let said = '';
      child.stdout.on('data', (chunk: Buffer) => {
        said += chunk;
      });
      await eventually('it came twice', () => pattern.test(said));
      assert.ok(!said.includes('\u001b'), 'no control of a terminal');
      child.kill('SIGINT');
      assert.deepEqual(await once(child, 'close'), [0, null]);
    }
  });

  test(
    'waits where there is neither a daemon nor anything published',
    needs('script', 'stty'),
    async (t) => {
      const root = await emptyRoot(t);
      const config = await daemonConfig(root);
      const { said, press, closed } = onTerminal(t, ['status', '--watch', '--config', config]);
      await eventually('it says so', () => /failure {5}\S*\w/.test(said()));
      assert.match(said(), /daemon {6}\S*not running/);
      press('\u0003');
      assert.deepEqual(await closed, [0, null]);
      assert.ok(said().includes(leave));
    },
  );

  for (const seconds of ['0', 'soon', '-1', '100000']) {
    test(`refuses ${seconds} as seconds`, async () => {
      const child = spawn(process.execPath, [cli, 'status', `--watch=${seconds}`], {
        stdio: 'ignore',
      });
      assert.deepEqual(await once(child, 'close'), [2, null]);
    });
  }
});
