import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { dump } from 'js-yaml';
import {
  isAlias,
  largestText,
  type Reading,
  readImageMetadata,
  readImageYaml,
  readMetadataYaml,
  readProductYaml,
  readProperties,
  readSums,
} from '../../src/catalog/metadata.js';
import { type Facts, isPrintable } from '../../src/catalog/tree.js';

/** A text, and either what it says or the end of the reason why it says nothing. */
type Case = [title: string, text: string, expected: object | string];

function check(read: (text: string) => Reading<unknown>, [title, text, expected]: Case): void {
  test(title, () => {
    const result = read(text);
    if (typeof expected !== 'string') assert.deepEqual(result, { value: expected });
    else assert.ok('fault' in result && result.fault.reason.endsWith(expected), shown(result));
  });
}

const shown = (result: unknown) => JSON.stringify(result)?.slice(0, 1000);

describe('metadata.yaml', () => {
  const cases: Case[] = [
    [
      'gives system, release and requirements',
      `architecture: x86_64
creation_date: 1700000000
properties:
  architecture: amd64
  os: Ubuntu
  release: noble
  serial: "20260103"
  requirements.secureboot: false
  requirements.nesting: "true"
templates:
  /etc/hostname: {when: [create, copy], template: hostname.tpl}
`,
      {
        os: 'Ubuntu',
        releaseTitle: 'noble',
        requirements: [{ values: { secureboot: 'false', nesting: 'true' } }],
      },
    ],
    ['may say nothing of them', 'architecture: x86_64\nproperties: {serial: 1}', {}],
    ['may have no properties', 'architecture: x86_64', {}],
    ['may have properties that are null', 'properties:', {}],
    ['may be empty', '', {}],
    ['may hold comments alone', '# nothing\n', {}],
    ['may be a null', '~', {}],
    ['may be JSON', '{"properties":{"os":"Demo"}}', { os: 'Demo' }],
    ['may have values that are null or empty', 'properties: {os: ~, release: ""}', {}],
    [
      'gives a version number as it is written',
      'properties: {os: 22.10, release: 022.100}',
      { os: '22.10', releaseTitle: '022.100' },
    ],
    [
      'gives numbers of other kinds as they are written',
      'properties: {os: 0x1F, release: 1e3, requirements.a: 12345678901234567890, requirements.b: .nan}',
      {
        os: '0x1F',
        releaseTitle: '1e3',
        requirements: [{ values: { a: '12345678901234567890', b: '.nan' } }],
      },
    ],
    [
      'gives truth values and dates as they are written',
      'properties: {os: True, release: 2026-01-03, requirements.a: no}',
      { os: 'True', releaseTitle: '2026-01-03', requirements: [{ values: { a: 'no' } }] },
    ],
    [
      'may mark the types of its values',
      'properties: {os: !!str 7, release: !!float 22.10, requirements.a: !!bool true}',
      { os: '7', releaseTitle: '22.10', requirements: [{ values: { a: 'true' } }] },
    ],
    [
      'may name values by reference',
      'x: &x Demo\nproperties: {os: *x, release: *x}',
      { os: 'Demo', releaseTitle: 'Demo' },
    ],
    ['may be in any script', 'properties: {os: Größe 漢字 😀}', { os: 'Größe 漢字 😀' }],
    ['is not a list', '[1, 2]', 'the document is not a mapping'],
    ['is not a text', 'hello', 'the document is not a mapping'],
    ['has no list of properties', 'properties: [os]', 'properties is not a mapping'],
    ['has no text for properties', 'properties: os', 'properties is not a mapping'],
    ['has no mapping for a system', 'properties: {os: {a: b}}', 'properties.os is not a text'],
    ['has no list for a release', 'properties: {release: [a]}', 'properties.release is not a text'],
    [
      'has no null for a requirement',
      'properties: {requirements.a: }',
      'properties.requirements.a is not a text',
    ],
    [
      'has no newline in a value',
      'properties: {os: "a\\nb"}',
      'properties.os has control characters',
    ],
    [
      'has no half of a character in a value',
      'properties: {os: "\\ud800"}',
      'properties.os has control characters',
    ],
    [
      'has no text over 200 characters',
      `properties: {os: ${'a'.repeat(201)}}`,
      'properties.os is longer than 200 characters',
    ],
    [
      'has no requirement with a name over 200 characters',
      `properties: {requirements.${'a'.repeat(201)}: b}`,
      'properties is longer than 200 characters',
    ],
    ['is one document', 'a: 1\n---\nb: 2', 'it has more than one document'],
    ['has a key once', 'properties: {}\nproperties: {}', ')'],
    ['has no tags of a language', 'properties: !!js/function "x"', ')'],
    ['is no tar archive', 'metadata.yaml\0\0\0\x000644', ')'],
  ];
  for (const each of cases) check(readMetadataYaml, each);
});

describe('image.yaml', () => {
  const cases: Case[] = [
    [
      'gives the name of the distribution, names of releases and requirements',
      `image:
  distribution: ubuntu
  name: ubuntu-disco-x86_64
simplestream:
  distro_name: Ubuntu
  release_aliases:
    jammy: 22.04
    noble: 24.04,lts, current
    oracular: [24.10, next]
  requirements:
    secureboot: false
packages: {manager: apt}
`,
      {
        os: 'Ubuntu',
        releaseAliases: {
          jammy: ['22.04'],
          noble: ['24.04', 'lts', 'current'],
          oracular: ['24.10', 'next'],
        },
        requirements: [{ values: { secureboot: 'false' } }],
      },
    ],
    [
      'gives requirements with filters',
      `simplestream:
  requirements:
  - requirements: {secureboot: false, a: 1}
    releases: [jammy, 22.10]
    architectures: [amd64]
    variants: [default, cloud]
  - requirements: {nesting: true}
  - variants: [desktop]
`,
      {
        requirements: [
          {
            values: { secureboot: 'false', a: '1' },
            releases: ['jammy', '22.10'],
            architectures: ['amd64'],
            types: ['default', 'cloud'],
          },
          { values: { nesting: 'true' } },
          { values: {}, types: ['desktop'] },
        ],
      },
    ],
    ['may say nothing of them', 'image: {name: a}', {}],
    ['may have an empty part', 'simplestream:', {}],
    [
      'may have parts that are null',
      'simplestream: {distro_name: , release_aliases: , requirements: }',
      {},
    ],
    ['may be empty', '', {}],
    [
      'may name its keys after parts of every object',
      'simplestream: {release_aliases: {constructor: a, __proto__: b}, requirements: {__proto__: c}}',
      JSON.parse(
        '{"releaseAliases":{"constructor":["a"],"__proto__":["b"]},"requirements":[{"values":{"__proto__":"c"}}]}',
      ) as object,
    ],
    ['cannot pass for an object by its keys', '__proto__: {simplestream: {distro_name: x}}', {}],
    ['has a mapping for simplestream', 'simplestream: [a]', 'simplestream is not a mapping'],
    [
      'has a text for the name of the distribution',
      'simplestream: {distro_name: [a]}',
      'simplestream.distro_name is not a text',
    ],
    [
      'has a mapping for names of releases',
      'simplestream: {release_aliases: [a]}',
      'simplestream.release_aliases is not a mapping',
    ],
    [
      'has names of releases that can be aliases',
      'simplestream: {release_aliases: {noble: "a b"}}',
      'simplestream.release_aliases.noble has "a b", which cannot be an alias',
    ],
    [
      'has no mapping among names of releases',
      'simplestream: {release_aliases: {noble: [{a: b}]}}',
      'simplestream.release_aliases.noble is not a text',
    ],
    [
      'has no text for requirements',
      'simplestream: {requirements: secureboot}',
      'simplestream.requirements is not a mapping',
    ],
    [
      'has mappings in the list of requirements',
      'simplestream: {requirements: [secureboot]}',
      'simplestream.requirements is not a mapping',
    ],
    [
      'has a list for a filter',
      'simplestream: {requirements: [{releases: noble}]}',
      'simplestream.requirements.releases is not a list',
    ],
    [
      'has texts in a filter',
      'simplestream: {requirements: [{variants: [[a]]}]}',
      'simplestream.requirements.variants is not a text',
    ],
    [
      'has texts for requirements',
      'simplestream: {requirements: [{requirements: {a: [b]}}]}',
      'simplestream.requirements.requirements.a is not a text',
    ],
    [
      'is told of in one line, whatever its keys',
      'simplestream: {release_aliases: {"a\\nb": "c d"}}',
      'release_aliases.a\\u000ab has "c d", which cannot be an alias',
    ],
  ];
  for (const each of cases) check(readImageYaml, each);
});

describe('product.yaml', () => {
  const cases: Case[] = [
    [
      'gives all that it may have',
      `os: Ubuntu
release_title: 26.10
aliases: [ubuntu, u/26.10, lts]
requirements: {secureboot: false}
`,
      {
        os: 'Ubuntu',
        releaseTitle: '26.10',
        aliases: ['ubuntu', 'u/26.10', 'lts'],
        requirements: [{ values: { secureboot: 'false' } }],
      },
    ],
    ['may list aliases in one text', 'aliases: a, b/c ,d', { aliases: ['a', 'b/c', 'd'] }],
    ['may have no alias in its list', 'aliases: []', { aliases: [] }],
    ['may be empty', '', {}],
    ['may hold comments alone', '# os: Ubuntu\n', {}],
    ['may have keys without values', 'os:\nrelease_title:\naliases:\nrequirements:\n', {}],
    ['has no other keys', 'os: a\nreleases: b', 'it has the unknown key "releases"'],
    ['has no unseen keys', '__proto__: {os: a}', 'it has the unknown key "__proto__"'],
    [
      'has no alias with a comma',
      'aliases: ["a,b"]',
      'aliases has "a,b", which cannot be an alias',
    ],
    ['has no alias that is empty', 'aliases: "a,,b"', 'aliases has "", which cannot be an alias'],
    ['has no mapping of aliases', 'aliases: {a: b}', 'aliases is not a text'],
    ['has no mapping for a system', 'os: {a: b}', 'os is not a text'],
    ['is told of in a short line, whatever its keys', `${'x'.repeat(1000)}: 1`, 'x…'],
  ];
  for (const each of cases) check(readProductYaml, each);

  test('that cannot be used says so, and what to do', () => {
    assert.deepEqual(readProductYaml('oz: a'), {
      fault: {
        code: 'yaml-invalid',
        reason: 'product.yaml cannot be used: it has the unknown key "oz"',
        cure: 'correct product.yaml',
      },
    });
  });
});

describe('YAML made to hurt', () => {
  const readers = [readMetadataYaml, readImageYaml, readProductYaml];
  const many = (count: number, text: (index: number) => string) =>
    Array.from({ length: count }, (_none, index) => text(index)).join(', ');
  const bombs: [title: string, text: string][] = [
    [
      'lists of references to lists of references',
      `${[...'bcdefghi'].reduce((text, name, at) => `${text}\n${name}: &${name} [${many(10, () => `*${'abcdefgh'[at]}`)}]`, 'a: &a [x, x]')}
simplestream: {release_aliases: {x: *i}, requirements: *i}\naliases: *i\nrequirements: *i`,
    ],
    [
      'one set of requirements, referred to again and again',
      `requirements: &all [&one {requirements: {${many(20_000, (index) => `k${index}: v`)}}}${', *one'.repeat(20_000)}]
simplestream: {requirements: *all}`,
    ],
    [
      'one set of aliases for many releases',
      `simplestream: {release_aliases: {a: &a [${many(20_000, () => 'a')}], ${many(20_000, (index) => `k${index}: *a`)}}}`,
    ],
    ['a list within a list, and so on', '['.repeat(100_000)],
    ['a mapping within a mapping, and so on', 'a: {'.repeat(100_000)],
    ['a very long key', `${'x'.repeat(largestText - 4)}: 1`],
    ['a very long tag', `os: !<${'x'.repeat(largestText - 10)}> 1`],
    ['a list that holds itself', 'aliases: &a [*a]\nsimplestream: {requirements: &b [*b]}'],
    ['a mapping that holds itself', 'properties: &a {os: *a}\nrequirements: &b {requirements: *b}'],
    ['references that lead nowhere', 'properties: *nowhere'],
  ];
  for (const [title, text] of bombs) {
    test(`is refused or read as little: ${title}`, () => {
      for (const read of readers) {
        const result = read(text);
        assert.ok(JSON.stringify(result).length < 10_000, shown(result));
      }
    });
  }

  test('is bounded in each of its lists', () => {
    const list = (count: number) => `[${many(count, (index) => `a${index}`)}]`;
    const entries = (count: number) => `{${many(count, (index) => `a${index}: b`)}}`;
    const texts = (count: number): [(text: string) => Reading<Facts>, string][] => [
      [readProductYaml, `aliases: ${list(count)}`],
      [readProductYaml, `aliases: ${list(count).slice(1, -1)}`.slice(0, 200)],
      [readProductYaml, `requirements: ${entries(count)}`],
      [readProductYaml, `requirements: [${many(count, () => '{requirements: {a: b}}')}]`],
      [readProductYaml, `requirements: [{requirements: ${entries(count)}}]`],
      [readProductYaml, `requirements: [{releases: ${list(count)}}]`],
      [readImageYaml, `simplestream: {release_aliases: ${entries(count)}}`],
      [readImageYaml, `simplestream: {release_aliases: {a: ${list(count)}}}`],
    ];
    for (const [read, text] of texts(100)) assert.ok('value' in read(text), text);
    for (const [read, text] of texts(101)) {
      const result = read(text);
      if (text.length <= 200) continue;
      assert.ok('fault' in result && result.fault.reason.endsWith('has more than 100 entries'));
    }
  });
});

describe('any text at all', () => {
  const scalar = fc.oneof(
    fc.string(),
    fc.constantFrom<unknown>('a', 'a,b', '22.04', 22.1, true, null, new Date(0), 'a\nb', '\ud800'),
  );
  const key = fc.oneof(
    fc.constantFrom('os', 'release_title', 'aliases', 'requirements', 'releases', 'variants'),
    fc.constantFrom('properties', 'simplestream', 'distro_name', 'release_aliases', 'release'),
    fc.constantFrom('requirements.a', 'requirements.__proto__', '__proto__', 'constructor', ''),
    fc.string(),
  );
  const { value } = fc.letrec<{ value: unknown }>((tie) => ({
    value: fc.oneof(
      { depthSize: 'medium', withCrossShrink: true },
      scalar,
      fc.array(tie('value'), { maxLength: 3 }),
      fc.array(fc.tuple(key, tie('value')), { maxLength: 4 }).map(Object.fromEntries),
    ),
  }));
  const document = value.map((each) => dump(each, { skipInvalid: true }));
  const damaged = fc
    .tuple(document, fc.nat(), fc.string({ maxLength: 3 }))
    .map(([text, at, more]) => text.slice(0, at % (text.length + 1)) + more);
  const text = fc.oneof(document, damaged, fc.string({ unit: 'binary-ascii' }));

  for (const read of [readMetadataYaml, readImageYaml, readProductYaml]) {
    test(`is read or refused in one line by ${read.name}`, () => {
      fc.assert(
        fc.property(text, (each) => {
          const result = read(each);
          if ('fault' in result) assertOneLine(result.fault.reason);
          else assertFacts(result.value);
        }),
        { numRuns: 500 },
      );
    });
  }

  test('is read or refused in one line by readSums', () => {
    const line = fc.oneof(
      fc.string(),
      fc.tuple(fc.stringMatching(/^[0-9a-fA-F]{63,65}$/), fc.constantFrom(' ', '  ', ' *'), key),
    );
    fc.assert(
      fc.property(fc.array(line), (lines) => {
        const result = readSums(lines.map((each) => [each].flat().join('')).join('\n'));
        if ('fault' in result) return assertOneLine(result.fault.reason);
        for (const sum of Object.values(result.value)) assert.match(sum, /^[0-9a-f]{64}$/);
      }),
      { numRuns: 500 },
    );
  });
});

function assertOneLine(text: string): void {
  assert.ok(isPrintable(text), JSON.stringify(text));
  assert.ok(text.length < 1000, `${text.length} characters`);
}

/** Facts can be kept as JSON, and nothing in them breaks a line or a list of aliases. */
function assertFacts(facts: Facts): void {
  assert.deepEqual(JSON.parse(JSON.stringify(facts)), facts);
  const {
    os = '',
    releaseTitle = '',
    aliases = [],
    releaseAliases = {},
    requirements = [],
  } = facts;
  for (const alias of [...aliases, ...Object.values(releaseAliases).flat()]) {
    assert.ok(isAlias(alias), alias);
  }
  const values = requirements.flatMap((rule) => Object.entries(rule.values).flat());
  for (const each of [os, releaseTitle, ...values]) {
    assert.equal(typeof each, 'string');
    assert.ok(isPrintable(each) && each.length <= 200, each);
    assert.equal(Buffer.from(each).toString(), each);
  }
}

describe('an alias', () => {
  const right = ['a', 'ubuntu/24.04', 'a/b/c/d', '24.04', 'x:y', 'a+b~c@d_e-f', 'a'.repeat(200)];
  const wrong = ['', '/a', '-a', '.a', 'a,b', 'a b', 'a\n', 'ä', 'a"b', 'a\\b', 'a'.repeat(201)];
  for (const text of right) {
    test(`may be ${text.slice(0, 20)}`, () => assert.equal(isAlias(text), true));
  }
  for (const text of wrong) {
    test(`may not be ${JSON.stringify(text.slice(0, 20))}`, () => {
      assert.equal(isAlias(text), false);
    });
  }
});

describe('SHA256SUMS', () => {
  const a = 'a'.repeat(64);
  const b = '0123456789abcdef'.repeat(4);
  const invalid = (line: number) =>
    `line ${line} of SHA256SUMS is not a SHA-256 digest and a file name`;
  const cases: Case[] = [
    ['is as coreutils writes it', `${a}  x\n${b}  y\n`, { x: a, y: b }],
    ['may be of binary files', `${a} *x\n`, { x: a }],
    ['may have a single space or a tab', `${a} x\n${b}\ty`, { x: a, y: b }],
    ['may be in capitals', `${b.toUpperCase()}  X`, { X: b }],
    ['may end its lines as Windows does', `${a}  x\r\n${b}  y\r\n`, { x: a, y: b }],
    ['may have comments and empty lines', `# sums\n\n${a}  x\n\n`, { x: a }],
    ['may begin with a byte order mark', `\ufeff${a}  x\n`, { x: a }],
    ['may list itself, which says nothing', `${a}  x\n${b}  SHA256SUMS\n`, { x: a }],
    ['may have ./ before names', `${a}  ./x\n${b} *./y`, { x: a, y: b }],
    ['may name files after parts of every object', `${a}  constructor`, { constructor: a }],
    ['names a file', '', 'SHA256SUMS names no file'],
    ['names a file beside its comments', '# sums\n\n', 'SHA256SUMS names no file'],
    ['has whole digests', `${a}  x\n${b.slice(1)}  y`, invalid(2)],
    ['has no longer digests', `${a}0  x`, invalid(1)],
    ['has names', `${a}  `, invalid(1)],
    ['has digests', '\n\nx', invalid(3)],
    ['has names of this folder', `${a}  x/y`, invalid(1)],
    ['has no way out', `${a}  ../x`, invalid(1)],
    ['has no hidden names', `${a}  .x`, invalid(1)],
    ['has no names in the form of BSD', `SHA256 (x) = ${a}`, invalid(1)],
    ['has no escaped names', `\\${a}  x\\ny`, invalid(1)],
    ['has no NUL', `${a}  x\0`, invalid(1)],
  ];
  for (const each of cases) check(readSums, each);

  test('that is not valid says how to write it', () => {
    const result = readSums('x');
    assert.ok('fault' in result);
    assert.equal(result.fault.code, 'sums-invalid');
    // A SHA256SUMS that is there already would be among its own names.
    assert.equal(result.fault.cure, 'write it with "sha256sum * > SHA256SUMS"');
  });

  test('with any names and digests is read as it was written', () => {
    const sums = fc.dictionary(
      fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:+~@-]{0,20}$/),
      fc.stringMatching(/^[0-9a-f]{64}$/),
      { minKeys: 1, noNullPrototype: true },
    );
    fc.assert(
      fc.property(sums, fc.constantFrom('  ', ' *'), (expected, between) => {
        const lines = Object.entries(expected).map(([name, sum]) => `${sum}${between}${name}\n`);
        assert.deepEqual(readSums(lines.join('')), { value: expected });
      }),
    );
  });

  test('of the largest size is read', () => {
    const line = (index: number) => `${a}  file-${index}\n`;
    const lines = Array.from({ length: Math.floor(largestText / 80) }, (_none, at) => line(at));
    const result = readSums(lines.join(''));
    assert.ok('value' in result && Object.keys(result.value).length === lines.length);
  });
});

describe('all that metadata.yaml says of an image', () => {
  test('is read, every property as text', () => {
    const text = `architecture: x86_64
creation_date: 1767225600
expiry_date: 1767225601.5
properties:
  os: Demo
  release: 22.10
  build: 0x10
  cloud: true
  nothing:
  description: |
    two
    lines
templates: {/etc/hostname: {when: [create]}}
`;
    assert.deepEqual(readImageMetadata(text), {
      value: {
        architecture: 'x86_64',
        created: 1_767_225_600_000,
        expires: 1_767_225_601_000,
        properties: {
          os: 'Demo',
          release: '22.10',
          build: '0x10',
          cloud: 'true',
          description: 'two lines',
        },
      },
    });
    const empty = { architecture: '', created: 0, expires: 0, properties: {} };
    assert.deepEqual(readImageMetadata('{}'), { value: empty });
    assert.deepEqual(readImageMetadata('creation_date: -5'), { value: empty });
  });

  for (const [name, text] of [
    ['a time that is none', 'creation_date: soon'],
    ['a time that no date can hold', 'expiry_date: 99999999999999999999'],
    ['properties that are a list', 'properties: [a]'],
    ['a property that is a list', 'properties: {os: [a]}'],
    ['a property with NUL', 'properties: {a: "x\\0y"}'],
    ['a property with a turned direction', 'properties: {a: "x\\u202ey"}'],
    ['a name with a newline', 'properties: {"a\\nb": c}'],
    ['a name of nothing', 'properties: {"": c}'],
    ['a long property', `properties: {a: ${'x'.repeat(4097)}}`],
    ['a long name', `properties: {${'x'.repeat(201)}: a}`],
    ['too many', `properties: {${Array.from({ length: 101 }, (_unused, at) => `p${at}: x`)}}`],
    ['a property that refers to a list', 'a: &a [x]\nproperties: {os: *a}'],
  ] as const) {
    test(`is refused with ${name}`, () => {
      const read = readImageMetadata(text);
      assert.ok('fault' in read, JSON.stringify(read));
      assert.equal(read.fault.code, 'metadata-invalid');
      assert.ok(read.fault.reason.length < 400 && !read.fault.reason.includes('\n'));
    });
  }

  test('is short text in one line, or nothing, whatever is written there', () => {
    const documents = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 200 }),
      fc.json().map((json) => `properties: ${json}`),
      fc
        .dictionary(fc.string({ maxLength: 20 }), fc.string({ unit: 'binary', maxLength: 20 }))
        .map((properties) => JSON.stringify({ properties })),
    );
    fc.assert(
      fc.property(documents, (text) => {
        const read = readImageMetadata(text);
        if ('fault' in read) return;
        for (const [key, value] of Object.entries(read.value.properties)) {
          assert.ok(isPrintable(key) && key !== '');
          assert.ok(isPrintable(value) && value !== '');
        }
      }),
      { numRuns: 2000 },
    );
  });

  test('is judged in the same way where a client has sent it', () => {
    assert.deepEqual(readProperties({ os: 'a\nb', empty: '' }), { value: { os: 'a b' } });
    const inherited = JSON.parse('{"__proto__": "x"}') as object;
    const read = readProperties(inherited);
    assert.deepEqual('value' in read && Object.entries(read.value), [['__proto__', 'x']]);
    for (const value of [null, [], 'x', { a: 1 }, { a: { b: 'c' } }, { 'a\0': 'b' }])
      assert.ok('fault' in readProperties(value), JSON.stringify(value));
  });
});
