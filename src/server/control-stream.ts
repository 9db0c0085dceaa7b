/** The parts of a stream of bytes: its first line, then pieces whose lengths are known before they come. */
import { ServerError } from '../errors.js';

/**
 * Reads the first line.
 *
 * @returns it, without its end, and what comes after it.
 * @throws ServerError USAGE where it is longer than `most` bytes, or there is none; whatever `source` throws.
 */
export async function firstLine(
  source: AsyncIterable<Uint8Array>,
  most: number,
): Promise<{ line: string; rest: AsyncIterable<Uint8Array> }> {
  const chunks = source[Symbol.asyncIterator]();
  const pieces: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { value, done } = await chunks.next();
    if (done === true) throw misunderstood('it ends within its first line');
    const end = value.indexOf(10);
    const piece = end < 0 ? value : value.subarray(0, end);
    pieces.push(piece);
    length += piece.length;
    if (length > most) throw misunderstood(`its first line is longer than ${most} bytes`);
    if (end < 0) continue;
    const line = Buffer.concat(pieces).toString('utf8');
    return { line, rest: following(value.subarray(end + 1), chunks) };
  }
}

async function* following(
  first: Uint8Array,
  chunks: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  if (first.length > 0) yield first;
  yield* { [Symbol.asyncIterator]: () => chunks };
}

/** A stream that is taken apart. */
export interface Cutter {
  /**
   * The next `size` bytes, as they come. To be read to its end before anything else is taken.
   *
   * Rejects with ServerError IMAGE_INVALID where the stream ends before them, and with whatever the stream does.
   */
  take(size: number): AsyncIterable<Uint8Array>;
  /** Waits for the end. @throws ServerError IMAGE_INVALID where more comes. */
  end(): Promise<void>;
}

export function createCutter(source: AsyncIterable<Uint8Array>): Cutter {
  const chunks = source[Symbol.asyncIterator]();
  let left: Uint8Array = new Uint8Array();
  /** What there is next, which is not empty; `undefined` at the end. */
  const next = async (): Promise<Uint8Array | undefined> => {
    while (left.length === 0) {
      const { value, done } = await chunks.next();
      if (done === true) return undefined;
      left = value;
    }
    return left;
  };
  return {
    async *take(size) {
      for (let missing = size; missing > 0; ) {
        const chunk = await next();
        if (chunk === undefined) throw wrongLength(`${missing} bytes are missing`);
        const piece = chunk.subarray(0, missing);
        left = chunk.subarray(piece.length);
        missing -= piece.length;
        yield piece;
      }
    },
    async end() {
      if ((await next()) !== undefined) throw wrongLength('more bytes come');
    },
  };
}

function misunderstood(why: string): ServerError {
  return new ServerError('USAGE', `The daemon does not understand this call: ${why}`);
}

function wrongLength(what: string): ServerError {
  return new ServerError('IMAGE_INVALID', `The files are not as long as was told: ${what}`, {
    hint: 'import them when nobody writes them any more',
  });
}
