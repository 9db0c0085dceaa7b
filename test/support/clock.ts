/** A host for tests whose clock can be set, while timers go on as they do in life. */
import { mock } from 'node:test';

export interface SimulatedHost {
  /** Lets time go by, second by second, and what is due happen. */
  pass(milliseconds: number): Promise<void>;
  /** Time goes by while the process can do nothing. */
  block(milliseconds: number): Promise<void>;
  /** Sets the clock forward, or back; a host that sleeps looks like the first when it wakes up. */
  setClock(milliseconds: number): void;
  /** Gives the process its own time back. */
  restore(): void;
}

/** Takes the place of `Date`, `performance.now` and `setTimeout`. One at a time. */
export function simulateHost(start: Date): SimulatedHost {
  const RealDate = Date;
  let clock = start.getTime();
  let passed = 0;
  const now = () => clock;
  globalThis.Date = new Proxy(RealDate, {
    construct: (target, args) => Reflect.construct(target, args.length === 0 ? [clock] : args),
    get: (target, key) => (key === 'now' ? now : Reflect.get(target, key)),
  });
  const monotonic = mock.method(performance, 'now', () => passed);
  mock.timers.enable({ apis: ['setTimeout'] });
  const block = async (milliseconds: number) => {
    clock += milliseconds;
    passed += milliseconds;
    mock.timers.tick(milliseconds);
    await new Promise(setImmediate);
  };
  const pass = async (milliseconds: number) => {
    for (let left = milliseconds; left > 0; left -= 1000) await block(Math.min(left, 1000));
  };
  const setClock = (milliseconds: number) => {
    clock += milliseconds;
  };
  const restore = () => {
    mock.timers.reset();
    monotonic.mock.restore();
    globalThis.Date = RealDate;
  };
  return { pass, block, setClock, restore };
}
