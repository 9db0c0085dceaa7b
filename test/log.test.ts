import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir, readFile, readlink, rename, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { ServerError } from '../src/errors.js';
import { createFollowingLogger, createLogger, textLine } from '../src/log.js';
import { source, startModule } from './support/module.js';
import { temporaryFolder } from './support/temporary.js';

/** What one event with these fields looks like as text. */
function lineOf(fields: Record<string, unknown>): string {
  return textLine(JSON.stringify({ level: 40, time: '2026-01-01T00:00:00Z', ...fields }), false);
}

const lines: { name: string; fields: Record<string, unknown>; line: string }[] = [
  { name: 'a message alone', fields: { msg: 'serving' }, line: 'warning: serving\n' },
  {
    name: 'a place, its reason and the cure as one sentence',
    fields: { msg: 'not published', path: 'a/b', reason: 'it is empty', cure: 'upload it again' },
    line: 'warning: not published: a/b: it is empty; upload it again\n',
  },
  {
    name: 'an error by its message, without its stack',
    fields: { msg: 'cannot keep', err: { type: 'Error', message: 'no space', stack: 'at x' } },
    line: 'warning: cannot keep: no space\n',
  },
  {
    name: 'an error with its cure',
    fields: { msg: 'cannot keep', err: { message: 'no space', hint: 'make room' } },
    line: 'warning: cannot keep: no space; make room\n',
  },
  {
    name: 'other fields in brackets, quoted where they need it',
    fields: { msg: 'm', url: 'https://[::1]:1/', products: 3, text: 'two words\n' },
    line: 'warning: m (url="https://[::1]:1/" products=3 text="two words\\n")\n',
  },
];
for (const { name, fields, line } of lines) {
  test(`a line of text tells ${name}`, () => assert.equal(lineOf(fields), line));
}

test('a terminal gets the level in colour', () => {
  const text = textLine(JSON.stringify({ level: 50, msg: 'x' }), true);
  assert.equal(text, '\u001b[31merror\u001b[39m: x\n');
});

test('a level that is too low is not written', () => {
  const written: string[] = [];
  const destination = { write: (line: string) => void written.push(line) };
  const log = createLogger({ level: 'warn', format: 'text', destination });
  log.info('no');
  log.warn('yes');
  assert.deepEqual(written, ['warning: yes\n']);
});

test('an error is written with its cure, without what led to it, and only a fault of ours with its stack', () => {
  const written: string[] = [];
  const destination = { write: (line: string) => void written.push(line) };
  const log = createLogger({ level: 'warn', format: 'json', destination });
  const cause = new Error('the cause');
  log.warn({ err: new ServerError('IO', 'no space', { hint: 'make room', cause }) }, 'one');
  log.warn({ err: Object.assign(cause, { code: 'EIO' }) }, 'two');
  const fault = new TypeError('a fault');
  log.warn({ err: fault }, 'three');
  assert.deepEqual(
    written.map((line) => JSON.parse(line).err),
    [
      { message: 'no space', hint: 'make room' },
      { message: 'the cause' },
      { message: 'a fault', stack: fault.stack },
    ],
  );
});

test('a file gets JSON, with its folder made', async (t) => {
  const file = join(await temporaryFolder(t), 'log/server.log');
  createLogger({ level: 'info', format: 'json', file }).info({ url: 'u' }, 'serving');
  const { time, ...event } = JSON.parse(await readFile(file, 'utf8'));
  assert.deepEqual(event, { level: 30, url: 'u', msg: 'serving' });
  assert.equal(new Date(time).toISOString(), time);
});

test('a file that cannot be made is told with the cure', () => {
  const file = '/proc/version/server.log';
  assert.throws(() => createLogger({ level: 'info', format: 'json', file }), {
    code: 'DENIED',
    hint: 'set logging.file to a file that this user may write, or to ""',
  });
});

test('a log goes on in the file that was moved away until it follows, then in a new one', async (t) => {
  const folder = await temporaryFolder(t);
  const file = join(folder, 'server.log');
  const options = { level: 'info', format: 'json', file } as const;
  const { log, follow } = createFollowingLogger(options);
  log.info('one');
  await rename(file, `${file}.1`);
  log.info('two');
  follow(options);
  log.info('three');
  assert.deepEqual(await messages(`${file}.1`), ['one', 'two']);
  assert.deepEqual(await messages(file), ['three']);
});

test('a log follows to another level, form and file', async (t) => {
  const folder = await temporaryFolder(t);
  const [first, second] = [join(folder, 'first'), join(folder, 'second/log')] as const;
  const { log, follow } = createFollowingLogger({ level: 'info', format: 'json', file: first });
  log.debug('one');
  follow({ level: 'debug', format: 'text', file: second });
  log.debug('two');
  assert.equal(await readFile(first, 'utf8'), '');
  assert.equal(await readFile(second, 'utf8'), 'debug: two\n');
});

test('a log stays where and as it is when it cannot follow', async (t) => {
  const file = join(await temporaryFolder(t), 'server.log');
  const { log, follow } = createFollowingLogger({ level: 'info', format: 'json', file });
  const next = { level: 'debug', format: 'text', file: '/proc/version/server.log' } as const;
  assert.throws(() => follow(next), { code: 'DENIED' });
  log.debug('one');
  log.info('two');
  assert.deepEqual(await messages(file), ['two']);
});

test('a log closes the files that it has left', async (t) => {
  const file = join(await temporaryFolder(t), 'server.log');
  const options = { level: 'info', format: 'json', file } as const;
  const { follow } = createFollowingLogger(options);
  for (let count = 0; count < 20; count++) follow(options);
  const fds = await Promise.all(
    (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')),
  );
  assert.equal(fds.filter((target) => target === file).length, 1);
});

test('a log on a full disk loses lines, and says how many when there is room again', async (t) => {
  const file = join(await temporaryFolder(t), 'server.log');
  await symlink('/dev/full', file);
  const full = { level: 'info', format: 'text', file } as const;
  const { log, follow } = createFollowingLogger(full);
  log.info('one');
  await rm(file);
  follow(full);
  log.info('two');
  assert.equal(await readFile(file, 'utf8'), 'info: two\n');
});

/** A process that logs to standard error at each line it reads, and says so. */
function startLogging() {
  const code = `
    import { createInterface } from 'node:readline';
    import { createLogger } from ${source('log.js')};
    const log = createLogger({ level: 'info', format: 'text' });
    for await (const count of createInterface(process.stdin)) {
      for (let number = 1; number <= Number(count); number++) {
        log.info({ number, text: 'x'.repeat(1000) }, 'line');
      }
      console.log('logged');
    }`;
  return startModule(code);
}

test('a service survives that nobody reads its log any more', async () => {
  const child = startLogging();
  child.stderr.destroy();
  for (let round = 0; round < 3; round++) {
    child.stdin.write('10\n');
    await once(child.stdout, 'data');
  }
  child.stdin.end();
  assert.deepEqual(await once(child, 'exit'), [0, null]);
});

test('a service does not wait for a reader of its log that has stopped, and tells what is lost', async () => {
  const child = startLogging();
  // More than a pipe holds.
  child.stdin.write('2000\n');
  await once(child.stdout, 'data');
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  // What the pipe holds is read when a line can be written again.
  while (!said.includes('were lost')) {
    child.stdin.write('1\n');
    await once(child.stdout, 'data');
    await new Promise((resolve) => setImmediate(resolve));
  }
  const exited = once(child, 'exit');
  child.stdin.end();
  assert.deepEqual(await exited, [0, null]);
  const lines = said.trimEnd().split('\n');
  const at = lines.findIndex((line) => line.includes('were lost'));
  const [, count] =
    /^warning: lines of this log were lost \(count=(\d+)\)$/.exec(lines[at] ?? '') ?? [];
  const whole = lines
    .slice(0, at)
    .filter((line) => /^info: line \(number=\d+ text=x+\)$/.test(line));
  const after = lines.slice(at + 1).length;
  assert.ok(whole.length >= at - 1 && whole.length > 0, `${whole.length} whole lines of ${at}`);
  assert.ok(Number(count) >= 2000 - whole.length, `${count} lost, ${whole.length} written`);
  assert.ok(after >= 1);
});

async function messages(file: string): Promise<string[]> {
  const lines = (await readFile(file, 'utf8')).trimEnd().split('\n');
  return lines.map((line) => JSON.parse(line).msg);
}
