import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { reachableAt } from '../../src/trust/addresses.js';

const names = ['images.example.org', 'images', 'localhost', 'localhost.localdomain'];
const hosts = ['192.0.2.7', '2001:db8::7', '127.0.0.1', '127.0.1.1', '::1'];
const all = (port: number) => [
  `images.example.org:${port}`,
  `192.0.2.7:${port}`,
  `[2001:db8::7]:${port}`,
];

describe('clients reach a server', () => {
  for (const [listen, expected] of [
    [':8443', all(8443)],
    ['[::]:9443', all(9443)],
    ['0.0.0.0:8443', ['images.example.org:8443', '192.0.2.7:8443']],
    [':0', all(8443)],
    ['192.0.2.7:8443', ['192.0.2.7:8443']],
    ['[2001:db8::7]:8443', ['[2001:db8::7]:8443']],
    ['hub.example.net:8443', ['hub.example.net:8443']],
    ['127.0.0.1:8443', all(443)],
    ['127.8.9.1:8443', all(443)],
    ['[::1]:8443', all(443)],
    ['localhost:8443', all(443)],
    ['', all(443)],
  ] as const) {
    test(`that listens on "${listen}" at ${expected.join(', ')}`, () => {
      assert.deepEqual(reachableAt({ listen, given: [], names, hosts }), expected);
    });
  }

  test('by its bare name, last, where it has no other', () => {
    assert.deepEqual(
      reachableAt({ listen: ':8443', given: [], names: ['images', 'localhost'], hosts }),
      ['192.0.2.7:8443', '[2001:db8::7]:8443', 'images:8443'],
    );
  });

  test('nowhere, where it knows no name and no address of its own', () => {
    const options = { listen: '', given: [], names: ['localhost'], hosts: ['127.0.0.1', '::1'] };
    assert.deepEqual(reachableAt(options), []);
  });
});

test('addresses that are given take the place of all, each once, with a port where they have none', () => {
  const given = ['hub.example.net', '203.0.113.9:444', '2001:db8::9', 'hub.example.net:443'];
  assert.deepEqual(reachableAt({ listen: '127.0.0.1:8443', given, names, hosts }), [
    'hub.example.net:443',
    '203.0.113.9:444',
    '[2001:db8::9]:443',
  ]);
  assert.deepEqual(reachableAt({ listen: ':8443', given: ['hub'], names, hosts }), ['hub:8443']);
});
