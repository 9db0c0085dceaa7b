import assert from 'node:assert/strict';
import { BlockList, isIP } from 'node:net';
import { test } from 'node:test';
import fc from 'fast-check';
import {
  createNetworkSet,
  createNetworkTable,
  followNetworks,
  parseAddress,
  parseNetwork,
} from '../../src/catalog/networks.js';
import { isNetwork } from '../../src/units.js';

const understood: [text: string, version: number, bits: bigint][] = [
  ['0.0.0.0', 4, 0n],
  ['192.0.2.1', 4, 0xc0000201n],
  ['255.255.255.255', 4, 0xffffffffn],
  ['::', 6, 0n],
  ['::1', 6, 1n],
  ['1::', 6, 1n << 112n],
  ['2001:DB8::a:1', 6, 0x20010db80000000000000000000a0001n],
  ['1:2:3:4:5:6:7::', 6, 0x00010002000300040005000600070000n],
  ['1:2:3:4:5:6:7:8', 6, 0x00010002000300040005000600070008n],
  ['1:2:3:4:5:6:1.2.3.4', 6, 0x00010002000300040005000601020304n],
  ['::1.2.3.4', 6, 0x01020304n],
  ['::ffff:192.0.2.1', 4, 0xc0000201n],
  ['::FFFF:c000:201', 4, 0xc0000201n],
  ['0:0:0:0:0:ffff:192.0.2.1', 4, 0xc0000201n],
];

for (const [text, version, bits] of understood) {
  test(`the address ${text} is understood`, () => {
    assert.deepEqual(parseAddress(text), { version, bits });
  });
}

const refused = [
  ...[
    '',
    ' ',
    '1',
    '1.2.3',
    '1.2.3.4.5',
    '1.2.3.256',
    '01.2.3.4',
    '1.2.3.04',
    '1.2.3.',
    '-1.2.3.4',
  ],
  ...[
    '1.2.3.4 ',
    '1.2.3.4\n',
    '1.2.3.4:80',
    '[::1]',
    '0x7f.0.0.1',
    '１.2.3.4',
    '1e1.2.3.4',
    '1..3.4',
  ],
  ...[':', ':::', '1:', ':1', '::1:', ':1::', '1::2::3', '1:2:3:4:5:6:7', '1:2:3:4:5:6:7:8:9'],
  ...['1:2:3:4:5:6:7::8', '::12345', '::g', '::-1', '::1.2.3', '::01.2.3.4', '1.2.3.4::'],
  ...[
    '::1.2.3.4:5',
    '1::2:3:4:5:6:1.2.3.4',
    'fe80::1%eth0',
    '::1%',
    'unknown',
    '_hidden',
    'localhost',
  ],
];

for (const text of refused) {
  test(`the address ${JSON.stringify(text)} is refused`, () => {
    assert.equal(parseAddress(text), undefined);
    assert.equal(parseNetwork(`${text}/8`), undefined);
    assert.equal(createNetworkSet(['0.0.0.0/0', '::/0']).has(text), false);
  });
}

for (const text of [
  '10.0.0.0',
  '10.0.0.0/',
  '10.0.0.0/33',
  '::/129',
  '/8',
  '10.0.0.0/-1',
  '::/8/8',
]) {
  test(`the network ${text} is refused`, () => {
    assert.equal(parseNetwork(text), undefined);
    assert.throws(() => createNetworkSet([text]), new Error(`No network: ${text}`));
  });
}

const ipv4 = fc.ipV4();
const mapped = ipv4.map((address) => `::ffff:${address}`);
const ipv6 = fc.ipV6();
const address = fc.oneof(ipv4, ipv6, mapped);
const nearly = fc.string({
  unit: fc.constantFrom(...'0123456789abcdefF:.%'.split(''), '::', ':0', '1.2.3.4', 'ffff'),
  maxLength: 14,
});

test('what is an address is what Node takes for one, zones aside', () => {
  fc.assert(
    fc.property(fc.oneof(address, nearly), (text) => {
      const expected = isIP(text) !== 0 && !text.includes('%');
      assert.equal(parseAddress(text) !== undefined, expected, text);
    }),
    { numRuns: 5000 },
  );
});

const network = fc.oneof(
  fc.tuple(ipv4, fc.nat(32)).map(([text, prefix]) => `${text}/${prefix}`),
  fc.tuple(fc.oneof(ipv6, mapped), fc.nat(128)).map(([text, prefix]) => `${text}/${prefix}`),
);

test('what is a network is what the configuration takes for one', () => {
  const text = fc.oneof(
    network,
    fc.tuple(nearly, fc.nat(130)).map((parts) => parts.join('/')),
  );
  fc.assert(
    fc.property(text, (given) => {
      assert.equal(parseNetwork(given) !== undefined, isNetwork(given), given);
    }),
    { numRuns: 5000 },
  );
});

/** An address of `network` whose bits from `prefix` on are turned over, so that near misses are tried too. */
function neighbour({ of, flip }: { of: string; flip: number }): string {
  const { version, bits } = parseNetwork(of) ?? assert.fail(of);
  const width = version === 4 ? 32 : 128;
  const changed = flip < width ? bits ^ (1n << BigInt(width - 1 - flip)) : bits;
  return version === 4 ? dotted(changed) : colons(changed);
}

const dotted = (bits: bigint) => [24n, 16n, 8n, 0n].map((by) => (bits >> by) & 255n).join('.');
const colons = (bits: bigint) =>
  (bits.toString(16).padStart(32, '0').match(/.{4}/g) ?? []).join(':');

/** Node has IPv4 addresses in IPv6 networks that are larger than all of them; we do not. */
const hasMapped = (text: string) => {
  const { version, bits, prefix } = parseNetwork(text) ?? assert.fail(text);
  const behind = BigInt(128 - prefix);
  return version === 6 && prefix < 96 && bits >> behind === 0xffff00000000n >> behind;
};

const networksAndAddress = fc.array(network, { minLength: 1, maxLength: 8 }).chain((networks) =>
  fc.record({
    networks: fc.constant(networks),
    asked: fc.oneof(
      address,
      fc.record({ of: fc.constantFrom(...networks), flip: fc.nat(128) }).map(neighbour),
    ),
  }),
);

test("a set of networks has the addresses that Node's block list has", () => {
  fc.assert(
    fc.property(networksAndAddress, ({ networks, asked }) => {
      fc.pre(!networks.some(hasMapped));
      const list = new BlockList();
      for (const text of networks) {
        const [base = '', prefix = ''] = text.split('/');
        list.addSubnet(base, Number(prefix), isIP(base) === 4 ? 'ipv4' : 'ipv6');
      }
      const expected = list.check(asked, isIP(asked) === 4 ? 'ipv4' : 'ipv6');
      assert.equal(createNetworkSet(networks).has(asked), expected);
    }),
    { numRuns: 5000 },
  );
});

test('all networks of an address are found, the smallest first', () => {
  fc.assert(
    fc.property(networksAndAddress, ({ networks, asked }) => {
      const found = parseAddress(asked) ?? assert.fail(asked);
      const fitting = networks
        .map((text, index) => ({ ...(parseNetwork(text) ?? assert.fail(text)), index }))
        .filter(
          ({ version, bits, prefix }) =>
            version === found.version &&
            binary(version, bits).slice(0, prefix) === binary(version, found.bits).slice(0, prefix),
        );
      const prefixes = [...new Set(fitting.map(({ prefix }) => prefix))].sort((a, b) => b - a);
      const expected = prefixes.map((wanted) =>
        fitting.filter(({ prefix }) => prefix === wanted).map(({ index }) => index),
      );
      const table = createNetworkTable(networks.map((text, index) => [text, index] as const));
      assert.deepEqual(table.of(found), expected);
    }),
    { numRuns: 2000 },
  );
});

const binary = (version: 4 | 6, bits: bigint) =>
  bits.toString(2).padStart(version === 4 ? 32 : 128, '0');

test('networks of IPv4 may be written as such of IPv6', () => {
  const set = createNetworkSet(['::ffff:10.0.0.0/104']);
  assert.deepEqual([set.has('10.1.2.3'), set.has('::ffff:a01:203')], [true, true]);
  assert.deepEqual([set.has('11.0.0.0'), set.has('::10.1.2.3')], [false, false]);
});

test('all of IPv6 is not all of IPv4', () => {
  const [six, four] = [createNetworkSet(['::/0']), createNetworkSet(['0.0.0.0/0'])];
  assert.deepEqual([six.has('2001:db8::1'), six.has('192.0.2.1')], [true, false]);
  assert.deepEqual([four.has('2001:db8::1'), four.has('::ffff:192.0.2.1')], [false, true]);
});

test('a set follows its networks', () => {
  let networks = ['10.0.0.0/8'];
  const set = followNetworks(() => networks);
  assert.equal(set.has('10.1.2.3'), true);
  networks = ['192.0.2.0/24'];
  assert.deepEqual([set.has('10.1.2.3'), set.has('192.0.2.1')], [false, true]);
});

test('no networks have no address', () => {
  assert.equal(createNetworkSet([]).has('192.0.2.1'), false);
});
