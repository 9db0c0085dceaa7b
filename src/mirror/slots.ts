/** Runs a task as soon as there is room for it. */
export type Slots = <T>(task: () => Promise<T>) => Promise<T>;

/** Lets `count` tasks run at once; others wait, in order. */
export function createSlots(count: number): Slots {
  const waiting: (() => void)[] = [];
  let free = count;
  return async (task) => {
    if (free > 0) free -= 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free += 1;
      else next();
    }
  };
}
