/** Reads metadata archives of uploads in a thread of its own, which ends when there is nothing to do for a while. */
import type { Inspection, InspectionRequest } from '../disk/inspect.js';
import { createPool, type Pool } from '../disk/pool.js';
import { createTurns } from './turns.js';

export interface Inspector {
  /** @throws the system error where the file cannot be read. */
  inspect(request: InspectionRequest): Promise<Inspection>;
  /** Ends the thread when what was asked for is done. */
  close(): Promise<void>;
}

/** How long the thread waits for more to do, in milliseconds. */
const idleMs = 5000;

export function createInspector(): Inspector {
  const turns = createTurns();
  let pool: Pool | undefined;
  let timer: NodeJS.Timeout | undefined;
  const end = async () => {
    clearTimeout(timer);
    await pool?.close();
    pool = undefined;
  };
  return {
    inspect: (request) =>
      turns.take(async () => {
        clearTimeout(timer);
        pool ??= createPool({ threads: 1 });
        try {
          return await pool.inspect(request);
        } finally {
          timer = setTimeout(() => void turns.take(end), idleMs);
        }
      }),
    close: () => turns.take(end),
  };
}
