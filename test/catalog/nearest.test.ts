import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createNearest, type Place } from '../../src/catalog/nearest.js';
import { createNetworkSet, parseNetwork } from '../../src/catalog/networks.js';
import { createDice } from '../support/dice.js';

const place = (name: string, { weight = 1, networks = [] as string[] } = {}): Place => ({
  ...{ name, weight, networks },
});
const always = () => true;

/** All places in the order in which `client` prefers them. */
function orderOf(places: readonly Place[], client: string): string[] {
  const asked: string[] = [];
  const refused = ({ name }: Place) => asked.push(name) < 0;
  assert.equal(createNearest(places).choose(client, refused), undefined);
  return asked;
}

/** Addresses of all kinds, the same for the same seed. */
function clients(count: number, seed = 1): string[] {
  const { roll } = createDice(seed);
  return Array.from({ length: count }, (_, index) =>
    index % 2 === 0
      ? [10, roll(256), roll(256), roll(256)].join('.')
      : `2001:db8:${roll(65_536).toString(16)}::${roll(65_536).toString(16)}`,
  );
}

/** How many of `clients` each place gets. */
function sharesOf(places: readonly Place[], asking: readonly string[], fits = always) {
  const nearest = createNearest(places);
  const shares = new Map(places.map(({ name }) => [name, 0]));
  for (const client of asking) {
    const { name } = nearest.choose(client, fits) ?? assert.fail('none');
    shares.set(name, (shares.get(name) ?? 0) + 1);
  }
  return shares;
}

/** Five standard deviations of a count: with fixed seeds, what lies outside is no accident. */
function assertShare(found: number | undefined, { of, p }: { of: number; p: number }): void {
  const [expected, deviation] = [of * p, Math.sqrt(of * p * (1 - p))];
  const off = Math.abs((found ?? 0) - expected) / deviation;
  assert.ok(off < 5, `${found} in place of ${expected}: ${off.toFixed(1)} standard deviations`);
}

test('the smallest network that has the client comes first, then larger ones, then all places', () => {
  const places = [
    place('anywhere'),
    place('ten', { networks: ['10.0.0.0/8'] }),
    place('ten-one', { networks: ['192.0.2.0/24', '10.1.0.0/16'] }),
    place('house', { networks: ['10.1.2.0/24', '2001:db8::/32'] }),
    place('six', { networks: ['2001:db8:1::/48'] }),
  ];
  const starts: [client: string, expected: string[]][] = [
    ['10.1.2.3', ['house', 'ten-one', 'ten']],
    ['::ffff:10.1.2.3', ['house', 'ten-one', 'ten']],
    ['10.1.3.3', ['ten-one', 'ten']],
    ['10.2.2.3', ['ten']],
    ['192.0.2.9', ['ten-one']],
    ['2001:db8:1::5', ['six', 'house']],
    ['2001:db8:2::5', ['house']],
    ['198.51.100.1', []],
    ['', []],
  ];
  for (const [client, expected] of starts) {
    const order = orderOf(places, client);
    assert.deepEqual(order.slice(0, expected.length), expected, client);
    assert.deepEqual([...order].sort(), places.map(({ name }) => name).sort(), client);
  }
});

test('clients from elsewhere are spread over the places that have networks too', () => {
  const places = [place('a'), place('b', { networks: ['192.0.2.0/24'] })];
  const shares = sharesOf(places, clients(10_000));
  for (const name of ['a', 'b']) assertShare(shares.get(name), { of: 10_000, p: 0.5 });
});

test('shares are as the weights', () => {
  const weights = [1, 1, 2, 5, 10, 1000];
  const total = weights.reduce((sum, weight) => sum + weight);
  const places = weights.map((weight, index) => place(`m${index}`, { weight }));
  const shares = sharesOf(places, clients(200_000));
  for (const { name, weight } of places) {
    assertShare(shares.get(name), { of: 200_000, p: weight / total });
  }
});

test('shares of two hundred equal places are equal, for neighbours too', () => {
  const places = Array.from({ length: 200 }, (_, index) => place(`mirror${index}`));
  const neighbours = Array.from({ length: 65_536 }, (_, n) => `10.0.${n >> 8}.${n & 255}`);
  for (const asking of [clients(100_000), neighbours]) {
    const shares = sharesOf(places, asking);
    // Chi-squared with 199 degrees of freedom has mean 199 and standard deviation 20.
    const expected = asking.length / places.length;
    const squares = [...shares.values()].map((share) => (share - expected) ** 2 / expected);
    const chi = squares.reduce((sum, each) => sum + each);
    assert.ok(chi > 199 - 100 && chi < 199 + 100, `chi-squared ${chi}`);
  }
});

test('the weights count within a network', () => {
  const networks = ['10.0.0.0/8'];
  const places = [
    place('a', { weight: 3, networks }),
    place('b', { networks }),
    place('c', { weight: 100 }),
  ];
  const inside = clients(20_000).filter((client) => client.startsWith('10.'));
  const shares = sharesOf(places, inside);
  assert.equal(shares.get('c'), 0);
  assertShare(shares.get('a'), { of: inside.length, p: 0.75 });
});

test('a place of weight 0 gets nobody, not even those of its network', () => {
  const places = [place('none', { weight: 0, networks: ['10.0.0.0/8'] }), place('some')];
  for (const client of ['10.1.1.1', '192.0.2.1', '']) {
    assert.deepEqual(orderOf(places, client), ['some']);
  }
  assert.deepEqual(orderOf(places.slice(0, 1), '10.1.1.1'), []);
  assert.equal(createNearest([]).choose('10.1.1.1', always), undefined);
});

test('where a place fails, its clients spread over the others by weight', () => {
  const places = [1, 2, 3, 4].map((weight) => place(`m${weight}`, { weight }));
  const nearest = createNearest(places);
  const moved = clients(40_000).filter((client) => nearest.choose(client, always)?.name === 'm4');
  const shares = new Map<string, number>();
  for (const client of moved) {
    const name = nearest.choose(client, (each) => each.name !== 'm4')?.name ?? '';
    shares.set(name, (shares.get(name) ?? 0) + 1);
  }
  for (const weight of [1, 2, 3]) {
    assertShare(shares.get(`m${weight}`), { of: moved.length, p: weight / 6 });
  }
});

test('no more places are asked than it takes, the one that is taken last', () => {
  const places = Array.from({ length: 200 }, (_, index) =>
    place(`m${index}`, { networks: index < 3 ? ['10.0.0.0/8', '10.1.0.0/16'] : [] }),
  );
  const nearest = createNearest(places);
  for (const wanted of [1, 2, 3, 4, 150]) {
    const asked: string[] = [];
    const chosen = nearest.choose('10.1.2.3', ({ name }) => asked.push(name) === wanted);
    assert.equal(asked.length, wanted);
    assert.equal(new Set(asked).size, wanted);
    assert.equal(chosen?.name, asked.at(-1));
  }
});

test('one address is one client, however it is written, and all that are none are one', () => {
  const places = Array.from({ length: 50 }, (_, index) => place(`m${index}`));
  const order = (client: string) => orderOf(places, client);
  assert.deepEqual(order('2001:DB8:0::1'), order('2001:db8::1'));
  assert.deepEqual(order('::ffff:192.0.2.1'), order('192.0.2.1'));
  assert.deepEqual(order('nonsense'), order(''));
  assert.notDeepEqual(order('192.0.2.1'), order(''));
  // The same bits in another version.
  assert.notDeepEqual(order('192.0.2.1'), order('::c000:201'));
});

const name = fc.stringMatching(/^[a-z0-9-]{1,8}$/);
const networks = fc.subarray(['10.0.0.0/8', '10.0.0.0/9', '10.128.0.0/9', '0.0.0.0/0', '::/0']);
const placesOf = (constraints: { minLength: number }) =>
  fc.uniqueArray(fc.record({ name, weight: fc.nat(4), networks }), {
    selector: (each) => each.name,
    maxLength: 10,
    ...constraints,
  });
const client = fc.oneof(
  fc.ipV4(),
  fc.ipV6(),
  fc.ipV4().map((a) => a.replace(/^\d+/, '10')),
);

test('the order of the others is the same without one place, and in whatever order they come', () => {
  const property = fc.property(
    placesOf({ minLength: 1 }).chain((places) =>
      fc.tuple(
        fc.constant(places),
        fc.shuffledSubarray(places, { minLength: places.length }),
        fc.constantFrom(...places),
      ),
    ),
    client,
    ([places, shuffled, gone], from) => {
      const order = orderOf(places, from);
      assert.deepEqual(orderOf(shuffled, from), order);
      const left = places.filter((each) => each !== gone);
      assert.deepEqual(
        orderOf(left, from),
        order.filter((each) => each !== gone.name),
      );
    },
  );
  fc.assert(property, { numRuns: 2000 });
});

test('every place with a weight is asked once, smaller networks of the client before larger ones', () => {
  const property = fc.property(placesOf({ minLength: 0 }), client, (places, from) => {
    const order = orderOf(places, from);
    const expected = places.filter(({ weight }) => weight > 0).map((each) => each.name);
    assert.deepEqual([...order].sort(), expected.sort());
    const smallest = order.map((wanted) => {
      const found = places.find((each) => each.name === wanted);
      const fitting = found?.networks.filter((text) => createNetworkSet([text]).has(from)) ?? [];
      return Math.max(-1, ...fitting.map((text) => parseNetwork(text)?.prefix ?? -1));
    });
    assert.deepEqual(
      smallest,
      [...smallest].sort((a, b) => b - a),
    );
  });
  fc.assert(property, { numRuns: 2000 });
});
