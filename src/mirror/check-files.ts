/** Reads files back from a mirror. */

import type { FileFacts } from '../catalog/generation.js';
import type { Stage } from '../catalog/plan.js';
import type { Present } from '../catalog/present.js';
import { ServerError } from '../errors.js';
import type { Generation } from './generation.js';
import { note } from './knowledge.js';
import { folderOf } from './paths.js';
import { inTurns } from './together.js';
import { isOld, type Work } from './work.js';

/**
 * Reads files whose content is not known. Ends early where a newer generation comes.
 *
 * @returns how many had the content that they should.
 */
export async function checkFiles(
  work: Work,
  { files }: Extract<Stage, { do: 'check' }>,
  { generation, present }: { generation: Generation; present: Present },
): Promise<number> {
  const { mirror, knowledge, meter } = work;
  let good = 0;
  meter.begin('check', files);
  await inTurns(files, mirror.parallel, async ({ path, size, sha256 }) => {
    if (isOld(work, generation)) return;
    const isWorthReading = present.entries.get(path)?.size === size;
    const fault = isWorthReading ? await faultOf(work, { path, size, sha256 }) : 'has another size';
    if (fault === undefined) {
      note(knowledge, path, { size, sha256 });
      // Whoever gave it the name may have been cut right after that.
      knowledge.unsynced.add(folderOf(path));
      good += 1;
    } else note(knowledge, path, undefined);
    meter.move(0, 1);
  });
  return good;
}

/** Reads a file, and tells what is wrong with it, as the end of a sentence; `undefined` where nothing is. */
export async function faultOf(
  { mirror, meter, signal }: Work,
  { path, size, sha256 }: { path: string } & FileFacts,
): Promise<string | undefined> {
  try {
    const there = await mirror.hash(path, { onBytes: meter.move, ...signal });
    if (there === undefined) return 'is not there';
    if (there.size !== size) return sizeFault(there.size, size);
    if (there.sha256 !== sha256) return `has SHA-256 ${there.sha256}, published is ${sha256}`;
    return undefined;
  } catch (error) {
    // These are of the one file; others are read nonetheless.
    if (!(error instanceof ServerError)) throw error;
    if (error.code === 'MIRROR_DENIED') return 'cannot be read';
    if (error.code === 'MIRROR_DAMAGED') return 'is no file, or changed while it was read';
    throw error;
  }
}

export function sizeFault(size: number, published: number): string {
  return `has a size of ${size}, published is ${published}`;
}
