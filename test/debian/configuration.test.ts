/** debian/doc/configuration.md: what it shows to paste can be pasted. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseConfig } from '../../src/config.js';
import { codeBlocks, readProjectFile } from '../support/manual.js';

describe('The page on configuration', async () => {
  const text = await readProjectFile('debian/doc/configuration.md');
  const examples = codeBlocks(text).filter((block) => block.startsWith('['));

  test('has examples', () => assert.ok(examples.length > 10));

  for (const example of examples) {
    test(`is right about ${example.replaceAll(/\s+/g, ' ')}`, () => {
      const { warnings } = parseConfig(example, { file: 'configuration.md' });
      assert.deepEqual(warnings, []);
    });
  }

  test('names every table of the configuration', async () => {
    const tables = (await readProjectFile('config/config.toml')).match(/^\[\w+\]/gm) ?? [];
    for (const table of tables) {
      const name = table === '[mirrors]' ? '[mirrors.NAME]' : table;
      assert.ok(text.includes(`| \`${name}\``), `${name} is missing`);
    }
  });
});
