import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ServerError } from '../../src/errors.js';
import type { ControlCall, ControlCommand } from '../../src/server/control.js';
import { callDaemon, streamType } from '../../src/server/control-client.js';
import { createCutter, firstLine } from '../../src/server/control-stream.js';
import { defer, failure, startControl as start } from '../support/control.js';
import { source as sourceOf, startModule } from '../support/module.js';
import { temporaryFolder } from '../support/temporary.js';

async function* pieces(...given: readonly (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const piece of given) yield Buffer.from(piece);
}

/** Never ends by itself. @param onSent is told of each piece. */
async function* endless(onSent: () => void = () => {}): AsyncGenerator<Uint8Array> {
  for (;;) {
    yield Buffer.alloc(65_536);
    onSent();
  }
}

async function allOf(stream: AsyncIterable<Uint8Array> | undefined): Promise<Buffer> {
  const found: Uint8Array[] = [];
  for await (const piece of stream ?? []) found.push(piece);
  return Buffer.concat(found);
}

const echo: ControlCommand = async ({ args, stream }) => ({
  args,
  got: (await allOf(stream)).toString('latin1'),
});

/** What a command throws while it reads. */
async function readingFails(call: ControlCall): Promise<unknown> {
  return allOf(call.stream).then(
    () => assert.fail('all of it came'),
    (error: unknown) => error,
  );
}

/** Begins a call by hand. */
function beginByHand(path: string, first: string) {
  const socket = connect(path);
  socket.on('error', () => {});
  const chunk = (said: string) => `${Buffer.byteLength(said).toString(16)}\r\n${said}\r\n`;
  const head = `Host: x\r\nContent-Type: ${streamType}\r\nTransfer-Encoding: chunked\r\n\r\n`;
  socket.write(`POST /v1/command HTTP/1.1\r\n${head}${chunk(first)}`);
  return { socket, say: (said: string) => socket.write(chunk(said)) };
}

describe('a stream', () => {
  test('comes with the arguments, whole and in order', async (t) => {
    const { runDir } = await start(t, { echo });
    const args = { name: 'ä\n', size: 3 };
    for (const given of [[], ['abc'], ['a\n', '', 'b', '\nc\n'], ['x'.repeat(3_000_000)]]) {
      const stream = () => pieces(...given);
      const answer = await callDaemon({ runDir, command: 'echo', args, stream });
      assert.deepEqual(answer, { result: { args, got: given.join('') } });
    }
  });

  test('is absent from a call that brings none', async (t) => {
    const { runDir } = await start(t, { has: async ({ stream }) => stream !== undefined });
    assert.deepEqual(await callDaemon({ runDir, command: 'has' }), { result: false });
    const stream = () => pieces();
    assert.deepEqual(await callDaemon({ runDir, command: 'has', stream }), { result: true });
  });

  test('is not asked for where no daemon listens', async (t) => {
    const stream = () => assert.fail('it was asked for');
    const runDir = await temporaryFolder(t);
    assert.equal(await callDaemon({ runDir, command: 'echo', stream }), undefined);
  });

  test('leaves other calls their turn', async (t) => {
    const { runDir } = await start(t, { echo, status: async () => 'well' });
    const more = defer();
    const begun = defer();
    async function* stream() {
      yield Buffer.from('a');
      begun.resolve();
      await more.promise;
      yield Buffer.from('b');
    }
    const streaming = callDaemon({ runDir, command: 'echo', stream });
    await begun.promise;
    assert.deepEqual(await callDaemon({ runDir, command: 'status' }), { result: 'well' });
    more.resolve();
    assert.deepEqual(await streaming, { result: { args: {}, got: 'ab' } });
  });

  test('is sent no faster than it is taken', async (t) => {
    const go = defer();
    const slow: ControlCommand = async ({ stream }) => {
      await go.promise;
      return (await allOf(stream)).length;
    };
    const { runDir } = await start(t, { slow });
    let sent = 0;
    const waits = defer();
    async function* stream() {
      for (let count = 0; count < 400; count++) {
        // A turn without a piece: what can be sent has been.
        const idle = setTimeout(waits.resolve, 300);
        yield Buffer.alloc(65_536);
        clearTimeout(idle);
        sent += 65_536;
      }
    }
    const call = callDaemon({ runDir, command: 'slow', stream });
    await waits.promise;
    assert.ok(sent < 4_000_000, `${sent} bytes were sent to one who took none`);
    go.resolve();
    assert.deepEqual(await call, { result: 400 * 65_536 });
  });

  test('may take longer in all than a call may', async (t) => {
    const { runDir } = await start(t, { echo }, { requestMs: 300, silenceMs: 60_000 });
    async function* stream() {
      for (const piece of 'slowly') {
        yield Buffer.from(piece);
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
    }
    const answer = await callDaemon({ runDir, command: 'echo', stream });
    assert.deepEqual(answer, { result: { args: {}, got: 'slowly' } });
  });
});

describe('an error', () => {
  const refusal = new ServerError('TOO_LARGE', 'Too much', { hint: 'send less' });

  test('reaches a caller that is still sending', async (t) => {
    const { runDir } = await start(t, { refuse: () => Promise.reject(refusal) });
    for (let time = 0; time < 20; time++) {
      const error = await failure(callDaemon({ runDir, command: 'refuse', stream: endless }));
      assert.deepEqual([error.code, error.hint], ['TOO_LARGE', 'send less']);
    }
  });

  test('reaches a caller after some of the stream was read', async (t) => {
    const some: ControlCommand = async ({ stream }) => {
      let length = 0;
      for await (const piece of stream ?? []) {
        length += piece.length;
        if (length > 1_000_000) throw refusal;
      }
    };
    const { runDir } = await start(t, { some });
    for (let time = 0; time < 20; time++) {
      const error = await failure(callDaemon({ runDir, command: 'some', stream: endless }));
      assert.equal(error.code, 'TOO_LARGE');
    }
  });

  test('of an unknown command comes at once', async (t) => {
    const { runDir } = await start(t, {});
    const error = await failure(callDaemon({ runDir, command: 'import', stream: endless }));
    assert.equal(error.code, 'USAGE');
  });

  test('reaches a caller that looks only when it has sent all', async (t) => {
    const { server } = await start(t, { command: () => Promise.reject(refusal) });
    const { socket, say } = beginByHand(server.path, '{}\n');
    for (let count = 0; count < 40; count++) say('x'.repeat(100_000));
    await new Promise<void>((resolve) => socket.end('0\r\n\r\n', resolve));
    assert.match(await text(socket), /"TOO_LARGE"/);
  });

  test('of what is to be sent ends the call, and the command is told', async (t) => {
    const told = defer<unknown>();
    const { runDir } = await start(t, {
      note: async (call) => told.resolve(await readingFails(call)),
    });
    const broken = new ServerError('IO', 'The disk is broken');
    async function* stream() {
      yield Buffer.alloc(10);
      throw broken;
    }
    assert.equal(await failure(callDaemon({ runDir, command: 'note', stream })), broken);
    assert.equal(((await told.promise) as ServerError).code, 'INTERRUPTED');
  });
});

describe('the end', () => {
  test('of the caller reaches the command', async (t) => {
    const told = defer<unknown>();
    const began = defer();
    const { runDir, events } = await start(t, {
      note: async (call) => {
        began.resolve();
        told.resolve(await readingFails(call));
        assert.ok(call.signal.aborted || (await once(call.signal, 'abort')));
        throw new ServerError('INTERRUPTED', 'Interrupted');
      },
    });
    const code = `
      import { callDaemon } from ${sourceOf('server/control-client.js')};
      async function* stream() { for (;;) yield Buffer.alloc(65536); }
      await callDaemon({ runDir: process.argv[1], command: 'note', stream });`;
    const child = startModule(code, runDir);
    await began.promise;
    child.kill('SIGKILL');
    assert.equal(((await told.promise) as ServerError).code, 'INTERRUPTED');
    assert.deepEqual(events, []);
  });

  test('of the wish ends the call as interrupted', async (t) => {
    const told = defer<unknown>();
    const { runDir } = await start(t, {
      note: async (call) => told.resolve(await readingFails(call)),
    });
    const controller = new AbortController();
    const stream = () => endless(() => controller.abort());
    const { signal } = controller;
    const error = await failure(callDaemon({ runDir, command: 'note', stream, signal }));
    assert.equal(error.code, 'INTERRUPTED');
    assert.equal(((await told.promise) as ServerError).code, 'INTERRUPTED');
  });

  test('of the server reaches command and caller', async (t) => {
    const began = defer();
    const { runDir, server } = await start(t, {
      async wait(call) {
        began.resolve();
        throw await readingFails(call);
      },
    });
    const call = failure(callDaemon({ runDir, command: 'wait', stream: endless }));
    await began.promise;
    await server.close();
    const error = await call;
    assert.equal(error.code, 'IO');
    assert.match(error.message, /ended in the middle/);
  });

  test('of a daemon that is killed is told', async (t) => {
    const runDir = join(await temporaryFolder(t), 'run');
    const code = `
      import { createControlServer } from ${sourceOf('server/control.js')};
      import { createLogger } from ${sourceOf('log.js')};
      const log = createLogger({ level: 'silent', format: 'json' });
      const take = async ({ stream }) => { for await (const piece of stream) console.log('took'); };
      await createControlServer({ runDir: process.argv[1], commands: { take }, log });
      console.log('listening');`;
    const child = startModule(code, runDir);
    await once(child.stdout, 'data');
    const call = failure(callDaemon({ runDir, command: 'take', stream: endless }));
    await once(child.stdout, 'data');
    child.kill('SIGKILL');
    const error = await call;
    assert.equal(error.code, 'IO');
    assert.match(error.message, /ended in the middle/);
  });
});

describe('bounds', () => {
  test('a caller that falls silent is told, and cut off', async (t) => {
    const { server } = await start(t, { command: echo }, { silenceMs: 200 });
    for (const first of ['{}', '{}\nhalf of it']) {
      const { socket } = beginByHand(server.path, first);
      const said = await text(socket);
      assert.match(said, /"code":"INTERRUPTED","message":"The caller has sent nothing/);
    }
  });

  test('a caller that goes on sending what nobody wants is cut off', async (t) => {
    const refuse = () => Promise.reject(new ServerError('BUSY', 'No'));
    const drain = { bytes: 1e12, ms: 200 };
    const { server } = await start(t, { command: refuse }, { drain });
    const { socket, say } = beginByHand(server.path, '{}\n');
    socket.on('drain', () => say('x'.repeat(10_000)));
    while (say('x'.repeat(10_000)));
    socket.resume();
    await once(socket, 'close');
  });

  const odd = [
    { first: `"${'x'.repeat(70_000)}"\n`, says: /longer than 65536 bytes/ },
    { first: '{"half":\n', says: /no JSON/ },
  ];
  for (const { first, says } of odd) {
    test(`arguments that begin ${first.slice(0, 9).trim()} are refused`, async (t) => {
      const drain = { bytes: 1e6, ms: 100 };
      const { server } = await start(t, { command: echo }, { drain });
      const { socket } = beginByHand(server.path, first);
      socket.once('data', () => socket.end());
      const said = await text(socket);
      assert.match(said, /"code":"USAGE"/);
      assert.match(said, says);
    });
  }
});

/** Bytes, and where they are cut into pieces, some of them empty. */
const cut = fc.array(fc.uint8Array({ maxLength: 12 }), { maxLength: 12 });

describe('bytes that come in any pieces', () => {
  test('give their first line, and the rest as it was', async () => {
    await fc.assert(
      fc.asyncProperty(cut, async (chunks) => {
        const whole = Buffer.concat(chunks);
        const end = whole.indexOf(10);
        const reading = firstLine(pieces(...chunks), 1000);
        if (end < 0) return void (await assert.rejects(reading, { code: 'USAGE' }));
        const { line, rest } = await reading;
        assert.equal(line, whole.toString('utf8', 0, end));
        assert.deepEqual(await allOf(rest), whole.subarray(end + 1));
      }),
    );
  });

  test('are cut into parts of the lengths that were told', async () => {
    const sizes = fc.array(fc.nat({ max: 40 }), { maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(cut, sizes, async (chunks, lengths) => {
        const whole = Buffer.concat(chunks);
        const cutter = createCutter(pieces(...chunks));
        let at = 0;
        for (const length of lengths) {
          const taking = allOf(cutter.take(length));
          if (at + length > whole.length) {
            return void (await assert.rejects(taking, { code: 'IMAGE_INVALID' }));
          }
          assert.deepEqual(await taking, whole.subarray(at, at + length));
          at += length;
        }
        if (at === whole.length) await cutter.end();
        else await assert.rejects(cutter.end(), { code: 'IMAGE_INVALID' });
      }),
    );
  });
});
