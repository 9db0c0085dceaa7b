/**
 * Moves the bytes of a body into a connection: large pieces, the next one read while the last is
 * encrypted, and no more memory than a budget that all transfers share.
 */
import type { FileHandle } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';

/** Where the bytes of a body come from. */
export interface ByteSource {
  /**
   * At least one byte and at most `size` bytes from `position`; none only where the source has ended.
   * They hold until the call after the next one.
   */
  read(position: number, size: number): Promise<Uint8Array>;
}

/** Bytes in memory as a source. */
export function memorySource(bytes: Uint8Array): ByteSource {
  return { read: async (position, size) => bytes.subarray(position, position + size) };
}

/** An open file as a source: two buffers in turn, one read into while the other is on its way. */
export function fileSource(handle: FileHandle): ByteSource {
  const buffers: [Buffer, Buffer] = [Buffer.alloc(0), Buffer.alloc(0)];
  let turn: 0 | 1 = 0;
  return {
    async read(position, size) {
      turn = turn === 0 ? 1 : 0;
      if (buffers[turn].length !== size) buffers[turn] = Buffer.allocUnsafeSlow(size);
      const buffer = buffers[turn];
      const { bytesRead } = await handle.read(buffer, 0, size, position);
      return buffer.subarray(0, bytesRead);
    },
  };
}

/** Sources one behind the other, each with its size in bytes, as one. */
export function joinedSource(
  parts: readonly { source: ByteSource; size: number }[],
): ByteSource & { size: number } {
  return {
    size: parts.reduce((sum, { size }) => sum + size, 0),
    async read(position, size) {
      let start = 0;
      for (const part of parts) {
        const left = start + part.size - position;
        if (left > 0) return part.source.read(position - start, Math.min(size, left));
        start += part.size;
      }
      return new Uint8Array();
    },
  };
}

const KiB = 1024;
const MiB = 1024 * KiB;
/** One TLS record. */
const smallestPiece = 16 * KiB;
const largestPiece = MiB;

/** Shares memory out among transfers: large pieces for few, small ones for many. */
export interface PieceBudget {
  /** Takes the size of one piece, in bytes, out of the budget. */
  take(): number;
  /** Puts back what {@link take} gave. */
  give(size: number): void;
}

/**
 * A budget that gives each piece an eighth of what is left, as a power of two from 16 KiB to 1 MiB.
 * A transfer holds up to three times its piece: two buffers and the encrypted copy.
 *
 * @param total bytes; only pieces of the smallest size are given beyond it
 */
export function createPieceBudget(total: number = 32 * MiB): PieceBudget {
  let left = total;
  return {
    take() {
      const share = 2 ** Math.floor(Math.log2(Math.max(left / 8, smallestPiece)));
      const size = Math.min(share, largestPiece);
      left -= size;
      return size;
    },
    give(size) {
      left += size;
    },
  };
}

export interface TransferOptions {
  /** First byte to send, counted from 0. */
  start: number;
  /** How many bytes to send; more than none. */
  length: number;
  budget: PieceBudget;
}

/** `gone`: the client left or was cut. `short`: the source ended before its time. */
export type TransferResult = 'sent' | 'gone' | 'short';

/**
 * Sends part of `source` as the body of `response`, whose head is written, and ends it.
 * After `short` the response is incomplete: cut its connection.
 *
 * @throws what `source.read` throws
 */
export async function transfer(
  response: ServerResponse,
  source: ByteSource,
  options: TransferOptions,
): Promise<TransferResult> {
  const grant = createGrant(options.budget);
  try {
    return await pump(response, pieces(source, { ...options, grant }));
  } finally {
    grant.release();
  }
}

/** The piece that one transfer holds of the budget now. */
interface Grant {
  renew(): number;
  release(): void;
}

function createGrant(budget: PieceBudget): Grant {
  let held = 0;
  return {
    renew() {
      budget.give(held);
      held = budget.take();
      return held;
    },
    release() {
      budget.give(held);
    },
  };
}

interface Piece {
  bytes: Uint8Array;
  last: boolean;
}

/** Reads one piece after another; small ones only when asked, large ones while the last is sent. */
async function* pieces(
  source: ByteSource,
  { start, length, grant }: { start: number; length: number; grant: Grant },
): AsyncGenerator<Piece, void, void> {
  const end = start + length;
  const next = (position: number, size: number) => {
    const reading = source.read(position, Math.min(size, end - position));
    reading.catch(() => {});
    return reading;
  };
  let position = start;
  let ahead: Promise<Uint8Array> | undefined;
  while (position < end) {
    const bytes = await (ahead ?? next(position, grant.renew()));
    position += bytes.length;
    const last = position >= end;
    const size = grant.renew();
    ahead = last || bytes.length === 0 || size === smallestPiece ? undefined : next(position, size);
    yield { bytes, last };
  }
}

async function pump(
  response: ServerResponse,
  source: AsyncGenerator<Piece, void, void>,
): Promise<TransferResult> {
  for await (const { bytes, last } of source) {
    if (bytes.length === 0) return 'short';
    if (response.destroyed || !(await accepted(response, bytes, last))) return 'gone';
  }
  return 'sent';
}

/** Waits until the connection has taken the bytes; false if it closed before. */
function accepted(response: ServerResponse, bytes: Uint8Array, last: boolean): Promise<boolean> {
  return new Promise((resolve) => {
    const closed = () => resolve(false);
    const taken = (error?: Error | null) => {
      response.off('close', closed);
      resolve(error == null);
    };
    response.once('close', closed);
    if (last) response.end(bytes, () => taken());
    else response.write(bytes, taken);
  });
}
