/** Bytes that come over the network: read with a time-out, counted, or thrown away. */
import type { Readable } from 'node:stream';
import { ServerError } from '../../../errors.js';
import { formatSize } from '../../../units.js';

export interface ChunkOptions {
  /** How long to wait for the next byte, in milliseconds. */
  stallMs: number;
  signal: AbortSignal;
  /** Who sends, as the beginning of an error: `The client`. */
  sender: string;
}

/**
 * What `body` brings. It stays as it is where reading ends early, so that an answer can still be sent.
 *
 * @throws ServerError INTERRUPTED when it breaks off or stalls; the reason of the signal
 */
export async function* chunksOf(
  body: Readable,
  { stallMs, signal, sender }: ChunkOptions,
): AsyncGenerator<Buffer, void, undefined> {
  const chunks = body.iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>;
  let fail: (error: unknown) => void = () => {};
  let waiting = false;
  const timer = setTimeout(() => fail(stalled(sender, stallMs)), stallMs);
  const onAbort = () => fail(signal.reason);
  signal.addEventListener('abort', onAbort);
  try {
    for (;;) {
      signal.throwIfAborted();
      waiting = true;
      const step = await new Promise<IteratorResult<Buffer>>((resolve, reject) => {
        fail = reject;
        // The time that writing takes is not the sender's: what was set before tells nobody.
        timer.refresh();
        chunks.next().then(resolve, (cause) => {
          reject(signal.aborted ? signal.reason : brokenOff(sender, cause));
        });
      });
      waiting = false;
      if (step.done) return;
      yield step.value;
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    // One that still waits ends with its stream.
    if (!waiting) await chunks.return?.();
  }
}

/**
 * Passes chunks on, and tells how many bytes there were.
 *
 * @throws ServerError TOO_LARGE as soon as there are more than `most`
 */
export async function* counted<T extends Uint8Array>(
  source: AsyncIterable<T>,
  { most, count }: { most: number; count?: (bytes: number) => void },
): AsyncGenerator<T, void, undefined> {
  let bytes = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    if (bytes > most) throw tooLarge(most);
    count?.(chunk.length);
    yield chunk;
  }
}

export function tooLarge(most: number): ServerError {
  return new ServerError('TOO_LARGE', `The image is larger than ${formatSize(most)}`, {
    hint: 'the limit is uploads.max_size in the configuration of the server',
  });
}

/** A text of at most `most` bytes. @throws ServerError IMAGE_INVALID for more, and what `source` throws */
export async function textOf(
  source: AsyncIterable<Uint8Array>,
  { most, what }: { most: number; what: string },
): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    if (bytes > most) {
      throw new ServerError('IMAGE_INVALID', `${what} is too long: more than ${formatSize(most)}`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/**
 * Throws away what is still to come, for a client that looks for an answer only when it has sent all. Resolves at
 * the end or, where that is further away than the limits, with the rest still being thrown away.
 */
export async function drain(
  body: Readable,
  { bytes, ms }: { bytes: number; ms: number },
): Promise<void> {
  if (body.destroyed || body.readableEnded) return;
  // A reader that has just ended is no longer in the way of `data` after this turn.
  await new Promise(setImmediate);
  await new Promise<void>((resolve) => {
    let left = bytes;
    const timer = setTimeout(end, ms);
    function take(chunk: Buffer): void {
      left -= chunk.length;
      if (left < 0) end();
    }
    function end(): void {
      clearTimeout(timer);
      body.off('data', take).off('end', end).off('close', end);
      resolve();
    }
    // Whoever goes away now has nothing to lose, and an error without a listener would end the process.
    body.on('error', () => {});
    body.on('data', take).once('end', end).once('close', end);
    if (body.destroyed || body.readableEnded) end();
    body.resume();
  });
  body.resume();
}

function stalled(sender: string, ms: number): ServerError {
  return new ServerError(
    'INTERRUPTED',
    `${sender} has sent nothing for ${Math.round(ms / 1000)} s`,
  );
}

function brokenOff(sender: string, cause: unknown): ServerError {
  return new ServerError('INTERRUPTED', `${sender} went away in the middle of the transfer`, {
    cause,
  });
}
