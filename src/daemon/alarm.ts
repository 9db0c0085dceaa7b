/** Waits for a moment, or for somebody to call before it. */

export interface Alarm {
  /** Resolves at `time` of `performance.now()`, or when {@link Alarm.wake} is called; `Infinity` is never. */
  at(time: number): Promise<void>;
  /** Ends the waiting; without any, the next waiting ends at once. */
  wake(): void;
}

/** The longest time that a timer of Node can wait, in milliseconds. */
const longest = 2 ** 31 - 1;

export function createAlarm(): Alarm {
  let ring: (() => void) | undefined;
  let wasWoken = false;
  return {
    at(time) {
      if (wasWoken) {
        wasWoken = false;
        return Promise.resolve();
      }
      return new Promise((resolve) => {
        const wait = Math.min(Math.max(Math.ceil(time - performance.now()), 0), longest);
        const timer = time === Infinity ? undefined : setTimeout(() => ring?.(), wait);
        ring = () => {
          ring = undefined;
          clearTimeout(timer);
          resolve();
        };
      });
    },
    wake() {
      if (ring === undefined) wasWoken = true;
      else ring();
    },
  };
}
