/**
 * Where a pull may take this server. A client that may upload may have it connect to other machines, and to say
 * "https", "GET" and a few fixed paths there; it must not reach through it what only this host can: its loopback
 * addresses, and link-local ones, where clouds keep their secrets. Addresses of private networks are open, for
 * that is where LXD servers are. Nothing that is found there is told, but for the error text of an LXD server.
 */
import { BlockList, isIP } from 'node:net';
import { networkInterfaces } from 'node:os';

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** Beside loopback: unspecified, link-local, multicast and reserved. */
const special = new BlockList();
for (const [network, prefix] of [
  ['0.0.0.0', 8],
  ['169.254.0.0', 16],
  ['224.0.0.0', 3],
] as const) {
  special.addSubnet(network, prefix, 'ipv4');
}
for (const [network, prefix] of [
  ['::', 128],
  ['fe80::', 10],
  ['ff00::', 8],
] as const) {
  special.addSubnet(network, prefix, 'ipv6');
}

/**
 * Whether a pull may connect to `address`, an IP address.
 *
 * @param here whether who asks is on this host, and may reach its loopback addresses anyway
 */
export function mayConnect(address: string, { here }: { here: boolean }): boolean {
  const [plain = ''] = address.split('%');
  if (isIP(plain) === 0 || isIn(special, plain)) return false;
  return here || !isIn(loopback, plain);
}

/** Whether an address is one of this host's. */
export function isHere(address: string): boolean {
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');
  if (isIP(plain) === 0) return false;
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return isIn(loopback, plain) || own.some(({ address: one }) => one.split('%')[0] === plain);
}

function isIn(list: BlockList, address: string): boolean {
  return list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}
