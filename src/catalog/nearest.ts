/**
 * PURE: which of several places is nearest to a client. Networks count first; among places that are equally near, each
 * client has an order of its own (rendezvous hashing): where one place comes, goes or fails, only its clients move.
 */
import { createNetworkTable, parseAddress } from './networks.js';

export interface Place {
  name: string;
  /** Its share of clients against that of the others; 0 is none. */
  weight: number;
  /** Clients in these networks (CIDR) come here first. It is there for those from elsewhere too. */
  networks: readonly string[];
}

export interface Nearest<P extends Place> {
  /**
   * The nearest place of those that fit: among those whose networks have the client, from the smallest network to the
   * largest; then among all.
   *
   * @param client IP address; '' or what is none has its order, too
   * @param fits asked of one place after the other, the nearest first, until it says yes; of none twice
   * @returns `undefined` where none fits
   */
  choose(client: string, fits: (place: P) => boolean): P | undefined;
}

/** A place that clients may be sent to. */
interface Candidate<P> {
  place: P;
  hash: number;
}

/** @throws Error for what is no network: the configuration has been read before. */
export function createNearest<P extends Place>(places: readonly P[]): Nearest<P> {
  const all = places
    .filter(({ weight }) => weight > 0)
    .map((place): Candidate<P> => ({ place, hash: hashOf(place.name) }));
  const table = createNetworkTable(
    all.flatMap((each) => each.place.networks.map((network) => [network, each] as const)),
  );
  return {
    choose(client, fits) {
      const address = parseAddress(client);
      const known = address === undefined ? '' : `${address.version}:${address.bits.toString(16)}`;
      const near = address === undefined ? [] : table.of(address);
      return firstFitting({ tiers: [...near, all], client: hashOf(known), fits });
    },
  };
}

function firstFitting<P extends Place>(options: {
  /** The nearest first. */
  tiers: Candidate<P>[][];
  client: number;
  fits: (place: P) => boolean;
}): P | undefined {
  const { tiers, client, fits } = options;
  const asked = new Set<P>();
  for (const tier of tiers) {
    for (const place of inOrder(tier, client)) {
      if (asked.has(place)) continue;
      if (fits(place)) return place;
      asked.add(place);
    }
  }
  return undefined;
}

/**
 * The places in the order in which the client prefers them. Mostly the first is taken, so there is no order before a
 * second is asked for.
 */
function* inOrder<P extends Place>(candidates: Candidate<P>[], client: number): Generator<P> {
  let nearest: Candidate<P> | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const far = distance(candidate, client);
    if (far < least) [nearest, least] = [candidate, far];
  }
  if (nearest === undefined) return;
  yield nearest.place;
  const others = candidates.filter((each) => each !== nearest);
  const ranked = others.map((each) => ({ place: each.place, far: distance(each, client) }));
  for (const { place } of ranked.sort((a, b) => a.far - b.far)) yield place;
}

/** Exponentially distributed with the weight as its rate: so the shares of the nearest places are as the weights. */
function distance({ place, hash }: Candidate<Place>, client: number): number {
  return -Math.log((mixed(client ^ hash) + 0.5) / 2 ** 32) / place.weight;
}

/** FNV-1a over the text's code units: 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return mixed(hash);
}

/** MurmurHash3's last step: a change of one bit changes every other with even odds. */
function mixed(value: number): number {
  let bits = value;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}
