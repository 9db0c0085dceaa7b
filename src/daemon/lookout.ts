/**
 * Sees to it that no change goes unnoticed: events where there are any, and besides them whatever can make
 * events lie: other file systems in the tree's place, a clock that jumps, folders that cannot be watched.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { imagesFolder } from '../disk/images-folder.js';
import { placeOf } from '../disk/mounts.js';
import { createTreeWatcher, type TreeWatcher } from '../disk/watch.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Watching } from './status.js';

export interface LookoutOptions {
  /** The images folder as it is configured. */
  images: string;
  /** Is told of a folder below it in which something may have changed; '' is all of it. */
  onChange: (folder: string) => void;
  /** Is told that the tree may be usable again. */
  onReturn: () => void;
  log: Logger;
}

export interface Lookout {
  /** Brings the watches in line with what is there, in case that went unnoticed. */
  resync(): Promise<void>;
  state(): Watching;
  /** What the last look at the folder failed with; `undefined` where it did not. */
  failure(): string | undefined;
  close(): Promise<void>;
}

/** How often to look for what brings no events, in milliseconds. */
const roundMs = 2000;
/** How far the clock may be off between two rounds before it counts as a jump, in milliseconds. */
const jumpMs = 1000;
/** How often the whole tree is looked at where not all of it can be watched: at least, and by what it costs. */
const timedLook = { ms: 10_000, restFactor: 20 };

/**
 * Starts to watch; everything that is there is watched when this resolves.
 *
 * @throws ServerError NOT_INITIALISED, CONFIG or DENIED where the images folder cannot be used.
 */
export async function createLookout(options: LookoutOptions): Promise<Lookout> {
  const { images, onChange, onReturn, log } = options;
  const ending = new AbortController();
  const clock = createClock();
  let folder = await imagesFolder(images);
  let place = await placeOf(images);
  let watcher = await watch(folder);
  let lookAt = performance.now() + timedLook.ms;
  /** What the last round failed with: it is told once. */
  let failure: string | undefined;
  const rounds = goRound();

  return {
    resync: () => watcher.resync(),
    state() {
      const { folders, complete, reason, cure } = watcher.state();
      if (complete) return { mode: 'events', folders };
      return { mode: 'timer', folders, reason: [reason, cure].filter(Boolean).join('; ') };
    },
    failure: () => failure,
    async close() {
      ending.abort();
      await rounds;
      await watcher.close();
    },
  };

  function watch(imagesDir: string): Promise<TreeWatcher> {
    return createTreeWatcher({ imagesDir, onChange, log });
  }

  async function goRound(): Promise<void> {
    while (!ending.signal.aborted) {
      await sleep(roundMs, undefined, { signal: ending.signal }).catch(() => undefined);
      if (ending.signal.aborted) return;
      try {
        await look();
        failure = undefined;
      } catch (err) {
        const { message } = err as Error;
        if (message !== failure)
          log.error({ err }, 'cannot watch the images folder; it is tried again');
        failure = message;
      }
    }
  }

  async function look(): Promise<void> {
    const jump = clock.jump();
    if (Math.abs(jump) > jumpMs) {
      log.warn(
        { seconds: Math.round(jump / 1000) },
        'the clock has jumped; the tree is looked at again',
      );
      onChange('');
    }
    const now = await placeOf(images);
    // Numbers of a file system can come back with another one.
    if (now !== place || !watcher.isInPlace()) {
      await rewatch();
      place = now;
      log.warn(
        { path: images },
        'another file system or folder is in place; the tree is looked at again',
      );
      onReturn();
      onChange('');
    }
    if (!watcher.state().complete && performance.now() >= lookAt) {
      const began = performance.now();
      await watcher.resync();
      const took = performance.now() - began;
      lookAt = performance.now() + Math.max(timedLook.ms, timedLook.restFactor * took);
      onChange('');
    }
  }

  /** Follows the images folder to where it is now; where it is nowhere, waits for it at the old place. */
  async function rewatch(): Promise<void> {
    const found = await imagesFolder(images).catch((error: unknown) => {
      if (error instanceof ServerError) return folder;
      throw error;
    });
    if (found === folder) return await watcher.resync();
    const old = watcher;
    watcher = await watch(found);
    folder = found;
    await old.close();
  }
}

/** Tells by how many milliseconds the clock on the wall has left the steady one since it was last asked. */
function createClock(): { jump: () => number } {
  const difference = () => Date.now() - performance.now();
  let last = difference();
  return {
    jump() {
      const before = last;
      last = difference();
      return last - before;
    },
  };
}
