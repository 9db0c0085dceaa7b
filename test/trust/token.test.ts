import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { formatToken, parseToken } from '../../src/trust/token.js';

const content = {
  client_name: 'alice',
  fingerprint: 'ab'.repeat(32),
  addresses: ['images.example.org:8443', '[2001:db8::1]:8443'],
  secret: 'cd'.repeat(32),
  expires_at: '2026-03-02T12:00:00.000Z',
};
const received = {
  secret: content.secret,
  fingerprint: content.fingerprint,
  expires: Date.parse(content.expires_at),
};
const base64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64');

test('a token is base64 of the JSON that clients read, without a type', () => {
  const more = { ...content, type: 'Client' };
  assert.equal(formatToken(more), base64(content));
});

describe('a token that comes in', () => {
  test('is read with white space in it, as terminals break long lines', () => {
    const lines = formatToken(content).replace(/(.{60})/g, '$1\n');
    assert.deepEqual(parseToken(` ${lines} `), received);
  });

  test('is read without an end, or with one that is none', () => {
    const { expires_at: _end, ...rest } = content;
    const endless = { ...received, expires: undefined };
    assert.deepEqual(parseToken(base64(rest)), endless);
    for (const expires_at of ['tomorrow', '0001-01-01T00:00:00Z']) {
      assert.deepEqual(parseToken(base64({ ...rest, expires_at })), endless);
    }
  });

  for (const [what, text] of [
    ['nothing', ''],
    ['a bare secret', content.secret],
    ['JSON that is not base64', JSON.stringify(content)],
    ['base64 of a number', base64(7)],
    ['base64 of null', base64(null)],
    ['base64 of a list', base64([content])],
    ['a token without a secret', base64({ ...content, secret: undefined })],
    ['a token with an empty secret', base64({ ...content, secret: '' })],
    ['a token with a number for a secret', base64({ ...content, secret: 7 })],
    ['a token without a fingerprint', base64({ ...content, fingerprint: undefined })],
    ['a token whose fingerprint has line breaks', base64({ ...content, fingerprint: 'a\nb' })],
    ['a token that is cut off', formatToken(content).slice(0, -40)],
    ['a token of 20 KB', base64({ ...content, more: 'x'.repeat(20_000) })],
  ] as const) {
    test(`is none where it is ${what}`, () => {
      assert.equal(parseToken(text), undefined);
    });
  }

  test('is as it was made', () => {
    const text = fc.string({ minLength: 1, unit: 'binary' });
    const digest = fc.stringMatching(/^[0-9a-f]{64}$/);
    const time = fc.date({ noInvalidDate: true, min: new Date(1), max: new Date(8e14) });
    const addresses = fc.array(text);
    fc.assert(
      fc.property(text, digest, digest, addresses, time, (name, secret, fingerprint, list, end) => {
        const made = formatToken({
          ...{ client_name: name, secret, fingerprint, addresses: list },
          expires_at: end.toISOString(),
        });
        assert.deepEqual(parseToken(made), { secret, fingerprint, expires: end.getTime() });
      }),
    );
  });

  test('never fails, whatever it is', () => {
    const field = fc.oneof(fc.jsonValue(), fc.constant(content.secret));
    const json = fc.oneof(
      fc.jsonValue(),
      fc.record({ secret: field, fingerprint: field, expires_at: field }, { requiredKeys: [] }),
    );
    const anything = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.base64String(),
      json.map(base64),
      fc.uint8Array().map((bytes) => Buffer.from(bytes).toString('base64')),
    );
    let some = 0;
    fc.assert(
      fc.property(anything, (text) => {
        const token = parseToken(text);
        if (token === undefined) return;
        some++;
        assert.equal(typeof token.secret, 'string');
        assert.notEqual(token.secret, '');
        assert.match(token.fingerprint, /^[0-9a-f]{64}$/);
        assert.ok(token.expires === undefined || Number.isFinite(token.expires));
      }),
      { numRuns: 2000 },
    );
    assert.ok(some > 0, 'none of them was a token');
  });
});
