import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { createProgram } from '../../src/cli/program.js';

const repository = join(import.meta.dirname, '../../..');
const program = createProgram({ version: '0', execute: async () => {} });

/** Every verb, with the whole of its name: `mirror sync`. */
const verbs = program.commands.flatMap((command) =>
  command.commands.length > 0
    ? command.commands.map((part) => ({
        name: `${command.name()} ${part.name()}`,
        options: part.options,
      }))
    : [{ name: command.name(), options: command.options }],
);

test('the man page has every command and every option', async () => {
  const page = await readFile(join(repository, 'debian/lxd-image-server.1'), 'utf8');
  const text = page.replaceAll('\\-', '-').replace(/\\f[A-Z]/g, '');
  for (const { name, options } of verbs) {
    assert.match(text, new RegExp(`^(?:\\.B )?${name}(?: NAME| \\[NAME\\.\\.\\.\\])?$`, 'm'));
    for (const { long } of options) assert.ok(text.includes(`${long}`), `${long} is missing`);
  }
});

test('the README has every command', async () => {
  const readme = await readFile(join(repository, 'README.md'), 'utf8');
  for (const { name } of verbs) assert.match(readme, new RegExp(`^\\| \`${name}[ \`]`, 'm'));
});

test('an option of the man page exists', async () => {
  const page = await readFile(join(repository, 'debian/lxd-image-server.1'), 'utf8');
  const known = new Set(['--help', '--version']);
  for (const { options } of verbs) for (const { long } of options) known.add(long ?? '');
  const named = page.replaceAll('\\-', '-').match(/--[a-z-]+/g) ?? [];
  assert.deepEqual(
    named.filter((option) => !known.has(option)),
    [],
  );
});
