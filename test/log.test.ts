import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { createLogger, textLine } from '../src/log.js';
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
