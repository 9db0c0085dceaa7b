import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import * as v from 'valibot';
import { tables } from '../../src/config/schema.js';
import { type ListenAddress, parseListen } from '../../src/server/listen.js';

const addresses: [text: string, expected: ListenAddress][] = [
  ['127.0.0.1:8443', { host: '127.0.0.1', port: 8443 }],
  ['[::1]:8443', { host: '::1', port: 8443 }],
  [':8443', { host: undefined, port: 8443 }],
  ['[::]:8443', { host: '::', port: 8443 }],
  ['images.example:0', { host: 'images.example', port: 0 }],
  ['my_host:8443', { host: 'my_host', port: 8443 }],
];

for (const [text, expected] of addresses) {
  test(`the address "${text}" is read`, () => assert.deepEqual(parseListen(text), expected));
}

const others = [
  '',
  ':',
  '8443',
  '::1:8443',
  '[::1]',
  '[x]:1',
  'host:',
  'host:65536',
  'a b:1',
  'a..b:1',
  '[1.2.3.4]:1',
];

for (const text of others) {
  test(`the address "${text}" is refused as a configuration error`, () => {
    assert.throws(() => parseListen(text), {
      name: 'ServerError',
      code: 'CONFIG',
      message: `Cannot listen on ${JSON.stringify(text)}: not an address`,
      hint: 'write it as "127.0.0.1:8443", "[::1]:8443", or ":8443" for all addresses',
    });
  });
}

test('the server reads the addresses that the configuration accepts, and no others', () => {
  const host = fc.oneof(
    fc.constantFrom(
      '',
      'my_host',
      'a.',
      '-a',
      'a-',
      'a..b',
      '::1',
      '[x]',
      '[fe80::1%eth0]',
      '[::]',
    ),
    fc.domain(),
    fc.ipV4(),
    fc.ipV6().map((address) => `[${address}]`),
    fc.string({ maxLength: 8 }),
  );
  const port = fc.oneof(fc.nat({ max: 70_000 }).map(String), fc.string({ maxLength: 3 }));
  const text = fc.oneof(
    fc.tuple(host, port).map((parts) => parts.join(':')),
    ...[...addresses.map(([address]) => address), ...others].map((each) => fc.constant(each)),
  );
  fc.assert(
    fc.property(text, (listen) => {
      // Without an address there is no server, and nothing to read.
      const accepted = listen !== '' && v.safeParse(tables.server, { listen }).success;
      if (accepted) parseListen(listen);
      else assert.throws(() => parseListen(listen), { code: 'CONFIG' });
    }),
    { numRuns: 2000 },
  );
});
