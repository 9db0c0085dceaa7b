import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { readProductYaml } from '../../src/catalog/metadata.js';
import { type AliasChange, changeAliases } from '../../src/catalog/product-yaml.js';

function changed(text: string, change: AliasChange): string {
  const result = changeAliases(text, change);
  assert.ok('value' in result, JSON.stringify(result));
  return result.value;
}

describe('the text of a product.yaml', () => {
  const cases: { name: string; text: string; change: AliasChange; after: string }[] = [
    { name: 'is made', text: '', change: { add: 'a' }, after: 'aliases:\n  - a\n' },
    {
      name: 'keeps comments and keys around a new list',
      text: '# ours\nos: Demo # title\n# end',
      change: { add: 'a/b' },
      after: '# ours\nos: Demo # title\n# end\naliases:\n  - a/b\n',
    },
    {
      name: 'keeps the form of a list with comments',
      text: 'aliases:\n- a # first\n# between\n- b\nos: x\n',
      change: { add: 'c' },
      after: 'aliases:\n- a # first\n# between\n- b\n- c\nos: x\n',
    },
    {
      name: 'loses one line of a list',
      text: "os: x\naliases:\n    - 'a' # first\n    # between\n    - b\n",
      change: { remove: 'a' },
      after: 'os: x\naliases:\n    # between\n    - b\n',
    },
    {
      name: 'gets another name in the place of the old one',
      text: 'aliases:\n  - "a"  # first\n  - b\n',
      change: { rename: 'a', to: '22.04' },
      after: "aliases:\n  - '22.04'  # first\n  - b\n",
    },
    {
      name: 'keeps a list in brackets',
      text: 'aliases: [ a, "b" ] # all\nos: x\n',
      change: { remove: 'a' },
      after: 'aliases: [b] # all\nos: x\n',
    },
    {
      name: 'has a list for names between commas',
      text: 'aliases: a, b # all\nos: x\n',
      change: { add: 'null' },
      after: "aliases: [a, b, 'null'] # all\nos: x\n",
    },
    {
      name: 'has a list where there was nothing',
      text: 'aliases: # none yet\nos: x\n',
      change: { add: 'a' },
      after: 'aliases: # none yet\n  - a\nos: x\n',
    },
    {
      name: 'loses its last name',
      text: 'aliases:\n  - a\n# end\n',
      change: { remove: 'a' },
      after: 'aliases:\n# end\n',
    },
    {
      name: 'is written anew below its comments where its form is too involved',
      text: '# ours\naliases: >-\n  a,\n  b\nrelease_title: "22.10"\n',
      change: { add: 'c' },
      after: "# ours\nrelease_title: '22.10'\naliases:\n  - a\n  - b\n  - c\n",
    },
    {
      name: 'stays as it is where nothing changes',
      text: 'aliases:   [a]\n',
      change: { add: 'a' },
      after: 'aliases:   [a]\n',
    },
  ];
  for (const { name, text, change, after } of cases) {
    test(name, () => {
      assert.equal(changed(text, change), after);
      if (!text.includes('\n')) return;
      const other = (lines: string) => lines.replaceAll('\n', '\r\n');
      assert.equal(changed(other(text), change), other(after));
    });
  }

  test('is refused where it cannot be read, and with a name that can be no alias', () => {
    for (const [text, add] of [
      ['oss: x\n', 'a'],
      ['aliases: [', 'a'],
      ['', 'a b'],
      ['', '../a'],
      ['', 'a\nos: b'],
      ['', ''],
      [`aliases: [${Array.from({ length: 100 }, (_unused, at) => `a${at}`)}]`, 'a'],
    ] as const) {
      assert.ok('fault' in changeAliases(text, { add }), JSON.stringify([text, add]));
    }
  });

  test('means what was wanted, whatever its form, and keeps its comments', () => {
    fc.assert(
      fc.property(
        documents,
        fc.array(changes, { minLength: 1, maxLength: 6 }),
        (document, wishes) => {
          const before = readProductYaml(document.text);
          assert.ok('value' in before, document.text);
          let { aliases: wanted = [], ...others } = before.value;
          let text = document.text;
          for (const wish of wishes) {
            text = changed(text, wish);
            wanted = apply(wanted, wish);
          }
          const after = readProductYaml(text);
          assert.ok('value' in after, text);
          const { aliases = [], ...rest } = after.value;
          assert.deepEqual(aliases, wanted, text);
          assert.deepEqual(rest, others, text);
          for (const comment of document.comments) assert.ok(text.includes(comment), text);
        },
      ),
      { numRuns: 2000 },
    );
  });
});

function apply(aliases: readonly string[], change: AliasChange): string[] {
  if ('add' in change) return [...new Set([...aliases, change.add])];
  if ('remove' in change) return aliases.filter((alias) => alias !== change.remove);
  return [...new Set(aliases.map((alias) => (alias === change.rename ? change.to : alias)))];
}

/** Few names, so that changes meet; some that YAML would read as something else than text. */
const alias = fc.constantFrom('a', 'b', 'demo/x', '22.10', 'null', 'on', 'a:b', '1e3', 'x~y', 'a:');

const changes: fc.Arbitrary<AliasChange> = fc.oneof(
  fc.record({ add: alias }),
  fc.record({ remove: alias }),
  fc.record({ rename: alias, to: alias }),
);

const quoted = fc
  .tuple(alias, fc.constantFrom("'", '"'))
  .map(([name, quote]) => `${quote}${name}${quote}`);

const list = fc.uniqueArray(quoted, { maxLength: 5, selector: (text) => text.slice(1, -1) });

/** The key `aliases` in the forms that people write. */
const aliasLines = fc.oneof(
  fc.constant([]),
  fc.constantFrom(['aliases:'], ['aliases: ~'], ['aliases: # key']),
  list.map((names) => [`aliases: [${names.join(' , ')}]`]),
  list.map((names) => ['aliases: [ # open', ...names.map((name) => `  ${name},`), '  ]']),
  fc
    .tuple(list, fc.constantFrom('', '  ', '     '))
    .map(([names, indent]) => [
      'aliases:',
      ...names.flatMap((name, at) => [`${indent}- ${name}${at % 2 ? '  # tail' : ''}`, '# own']),
    ]),
  list
    .filter((names) => names.length > 0)
    .map((names) => [`aliases: "${names.map((name) => name.slice(1, -1)).join(', ')}"`]),
  list
    .filter((names) => names.length > 0)
    .map((names) => ['aliases: |-', `  ${names.map((name) => name.slice(1, -1)).join(',')}`]),
);

const otherLines = fc.subarray([
  ['# above'],
  ['os: "A: b" # title'],
  ['release_title: 22.10'],
  ['requirements:', '  secureboot: false', '  # inside', '  aliases: no'],
  [''],
]);

const documents = fc
  .tuple(otherLines, aliasLines, otherLines, fc.constantFrom('\n', ''), fc.boolean())
  .map(([before, lines, after, end, marked]) => {
    const rest = after.filter((group) => !before.includes(group));
    const groups = [...(marked ? [['---']] : []), ...before, lines, ...rest];
    const text = groups.flat().join('\n') + end;
    const comments = text.match(/^ *# (?:above|inside|own)$/gm) ?? [];
    return { text, comments };
  });
