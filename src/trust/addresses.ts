/** Where clients reach this server: what their tokens say. Pure. */
import { isIPv4 } from 'node:net';
import { formatHostPort, type HostPort, parseHostPort } from '../units.js';

export interface AddressesOptions {
  /** `server.listen`: `127.0.0.1:8443`, `:8443`, or '' for no server. */
  listen: string;
  /** `host` or `host:port`, in place of what this host tells. */
  given: readonly string[];
  /** This host's names, the best first; `localhost` does not count. */
  names: readonly string[];
  /** This host's addresses; loopback ones do not count. */
  hosts: readonly string[];
}

/** nginx listens there. */
const webPort = 443;
const ownPort = 8443;

/**
 * `host:port`, in the order in which clients should try them. A server that listens on loopback alone, or not at
 * all, is reached through nginx.
 */
export function reachableAt({ listen, given, names, hosts }: AddressesOptions): string[] {
  const own = parseHostPort(listen.replace(/^:/, '[::]:'));
  const isBehind = own === undefined || isLoopback(own.host);
  const port = isBehind ? webPort : own.port || ownPort;
  const texts = given.length > 0 ? given : ownHosts(isBehind ? '::' : own.host, { names, hosts });
  const read = texts.map((text) => parseHostPort(text, { port })).filter((each) => !!each);
  return [...new Set(read.map((each: HostPort) => formatHostPort(each)))];
}

/** By what a server that listens on `bound` is known elsewhere. */
function ownHosts(
  bound: string,
  { names, hosts }: Pick<AddressesOptions, 'names' | 'hosts'>,
): string[] {
  if (bound !== '::' && bound !== '0.0.0.0') return [bound];
  const global = hosts.filter((host) => !isLoopback(host) && (bound === '::' || isIPv4(host)));
  const known = names.filter((name) => !isLoopback(name));
  const qualified = known.filter((name) => name.includes('.'));
  // A client stops at the first that answers, right or wrong. A bare name can be another host's there.
  return [...qualified, ...global, ...(qualified.length > 0 ? [] : known)];
}

function isLoopback(host: string): boolean {
  return host === '::1' || /^(?:127\.[\d.]+|localhost(?:\.localdomain)?\.?)$/i.test(host);
}
