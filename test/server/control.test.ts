import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  link,
  lstat,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { createServer as createHttpServer, request } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { errorCodes, ServerError } from '../../src/errors.js';
import {
  type ControlCall,
  type ControlCommand,
  createControlServer,
} from '../../src/server/control.js';
import { callDaemon } from '../../src/server/control-client.js';
import { kill } from '../support/children.js';
import { closeAll } from '../support/close-all.js';
import { defer, failure, startControl as start } from '../support/control.js';
import { memoryLog } from '../support/memory-log.js';
import { source, startModule } from '../support/module.js';
import { needs, needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

/** A command that runs until it is told to end. */
function endless() {
  const began = defer<AbortSignal>();
  const ended = defer();
  const command: ControlCommand = async ({ signal }) => {
    began.resolve(signal);
    if (!signal.aborted) await once(signal, 'abort');
    ended.resolve();
    throw new ServerError('INTERRUPTED', 'Interrupted');
  };
  return { command, began: began.promise, ended: ended.promise };
}

/** A process that listens for calls in `runDir`, and says so. */
async function startDaemon(runDir: string) {
  const code = `
    import { createControlServer } from ${source('server/control.js')};
    import { createLogger } from ${source('log.js')};
    const log = createLogger({ level: 'silent', format: 'json' });
    const commands = { wait: () => new Promise(() => {}), pid: async () => process.pid };
    await createControlServer({ runDir: process.argv[1], commands, log });
    console.log('listening');`;
  const child = startModule(code, runDir);
  child.stderr.pipe(process.stderr);
  await once(child.stdout, 'data');
  return child;
}

describe('a call', () => {
  test('brings arguments to the command, its reports and its result back', async (t) => {
    const { runDir } = await start(t, {
      echo: async ({ args, report }) => {
        for (let step = 1; step <= 3; step++) report({ step });
        return { args };
      },
    });
    const events: unknown[] = [];
    const args = { root: '/srv/ä\n', rebuild: true };
    const onEvent = (event: unknown) => void events.push(event);
    const answer = await callDaemon({ runDir, command: 'echo', args, onEvent });
    assert.deepEqual(answer, { result: { args } });
    assert.deepEqual(events, [{ step: 1 }, { step: 2 }, { step: 3 }]);
  });

  test('without arguments brings {}, and without a result null', async (t) => {
    const given: unknown[] = [];
    const { runDir } = await start(t, { note: async ({ args }) => void given.push(args) });
    assert.deepEqual(await callDaemon({ runDir, command: 'note' }), { result: null });
    assert.deepEqual(given, [{}]);
  });

  test('brings a large result whole', async (t) => {
    const large = Array.from({ length: 200_000 }, (_, number) => `version ${number}`);
    const { runDir } = await start(t, { large: async () => large });
    assert.deepEqual(await callDaemon({ runDir, command: 'large' }), { result: large });
  });

  for (const code of errorCodes) {
    test(`throws the ${code} error of the command as it was thrown`, async (t) => {
      const thrown = new ServerError(code, 'The reason\nof it', { hint: 'the cure' });
      const { runDir, events } = await start(t, { fail: () => Promise.reject(thrown) });
      const error = await failure(callDaemon({ runDir, command: 'fail' }));
      assert.deepEqual(
        [error.code, error.message, error.hint],
        [code, 'The reason\nof it', 'the cure'],
      );
      assert.deepEqual(events, []);
    });
  }

  const unexpected: { name: string; command: ControlCommand; says: RegExp }[] = [
    {
      name: 'a bug',
      command: () => Promise.reject(new TypeError('x is not y')),
      says: /x is not y$/,
    },
    {
      name: 'a result that JSON cannot hold',
      command: async () => ({ count: 1n }),
      says: /serialize a BigInt$/,
    },
    {
      name: 'a command that throws at once',
      command: () => {
        throw new RangeError('out of it');
      },
      says: /out of it$/,
    },
  ];
  for (const { name, command, says } of unexpected) {
    test(`is told of ${name} without a stack, and the log is too`, async (t) => {
      const { runDir, events } = await start(t, { command });
      const error = await failure(callDaemon({ runDir, command: 'command' }));
      assert.equal(error.code, 'IO');
      assert.match(error.message, /^The daemon failed unexpectedly: /);
      assert.match(error.message, says);
      assert.doesNotMatch(error.message, /\n/);
      assert.deepEqual(
        events.map(({ msg, command }) => [msg, command]),
        [['a control command failed', 'command']],
      );
    });
  }

  for (const command of ['upgrade', 'constructor', '__proto__', 'a/b', '..', 'x'.repeat(90)]) {
    test(`for the unknown command ${command.slice(0, 20)} is told to restart the daemon`, async (t) => {
      const { runDir } = await start(t, { status: async () => 1 });
      const error = await failure(callDaemon({ runDir, command }));
      assert.equal(error.code, 'USAGE');
      assert.match(error.message, /^The running daemon does not know the command "/);
      assert.match(error.hint ?? '', /^it is of another version: restart it/);
    });
  }

  test('with too large arguments is refused, and the command not run', async (t) => {
    const { runDir } = await start(t, { note: () => assert.fail('was run') });
    const args = { text: 'x'.repeat(70_000) };
    const error = await failure(callDaemon({ runDir, command: 'note', args }));
    assert.equal(error.code, 'USAGE');
    assert.match(error.message, /body is too large/);
  });

  test('ends with the signal of its caller, and the command hears of it', async (t) => {
    const { command, began, ended } = endless();
    const { runDir, events } = await start(t, { command });
    const controller = new AbortController();
    const calling = failure(callDaemon({ runDir, command: 'command', signal: controller.signal }));
    assert.equal((await began).aborted, false);
    controller.abort();
    assert.equal((await calling).code, 'INTERRUPTED');
    await ended;
    assert.deepEqual(events, []);
    const already = callDaemon({ runDir, command: 'command', signal: controller.signal });
    assert.equal((await failure(already)).code, 'INTERRUPTED');
  });

  test('that nobody waits for any more does not disturb others', async (t) => {
    const { command, began, ended } = endless();
    const { runDir, server } = await start(t, { command, other: async () => 'done' });
    const call = request({ socketPath: server.path, method: 'POST', path: '/v1/command' }).end();
    call.on('error', () => {});
    await began;
    call.destroy();
    await ended;
    assert.deepEqual(await callDaemon({ runDir, command: 'other' }), { result: 'done' });
  });

  test('whose caller reads nothing misses reports, but holds nothing up and gets its result', async (t) => {
    const report = { text: 'x'.repeat(1000) };
    const reported = defer();
    const { server } = await start(t, {
      talk: async (call) => {
        for (let count = 0; count < 20_000; count++) call.report(report);
        reported.resolve();
        return 'done';
      },
    });
    const call = request({ socketPath: server.path, method: 'POST', path: '/v1/talk' }).end();
    const [response] = await once(call, 'response');
    await reported.promise;
    const lines = (await text(response)).trimEnd().split('\n');
    assert.equal(lines.at(-1), '{"result":"done"}');
    // All of it would be 20 MB.
    assert.ok(lines.length < 2000, `${lines.length} lines`);
  });
});

describe('the client', () => {
  test('finds no daemon where there is no folder, no socket, a stale socket, and no place for one', async (t) => {
    const folder = await temporaryFolder(t);
    const stale = join(folder, 'stale');
    const child = await startDaemon(stale);
    await kill(child);
    assert.ok((await lstat(join(stale, 'control.sock'))).isSocket());
    await writeFile(join(folder, 'file'), '');
    const long = join(folder, 'x'.repeat(100));
    for (const runDir of [join(folder, 'none'), folder, stale, join(folder, 'file'), long]) {
      assert.equal(await callDaemon({ runDir, command: 'status' }), undefined, runDir);
    }
  });

  test('says that the daemon went away in the middle', async (t) => {
    const runDir = await temporaryFolder(t);
    const child = await startDaemon(runDir);
    t.after(() => kill(child));
    const call = request({
      socketPath: join(runDir, 'control.sock'),
      method: 'POST',
      path: '/v1/wait',
    }).end();
    const calling = failure(callDaemon({ runDir, command: 'wait' }));
    // The two have come to the same place when the other one, which came first, has its answer's head.
    const [response] = await once(call, 'response');
    response.on('error', () => {});
    assert.deepEqual(await callDaemon({ runDir, command: 'pid' }), { result: child.pid });
    await kill(child);
    const error = await calling;
    assert.deepEqual(
      [error.code, error.message],
      ['IO', 'The daemon ended in the middle of the work'],
    );
  });

  test('waits no longer for a daemon that does not answer at all', async (t) => {
    const runDir = await temporaryFolder(t);
    const child = await startDaemon(runDir);
    t.after(() => kill(child));
    child.kill('SIGSTOP');
    const error = await failure(callDaemon({ runDir, command: 'pid', beginMs: 100 }));
    assert.deepEqual([error.code, error.message], ['IO', 'The daemon does not answer']);
    child.kill('SIGCONT');
    assert.deepEqual(await callDaemon({ runDir, command: 'pid' }), { result: child.pid });
  });

  test('waits without end for a command that has begun', async (t) => {
    const go = defer<string>();
    const began = defer();
    const { runDir } = await start(t, {
      slow: () => {
        began.resolve();
        return go.promise;
      },
    });
    const calling = callDaemon({ runDir, command: 'slow', beginMs: 200 });
    await began.promise;
    // Beyond the time that it may take to begin.
    await new Promise((resolve) => setTimeout(resolve, 500));
    go.resolve('done');
    assert.deepEqual(await calling, { result: 'done' });
  });

  test('refuses a result that is too long', async (t) => {
    const { runDir } = await start(t, { large: async () => 'x'.repeat(200_000) });
    const calling = callDaemon({ runDir, command: 'large', mostBytes: 100_000 });
    const error = await failure(calling);
    assert.deepEqual(
      [error.code, error.message],
      ['IO', 'The daemon answers with more than 100000 bytes'],
    );
  });

  for (const { name, answer } of [
    { name: 'no JSON', answer: 'hello\n' },
    { name: 'JSON of another kind', answer: '{"status":"ok"}\n' },
    { name: 'a list', answer: '[]\n' },
  ]) {
    test(`says that no daemon listens where the answer is ${name}`, async (t) => {
      const runDir = await temporaryFolder(t);
      const server = createHttpServer((_request, response) => response.end(answer));
      server.listen(join(runDir, 'control.sock'));
      await once(server, 'listening');
      t.after(() => server.close());
      const error = await failure(callDaemon({ runDir, command: 'status' }));
      assert.equal(error.code, 'IO');
      assert.match(error.message, /control\.sock is no daemon of this server$/);
    });
  }

  test('knows an error of a newer daemon by its words', async (t) => {
    const runDir = await temporaryFolder(t);
    const server = createHttpServer((_request, response) =>
      response.end('{"error":{"code":"TOO_NEW","message":"m","hint":"h"}}\n'),
    );
    server.listen(join(runDir, 'control.sock'));
    await once(server, 'listening');
    t.after(() => server.close());
    const error = await failure(callDaemon({ runDir, command: 'status' }));
    assert.deepEqual([error.code, error.message, error.hint], ['IO', 'm', 'h']);
  });

  test('loads nothing of fastify', async (t) => {
    const code = `
      import { callDaemon } from ${source('server/control-client.js')};
      import { createRequire } from 'node:module';
      await callDaemon({ runDir: process.argv[1], command: 'status' });
      console.log(Object.keys(createRequire(import.meta.url).cache).length);`;
    const child = startModule(code, await temporaryFolder(t));
    assert.equal((await text(child.stdout)).trim(), '0');
  });
});

describe('the socket', () => {
  test('is for the owner and the group, whatever the umask, and gone after the end', async (t) => {
    const before = process.umask(0);
    t.after(() => process.umask(before));
    const { runDir, server } = await start(t, {});
    assert.equal((await stat(server.path)).mode & 0o777, 0o660);
    assert.deepEqual(await readdir(runDir), ['control.sock']);
    await server.close();
    assert.deepEqual(await readdir(runDir), []);
  });

  test('is never open to others, not even while it is made', needs('strace'), async (t) => {
    const folder = await temporaryFolder(t);
    const trace = join(folder, 'trace');
    const code = `
      import { createControlServer } from ${source('server/control.js')};
      import { createLogger } from ${source('log.js')};
      process.umask(0);
      const log = createLogger({ level: 'silent', format: 'json' });
      const server = await createControlServer({ runDir: process.argv[1], commands: {}, log });
      await server.close();`;
    const calls = 'trace=bind,chmod,fchmodat,link,linkat,rename,renameat,renameat2,mkdir,mkdirat';
    const args = ['-f', '-qq', '-e', calls, '-o', trace, process.execPath];
    const child = spawn('strace', [...args, '--input-type=module', '--eval', code, '--', folder]);
    await once(child, 'exit');
    const steps = (await readFile(trace, 'utf8'))
      .split('\n')
      .filter((line) => line.includes(folder))
      .map((line) =>
        line
          .replace(/^\d+ +/, '')
          .replaceAll(folder, '')
          .replace(/\.c[\w-]{4}/g, '.c')
          .replace(/^bind\(\d+, .*sun_path=(.*), \d+\)/, 'bind(… $1, …)')
          .replace(/ = .*/, ''),
      );
    assert.deepEqual(
      steps.filter((step) => !step.startsWith('mkdir("", ')),
      [
        'mkdir("/.c", 0700)',
        'bind(… "/.c/s"}, …)',
        'chmod("/.c/s", 0660)',
        'link("/.c/s", "/control.sock")',
      ],
    );
  });

  test('of a crashed daemon is replaced', async (t) => {
    const runDir = await temporaryFolder(t);
    await kill(await startDaemon(runDir));
    const { log } = memoryLog();
    const commands = { who: async () => 'new' };
    const server = await createControlServer({ runDir, commands, log });
    t.after(() => server.close());
    assert.deepEqual(await callDaemon({ runDir, command: 'who' }), { result: 'new' });
    assert.deepEqual(await readdir(runDir), ['control.sock']);
  });

  test('of a living daemon stays, be it that it is stopped', async (t) => {
    const runDir = await temporaryFolder(t);
    const child = await startDaemon(runDir);
    t.after(() => kill(child));
    const { log } = memoryLog();
    for (const signal of ['SIGCONT', 'SIGSTOP'] as const) {
      child.kill(signal);
      const error = await failure(createControlServer({ runDir, commands: {}, log }));
      assert.equal(error.code, 'BUSY');
      assert.match(error.message, /^Another daemon listens at /);
    }
    child.kill('SIGCONT');
    assert.deepEqual(await callDaemon({ runDir, command: 'pid' }), { result: child.pid });
    assert.deepEqual(await readdir(runDir), ['control.sock']);
  });

  test('is taken by one of two that start at once over a stale one', async (t) => {
    const runDir = await temporaryFolder(t);
    const { log } = memoryLog();
    for (let round = 0; round < 200; round++) {
      await leaveStale(runDir);
      const starting = Array.from({ length: 2 }, async (_, number) => {
        for (let turns = number * (round % 20); turns > 0; turns--) {
          await new Promise(setImmediate);
        }
        return createControlServer({ runDir, commands: { who: async () => number }, log });
      });
      const settled = await Promise.allSettled(starting);
      const winners = settled.flatMap((each, number) =>
        each.status === 'fulfilled' ? [{ number, server: each.value }] : [],
      );
      t.after(() => closeAll(...winners.map(({ server }) => server)));
      for (const each of settled) {
        if (each.status === 'rejected') assert.equal(each.reason.code, 'BUSY', each.reason.stack);
      }
      assert.deepEqual(
        await callDaemon({ runDir, command: 'who' }),
        { result: winners[0]?.number },
        `${winners.length} in round ${round}`,
      );
      assert.equal(winners.length, 1);
      await winners[0]?.server.close();
      assert.deepEqual(await readdir(runDir), []);
    }
  });

  test('of another daemon that has taken the place stays at the end', async (t) => {
    const { runDir, server } = await start(t, {});
    await rm(server.path);
    const { log } = memoryLog();
    const other = await createControlServer({ runDir, commands: { who: async () => 2 }, log });
    t.after(() => other.close());
    await server.close();
    assert.deepEqual(await callDaemon({ runDir, command: 'who' }), { result: 2 });
  });

  const obstacles: {
    name: string;
    prepare: (folder: string) => Promise<unknown>;
    runDir?: (folder: string) => string;
    code: string;
    says: RegExp;
  }[] = [
    {
      name: 'a file',
      prepare: (folder) => writeFile(join(folder, 'control.sock'), ''),
      code: 'IO',
      says: /control\.sock: what is there is no socket$/,
    },
    {
      name: 'a folder',
      prepare: (folder) => mkdir(join(folder, 'control.sock')),
      code: 'IO',
      says: /what is there is no socket$/,
    },
    {
      name: 'a symbolic link',
      prepare: (folder) => symlink('/nowhere', join(folder, 'control.sock')),
      code: 'IO',
      says: /what is there is no socket$/,
    },
    {
      name: 'a path that is too long',
      prepare: async () => {},
      runDir: (folder) => join(folder, 'ä'.repeat(50)),
      code: 'CONFIG',
      says: /control\.sock has \d+ bytes, 107 are the most$/,
    },
    {
      name: 'a file in the place of the folder',
      prepare: (folder) => writeFile(join(folder, 'run'), ''),
      runDir: (folder) => join(folder, 'run'),
      code: 'IO',
      says: /^Cannot listen at /,
    },
  ];
  for (const { name, prepare, runDir = (folder: string) => folder, code, says } of obstacles) {
    test(`is not made over ${name}, which is told`, async (t) => {
      const folder = await temporaryFolder(t);
      await prepare(folder);
      const before = await readdir(folder);
      const { log } = memoryLog();
      const error = await failure(
        createControlServer({ runDir: runDir(folder), commands: {}, log }),
      );
      assert.equal(error.code, code);
      assert.match(error.message, says);
      assert.match(error.hint ?? '', /set paths\.run/);
      assert.deepEqual(await readdir(folder), before);
    });
  }

  test('may have a path as long as the system takes', async (t) => {
    const folder = await temporaryFolder(t);
    const runDir = join(folder, 'x'.repeat(107 - '/control.sock'.length - 1 - folder.length));
    const { log } = memoryLog();
    const server = await createControlServer({ runDir, commands: { a: async () => 1 }, log });
    t.after(() => server.close());
    assert.equal(server.path.length, 107);
    assert.deepEqual(await callDaemon({ runDir, command: 'a' }), { result: 1 });
  });

  test('is refused to others, with what to do', needsRoot('setpriv'), async (t) => {
    const { runDir, server } = await start(t, { status: async () => 1 });
    for (let folder = runDir; folder.includes('folder-'); folder = join(folder, '..'))
      await chmod(folder, 0o755);
    const code = `
      import { callDaemon } from ${source('server/control-client.js')};
      const { result } = await callDaemon({ runDir: process.argv[1], command: 'status' }).catch(
        ({ code, message, hint }) => ({ result: [code, message, hint] }),
      );
      console.log(JSON.stringify(result));`;
    const ask = async (...ids: string[]) => {
      const node = [process.execPath, '--input-type=module', '--eval', code, '--', runDir];
      const child = spawn('setpriv', [...ids, ...node], { stdio: ['ignore', 'pipe', 'inherit'] });
      return JSON.parse(await text(child.stdout));
    };
    assert.deepEqual(await ask('--reuid=65534', '--regid=65534', '--clear-groups'), [
      'DENIED',
      `May not use the control socket ${server.path} of the daemon: permission denied`,
      'run the command as root, or as a member of the group "root"',
    ]);
    assert.equal(await ask('--reuid=65534', '--regid=0', '--clear-groups'), 1);
  });
});

/** A socket that nobody listens at. */
async function leaveStale(runDir: string): Promise<void> {
  const made = join(runDir, 'made');
  const server = createServer().listen(made);
  await once(server, 'listening');
  await link(made, join(runDir, 'control.sock'));
  server.close();
  await once(server, 'close');
}

describe('bounds', () => {
  test('a caller that says nothing, or half of a call, is cut off', async (t) => {
    const { server, runDir } = await start(t, { status: async () => 1 }, { requestMs: 200 });
    const head = 'POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n';
    for (const said of ['', 'POST /v1', head, `${head}Content-Length: 10\r\n\r\n{`]) {
      const socket = connect(server.path);
      socket.on('error', () => {});
      socket.write(said);
      socket.resume();
      await once(socket, 'close');
    }
    assert.deepEqual(await callDaemon({ runDir, command: 'status' }), { result: 1 });
  });

  test('a caller that does not take its result is cut off', async (t) => {
    const large = 'x'.repeat(10_000_000);
    const called = defer<AbortSignal>();
    const give = async ({ signal }: ControlCall) => {
      called.resolve(signal);
      return large;
    };
    const { server } = await start(t, { large: give }, { stallMs: 100 });
    const socket = connect(server.path);
    socket.pause();
    socket.write('POST /v1/large HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n');
    await once(await called.promise, 'abort');
    let length = 0;
    socket.on('data', (chunk: Buffer) => {
      length += chunk.length;
    });
    await once(socket.resume(), 'close');
    assert.ok(length < large.length, `${length} bytes`);
  });

  test('connections beyond the limit are dropped, those within it are answered', async (t) => {
    const { command, began } = endless();
    const { runDir, server } = await start(
      t,
      { command, status: async () => 1 },
      { connections: 1 },
    );
    const controller = new AbortController();
    const first = failure(callDaemon({ runDir, command: 'command', signal: controller.signal }));
    await began;
    const second = await failure(callDaemon({ runDir, command: 'status' }));
    assert.equal(second.code, 'IO');
    assert.match(second.message, /^Cannot call the daemon at /);
    controller.abort();
    await first;
    const free = connect(server.path);
    await once(free, 'connect');
    free.destroy();
  });

  test('one connection carries one call', async (t) => {
    let calls = 0;
    const go = defer();
    const { server } = await start(t, {
      count: () => {
        calls += 1;
        return go.promise;
      },
    });
    const socket = connect(server.path);
    const call = 'POST /v1/count HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n';
    socket.write(call.repeat(5));
    await once(socket, 'data');
    go.resolve();
    socket.resume();
    await once(socket, 'close');
    assert.equal(calls, 1);
  });
});

describe('the end', () => {
  test('does not wait for callers that say nothing', async (t) => {
    const { server } = await start(t, {}, { graceMs: 60_000 });
    const sockets: Socket[] = [];
    for (const said of ['', 'POST /v1/sta']) {
      const socket = connect(server.path);
      sockets.push(socket);
      socket.on('error', () => {});
      socket.write(said);
      await once(socket, 'connect');
    }
    const closed = sockets.map((socket) => once(socket.resume(), 'close'));
    await server.close();
    await Promise.all(closed);
  });

  test('aborts the calls in progress, and their callers are told', async (t) => {
    const { command, began } = endless();
    const { runDir, server } = await start(t, { command }, { graceMs: 60_000 });
    const calling = failure(callDaemon({ runDir, command: 'command' }));
    await began;
    await server.close();
    assert.equal((await calling).code, 'INTERRUPTED');
  });

  test('does not wait for ever for a command that does not heed it', async (t) => {
    const began = defer();
    const go = defer();
    const { runDir, server } = await start(
      t,
      {
        deaf: () => {
          began.resolve();
          return go.promise;
        },
      },
      { graceMs: 50 },
    );
    const calling = failure(callDaemon({ runDir, command: 'deaf' }));
    await began.promise;
    await server.close();
    assert.equal((await calling).code, 'IO');
    go.resolve();
  });

  test('comes also where the socket cannot be taken away', async (t) => {
    const { runDir, server } = await start(t, {});
    const alias = join(await temporaryFolder(t), 'alias');
    await link(server.path, alias);
    await rm(runDir, { recursive: true });
    await writeFile(runDir, 'in the way');
    await assert.rejects(server.close(), { code: 'IO' });
    await assert.rejects(once(connect(alias), 'connect'), { code: 'ECONNREFUSED' });
    await rm(runDir);
  });

  test('comes once, however often it is asked for', async (t) => {
    const { server } = await start(t, {});
    await Promise.all([server.close(), server.close()]);
    await server.close();
  });
});

test('a server that is not the control server keeps its socket', async (t) => {
  const runDir = await temporaryFolder(t);
  const other = createServer().listen(join(runDir, 'control.sock'));
  await once(other, 'listening');
  t.after(() => other.close());
  const { log } = memoryLog();
  const error = await failure(createControlServer({ runDir, commands: {}, log }));
  assert.equal(error.code, 'BUSY');
});
