import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { acceptsGzip, isNotModified, requestedRange } from '../../src/server/conditions.js';

const encodings: [header: string | undefined, gzip: boolean][] = [
  [undefined, false],
  ['', false],
  ['gzip', true],
  ['GZip', true],
  ['x-gzip', true],
  ['deflate, gzip;q=0.5', true],
  ['gzip;q=0', false],
  ['gzip; q=0.000', false],
  ['gzip ; q = 0.001', true],
  ['*', true],
  ['*;q=0', false],
  ['gzip;q=0, *', false],
  ['gzip, *;q=0', true],
  ['identity', false],
  ['br, deflate', false],
  ['gzip;q=nonsense', false],
  ['gzipped', false],
];

for (const [header, gzip] of encodings) {
  test(`Accept-Encoding ${JSON.stringify(header)} ${gzip ? 'takes' : 'does not take'} gzip`, () => {
    assert.equal(acceptsGzip(header), gzip);
  });
}

const date = 'Sat, 03 Jan 2026 12:00:00 GMT';
const later = 'Sat, 03 Jan 2026 12:00:01 GMT';
const earlier = 'Sat, 03 Jan 2026 11:59:59 GMT';
const validators = { etag: '"abc"', lastModified: date };

const conditions: [headers: Record<string, string>, notModified: boolean][] = [
  [{}, false],
  [{ 'if-none-match': '"abc"' }, true],
  [{ 'if-none-match': 'W/"abc"' }, true],
  [{ 'if-none-match': '"x", "abc"' }, true],
  [{ 'if-none-match': '*' }, true],
  [{ 'if-none-match': 'abc' }, false],
  [{ 'if-none-match': '"abc-gzip"' }, false],
  [{ 'if-none-match': '"x"', 'if-modified-since': later }, false],
  [{ 'if-modified-since': date }, true],
  [{ 'if-modified-since': later }, true],
  [{ 'if-modified-since': earlier }, false],
  [{ 'if-modified-since': 'yesterday' }, false],
];

for (const [headers, notModified] of conditions) {
  test(`${JSON.stringify(headers)} means ${notModified ? 'not modified' : 'send it'}`, () => {
    assert.equal(isNotModified(headers, validators), notModified);
  });
}

const part = (start: number, end: number) => ({ start, end });
const ranges: [range: string, expected: ReturnType<typeof requestedRange>][] = [
  ['bytes=0-0', part(0, 0)],
  ['bytes=0-99', part(0, 99)],
  ['bytes=10-19', part(10, 19)],
  ['bytes=10-', part(10, 99)],
  ['bytes=90-1000', part(90, 99)],
  ['bytes=-10', part(90, 99)],
  ['bytes=-1000', part(0, 99)],
  ['Bytes=1-2', part(1, 2)],
  ['bytes=99999999999999999999-', 'unsatisfiable'],
  ['bytes=100-', 'unsatisfiable'],
  ['bytes=100-200', 'unsatisfiable'],
  ['bytes=-0', 'unsatisfiable'],
  ['bytes=-', undefined],
  ['bytes=', undefined],
  ['bytes=20-10', undefined],
  ['bytes=a-b', undefined],
  ['bytes=1-2x', undefined],
  ['bytes=0x1-2', undefined],
  ['bytes=--1', undefined],
  ['bytes=0-1,5-6', undefined],
  ['lines=0-1', undefined],
  ['0-1', undefined],
];

for (const [range, expected] of ranges) {
  test(`of 100 bytes, Range "${range}" is ${JSON.stringify(expected) ?? 'the whole file'}`, () => {
    assert.deepEqual(requestedRange({ range }, { ...validators, size: 100 }), expected);
  });
}

const ifRanges: [ifRange: string, etag: string, honoured: boolean][] = [
  ['"abc"', '"abc"', true],
  ['"old"', '"abc"', false],
  ['W/"abc"', 'W/"abc"', false],
  [date, '"abc"', true],
  [later, '"abc"', false],
  ['nonsense', '"abc"', false],
];

for (const [ifRange, etag, honoured] of ifRanges) {
  test(`If-Range ${ifRange} for ${etag} gives ${honoured ? 'the range' : 'the whole file'}`, () => {
    const headers = { range: 'bytes=0-0', 'if-range': ifRange };
    const expected = honoured ? part(0, 0) : undefined;
    assert.deepEqual(requestedRange(headers, { ...validators, etag, size: 100 }), expected);
  });
}

test('an empty file has no range', () => {
  assert.equal(requestedRange({ range: 'bytes=0-' }, { ...validators, size: 0 }), 'unsatisfiable');
  assert.equal(requestedRange({ range: 'bytes=-5' }, { ...validators, size: 0 }), 'unsatisfiable');
});

test('a range that is given always lies in the file', () => {
  const number = fc.oneof(fc.nat(200), fc.constantFrom('', 'x', '-1', '1e9'));
  fc.assert(
    fc.property(number, number, fc.nat(150), (first, last, size) => {
      const range = `bytes=${first}-${last}`;
      const found = requestedRange({ range }, { ...validators, size });
      if (found === undefined || found === 'unsatisfiable') return;
      assert.ok(0 <= found.start && found.start <= found.end && found.end < size);
    }),
  );
});
