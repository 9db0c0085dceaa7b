/** Chance that is the same for the same seed. */

/** Numbers from 0 up to 1 (mulberry32 needs no more state than this). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface Dice {
  /** A whole number from 0 up to but not including `limit`. */
  roll(limit: number): number;
  /** One of `things`. */
  pick<T>(things: readonly T[]): T;
}

export function createDice(seed: number): Dice {
  const random = seeded(seed);
  const roll = (limit: number) => Math.floor(random() * limit);
  return {
    roll,
    pick<T>(things: readonly T[]): T {
      if (things.length === 0) throw new Error('There is nothing to pick from');
      return things[roll(things.length)] as T;
    },
  };
}
