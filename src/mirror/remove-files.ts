/** Removes files from a mirror, then the folders that this leaves empty. */

import type { Stage } from '../catalog/plan.js';
import type { Present } from '../catalog/present.js';
import { note } from './knowledge.js';
import { folderOf } from './paths.js';
import { inTurns } from './together.js';
import { type Work, writeRecord } from './work.js';

/** @param onRemoved is called for each file. */
export async function removeFiles(
  work: Work,
  { files, record }: Extract<Stage, { do: 'remove' }>,
  { present, onRemoved }: { present: Present; onRemoved: () => void },
): Promise<void> {
  const { mirror, images, knowledge, signal } = work;
  const left = new Map(files.map((path) => [path, present.entries.get(path)]));
  work.meter.begin('remove', []);
  await writeRecord(work, record, present);
  for (const path of files) note(knowledge, path, undefined);
  try {
    await inTurns(files, mirror.parallel, async (path) => {
      await mirror.remove(path, signal);
      left.delete(path);
      onRemoved();
    });
  } finally {
    // Whether these are there still, nobody knows.
    for (const [path, entry] of left) {
      if (entry?.since !== undefined) {
        note(knowledge, path, { size: entry.size, since: entry.since });
      }
    }
  }
  work.folders.clear();
  await inTurns([...new Set(files.map(folderOf))], mirror.parallel, async (folder) => {
    let path = folder;
    while (path.length > images.length && (await mirror.removeFolder(path, signal))) {
      knowledge.unsynced.delete(path);
      path = folderOf(path);
    }
  });
}
