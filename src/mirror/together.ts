/** Several things at once. */

/** Resolves when all have ended, with what they gave, and rejects then if one has failed. */
export async function allDone<T extends readonly unknown[] | []>(
  work: T,
): Promise<{ -readonly [Each in keyof T]: Awaited<T[Each]> }> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}

/** Lets so many things go on at once, of so many bytes together; one alone may be larger than that. */
export function createBudget({ bytes, count }: { bytes: number; count: number }): {
  /** Resolves when there is room, with what is to be called in the end. */
  take(size: number): Promise<() => void>;
} {
  let usedBytes = 0;
  let used = 0;
  let wake = () => {};
  return {
    async take(size) {
      const cost = Math.min(size, bytes);
      while (used > 0 && (used >= count || usedBytes + cost > bytes)) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      used += 1;
      usedBytes += cost;
      return () => {
        used -= 1;
        usedBytes -= cost;
        wake();
      };
    },
  };
}
