/**
 * The watcher of the tree: tells in which folder something may have changed.
 *
 * The images folder and the environments, where file systems are mounted and whole trees come and go, are
 * watched with chokidar, one watcher a folder: only then does its `ready` say that this folder is watched,
 * and only its `raw` events are neither throttled nor left out. Below, a native watch a folder takes less
 * (see watched-tree.ts).
 */
import { once } from 'node:events';
import { watch } from 'chokidar';
import type { Logger } from '../log.js';
import { imagesFolder } from './images-folder.js';
import { type OnFolderEvent, type Watch, WatchedTree } from './watched-tree.js';

export interface TreeWatcherOptions {
  /** Absolute, without symbolic links. */
  imagesDir: string;
  /**
   * Is told of a folder in which something may have changed, as a path relative to the images folder: a
   * product (`env/release/arch/type`) for anything in it or below it; a folder above the products as itself
   * (`env`, '' …), meaning all below it. One that has come or gone is told as itself, too. Comes after
   * whatever is new there is being watched: a scan begun afterwards misses nothing.
   */
  onChange: (folder: string) => void;
  log: Logger;
}

export interface WatchState {
  /** How many folders are watched now. */
  folders: number;
  /** False where some could not be watched: then only a scan on a timer finds out what changes there. */
  complete: boolean;
  /** Why not. */
  reason?: string;
  cure?: string;
}

export interface TreeWatcher {
  /**
   * Brings the watches in line with the folders that are there now, tells of what differs, and tries again
   * what could not be watched. For after a mount, and with each timed scan.
   */
  resync(): Promise<void>;
  state(): WatchState;
  /**
   * Whether what is watched as the images folder is still what is there under its name, or nothing is. A
   * file system that is mounted over it brings no event.
   */
  isInPlace(): boolean;
  /** Nothing is told afterwards. */
  close(): Promise<void>;
}

/**
 * Watches the tree; resolves when every folder that is there is watched, or could not be. A scan begun then
 * misses nothing, and what changes from then on is told.
 *
 * @throws ServerError NOT_INITIALISED where the images folder is missing, CONFIG where it is no folder, DENIED.
 */
export async function createTreeWatcher(options: TreeWatcherOptions): Promise<TreeWatcher> {
  const imagesDir = await imagesFolder(options.imagesDir);
  const closing = new AbortController();
  const tree = new WatchedTree({
    ...options,
    imagesDir,
    watchTop: (path, onEvent) =>
      watchWithChokidar(path, { onEvent, signal: closing.signal, log: options.log }),
  });
  await tree.start();
  return {
    resync: () => tree.resync(),
    state() {
      const { folders, obstacle } = tree.state();
      return { folders, complete: obstacle === undefined, ...obstacle };
    },
    isInPlace: () => tree.isInPlace(),
    close() {
      closing.abort();
      return tree.close();
    },
  };
}

interface ChokidarOptions {
  onEvent: OnFolderEvent;
  signal: AbortSignal;
  log: Logger;
}

/** A folder that vanishes at the wrong moment leaves chokidar waiting for ever. */
const readyMs = 10_000;

/** Watches the entries of one folder. Rejects with the system error where that is not possible. */
async function watchWithChokidar(
  path: string,
  { onEvent, signal, log }: ChokidarOptions,
): Promise<Watch> {
  const watcher = watch(path, {
    depth: 0,
    ignored: (entry) => entry !== path,
    ignoreInitial: true,
    followSymlinks: false,
    // It would pass over a folder whose name ends as an editor's temporary file does.
    atomic: false,
    usePolling: false,
    // Otherwise it would share one native watch among all watchers of a path, even if that is another folder now.
    persistent: false,
  });
  watcher.on('raw', (event, entry, details) => {
    const { watchedPath } = details as { watchedPath: string };
    // Where the folder has vanished it looks out for it in the folder above.
    if (watchedPath === path) onEvent(event === 'rename' ? 'rename' : 'change', entry);
  });
  // What it reads by itself is of no use here, once the folder is watched.
  watcher.on('error', (err) => log.debug({ err, path }, 'chokidar cannot read a folder'));
  try {
    await once(watcher, 'ready', {
      signal: AbortSignal.any([signal, AbortSignal.timeout(readyMs)]),
    });
  } catch (error) {
    await watcher.close();
    throw error;
  }
  return { close: () => watcher.close() };
}
