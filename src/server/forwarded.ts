/** Whom a request came from, where proxies may stand in front of the server. */
import type { IncomingMessage } from 'node:http';
import { followNetworks, type NetworkSet, parseAddress } from '../catalog/networks.js';
import { plainAddress } from './connections.js';
import type { Visitor } from './service.js';

/** What is known of where a request came from. */
export type Origin = Pick<Visitor, 'address' | 'forwarded'>;

/** What of a request tells where it came from. */
export interface Forwardable {
  headers: IncomingMessage['headers'];
  socket: { remoteAddress?: string | undefined };
}

/** What a proxy says with any of them, and anyone else who likes to be taken for one. */
const forwardingHeaders = ['x-forwarded-for', 'forwarded', 'x-real-ip'] as const;

/**
 * Makes what says whom a request came from. Proxies are believed for `X-Forwarded-For` alone, to which each adds the
 * address that it was asked from: the last one that is no such proxy asked the first of them. Where all are proxies,
 * one of them asked itself.
 *
 * @param trustedProxies the networks (CIDR) of proxies that are believed; asked again for each request
 */
export function createForwarded(
  trustedProxies: () => readonly string[],
): (request: Forwardable) => Origin {
  const proxies = followNetworks(trustedProxies);
  return ({ headers, socket }) => {
    const peer = plainAddress(socket.remoteAddress);
    if (!forwardingHeaders.some((name) => headers[name] !== undefined)) return { address: peer };
    const client = proxies.has(peer) ? clientIn(headers['x-forwarded-for'], proxies) : undefined;
    return client === undefined ? { address: peer, forwarded: true } : { address: client };
  };
}

/** @returns `undefined` where that cannot be told, as behind what is no address. */
function clientIn(header: string | string[] | undefined, proxies: NetworkSet): string | undefined {
  const addresses = header?.toString().split(',').reverse() ?? [];
  let client: string | undefined;
  for (const text of addresses) {
    client = addressIn(text);
    if (client === undefined || !proxies.has(client)) return client;
  }
  return client;
}

/** The address that a proxy wrote; `undefined` where it is none. */
export function addressIn(header: string | undefined): string | undefined {
  const text = header?.trim() ?? '';
  return parseAddress(text) === undefined ? undefined : plainAddress(text);
}
