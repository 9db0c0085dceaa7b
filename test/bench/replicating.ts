import type { Generation } from '../../src/mirror/generation.js';
import type { Mirror } from '../../src/mirror/mirror.js';
import { createReplicator, type SyncResult } from '../../src/mirror/replicate.js';
import type { OpenSource } from '../../src/mirror/send.js';
import { memoryLog } from '../support/memory-log.js';

/** @returns what brings `mirror` to a generation, and goes on knowing it, as the daemon does */
export function replicate(
  mirror: Mirror,
  openSource: OpenSource,
): (generation: Generation) => Promise<SyncResult> {
  const replicator = createReplicator({
    mirror,
    master: { id: 'bench', host: 'localhost' },
    images: 'images',
    grace: 3_600_000,
    openSource,
    cache: { get: async () => undefined, set: async () => {} },
    log: memoryLog().log,
  });
  return (generation) => replicator.sync(() => generation);
}
