/** What stands on a mirror, whoever put it there. */
import { isBelow } from '../catalog/manifest.js';
import type { Found } from '../catalog/present.js';
import type { ListedEntry, Mirror, MirrorEntry, MirrorOptions } from './mirror.js';
import { inTurns } from './together.js';

/** Deeper than any tree of images; against links that lead in a circle. */
const deepest = 16;

/**
 * The files below `images`, by path. Links are followed.
 *
 * @throws ServerError as {@link Mirror.list}.
 */
export async function listFiles(
  mirror: Mirror,
  { images, signal }: MirrorOptions & { images: string },
): Promise<Map<string, Found>> {
  const settings = signal === undefined ? {} : { signal };
  const files = new Map<string, Found>();
  let folders = [{ path: images, linked: false }];
  for (let depth = 0; folders.length > 0 && depth < deepest; depth++) {
    const below: typeof folders = [];
    const look = async ({ path, linked }: { path: string; linked: boolean }) => {
      const entries = (await mirror.list(path, settings)) ?? [];
      for (const entry of entries) await note(entry, { path, linked, below });
    };
    await inTurns(folders, mirror.parallel, look);
    folders = below;
  }
  return files;

  async function note(
    entry: ListedEntry,
    { path: folder, ...above }: { path: string; linked: boolean; below: typeof folders },
  ): Promise<void> {
    const path = `${folder}/${entry.name}`;
    if (!isBelow(images, path)) return;
    const linked = above.linked || entry.kind === 'link';
    const what: MirrorEntry | undefined =
      entry.kind === 'link' ? await mirror.stat(path, settings) : entry;
    if (what?.kind === 'folder') above.below.push({ path, linked });
    if (what?.kind === 'file') files.set(path, { size: what.size, mtime: what.mtime, linked });
  }
}
