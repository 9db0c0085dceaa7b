import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { createProgram, nameOf } from '../../src/cli/program.js';
import { outcome } from '../support/command.js';
import { needs } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

const repository = join(import.meta.dirname, '../../..');
const program = createProgram({ version: '0', execute: async () => {} });

/** Every verb, with the whole of its name: `mirror sync`. */
const verbs = program.commands
  .flatMap((command) => (command.commands.length > 0 ? command.commands : [command]))
  .map((verb) => ({ name: nameOf(verb), options: verb.options }));

/** What debian/manual.mjs makes. */
async function makeManual(t: TestContext): Promise<{ page: string; completion: string }> {
  const folder = await temporaryFolder(t);
  const made = await outcome(process.execPath, [join(repository, 'debian/manual.mjs'), folder]);
  assert.deepEqual([made.code, made.stderr], [0, '']);
  const page = await readFile(join(folder, 'lxd-image-server.1'), 'utf8');
  return { page, completion: join(folder, 'lxd-image-server.bash') };
}

test('the man page has every command and every option, and no mark left', async (t) => {
  const { page } = await makeManual(t);
  const text = page.replaceAll('\\-', '-').replace(/\\f[A-Z]/g, '');
  for (const { name, options } of verbs) {
    assert.match(
      text,
      new RegExp(`^${name}(?: NAME| \\[NAME\\.\\.\\.\\]| WHAT\\.\\.\\.| FILE \\[ROOTFS\\])?$`, 'm'),
    );
    for (const { long } of options) assert.match(text, new RegExp(`^${long}(?: [A-Z:=]+)?$`, 'm'));
  }
  assert.doesNotMatch(text, /@[a-z]+@|undefined|`/);
});

test('the README has every command', async () => {
  const readme = await readFile(join(repository, 'README.md'), 'utf8');
  for (const { name } of verbs) assert.match(readme, new RegExp(`^\\| \`${name}[ \`]`, 'm'));
});

test('an option that the man page names exists', async (t) => {
  const { page } = await makeManual(t);
  const known = new Set(['--help', '--version']);
  for (const { options } of verbs) for (const { long } of options) known.add(long ?? '');
  const named = page.replaceAll('\\-', '-').match(/--[a-z-]+/g) ?? [];
  assert.deepEqual(
    named.filter((option) => !known.has(option)),
    [],
  );
});

describe('completion of bash', needs('bash'), () => {
  const cases: { words: string[]; some: string[]; not?: string[] }[] = [
    { words: [''], some: verbs.map(({ name }) => name.split(' ')[0] ?? '') },
    { words: ['mir'], some: ['mirror'], not: ['update'] },
    { words: ['mirror', ''], some: ['list', 'sync', 'trust'], not: ['update', 'mirror'] },
    { words: ['--json', 'mirror', 'sy'], some: ['sync'], not: ['list'] },
    { words: ['update', '--re'], some: ['--rebuild'], not: ['--repair'] },
    { words: ['trust', 'add', '--'], some: ['--expires', '--json'], not: ['--rebuild'] },
    { words: ['import', '--alias', 'a', 'package-lo'], some: ['package-lock.json'] },
    { words: ['import', '--pro'], some: ['--property'], not: ['--rebuild'] },
    { words: ['--config', 'package-lo'], some: ['package-lock.json'], not: ['init'] },
  ];
  for (const { words, some, not = [] } of cases) {
    test(`offers what can stand at the end of "${words.join(' ')}"`, async (t) => {
      const { completion } = await makeManual(t);
      const script = `source "$0"; cd "$1"; shift; COMP_WORDS=(lxd-image-server "$@"); COMP_CWORD=$#
        _lxd_image_server; printf '%s\\n' "\${COMPREPLY[@]}"`;
      const { stdout, stderr } = await outcome('bash', [
        ...['-c', script, completion, repository],
        ...words,
      ]);
      assert.equal(stderr, '');
      const offered = stdout.split('\n');
      for (const word of some) assert.ok(offered.includes(word), `${word} is not offered`);
      for (const word of not) assert.ok(!offered.includes(word), `${word} is offered`);
    });
  }
});
