import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { createNetworkSet } from '../../src/catalog/networks.js';
import { plainAddress } from '../../src/server/connections.js';
import { createForwarded, type Forwardable } from '../../src/server/forwarded.js';
import type { HttpService, Visitor } from '../../src/server/service.js';
import { serveTree } from '../support/served-tree.js';
import { rawGet } from '../support/tls.js';

const proxy = '192.0.2.10';
const trusted = ['192.0.2.0/28', '10.0.0.0/8', '2001:db8:1::/48'];

const from = (remoteAddress: string | undefined, headers: Forwardable['headers'] = {}) => ({
  ...{ headers, socket: { remoteAddress } },
});

/** Where a request with these headers came from, sent by a trusted proxy. */
const behindProxy = (headers: Forwardable['headers']) =>
  createForwarded(() => trusted)(from(proxy, headers));

const believed: [name: string, header: string, address: string][] = [
  ['one address', '198.51.100.7', '198.51.100.7'],
  ['white space', ' \t198.51.100.7 ', '198.51.100.7'],
  ['an IPv6 address', '2001:db8::7', '2001:db8::7'],
  ['IPv4 in IPv6', '::ffff:198.51.100.7', '198.51.100.7'],
  ['what the client says itself', '127.0.0.1, 198.51.100.7', '198.51.100.7'],
  ['more proxies', '127.0.0.1, 198.51.100.7, 10.0.0.1, 2001:db8:1::9', '198.51.100.7'],
  ['proxies alone', '10.0.0.3, 10.0.0.2', '10.0.0.3'],
  ['nonsense before the client', 'unknown, <script>, 198.51.100.7', '198.51.100.7'],
];

describe('a trusted proxy is believed', () => {
  for (const [name, header, address] of believed) {
    test(`with ${name}: ${header}`, () => {
      assert.deepEqual(behindProxy({ 'x-forwarded-for': header }), { address });
    });
  }
});

const malformed = [
  ...[
    '',
    ' ',
    ',',
    'unknown',
    '198.51.100.7,',
    '198.51.100.7, unknown',
    '198.51.100.7, unknown, 10.0.0.1',
  ],
  ...[
    '198.51.100.7:1234',
    '[2001:db8::7]',
    'fe80::1%eth0',
    '198.51.100.07',
    '198.51.100.7 198.51.100.8',
  ],
  ...[
    '198.51.100.7;10.0.0.1',
    '"198.51.100.7"',
    'for=198.51.100.7',
    '198.51.100.7\0',
    '1'.repeat(10_000),
  ],
];

for (const header of malformed) {
  test(`the address stays the proxy's where it says ${JSON.stringify(header.slice(0, 40))}`, () => {
    const expected = { address: proxy, forwarded: true };
    assert.deepEqual(behindProxy({ 'x-forwarded-for': header }), expected);
  });
}

test('a trusted proxy is believed for X-Forwarded-For alone', () => {
  const expected = { address: proxy, forwarded: true };
  assert.deepEqual(behindProxy({ 'x-real-ip': '198.51.100.7' }), expected);
  assert.deepEqual(behindProxy({ forwarded: 'for=198.51.100.7' }), expected);
  assert.deepEqual(behindProxy({}), { address: proxy });
});

for (const name of ['x-forwarded-for', 'x-real-ip', 'forwarded']) {
  test(`nobody else is believed for ${name}, but it is told that there was one`, () => {
    for (const peer of ['127.0.0.1', '::1', '203.0.113.1', '']) {
      const originOf = createForwarded(() => trusted);
      for (const text of ['198.51.100.7', '127.0.0.1', 'nonsense', '']) {
        const expected = { address: peer, forwarded: true };
        assert.deepEqual(originOf(from(peer, { [name]: text })), expected);
      }
      assert.deepEqual(originOf(from(peer)), { address: peer });
    }
  });
}

test('a proxy that came over IPv6 with its IPv4 address is the same proxy', () => {
  const request = from(`::ffff:${proxy}`, { 'x-forwarded-for': '198.51.100.7' });
  assert.deepEqual(createForwarded(() => trusted)(request), { address: '198.51.100.7' });
});

test('which proxies are trusted is asked anew for each request', () => {
  let proxies: string[] = [];
  const originOf = createForwarded(() => proxies);
  const request = from(proxy, { 'x-forwarded-for': '198.51.100.7' });
  assert.deepEqual(originOf(request), { address: proxy, forwarded: true });
  proxies = [`${proxy}/32`];
  assert.deepEqual(originOf(request), { address: '198.51.100.7' });
  proxies = [];
  assert.deepEqual(originOf(request), { address: proxy, forwarded: true });
});

test('an address of a link goes without its zone', () => {
  assert.equal(plainAddress('fe80::1%eth0'), 'fe80::1');
  assert.equal(plainAddress('::ffff:192.0.2.1'), '192.0.2.1');
  assert.equal(plainAddress(undefined), '');
});

test('services are told who asks, and where that is not known', async (t) => {
  const visitors: Visitor[] = [];
  const service: HttpService = {
    claims: () => true,
    async answer(visit) {
      visitors.push(visit.visitor);
      visit.response.end();
    },
    refuse: ({ response }) => void response.destroy(),
  };
  let proxies: string[] = [];
  const trustedProxies = () => proxies;
  const { port } = await serveTree(t, {}, { services: [service], trustedProxies });
  const header = { 'X-Forwarded-For': '198.51.100.7' };
  await rawGet(port, '/');
  await rawGet(port, '/', { headers: header });
  proxies = ['127.0.0.1/32'];
  await rawGet(port, '/', { headers: header });
  const peer = '127.0.0.1';
  const expected = [
    { address: peer },
    { address: peer, forwarded: true },
    { address: '198.51.100.7' },
  ];
  assert.deepEqual(visitors, expected);
});

const part = fc.oneof(
  fc.ipV4(),
  fc.ipV6(),
  fc.constantFrom('10.0.0.1', '10.9.9.9', '192.0.2.3', '', 'unknown', '198.51.100.7'),
  fc.string(),
);

test('nothing that a client sends changes what the proxy behind it says', () => {
  const property = fc.property(
    fc.oneof(fc.ipV4(), fc.ipV6()).filter((address) => !createNetworkSet(trusted).has(address)),
    fc.array(part),
    (client, said) => {
      const header = [...said, client, '10.1.2.3'].join(', ');
      const expected = { address: plainAddress(client) };
      assert.deepEqual(behindProxy({ 'x-forwarded-for': header }), expected);
    },
  );
  fc.assert(property, { numRuns: 2000 });
});
