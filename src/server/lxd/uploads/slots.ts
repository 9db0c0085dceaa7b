/** How much one client, and all together, may have under way. */
import { ServerError } from '../../../errors.js';

export interface Slots {
  /** @returns gives the place back; called again it does nothing @throws ServerError BUSY where none is free */
  take(client: string): () => void;
}

/** @param what that there is too much of, as in `Too many uploads at once` */
export function createSlots(what: string, { all, each }: { all: number; each: number }): Slots {
  const taken = new Map<string, number>();
  let total = 0;
  const change = (client: string, by: number) => {
    total += by;
    const count = (taken.get(client) ?? 0) + by;
    if (count > 0) taken.set(client, count);
    else taken.delete(client);
  };
  return {
    take: (client) => {
      const count = taken.get(client) ?? 0;
      if (total >= all) throw tooMany(what, `${all} in all`);
      if (count >= each) throw tooMany(what, `${each} of one client`);
      change(client, 1);
      let held = true;
      return () => {
        if (held) change(client, -1);
        held = false;
      };
    },
  };
}

function tooMany(what: string, most: string): ServerError {
  return new ServerError('BUSY', `Too many ${what} at once: ${most} are under way`, {
    hint: 'try again when some have ended',
  });
}
