/** Moves a large file over several sessions at once, each with a handle of its own on it. */
import { resumeWindow } from '../mirror.js';
import { createSlots, type Slots } from '../slots.js';
import { createTransfer, type TransferOptions } from '../transfer.js';
import { closeFile, type OpenFile, type OpenFlags, type Session } from './session.js';

/** Sources are read in blocks at multiples of this, so that mirrors can share what was read. */
export const blockBytes = 2 ** 20;
/** A resumed upload starts at a block, at most {@link resumeWindow} before the end of what is there. */
export const flightBytes = resumeWindow - blockBytes;
/** A channel of OpenSSH takes 2 MiB ahead; a little more hides the way of the acknowledgements. */
const laneBytes = 3 * 2 ** 20;
/**
 * From this round trip on (in milliseconds) one connection waits for acknowledgements. On a shorter one it keeps this
 * process busy, and others would only make more work.
 */
const farMs = 5;
/** Each session beside the first has to have so much to do. */
const laneWorth = 4 * 2 ** 20;
/** Files at once that need more than one block of memory. */
const largeAtOnce = 2;

export interface Move<Item, Result>
  extends Omit<TransferOptions<OpenFile, Item, Result>, 'window' | 'laneBytes'> {
  /** Open on the first connection. */
  first: OpenFile;
  /** How to open it on others. */
  remote: string;
  flags: OpenFlags;
  verb: string;
}

/** @returns what runs a move to its end; few large ones run at once */
export function createMover(session: Session) {
  const largeSlots: Slots = createSlots(largeAtOnce);
  return async <Item, Result>(options: Move<Item, Result>): Promise<void> => {
    const isLarge = options.end > blockBytes;
    await (isLarge ? largeSlots(() => move(session, options)) : move(session, options));
  };
}

async function move<Item, Result>(
  session: Session,
  { first, remote, flags, verb, ...options }: Move<Item, Result>,
): Promise<void> {
  const transfer = createTransfer({ ...options, window: flightBytes, laneBytes });
  const others: Promise<OpenFile | undefined>[] = [];
  let isOver = false;
  transfer.addLane(first);
  const isFar = first.connection.roundTripMs >= farMs;
  const wanted = isFar ? Math.floor((options.end - options.start) / laneWorth) : 0;
  session.more(wanted, {
    first: first.connection,
    use: (connection) => {
      if (isOver) return;
      const added = session.openFile(connection, { remote, flags, verb }).then(
        (file) => {
          if (!isOver) transfer.addLane(file);
          return file;
        },
        // One lane less; what is wrong with the file the first one tells.
        () => undefined,
      );
      others.push(added);
    },
  });
  try {
    await transfer.run();
  } finally {
    isOver = true;
    for (const file of await Promise.all(others)) if (file !== undefined) closeFile(file);
  }
}
