import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { createAttempts, networkOf } from '../../src/trust/attempts.js';

const minute = 60_000;

describe('wrong tokens', () => {
  test('are looked at ten times in ten minutes from one address', () => {
    const attempts = createAttempts();
    for (let count = 0; count < 10; count++) {
      assert.equal(attempts.wait('192.0.2.1', count * 1000), 0);
      attempts.failed('192.0.2.1', count * 1000);
    }
    assert.equal(attempts.wait('192.0.2.1', minute), 9 * minute);
    assert.equal(attempts.wait('192.0.2.2', minute), 0);
    assert.equal(attempts.wait('192.0.2.1', 10 * minute - 1), 1);
    assert.equal(attempts.wait('192.0.2.1', 10 * minute), 0);
  });

  test('count again from nothing once their time is over', () => {
    const attempts = createAttempts({ limit: 2 });
    for (const now of [0, 9 * minute, 10 * minute]) attempts.failed('192.0.2.1', now);
    assert.equal(attempts.wait('192.0.2.1', 10 * minute), 0);
    attempts.failed('192.0.2.1', 11 * minute);
    assert.equal(attempts.wait('192.0.2.1', 11 * minute), 9 * minute);
  });

  test('shut nobody out for longer where the clock is set back', () => {
    const attempts = createAttempts({ limit: 1 });
    attempts.failed('192.0.2.1', 1000 * minute);
    assert.equal(attempts.wait('192.0.2.1', 5 * minute), 0);
  });

  test('take a bounded amount of memory, and the newest addresses count', () => {
    const attempts = createAttempts({ limit: 1, mostAddresses: 100 });
    const address = (number: number) => `10.0.${number >> 8}.${number & 255}`;
    for (let number = 0; number < 1000; number++) attempts.failed(address(number), number);
    assert.equal(attempts.size(), 100);
    assert.equal(attempts.wait(address(899), 1000), 0);
    for (let number = 900; number < 1000; number++) {
      assert.notEqual(attempts.wait(address(number), 1000), 0, address(number));
    }
  });
});

describe('one address', () => {
  for (const [address, network] of [
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::ffff:c000:201', '192.0.2.1'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:DB8:1:2::', '2001:db8:1:2::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'],
    ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['64:ff9b::192.0.2.1', '64:ff9b:0:0::/64'],
    ['::1', '0:0:0:0::/64'],
    ['::', '0:0:0:0::/64'],
    ['unix:', 'unix:'],
  ] as const) {
    test(`is ${network} for ${address}`, () => assert.equal(networkOf(address), network));
  }

  test('is the first half of an IPv6 address, however that is written', () => {
    const group = fc.integer({ min: 0, max: 0xffff });
    const groups = fc.array(group, { minLength: 8, maxLength: 8 });
    fc.assert(
      fc.property(groups, group, (all, other) => {
        // Not one that stands for an IPv4 address.
        fc.pre(all[5] !== 0xffff);
        const write = (each: number[]) => each.map((one) => one.toString(16)).join(':');
        const expected = `${write(all.slice(0, 4))}::/64`;
        assert.equal(networkOf(write(all)), expected);
        assert.equal(networkOf(write([...all.slice(0, 7), other])), expected);
        assert.equal(networkOf(new URL(`http://[${write(all)}]`).hostname.slice(1, -1)), expected);
      }),
    );
  });

  test('is bounded in length, and never fails', () => {
    const address = fc.oneof(fc.string({ maxLength: 200 }), fc.ipV6(), fc.ipV4());
    fc.assert(
      fc.property(address, (text) => {
        assert.ok(networkOf(text).length <= 64);
      }),
    );
  });
});
