/** How fast something goes: by what was done within the last seconds, so that a pause long ago does not count. */

export interface Meter {
  /** Takes note of all that is done by now; less than before begins anew. */
  note(done: number): void;
  /** A second; `undefined` while that cannot be told. */
  rate(): number | undefined;
}

/** How far back the rate looks, and how close to each other notes are kept, in milliseconds. */
const windowMs = 10_000;
const stepMs = 250;

/** @param now milliseconds that only rise. Default: `performance.now()`. */
export function createMeter(now: () => number = () => performance.now()): Meter {
  let notes: { at: number; done: number }[] = [];
  let last = { at: 0, done: 0 };
  return {
    note(done) {
      const at = now();
      if (done < last.done) notes = [];
      last = { at, done };
      const newest = notes.at(-1);
      if (newest !== undefined && at - newest.at < stepMs) return;
      notes.push(last);
      while (notes.length > 2 && at - (notes[1]?.at ?? at) >= windowMs) notes.shift();
    },
    rate() {
      const [first] = notes;
      const at = now();
      if (first === undefined || at - first.at < stepMs) return undefined;
      return ((last.done - first.done) * 1000) / (at - first.at);
    },
  };
}
