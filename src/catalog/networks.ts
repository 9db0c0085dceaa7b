/** PURE: IP addresses and networks (CIDR), and which networks an address is in. */

export interface Address {
  /** An IPv4 address in an IPv6 one (`::ffff:192.0.2.1`) is an IPv4 address. */
  version: 4 | 6;
  /** 32 bits, or 128. */
  bits: bigint;
}

export interface Network extends Address {
  /** How many of the leading bits count. */
  prefix: number;
}

/** Networks, and what is said of each. */
export interface NetworkTable<T> {
  /**
   * What is said of the networks that `address` is in: a list for each network, that of the smallest first.
   * Within a list in the order in which it was given.
   */
  of(address: Address): T[][];
}

export interface NetworkSet {
  /** Whether one of the networks has this address; what is no address is in none. */
  has(address: string): boolean;
}

const widths = { 4: 32, 6: 128 } as const;

/**
 * Reads `192.0.2.1` or `2001:db8::1` (RFC 4291, section 2.2).
 * @returns `undefined` for anything else, an address with a zone (`fe80::1%eth0`) among it
 */
export function parseAddress(text: string): Address | undefined {
  const written = parseWritten(text);
  return written !== undefined && isMapped(written)
    ? { version: 4, bits: written.bits & 0xffffffffn }
    : written;
}

/**
 * Reads `10.0.0.0/8`; bits behind the prefix do not count. `::ffff:10.0.0.0/104` is the same network, while an IPv6
 * network that is larger than all of those has no IPv4 addresses.
 * @returns `undefined` for anything else
 */
export function parseNetwork(text: string): Network | undefined {
  const [, written = '', length = ''] = /^([^/]*)\/(\d{1,3})$/.exec(text) ?? [];
  const address = parseWritten(written);
  const prefix = Number(length);
  if (address === undefined || prefix > widths[address.version]) return undefined;
  if (!isMapped(address) || prefix < 96) return { ...address, prefix };
  return { version: 4, bits: address.bits & 0xffffffffn, prefix: prefix - 96 };
}

/** @throws Error for what is no network: the configuration has been read before. */
export function createNetworkTable<T>(
  entries: Iterable<readonly [network: string, value: T]>,
): NetworkTable<T> {
  const tables = { 4: new Map<number, Map<bigint, T[]>>(), 6: new Map<number, Map<bigint, T[]>>() };
  for (const [text, value] of entries) {
    const network = parseNetwork(text);
    if (network === undefined) throw new Error(`No network: ${text}`);
    const { version, bits, prefix } = network;
    const table = entryOf(tables[version], prefix, () => new Map<bigint, T[]>());
    entryOf(table, bits >> BigInt(widths[version] - prefix), () => []).push(value);
  }
  const levels = { 4: levelsOf(tables[4], widths[4]), 6: levelsOf(tables[6], widths[6]) };
  return {
    of({ version, bits }) {
      const found: T[][] = [];
      for (const { behind, networks } of levels[version]) {
        const values = networks.get(bits >> behind);
        if (values !== undefined) found.push(values);
      }
      return found;
    },
  };
}

/** The networks as one set. @throws Error as {@link createNetworkTable} does */
export function createNetworkSet(networks: readonly string[]): NetworkSet {
  const table = createNetworkTable(networks.map((network) => [network, true] as const));
  return {
    has(text) {
      const address = parseAddress(text);
      return address !== undefined && table.of(address).length > 0;
    },
  };
}

/**
 * The networks as one set, which follows them as they change.
 *
 * @param networks asked at each question; whoever changes them gives another array
 * @throws Error as {@link createNetworkTable} does, at a question
 */
export function followNetworks(networks: () => readonly string[]): NetworkSet {
  let made: { of: readonly string[]; set: NetworkSet } | undefined;
  return {
    has(address) {
      const of = networks();
      if (made?.of !== of) made = { of, set: createNetworkSet(of) };
      return made.set.has(address);
    },
  };
}

/** Networks of one size; those with the longest prefix come first. */
interface Level<T> {
  /** How many bits stand behind the prefix. */
  behind: bigint;
  networks: Map<bigint, T[]>;
}

function levelsOf<T>(tables: Map<number, Map<bigint, T[]>>, width: number): Level<T>[] {
  return [...tables]
    .sort(([a], [b]) => b - a)
    .map(([prefix, networks]) => ({ behind: BigInt(width - prefix), networks }));
}

function entryOf<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const found = map.get(key) ?? make();
  map.set(key, found);
  return found;
}

/** An address of the version that it is written in. */
function parseWritten(text: string): Address | undefined {
  const version = text.includes(':') ? 6 : 4;
  const bits = version === 6 ? parseIPv6(text) : parseIPv4(text);
  return bits === undefined ? undefined : { version, bits: BigInt(bits) };
}

const isMapped = ({ version, bits }: Address) => version === 6 && bits >> 32n === 0xffffn;

/** Four decimal numbers without leading zeros, which some read as octal. */
function parseIPv4(text: string): number | undefined {
  const parts = text.split('.');
  if (parts.length !== 4) return undefined;
  let value = 0;
  for (const part of parts) {
    if (!/^(?:0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return undefined;
    value = value * 256 + Number(part);
  }
  return value;
}

function parseIPv6(text: string): string | undefined {
  const [first = '', second, ...more] = text.split('::');
  if (more.length > 0) return undefined;
  const before = groups(first, second === undefined);
  const after = second === undefined ? '' : groups(second, true);
  if (before === undefined || after === undefined) return undefined;
  const missing = 32 - before.length - after.length;
  // "::" stands for one group at least.
  if (second === undefined ? missing !== 0 : missing < 4) return undefined;
  return `0x${before}${'0'.repeat(missing)}${after}`;
}

/** Groups between colons as hexadecimal digits; where `isEnd`, the last may be an IPv4 address. */
function groups(text: string, isEnd: boolean): string | undefined {
  if (text === '') return '';
  const parts = text.split(':');
  let digits = '';
  for (const [index, part] of parts.entries()) {
    const isQuad = isEnd && index === parts.length - 1 && part.includes('.');
    const found = isQuad ? quad(part) : group(part);
    if (found === undefined) return undefined;
    digits += found;
  }
  return digits;
}

const quad = (part: string) => parseIPv4(part)?.toString(16).padStart(8, '0');
const group = (part: string) => (/^[0-9a-f]{1,4}$/i.test(part) ? part.padStart(4, '0') : undefined);
