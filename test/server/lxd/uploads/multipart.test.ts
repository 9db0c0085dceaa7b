/** Forms as they come over the network, whole and broken. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ServerError } from '../../../../src/errors.js';
import { boundaryOf, partsOf } from '../../../../src/server/lxd/uploads/multipart.js';

interface WholePart {
  name: string;
  filename?: string;
  content: string;
}

/** `chunks` are bytes, in latin1. */
async function parse(chunks: readonly string[], boundary = 'B'): Promise<WholePart[]> {
  async function* source() {
    for (const chunk of chunks) yield Buffer.from(chunk, 'latin1');
  }
  const parts: WholePart[] = [];
  for await (const { content, ...about } of partsOf(source(), boundary)) {
    const bytes: Buffer[] = [];
    for await (const chunk of content) bytes.push(Buffer.from(chunk));
    parts.push({ ...about, content: Buffer.concat(bytes).toString('latin1') });
  }
  return parts;
}

const part = ({ name, filename, content }: WholePart, boundary = 'B') =>
  `--${boundary}\r\nContent-Disposition: form-data; name="${name}"` +
  `${filename === undefined ? '' : `; filename="${filename}"`}\r\n` +
  `Content-Type: application/octet-stream\r\n\r\n${content}\r\n`;

const form = (parts: readonly WholePart[], boundary = 'B') =>
  `${parts.map((one) => part(one, boundary)).join('')}--${boundary}--\r\n`;

const two = [
  { name: 'metadata', filename: 'meta.tar.xz', content: 'first' },
  { name: 'rootfs', filename: 'root.squashfs', content: 'second' },
];

function isMalformed(error: unknown): boolean {
  return error instanceof ServerError && error.code === 'IMAGE_INVALID';
}

describe('a form', () => {
  test('has its parts in their order, with names and contents', async () => {
    assert.deepEqual(await parse([form(two)]), two);
  });

  test('may have empty parts, and parts with nothing but what looks like a boundary', async () => {
    const parts = ['', '\r\n', '\r\n--', '\r\n-B', '--B', '\r\r\n--', '\r\n--b--\r\n'].map(
      (content, index) => ({ name: `p${index}`, content }),
    );
    assert.deepEqual(await parse([form(parts)]), parts);
  });

  test('may end without a newline, and have blanks after a boundary', async () => {
    const text = form(two).replace(/--\r\n$/, '--');
    assert.deepEqual(await parse([text]), two);
    assert.deepEqual(await parse([form(two).replaceAll('--B\r\n', '--B \t\r\n')]), two);
  });

  test('has names with quotes and backslashes read as Go writes them', async () => {
    const content =
      '--B\r\ncontent-disposition:form-data;filename="a\\"b\\\\c";name=x\r\n\r\n1\r\n--B--';
    assert.deepEqual(await parse([content]), [{ name: 'x', filename: 'a"b\\c', content: '1' }]);
  });

  const bytes = fc.string({
    unit: fc.constantFrom('\r', '\n', '-', 'B', 'o', 'u', 'n', 'd', '\0', '\xff'),
    maxLength: 60,
  });
  const boundaries = fc.constantFrom(
    'B',
    'Bound',
    '-',
    '--',
    'BB',
    'ouou',
    `${'-'.repeat(30)}Bound`,
  );
  const cuts = fc.array(fc.nat({ max: 400 }), { maxLength: 30 });

  function cut(text: string, at: readonly number[]): string[] {
    const places = [...new Set([0, ...at.filter((place) => place < text.length)])].sort(
      (a, b) => a - b,
    );
    return places.map((place, index) => text.slice(place, places[index + 1]));
  }

  test('has the same parts however its bytes are cut into chunks', async () => {
    const contents = fc.array(bytes, { maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(contents, boundaries, cuts, async (texts, boundary, at) => {
        const parts = texts.map((content, index) => ({ name: `p${index}`, content }));
        fc.pre(parts.every(({ content }) => !`\r\n${content}\r\n`.includes(`\r\n--${boundary}`)));
        const text = parts.length === 0 ? `--${boundary}--` : form(parts, boundary);
        assert.deepEqual(await parse(cut(text, at), boundary), parts);
        assert.deepEqual(await parse([...text], boundary), parts);
      }),
      { numRuns: 300 },
    );
  });

  test('that is damaged is the same error, or the same parts, however it is cut', async () => {
    const outcome = (chunks: string[]) =>
      parse(chunks).catch((error: unknown) => {
        assert.ok(isMalformed(error), String(error));
        return (error as Error).message;
      });
    const whole = form(two);
    const damage = fc.record({
      from: fc.nat({ max: whole.length }),
      count: fc.nat({ max: 20 }),
      inserted: bytes,
    });
    await fc.assert(
      fc.asyncProperty(damage, cuts, async ({ from, count, inserted }, at) => {
        const text = whole.slice(0, from) + inserted + whole.slice(from + count);
        assert.deepEqual(await outcome(cut(text, at)), await outcome([text]));
      }),
      { numRuns: 500 },
    );
  });
});

describe('a form is refused', () => {
  const whole = form(two);
  const cases: [what: string, text: string, says: RegExp][] = [
    ['that is empty', '', /cut short/],
    ['that starts with something else', 'x', /does not start with a part/],
    ['that starts with a preamble', `hello\r\n${whole}`, /does not start with a part/],
    ['with more after a boundary', whole.replace('--B\r\n', '--Bx\r\n'), /followed by more/],
    ['with blanks between boundary and dashes', '--B --', /followed by more/],
    ['with a part that has no headers', '--B\r\n\r\nx\r\n--B--', /no name/],
    [
      'with a part that has no name',
      '--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--',
      /no name/,
    ],
    ['with a part that is no form data', whole.replace('form-data', 'file'), /no name/],
    ['with headers without end', `--B\r\n${'x'.repeat(20_000)}`, /too many headers/],
    ['that goes on after its end', whole + 'x'.repeat(70_000), /goes on/],
  ];
  for (const [what, text, says] of cases) {
    test(what, async () => {
      await assert.rejects(
        parse([text]),
        (error) => isMalformed(error) && says.test(String(error)),
      );
    });
  }

  test('wherever it is cut short', async () => {
    const end = whole.length - '\r\n'.length;
    for (let length = 0; length < end; length += 1) {
      await assert.rejects(parse([whole.slice(0, length)]), isMalformed, `cut at ${length}`);
    }
    assert.deepEqual(await parse([whole.slice(0, end)]), two);
  });

  test('and what its sender fails with is passed on', async () => {
    async function* failing() {
      yield Buffer.from(whole.slice(0, 130));
      throw new Error('gone');
    }
    const reading = (async () => {
      for await (const { content } of partsOf(failing(), 'B')) for await (const _ of content);
    })();
    await assert.rejects(reading, /^Error: gone$/);
  });
});

test('a source is closed when its reader stops in the middle', async () => {
  let closed = false;
  async function* source() {
    try {
      for (;;) yield Buffer.from(form(two).slice(0, 130));
    } finally {
      closed = true;
    }
  }
  for await (const _ of partsOf(source(), 'B')) break;
  assert.equal(closed, true);
});

test('content is passed on without waiting for the end of its part', async () => {
  const head = part({ name: 'rootfs', content: '' }).slice(0, -2);
  async function* source() {
    yield Buffer.from(head);
    for (;;) yield Buffer.alloc(65_536);
  }
  let bytes = 0;
  for await (const { content } of partsOf(source(), 'B')) {
    for await (const chunk of content) {
      bytes += chunk.length;
      assert.ok(chunk.length <= 65_536);
      if (bytes >= 10_000_000) return;
    }
  }
  assert.fail('the part has ended');
});

describe('the boundary', () => {
  const cases: [string, string][] = [
    ['multipart/form-data; boundary=abc', 'abc'],
    ['multipart/form-data; charset=x; Boundary="a b:c"', 'a b:c'],
    ['multipart/form-data;boundary=a;boundary=b', 'a'],
  ];
  for (const [header, expected] of cases) {
    test(`of ${header} is ${expected}`, () => assert.equal(boundaryOf(header), expected));
  }
  for (const header of [
    'multipart/form-data',
    'multipart/form-data; boundary=',
    'multipart/form-data; boundary="a "',
    'multipart/form-data; boundary="a\u00e9"',
    `multipart/form-data; boundary=${'x'.repeat(71)}`,
  ]) {
    test(`of ${header.slice(0, 50)} is refused`, () => {
      assert.throws(() => boundaryOf(header), isMalformed);
    });
  }
});
