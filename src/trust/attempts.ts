/** Counts wrong tokens by address, so that nobody can have this server look at any number of them. */
import { isIPv4, isIPv6 } from 'node:net';

export interface AttemptsOptions {
  /** How many wrong tokens an address may bring within `windowMs`. Default: 10. */
  limit?: number;
  /** From the first of them on, in milliseconds. Default: ten minutes. */
  windowMs?: number;
  /** How many addresses are remembered; then the oldest is forgotten. Default: 10,000. */
  mostAddresses?: number;
}

export interface Attempts {
  /** How long `address` is not listened to from `now` on, in milliseconds; 0 where it is. */
  wait(address: string, now: number): number;
  /** Counts a wrong token. */
  failed(address: string, now: number): void;
  /** How many addresses are remembered. */
  size(): number;
}

export function createAttempts(options: AttemptsOptions = {}): Attempts {
  const { limit = 10, windowMs = 600_000, mostAddresses = 10_000 } = options;
  const seen = new Map<string, { count: number; since: number }>();
  /** What counts of an address; a clock that was set back starts it anew. */
  const countOf = (key: string, now: number) => {
    const entry = seen.get(key);
    if (entry === undefined) return undefined;
    if (now >= entry.since && now < entry.since + windowMs) return entry;
    seen.delete(key);
    return undefined;
  };
  return {
    wait(address, now) {
      const entry = countOf(networkOf(address), now);
      return entry !== undefined && entry.count >= limit ? entry.since + windowMs - now : 0;
    },
    failed(address, now) {
      const key = networkOf(address);
      const entry = countOf(key, now);
      if (entry !== undefined) {
        entry.count++;
        return;
      }
      const [oldest] = seen.keys();
      if (oldest !== undefined && seen.size >= mostAddresses) seen.delete(oldest);
      seen.set(key, { count: 1, since: now });
    },
    size: () => seen.size,
  };
}

/** What counts as one address: with IPv6, where each host has many, the /64. */
export function networkOf(address: string): string {
  const plain = address.replace(/%.*$/, '');
  if (isIPv4(plain)) return plain;
  if (!isIPv6(plain)) return address.slice(0, 64);
  const groups = groupsOf(plain);
  const [from, to] = [groups[6] ?? 0, groups[7] ?? 0];
  const isMapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff;
  if (isMapped) return [from >> 8, from & 255, to >> 8, to & 255].join('.');
  return `${groups
    .slice(0, 4)
    .map((group) => group.toString(16))
    .join(':')}::/64`;
}

/** The eight groups of an IPv6 address. */
function groupsOf(address: string): number[] {
  // A URL has it in its shortest form, without dots.
  const [head = '', tail] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const numbers = (text: string) =>
    text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16));
  if (tail === undefined) return numbers(head);
  const [first, last] = [numbers(head), numbers(tail)];
  return [...first, ...Array<number>(8 - first.length - last.length).fill(0), ...last];
}
