import type { PutSource } from '../mirror.js';

/** Blocks that are asked for before they are taken. */
const ahead = 2;

/** Reads a source block by block from `start`, a little ahead of what is taken. */
export function createBlocks(source: PutSource, options: { start: number; blockBytes: number }) {
  const { start, blockBytes } = options;
  /** The blocks that have been asked for and not used up, by offset. */
  const asked = new Map<number, Promise<Buffer>>();
  let next = start;
  return {
    /** `length` bytes at `offset`, which lie in one block; in rising order. */
    async take(offset: number, length: number): Promise<Buffer> {
      const first = Math.floor(offset / blockBytes) * blockBytes;
      while (next < source.size && next <= first + ahead * blockBytes) askForNext();
      const block = (await asked.get(first)) as Buffer;
      if (offset + length === first + block.length) asked.delete(first);
      return block.subarray(offset - first, offset - first + length);
    },
  };

  function askForNext(): void {
    const block = source.read(next, Math.min(blockBytes, source.size - next));
    // It is told when its turn comes, if it comes.
    block.catch(() => {});
    asked.set(next, block);
    next += blockBytes;
  }
}
