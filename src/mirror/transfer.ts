/**
 * Moves a file in pieces over several lanes at once, and never far ahead of the first piece that is not done:
 * that bounds memory, and it bounds where a transfer that was cut can have left holes.
 */

/** What is asked of a lane. */
export interface Piece<Item> {
  offset: number;
  length: number;
  /** What `prepare` gave for it. */
  item: Item;
}

export type PieceDone<Result> = (error: Error | undefined, result?: Result) => void;

export interface TransferOptions<Lane, Item, Result> {
  /** First byte and the one after the last. */
  start: number;
  end: number;
  /** Where the piece from `offset` ends; called in rising order. */
  pieceEnd(offset: number): number;
  /** How far the end of a piece may lie beyond the first byte that is not done. */
  window: number;
  /** Bytes that may be under way on one lane. */
  laneBytes: number;
  /** Gets a piece ready, one after the other. */
  prepare(offset: number, length: number): Promise<Item>;
  /** Sets a piece going; `done` may be called at once. */
  send(lane: Lane, piece: Piece<Item>, done: PieceDone<Result>): void;
  /** Called in file order, as soon as all before it are done. */
  finish(piece: Piece<Item>, result: Result | undefined): void;
  signal: AbortSignal | undefined;
}

export interface Transfer<Lane> {
  /** Lets it use one lane more. */
  addLane(lane: Lane): void;
  /**
   * Moves everything. Rejects with the first failure of a piece, or with the signal's reason; what is under way
   * then is left to itself.
   */
  run(): Promise<void>;
}

interface Flying<Item, Result> extends Piece<Item> {
  done: boolean;
  result: Result | undefined;
}

export function createTransfer<Lane, Item, Result>(
  options: TransferOptions<Lane, Item, Result>,
): Transfer<Lane> {
  const { start, end, window, laneBytes, signal } = options;
  /** Bytes under way on each. */
  const lanes = new Map<Lane, number>();
  /** In file order; the first is not done. */
  const flying: Flying<Item, Result>[] = [];
  let next = start;
  let failure: { reason: unknown } | undefined;
  let wake = () => {};

  return {
    addLane(lane) {
      lanes.set(lane, 0);
      wake();
    },
    async run() {
      const abort = () => fail(signal?.reason);
      if (signal?.aborted) abort();
      signal?.addEventListener('abort', abort);
      try {
        while (next < end) await sendNext();
        await until(() => flying.length === 0 || undefined);
      } finally {
        signal?.removeEventListener('abort', abort);
      }
    },
  };

  async function sendNext(): Promise<void> {
    const length = options.pieceEnd(next) - next;
    const item = await options.prepare(next, length);
    const lane = await until(() => freeLane(length));
    const piece = { offset: next, length, item, done: false, result: undefined };
    next += length;
    flying.push(piece);
    addLoad(lane, length);
    options.send(lane, piece, (error, result) => {
      addLoad(lane, -length);
      if (error !== undefined) return fail(error);
      land(piece, result);
    });
  }

  function land(piece: Flying<Item, Result>, result: Result | undefined): void {
    piece.done = true;
    piece.result = result;
    if (failure !== undefined) return;
    try {
      while (flying[0]?.done) {
        const first = flying.shift() as Flying<Item, Result>;
        options.finish(first, first.result);
      }
    } catch (error) {
      fail(error);
    }
    wake();
  }

  /** The lane with the least under way, where there is room for `length` more bytes. */
  function freeLane(length: number): Lane | undefined {
    const lowest = flying[0]?.offset ?? next;
    if (next + length - lowest > window) return undefined;
    let best: Lane | undefined;
    let least = Number.POSITIVE_INFINITY;
    for (const [lane, load] of lanes) {
      if (load < least && (load === 0 || load + length <= laneBytes)) {
        best = lane;
        least = load;
      }
    }
    return best;
  }

  function addLoad(lane: Lane, bytes: number): void {
    lanes.set(lane, (lanes.get(lane) ?? 0) + bytes);
  }

  function fail(reason: unknown): void {
    failure ??= { reason };
    wake();
  }

  /** What `condition` gives, as soon as it is not `undefined`. */
  async function until<T>(condition: () => T | undefined): Promise<T> {
    for (;;) {
      if (failure !== undefined) throw failure.reason;
      const value = condition();
      if (value !== undefined) return value;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  }
}
