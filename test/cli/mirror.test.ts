/** Mirrors on the command line, where no daemon runs; with one they are tested in daemon/mirrors. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, type TestContext, test } from 'node:test';
import { createMirrorProgress } from '../../src/cli/mirror-progress.js';
import { aboutWork, lagText, remoteText } from '../../src/cli/mirror-text.js';
import type { MirrorActivity, MirrorStatus } from '../../src/daemon/status.js';
import { cli, runCli } from '../support/cli.js';
import { daemonConfig, emptyRoot } from '../support/daemon.js';
import { mirrorTable } from '../support/mirrored.js';
import { needs } from '../support/programs.js';
import { createSftpServer } from '../support/sftp-mirror.js';
import { uploadPrograms } from '../support/slow-upload.js';
import { temporaryFolder } from '../support/temporary.js';

/** Runs the command on a terminal of its own (script(1)), and types `keys` when it is asked. */
async function onTerminal(args: readonly string[], keys: string) {
  const command = [process.execPath, cli, ...args].map((word) => `'${word}'`).join(' ');
  const child = spawn('script', ['-qefc', command, '/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let said = '';
  let isAnswered = false;
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk;
    if (isAnswered || !said.includes('Trust this key?')) return;
    isAnswered = true;
    child.stdin.end(keys);
  });
  const [code] = await once(child, 'close');
  return { code: code as number, said };
}

/** A mirror whose host key nobody knows, in a configuration without a daemon. */
async function unknownMirror(t: TestContext) {
  const root = await emptyRoot(t);
  const server = await createSftpServer(t);
  const known = join(await temporaryFolder(t), 'ssh', 'known_hosts');
  const config = await daemonConfig(root, {
    config: mirrorTable({ ...server.config, knownHosts: known }),
  });
  return { root, server, known, args: ['mirror', 'trust', 'eu', '--config', config] };
}

describe('"mirror trust" on a terminal', needs(...uploadPrograms, 'script'), () => {
  for (const answer of ['no', '', 'y', 'yesno']) {
    test(`trusts nothing on the answer "${answer}"`, async (t) => {
      const { known, args } = await unknownMirror(t);
      const { code, said } = await onTerminal(args, `${answer}\n`);
      assert.equal(code, 1, said);
      assert.match(said, /The host key of mirror eu is not trusted; nothing was changed/);
      await assert.rejects(access(known), { code: 'ENOENT' });
    });
  }

  for (const [name, keys] of [
    ['Ctrl-C', '\x03'],
    ['Ctrl-D', '\x04'],
  ] as const) {
    test(`is interrupted by ${name}, and trusts nothing`, async (t) => {
      const { known, args } = await unknownMirror(t);
      const { code, said } = await onTerminal(args, keys);
      assert.equal(code, 130, said);
      assert.match(said, /error: Interrupted/);
      await assert.rejects(access(known), { code: 'ENOENT' });
    });
  }

  test('shows the key, asks, and records it on the answer "yes"', async (t) => {
    const { server, known, args } = await unknownMirror(t);
    const { code, said } = await onTerminal(args, 'yes\n');
    assert.equal(code, 0, said);
    assert.match(
      said,
      /Mirror eu: \[127\.0\.0\.1\]:\d+ has a host key that is not known; seen: ssh-ed25519 SHA256:/,
    );
    assert.match(said, /compare it with what "ssh-keygen -lf \S+" prints there/);
    const right = await readFile(server.config.knownHosts as string, 'utf8');
    assert.equal(await readFile(known, 'utf8'), right.replace(/ host\n$/, '\n'));
    const again = await runCli(args);
    assert.deepEqual([again.code, again.stderr], [0, '']);
    assert.match(again.stdout, /is trusted already/);
  });
});

describe('without mirrors', () => {
  for (const [line, message] of [
    ['mirror sync', /No mirrors are configured; add a table \[mirrors\.NAME\]/],
    ['mirror trust eu', /No mirrors are configured/],
    ['verify --mirror eu', /No mirrors are configured/],
  ] as const) {
    test(`"${line}" says that there are none`, async (t) => {
      const config = await daemonConfig(await emptyRoot(t));
      const { code, stderr } = await runCli([...line.split(' '), '--config', config]);
      assert.equal(code, 2);
      assert.match(stderr, message);
    });
  }

  test('"mirror list" says so, and is no failure', async (t) => {
    const config = await daemonConfig(await emptyRoot(t));
    const { code, stdout } = await runCli(['mirror', 'list', '--config', config]);
    assert.deepEqual([code, stdout], [0, 'no mirrors are configured\n']);
    const json = await runCli(['mirror', 'list', '--json', '--config', config]);
    assert.equal(json.stdout, '[]\n');
  });
});

test('progress has a line for each mirror, with rate and time left', async () => {
  const terminal = Object.assign(new PassThrough(), { isTTY: true, columns: 120 });
  const progress = await createMirrorProgress(terminal as unknown as NodeJS.WriteStream);
  const work = {
    stage: 'send',
    files: { done: 12, total: 40 },
    bytes: { done: 2 ** 20, total: 2 ** 22 },
    rate: 2 ** 19,
    secondsLeft: 6,
  };
  const mirrors: MirrorActivity[] = [
    { name: 'eu', state: 'syncing', work },
    { name: 'asia', state: 'waiting' },
  ];
  progress.show(mirrors);
  let said = '';
  for await (const chunk of terminal) {
    said += chunk;
    if (said.includes('asia')) break;
  }
  progress.stop();
  assert.match(said, /eu {4}sending .* 25% {2}12 of 40 files, 512\.0 KiB\/s, 6\.0 s left/);
  assert.match(said, /asia {2}waiting/);
});

test('progress is not shown where there is no terminal', async () => {
  const progress = await createMirrorProgress(undefined);
  progress.show([{ name: 'eu', state: 'syncing' }]);
  progress.stop();
});

test('mirrors are told of in few words', () => {
  const work = { stage: 'look', files: { done: 0, total: 0 }, bytes: { done: 0, total: 0 } };
  assert.equal(aboutWork(work), '');
  const lag = (state: MirrorStatus['state'], seconds: number, versions?: number) =>
    lagText({ state, lag: { seconds, ...(versions !== undefined && { versions }) } });
  assert.equal(lag('synced', 0, 0), '-');
  assert.equal(lag('unknown', 0), '?');
  assert.equal(lag('waiting', 120, 1), '1 version, 2 min');
  const mirror = { user: 'a', remote: { host: '2001:db8::1', port: 2222 } };
  assert.equal(remoteText(mirror), 'a@[2001:db8::1]:2222');
});
