import assert from 'node:assert/strict';
import { once } from 'node:events';
import { watch } from 'node:fs';
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { createServiceManager, type ServiceManager } from '../../src/daemon/service-manager.js';
import { findProgram } from '../support/command.js';
import { memoryLog } from '../support/memory-log.js';
import { source, startModule } from '../support/module.js';
import { listenAsServiceManager, type NotifySocket } from '../support/notify-socket.js';
import { needs } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

const programs = ['systemd-notify', 'perl'] as const;
const timeLimit = { timeout: 60_000 };

interface Setup {
  /** On top of NOTIFY_SOCKET and PATH. */
  env?: NodeJS.ProcessEnv;
  /** Default: a path. */
  address?: string;
  isHealthy?: () => boolean;
  timeout?: number;
}

async function start(t: TestContext, { env, address, ...options }: Setup = {}) {
  const folder = await temporaryFolder(t);
  const socket = await listenAsServiceManager(t, address ?? join(folder, 'socket'));
  const { log, events } = memoryLog();
  const manager = createServiceManager({
    env: { PATH: process.env.PATH, NOTIFY_SOCKET: socket.address, ...env },
    log,
    ...options,
  });
  t.after(() => manager.close());
  return { folder, socket, manager, events };
}

/** A program in the place of `systemd-notify` that does `script` first; gives the PATH that has it. */
async function replaceSender(folder: string, script: string): Promise<string> {
  const bin = join(folder, 'bin');
  await mkdir(bin);
  const sender = join(bin, 'systemd-notify');
  const text = `#!/bin/sh\ncd '${folder}'\n${script}\nexec ${findProgram('systemd-notify')} "$@"\n`;
  await writeFile(sender, text);
  await chmod(sender, 0o755);
  return bin;
}

/** Waits until `file` holds a line and gives that. */
async function contentOf(folder: string, file: string): Promise<string> {
  const watcher = watch(folder);
  try {
    for (;;) {
      const change = once(watcher, 'change');
      const content = await readFile(join(folder, file), 'utf8').catch(() => '');
      if (content.endsWith('\n')) return content;
      await change;
    }
  } finally {
    watcher.close();
  }
}

/** The next message, which must come from this. */
async function afterStatus(manager: ServiceManager, socket: NotifySocket): Promise<string> {
  manager.status('the next');
  return socket.next();
}

describe('messages', { ...needs(...programs), ...timeLimit }, () => {
  for (const kind of ['a path', 'an abstract name']) {
    test(`arrive in their order where the socket is ${kind}`, async (t) => {
      const address = kind === 'a path' ? {} : { address: `@lxd-image-server-${process.pid}` };
      const { socket, manager, events } = await start(t, address);
      const before = process.hrtime.bigint() / 1000n;
      manager.ready('10 images');
      const reloading = manager.reloading();
      manager.ready('11 images');
      await manager.stopping('ending');
      await manager.close();
      const [ready, reload = '', again, stop] = await socket.take(4);
      assert.equal(ready, 'READY=1\nSTATUS=10 images');
      assert.match(reload, /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
      const at = BigInt(reload.split('=').at(-1) ?? '');
      assert.ok(at >= before && at <= process.hrtime.bigint() / 1000n);
      assert.equal(again, 'READY=1\nSTATUS=11 images');
      assert.equal(stop, 'STOPPING=1\nSTATUS=ending');
      await reloading;
      assert.deepEqual(events, []);
    });
  }

  test('are with the manager when their promise resolves', async (t) => {
    const { folder, manager } = await start(t);
    // From here on nobody listens: what is not sent yet would fail.
    await manager.reloading();
    await rm(join(folder, 'socket'));
    await manager.close();
  });

  test('that were asked for before the end are sent, and none afterwards', async (t) => {
    const { socket, manager } = await start(t);
    manager.status('one');
    assert.equal(await socket.next(), 'STATUS=one');
    manager.status('two');
    await manager.close();
    manager.ready('late');
    manager.status('late');
    await Promise.all([manager.reloading(), manager.stopping('late'), manager.close()]);
    const other = createServiceManager({
      env: { PATH: process.env.PATH, NOTIFY_SOCKET: socket.address },
      log: memoryLog().log,
    });
    await other.stopping('of the other');
    other.status('after it');
    await other.close();
    assert.deepEqual(await socket.take(2), ['STATUS=two', 'STOPPING=1\nSTATUS=of the other']);
    const last = createServiceManager({
      env: { PATH: process.env.PATH, NOTIFY_SOCKET: socket.address },
      log: memoryLog().log,
    });
    last.ready('of the last');
    await last.close();
    assert.equal(await socket.next(), 'READY=1\nSTATUS=of the last');
  });

  test('go nowhere without a socket', async (t) => {
    const folder = await temporaryFolder(t);
    const path = await replaceSender(folder, 'echo called > called');
    const { log, events } = memoryLog();
    const env = { PATH: path, WATCHDOG_USEC: '2000' };
    const manager = createServiceManager({ env, log, isHealthy: () => assert.fail('was asked') });
    manager.ready('ready');
    manager.status('status');
    await manager.reloading();
    await manager.stopping('stopping');
    await manager.close();
    await assert.rejects(readFile(join(folder, 'called')), { code: 'ENOENT' });
    assert.deepEqual(events, []);
  });
});

describe('the status', { ...needs(...programs), ...timeLimit }, () => {
  test('is sent once where it stays the same', async (t) => {
    const { socket, manager } = await start(t);
    manager.status('idle');
    assert.equal(await socket.next(), 'STATUS=idle');
    manager.status('idle');
    manager.status('busy');
    manager.status('idle');
    await manager.reloading();
    assert.match(await socket.next(), /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
    assert.equal(await afterStatus(manager, socket), 'STATUS=the next');
  });

  test('is the latest where it changes fast', async (t) => {
    const { socket, manager } = await start(t);
    manager.status('0');
    assert.equal(await socket.next(), 'STATUS=0');
    for (let number = 1; number <= 100; number++) {
      manager.status(String(number));
      await new Promise(setImmediate);
    }
    assert.equal(await socket.next(), 'STATUS=100');
    manager.status('101');
    const reloading = manager.reloading();
    assert.match(await socket.next(), /^RELOADING=1\nMONOTONIC_USEC=\d+\nSTATUS=101$/);
    await reloading;
  });

  test('is one line of moderate length', async (t) => {
    const { socket, manager } = await start(t);
    manager.status(`two\nREADY=1\0\u001b[1m ${'x'.repeat(200_000)}`);
    const message = await socket.next();
    assert.match(message, /^STATUS=two READY=1 \[1m x+$/);
    assert.equal(message.length, 'STATUS='.length + 1000);
  });
});

describe('the watchdog', { ...needs(...programs), ...timeLimit }, () => {
  const usec = 30_000_000;
  const half = usec / 2000;

  test('gets a ping in each half of its time', async (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] });
    const env = { WATCHDOG_USEC: String(usec), WATCHDOG_PID: String(process.pid) };
    const { socket, manager } = await start(t, { env });
    for (let turn = 0; turn < 3; turn++) {
      t.mock.timers.tick(half - 1);
      manager.ready(String(turn));
      assert.equal(await socket.next(), `READY=1\nSTATUS=${turn}`);
      t.mock.timers.tick(1);
      assert.equal(await socket.next(), 'WATCHDOG=1');
    }
  });

  test('gets pings by the real clock', async (t) => {
    const { socket } = await start(t, { env: { WATCHDOG_USEC: '100000' } });
    assert.deepEqual(await socket.take(3), ['WATCHDOG=1', 'WATCHDOG=1', 'WATCHDOG=1']);
  });

  const foreign: Record<string, NodeJS.ProcessEnv> = {
    'another process is watched': { WATCHDOG_USEC: String(usec), WATCHDOG_PID: '1' },
    'its time is no number': { WATCHDOG_USEC: 'soon' },
    'its time is 0': { WATCHDOG_USEC: '0' },
    'there is none': {},
  };
  for (const [reason, env] of Object.entries(foreign)) {
    test(`gets no ping where ${reason}`, async (t) => {
      t.mock.timers.enable({ apis: ['setInterval'] });
      const { socket, manager } = await start(t, { env });
      t.mock.timers.tick(10 * usec);
      assert.equal(await afterStatus(manager, socket), 'STATUS=the next');
    });
  }

  test('gets no ping while the service is not well, which is logged', async (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] });
    let healthy = false;
    const env = { WATCHDOG_USEC: String(usec) };
    const { socket, manager, events } = await start(t, { env, isHealthy: () => healthy });
    t.mock.timers.tick(half);
    assert.equal(await afterStatus(manager, socket), 'STATUS=the next');
    const reasons = events.map(({ msg }) => msg);
    assert.deepEqual(reasons, ['the service is not well; its watchdog gets no ping']);
    healthy = true;
    t.mock.timers.tick(half);
    assert.equal(await socket.next(), 'WATCHDOG=1');
  });

  test('gets no pings that piled up, and none after the end', async (t) => {
    const folder = await temporaryFolder(t);
    const hold = 'echo "$$" > started; while [ -e hold ]; do /bin/sleep 0.02; done';
    const path = await replaceSender(folder, hold);
    await writeFile(join(folder, 'hold'), '');
    t.mock.timers.enable({ apis: ['setInterval'] });
    const env = { WATCHDOG_USEC: String(usec), PATH: path };
    const { socket, manager, events } = await start(t, { env });
    t.mock.timers.tick(half);
    await contentOf(folder, 'started');
    t.mock.timers.tick(20 * half);
    manager.ready('slow');
    await rm(join(folder, 'hold'));
    const messages = await socket.take(3);
    assert.deepEqual(messages, ['WATCHDOG=1', 'WATCHDOG=1', 'READY=1\nSTATUS=slow']);
    t.mock.timers.tick(half);
    const closing = manager.close();
    t.mock.timers.tick(20 * half);
    await closing;
    const other = createServiceManager({
      env: { PATH: path, NOTIFY_SOCKET: socket.address },
      log: memoryLog().log,
    });
    await other.stopping('of the other');
    assert.equal(await socket.next(), 'STOPPING=1\nSTATUS=of the other');
    assert.deepEqual(events, []);
  });
});

describe('systemd-notify', { ...needs(...programs), ...timeLimit }, () => {
  test('that is missing is one warning', async (t) => {
    const folder = await temporaryFolder(t);
    // One that stands in a relative folder does not count: anyone could have put it there.
    const path = relative(process.cwd(), await replaceSender(folder, ''));
    const { manager, events } = await start(t, {
      env: { PATH: `${folder}:${path}:`, WATCHDOG_USEC: '2000' },
    });
    manager.ready('ready');
    await manager.reloading();
    await manager.stopping('stopping');
    await manager.close();
    const reasons = events.map(({ msg }) => msg);
    assert.deepEqual(reasons, [
      'systemd-notify is not installed; systemd is told nothing of this service',
    ]);
  });

  test('that fails is one warning, and is asked again', async (t) => {
    const folder = await temporaryFolder(t);
    const path = await replaceSender(folder, 'if [ -e fail ]; then echo broken >&2; exit 3; fi');
    await writeFile(join(folder, 'fail'), '');
    const { socket, manager, events } = await start(t, { env: { PATH: path } });
    await manager.reloading();
    manager.status('lost');
    await manager.reloading();
    const [warning, ...others] = events;
    assert.deepEqual(others, []);
    assert.equal(warning?.msg, 'systemd could not be told');
    assert.equal(warning.program, join(path, 'systemd-notify'));
    assert.equal(warning.reason, 'broken');
    await rm(join(folder, 'fail'));
    manager.status('lost');
    assert.equal(await socket.next(), 'STATUS=lost');
  });

  test('that hangs is killed, and what follows is sent', async (t) => {
    const folder = await temporaryFolder(t);
    const hang = 'if [ -e hang ]; then echo $$ > pid; exec /bin/sleep 1000; fi';
    const path = await replaceSender(folder, hang);
    await writeFile(join(folder, 'hang'), '');
    const { socket, manager, events } = await start(t, { env: { PATH: path }, timeout: 500 });
    const reloading = manager.reloading();
    const pid = Number(await contentOf(folder, 'pid'));
    await rm(join(folder, 'hang'));
    manager.ready('after it');
    await reloading;
    assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
    assert.equal(await socket.next(), 'READY=1\nSTATUS=after it');
    const reasons = events.map(({ reason }) => reason);
    assert.deepEqual(reasons, ['no end within 500 ms']);
  });

  test('gets the address of the socket and nothing else of the environment', async (t) => {
    const folder = await temporaryFolder(t);
    const path = await replaceSender(folder, '/usr/bin/env | /usr/bin/sort > environment');
    const { socket, manager } = await start(t, { env: { PATH: path, SECRET: 'x' } });
    manager.ready('ready');
    await socket.next();
    const names = (await readFile(join(folder, 'environment'), 'utf8')).match(/^\w+(?==)/gm);
    // The shell itself adds PWD and OLDPWD.
    assert.deepEqual(names, ['NOTIFY_SOCKET', 'OLDPWD', 'PWD']);
  });
});

test('a process that has closed its service manager ends', {
  ...needs(...programs),
  ...timeLimit,
}, async (t) => {
  const socket = await listenAsServiceManager(t, join(await temporaryFolder(t), 'socket'));
  const code = `
    import { createServiceManager } from ${source('daemon/service-manager.js')};
    const env = { PATH: process.env.PATH, NOTIFY_SOCKET: process.argv[1], WATCHDOG_USEC: '60000000' };
    const manager = createServiceManager({ env, log: console });
    manager.ready('ready');
    manager.status('soon');
    await manager.stopping('ending');
    await manager.close();`;
  const child = startModule(code, socket.address);
  const [exitCode] = await once(child, 'exit');
  assert.equal(exitCode, 0);
  assert.deepEqual(await socket.take(2), ['READY=1\nSTATUS=ready', 'STOPPING=1\nSTATUS=ending']);
});
