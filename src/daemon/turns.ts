/** Does one thing after the other. */

export interface Turns {
  /** Does `work` when all that was asked for before has ended, in whatever way; gives what it gives. */
  take<T>(work: () => Promise<T>): Promise<T>;
  /** Resolves when all that was asked for has ended. */
  idle(): Promise<void>;
}

export function createTurns(): Turns {
  let last: Promise<unknown> = Promise.resolve();
  return {
    take(work) {
      const done = last.then(work);
      last = done.catch(() => undefined);
      return done;
    },
    async idle() {
      await last;
    },
  };
}
