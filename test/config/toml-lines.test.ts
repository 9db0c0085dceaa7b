import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { indexLines } from '../../src/config/toml-lines.js';

const document = `# [not.a.table]
top = 1
"quoted key" = 2
'lit.eral' = 3
dotted.inner."deep.er" = 4

[table] # [comment]
text = "[fake]\\" = 1"
literal = '[fake] \\'
multi = """
[fake]
gone = 1 \\""" still
""""
lines = '''
[fake]
gone = 2
'''''
after = true
list = [
  "a", # ]
  ["[fake]", { gone = 3 }],
]
inline = { gone = 4, other = { gone = 5 } }
end = 1979-05-27T07:32:00Z

  [table.sub]
  key = 1
[ other . "sub table" ]
1.5 = 2
[[array]]
first = 1
[[array]]
second = 2
[parent.child]
[parent]
"\\u0041\\x42\\t\\U0001F600" = 1`;

describe('the line of a key', () => {
  const lineOf = indexLines(document);
  const cases: [path: string[], line: number][] = [
    [['top'], 2],
    [['quoted key'], 3],
    [['lit.eral'], 4],
    [['dotted'], 5],
    [['dotted', 'inner', 'deep.er'], 5],
    [['table'], 7],
    [['table', 'text'], 8],
    [['table', 'literal'], 9],
    [['table', 'multi'], 10],
    [['table', 'lines'], 14],
    [['table', 'after'], 18],
    [['table', 'list'], 19],
    [['table', 'list', '1'], 19],
    [['table', 'inline'], 23],
    [['table', 'inline', 'other', 'gone'], 23],
    [['table', 'end'], 24],
    [['table', 'sub'], 26],
    [['table', 'sub', 'key'], 27],
    [['other', 'sub table'], 28],
    [['other', 'sub table', '1', '5'], 29],
    [['array'], 30],
    [['array', 'second'], 33],
    [['parent'], 35],
    [['parent', 'child'], 34],
    [['parent', 'AB\t😀'], 36],
    [['table', 'missing'], 7],
    [['missing'], 1],
    [['fake'], 1],
    [['gone'], 1],
    [[], 1],
  ];
  for (const [path, line] of cases) {
    test(`is ${line} for ${JSON.stringify(path)}`, () => assert.equal(lineOf(path), line));
  }

  test('is found behind a string that ends in quotes of its own', () => {
    const lineOf = indexLines(`a = ["""x"""", "[", '[']\nb = ['''x'''', '[', "["]\nc = 1`);
    assert.deepEqual([lineOf(['b']), lineOf(['c'])], [2, 3]);
  });

  test('is found in any document', () => {
    const name = fc.oneof(fc.stringMatching(/^[\w-]{1,8}$/), fc.string({ minLength: 1 }));
    const value = fc.oneof(
      fc.constantFrom('1', 'true', '[]', '[\n"]",\n[1],\n]', '"a # b"', "'''\n[x]\na = 1\n'''"),
      fc.constantFrom('{ a = 1 }', '"""\\\n"\n[x]\n"""', '""""q"""""', "'\\'", '1.5', '-inf'),
      fc.string().map((text) => JSON.stringify(text).replaceAll('\u007f', '')),
    );
    const blank = fc.constantFrom('', '\n', '# [x]\n', '  \n\n', '\r\n');
    const entry = fc.record({ name, value, blank });
    const tables = fc.uniqueArray(
      fc.record({
        name,
        blank,
        entries: fc.uniqueArray(entry, { selector: (item) => item.name }),
      }),
      { selector: (table) => table.name },
    );
    fc.assert(
      fc.property(tables, (list) => {
        const { text, places } = written(list);
        const lineOf = indexLines(text);
        for (const { path, line } of places) assert.equal(lineOf(path), line, text);
      }),
    );
  });

  test('is found in a text with a very long string, and any text is taken', () => {
    const long = `a = """${'x\\n'.repeat(300_000)}"""\nb = 1`;
    assert.equal(indexLines(long)(['b']), 2);
    fc.assert(fc.property(fc.string(), (text) => indexLines(text)(['a']) >= 1));
  });
});

interface Entry {
  name: string;
  value: string;
  blank: string;
}

/** A document with these tables, and the line on which each key stands. */
function written(tables: { name: string; blank: string; entries: Entry[] }[]) {
  const places: { path: string[]; line: number }[] = [];
  let text = '';
  const put = (path: string[], blank: string, statement: string) => {
    text += blank;
    places.push({ path, line: text.split('\n').length });
    text += `${statement}\n`;
  };
  for (const { name, blank, entries } of tables) {
    put([name], blank, `[${key(name)}]`);
    for (const { name: inner, value, blank } of entries) {
      put([name, inner], blank, `${key(inner)} = ${value}`);
    }
  }
  return { text, places };
}

const key = (name: string) => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name));
