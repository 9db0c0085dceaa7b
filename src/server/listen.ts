/**
 * Where the server listens, and how many connections this process can hold there.
 */
import { readFileSync } from 'node:fs';
import { type AddressInfo, isIPv6 } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { ServerError, systemCode, systemText } from '../errors.js';
import { parseHostPort } from '../units.js';

/** An address to listen on; without a host, all of this machine's addresses. */
export interface ListenAddress {
  host: string | undefined;
  port: number;
}

/**
 * Reads `127.0.0.1:8443`, `[::1]:8443`, `images.example:8443` or `:8443`; port 0 lets the system choose.
 *
 * @throws ServerError CONFIG for anything else
 */
export function parseListen(text: string): ListenAddress {
  const everywhere = text.startsWith(':');
  const address = parseHostPort(everywhere ? `[::]${text}` : text);
  if (address === undefined) {
    throw new ServerError('CONFIG', `Cannot listen on ${JSON.stringify(text)}: not an address`, {
      hint: 'write it as "127.0.0.1:8443", "[::1]:8443", or ":8443" for all addresses',
    });
  }
  return everywhere ? { host: undefined, port: address.port } : address;
}

/**
 * Has the server listen there; without a host on IPv6 and IPv4 both, or IPv4 alone where that is all there is.
 *
 * @throws ServerError BUSY, DENIED, CONFIG or IO
 */
export async function listenOn(app: FastifyInstance, { host, port }: ListenAddress): Promise<void> {
  try {
    await app.listen({ host: host ?? '::', port });
  } catch (cause) {
    if (host === undefined && systemCode(cause) === 'EAFNOSUPPORT') {
      return listenOn(app, { host: '0.0.0.0', port });
    }
    throw listenError(cause, `${host ?? ''}:${port}`);
  }
}

const failures: Record<string, { code: 'BUSY' | 'DENIED' | 'CONFIG'; hint: string }> = {
  EADDRINUSE: { code: 'BUSY', hint: 'stop the other server there, or choose another port' },
  EACCES: { code: 'DENIED', hint: 'ports below 1024 need root or CAP_NET_BIND_SERVICE' },
  EADDRNOTAVAIL: { code: 'CONFIG', hint: 'choose an address that this machine has' },
  ENOTFOUND: { code: 'CONFIG', hint: 'choose a name that this machine can look up' },
};

function listenError(cause: unknown, address: string): ServerError {
  const { code = 'IO', hint } = failures[systemCode(cause) ?? ''] ?? {};
  const message = `Cannot listen on ${address}: ${systemText(cause)}`;
  return new ServerError(code, message, hint === undefined ? { cause } : { hint, cause });
}

/** The URL of a server on this machine that listens there. */
export function urlOf({ address, port }: AddressInfo): string {
  if (address === '::' || address === '0.0.0.0') return `https://localhost:${port}`;
  return `https://${isIPv6(address) ? `[${address}]` : address}:${port}`;
}

/** How many connections and, among them, open files the server holds at once. */
export interface Capacity {
  connections: number;
  downloads: number;
}

const descriptorsKept = 512;
const mostConnections = 16_384;

/** What fits into the process's limit of open files: a quarter of it for files, the rest for connections. */
export function capacityOf(openFiles: number = openFilesLimit()): Capacity {
  const usable = openFiles - Math.min(descriptorsKept, Math.floor(openFiles / 4));
  const downloads = Math.floor(usable / 4);
  return { connections: Math.min(usable - downloads, mostConnections), downloads };
}

/** The soft limit; Node raises it to the hard one when it starts. */
function openFilesLimit(): number {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
    return Number(limit?.[1] ?? Number.MAX_SAFE_INTEGER);
  } catch {
    return 1024;
  }
}
