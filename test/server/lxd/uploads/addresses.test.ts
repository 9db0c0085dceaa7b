/** Where a pull may go. */
import assert from 'node:assert/strict';
import { networkInterfaces } from 'node:os';
import { describe, test } from 'node:test';
import { isHere, mayConnect } from '../../../../src/server/lxd/uploads/addresses.js';

const open = ['10.1.2.3', '172.16.0.1', '192.168.1.1', '203.0.113.7', '2001:db8::1', 'fd00::1'];
const loopback = ['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1', '::ffff:7f00:1'];
const never = [
  ...['0.0.0.0', '0.1.2.3', '169.254.169.254', '224.0.0.1', '255.255.255.255', '::'],
  ...['fe80::1', 'fe80::1%eth0', 'febf::1', 'ff02::1', '::ffff:169.254.169.254', '::ffff:0.0.0.0'],
  ...['', 'localhost', '127.0.0.1:80'],
];

describe('a pull may connect to', () => {
  for (const address of open) {
    test(`${address}, for anybody`, () => {
      assert.equal(mayConnect(address, { here: false }), true);
      assert.equal(mayConnect(address, { here: true }), true);
    });
  }
  for (const address of loopback) {
    test(`${address}, for clients on this host`, () => {
      assert.equal(mayConnect(address, { here: false }), false);
      assert.equal(mayConnect(address, { here: true }), true);
    });
  }
  for (const address of never) {
    test(`not to ${JSON.stringify(address)}`, () => {
      assert.equal(mayConnect(address, { here: false }), false);
      assert.equal(mayConnect(address, { here: true }), false);
    });
  }
});

test('an address is here where it is of loopback or of an interface', () => {
  const own = Object.values(networkInterfaces()).flatMap((all) => all ?? []);
  for (const address of [...loopback, ...own.map(({ address }) => address)]) {
    assert.equal(isHere(address), true, address);
    if (address.includes('.') && !address.includes(':')) assert.ok(isHere(`::ffff:${address}`));
  }
  for (const address of ['192.0.2.1', '::ffff:192.0.2.1', '2001:db8::1', '', 'localhost']) {
    assert.equal(isHere(address), false, address);
  }
});
