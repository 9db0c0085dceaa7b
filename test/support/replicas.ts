/** Mirrors in memory, masters that replicate to them, and what can be told of the outcome. */
import assert from 'node:assert/strict';
import type { Generation } from '../../src/mirror/generation.js';
import type { ListCache } from '../../src/mirror/manifest-store.js';
import { stagingFolder } from '../../src/mirror/names.js';
import {
  createReplicator,
  type Replicator,
  type ReplicatorOptions,
} from '../../src/mirror/replicate.js';
import { type ImageTree, pathOf, sha256Of, sourcesOf } from './image-generations.js';
import { memoryLog } from './memory-log.js';
import type { MemoryMirror } from './memory-mirror.js';

export const hour = 3_600_000;
export const grace = 2 * hour;
export const master = { id: 'a3f0', host: 'master.example' };

export function memoryCache(): ListCache {
  const lists = new Map<string, Buffer>();
  return {
    get: async (sha256) => lists.get(sha256),
    set: async (sha256, bytes) => void lists.set(sha256, bytes),
  };
}

/** A master process, as a mirror sees it. */
export function startMaster(
  mirror: MemoryMirror,
  tree: () => ImageTree,
  options: Partial<ReplicatorOptions> = {},
): Replicator {
  return createReplicator({
    mirror,
    master,
    images: 'images',
    grace,
    openSource: sourcesOf(tree),
    cache: memoryCache(),
    log: memoryLog().log,
    ...options,
  });
}

/** The files of the images on `mirror`. */
export function imagesOn({ files }: Pick<MemoryMirror, 'files'>): Record<string, string> {
  const images = [...files].filter(([path]) => path.startsWith('images/'));
  return Object.fromEntries(images.map(([path, { content }]) => [path, content.toString()]).sort());
}

export function expected(tree: ImageTree): Record<string, string> {
  return Object.fromEntries(
    Object.entries(tree)
      .map(([file, content]) => [pathOf(file), content])
      .sort(),
  );
}

export function assertPublished(mirror: Pick<MemoryMirror, 'files'>, generation: Generation): void {
  for (const { path, sha256 } of generation.documents) {
    assert.equal(sha256Of(mirror.files.get(path)?.content ?? ''), sha256, path);
  }
  const documents = [...mirror.files.keys()].filter((path) => path.startsWith('streams/'));
  assert.deepEqual(documents.sort(), generation.documents.map(({ path }) => path).sort());
}

export function stagedOn({ files }: Pick<MemoryMirror, 'files'>): string[] {
  return [...files.keys()].filter((path) => path.startsWith(stagingFolder));
}
