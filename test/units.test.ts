import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { createTask, validate } from 'node-cron';
import {
  durationUnits,
  formatSize,
  type HostPort,
  isCronExpression,
  isNetwork,
  parseDuration,
  parseHostPort,
  parseSize,
  sizeUnits,
} from '../src/units.js';

describe('durations and sizes', () => {
  const readers = [
    { name: 'duration', read: parseDuration, units: durationUnits },
    { name: 'size', read: parseSize, units: sizeUnits },
  ];
  for (const { name, read, units } of readers) {
    test(`any whole ${name} in any unit is read as it was written`, () => {
      const quantity = fc.tuple(fc.nat({ max: 1000 }), fc.constantFrom(...Object.entries(units)));
      fc.assert(
        fc.property(quantity, ([count, [unit, factor]]) => {
          assert.equal(read(`${count}${unit}`), count * factor);
          assert.equal(read(`${count} ${unit}`), count * factor);
        }),
      );
    });
    test(`what is no ${name} is refused`, () => {
      for (const text of ['', 's', 'B', '-1s', '-1B', '1x', '1e3s', '.5h', '1s1s', ' 1s', '1  s']) {
        assert.equal(read(text), undefined, text);
      }
      for (const unit of ['toString', '__proto__']) assert.equal(read(`1${unit}`), undefined);
      assert.equal(read(`9999999999999999${Object.keys(units).at(-1)}`), undefined);
    });
  }

  test('may have decimals', () => {
    assert.equal(parseDuration('1.5h'), 5_400_000);
    assert.equal(parseSize('0.5KiB'), 512);
  });

  test('a size without a unit counts bytes, a duration needs its unit', () => {
    assert.equal(parseSize('4096'), 4096);
    assert.equal(parseDuration('4096'), undefined);
  });

  test('a size is written in the largest unit of which it is a whole number', () => {
    const sizes = [0, 1500, 1537, 4 * 2 ** 20, 20 * 2 ** 30, 10e6];
    const texts = ['0B', '1500B', '1537B', '4MiB', '20GiB', '10MB'];
    assert.deepEqual(sizes.map(formatSize), texts);
    fc.assert(
      fc.property(fc.maxSafeNat(), (bytes) => {
        assert.equal(parseSize(formatSize(bytes)), bytes);
      }),
    );
  });
});

describe('host and port', () => {
  const cases: [text: string, port: number | undefined, expected: HostPort | undefined][] = [
    ['127.0.0.1:8443', undefined, { host: '127.0.0.1', port: 8443 }],
    ['[::1]:0', undefined, { host: '::1', port: 0 }],
    ['a-b.example.org:22', undefined, { host: 'a-b.example.org', port: 22 }],
    ['localhost', undefined, undefined],
    ['::1', undefined, undefined],
    [':8443', undefined, undefined],
    ['a:65536', undefined, undefined],
    ['a:', undefined, undefined],
    ['[a]:1', undefined, undefined],
    ['user@a:1', undefined, undefined],
    ['a b:1', undefined, undefined],
    ['-a:1', undefined, undefined],
    ['a..b:1', undefined, undefined],
    ['a', 22, { host: 'a', port: 22 }],
    ['a:2222', 22, { host: 'a', port: 2222 }],
    ['2001:db8::1', 22, { host: '2001:db8::1', port: 22 }],
    ['[2001:db8::1]', 22, { host: '2001:db8::1', port: 22 }],
    ['', 22, undefined],
  ];
  for (const [text, port, expected] of cases) {
    test(`${JSON.stringify(text)}${port === undefined ? '' : `, else port ${port}`}`, () => {
      assert.deepEqual(parseHostPort(text, port === undefined ? {} : { port }), expected);
    });
  }
});

test('a network is an address with a prefix that fits it', () => {
  for (const text of [
    '10.0.0.0/8',
    '0.0.0.0/0',
    '192.0.2.1/32',
    '2001:db8::/32',
    '::/0',
    '::1/128',
  ]) {
    assert.ok(isNetwork(text), text);
  }
  for (const text of [
    '',
    '10.0.0.0',
    '10.0.0.0/33',
    '10.0.0/8',
    '::/129',
    '::',
    'a/8',
    'fe80::%a/64',
  ]) {
    assert.ok(!isNetwork(text), text);
  }
});

test('a cron expression has five or six fields, each in its range', () => {
  const right = [
    '* * * * *',
    '*/10 * * * *',
    '0 3 * * sun',
    '0,30 8-18/2 1-15 JAN-mar 1-5',
    '59 23 31 12 7',
    '*/5 0 0 1 1 0',
    '0 0 29 2 mon',
    '0 0 31 4-12/4 *',
    '0 0 30,31 2,4 *',
  ];
  const wrong = [
    '',
    'daily',
    '@daily',
    '* * * *',
    '* * * * * * *',
    '60 * * * *',
    '* 24 * * *',
    '* * 0 * *',
    '* * * 13 *',
    '* * * * 8',
    '*/0 * * * *',
    '5- * * * *',
    '-5 * * * *',
    '5-x * * * *',
    '9-5 * * * *',
    '1-2-3 * * * *',
    ', * * * *',
    '1, * * * *',
    '*/ * * * *',
    '* * * mon *',
    '*\t* * * *',
    '5/10 * * * *',
    '0 0 30 2 *',
    '0 0 31 feb,4-11/5 *',
  ];
  for (const text of right) assert.ok(isCronExpression(text), text);
  for (const text of wrong) assert.ok(!isCronExpression(text), text);
});

/** Fields as people write and mistype them; most expressions of them are right. */
function cronField(from: number, to: number, names: string[] = []) {
  const number = fc.oneof(
    { weight: 30, arbitrary: fc.integer({ min: from, max: to }).map(String) },
    { weight: 1, arbitrary: fc.constantFrom('0', '32', '60', '08', '') },
    ...(names.length > 0 ? [{ weight: 10, arbitrary: fc.constantFrom(...names) }] : []),
  );
  const value = fc.integer({ min: from, max: to });
  const inOrder = fc.tuple(value, value).map(([a, b]) => `${Math.min(a, b)}-${Math.max(a, b)}`);
  const anyEnds = fc.tuple(number, number).map((ends) => ends.join('-'));
  const range = fc.oneof({ weight: 10, arbitrary: inOrder }, anyEnds);
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.constant('') },
    fc.integer({ min: 0, max: 120 }).map((count) => `/${count}`),
  );
  const item = fc
    .tuple(fc.oneof(fc.constant('*'), number, range), step)
    .map((parts) => parts.join(''));
  return fc.array(item, { minLength: 1, maxLength: 3 }).map((items) => items.join(','));
}

test('what is a cron expression has a next time in node-cron', () => {
  const monthNames = 'jan feb mar apr may jun jul aug sep oct nov DEC'.split(' ');
  const dayNames = 'sun mon tue wed thu fri Sat'.split(' ');
  const five = fc.tuple(
    cronField(0, 59),
    cronField(0, 23),
    cronField(1, 31),
    cronField(1, 12, monthNames),
    cronField(0, 7, dayNames),
  );
  const expression = fc
    .tuple(fc.option(cronField(0, 59), { nil: undefined }), five, fc.constantFrom(' ', '  '))
    .map(([second, fields, space]) =>
      [...(second === undefined ? [] : [second]), ...fields].join(space),
    );
  let right = 0;
  fc.assert(
    fc.property(expression, (text) => {
      if (!isCronExpression(text)) return;
      right += 1;
      const task = createTask(text, () => {});
      const [next] = task.getNextRuns(1);
      void task.destroy();
      assert.ok(next && next.getTime() > Date.now());
    }),
    { numRuns: 2000 },
  );
  assert.ok(right > 100, `only ${right} were right`);
});

test('days that no month has are refused as node-cron refuses them', () => {
  const field = (from: number, to: number) => {
    const number = fc.integer({ min: from, max: to });
    const range = fc.tuple(number, number, fc.integer({ min: 1, max: 12 }));
    const item = fc.oneof(
      number.map(String),
      range.map(([a, b, step]) => `${Math.min(a, b)}-${Math.max(a, b)}/${step}`),
    );
    return fc.array(item, { minLength: 1, maxLength: 2 }).map((items) => items.join(','));
  };
  fc.assert(
    fc.property(field(28, 31), field(1, 12), (days, inMonths) => {
      const text = `0 0 ${days} ${inMonths} *`;
      assert.equal(isCronExpression(text), validate(text), text);
    }),
    { numRuns: 1000 },
  );
});
