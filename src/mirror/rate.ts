/** A limit on bytes a second, shared by all that a mirror's connections carry. */
import { setTimeout as wait } from 'node:timers/promises';

export interface Rate {
  /** Waits until `bytes` may be sent. Callers are served in order. Rejects with the signal's reason. */
  take(bytes: number, signal?: AbortSignal): Promise<void>;
}

/** Time that may be made up for after a pause. */
const burstMs = 100;

/** @param bytesPerSecond `undefined` is no limit */
export function createRate(bytesPerSecond: number | undefined): Rate {
  /** When what has been let through so far is paid for. */
  let paidAt = 0;
  return {
    async take(bytes, signal) {
      if (bytesPerSecond === undefined) return;
      const now = performance.now();
      const from = Math.max(paidAt, now - burstMs);
      paidAt = from + (bytes * 1000) / bytesPerSecond;
      if (paidAt <= now) return;
      await wait(paidAt - now, undefined, { signal }).catch((error: unknown) => {
        throw signal?.aborted ? signal.reason : error;
      });
    },
  };
}
