/**
 * Native watches, one a folder. There can be 100,000 of them: one listener serves all, and what must be
 * known of a folder is kept on its watch.
 */
import { type FSWatcher, lstatSync, watch } from 'node:fs';

/** `rename`: the entry has come, gone, or been replaced. `change`: its content or its permissions have. */
export type FolderEvent = 'rename' | 'change';

/** What tells one folder from another that has taken its name: inode numbers are used again at once. */
export interface Identity {
  ino: number;
  /** When it was made, in milliseconds since 1970; 0 where the file system does not keep that. */
  born: number;
}

export interface FolderWatch<Owner> extends FSWatcher, Identity {
  owner: Owner;
  /** The folder's own name, by which the kernel also tells of the folder itself. */
  name: string;
}

export interface FolderWatchOptions<Owner> {
  owner: Owner;
  name: string;
}

export type WatchFolder<Owner> = (
  path: string,
  options: FolderWatchOptions<Owner>,
) => FolderWatch<Owner>;

/**
 * A function that watches a folder, and throws the system error where it cannot. The watches do not keep
 * the process running. Once made they do not fail on Linux: a folder that is gone is silent.
 */
export function createFolderWatches<Owner>(
  onEvent: (watch: FolderWatch<Owner>, event: FolderEvent, entry: string | null) => void,
): WatchFolder<Owner> {
  function listen(this: FolderWatch<Owner>, event: FolderEvent, entry: string | null): void {
    onEvent(this, event, entry);
  }
  return (path, { owner, name }) => {
    const { ino, born } = identityOf(path) ?? nobody;
    return Object.assign(watch(path, { persistent: false }, listen), { owner, name, ino, born });
  };
}

const nobody: Identity = { ino: -1, born: 0 };

/** The identity of the folder at `path`, or `undefined` where none is, or it cannot be looked at. */
export function identityOf(path: string): Identity | undefined {
  try {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    return stat?.isDirectory() !== true ? undefined : { ino: stat.ino, born: stat.birthtimeMs };
  } catch {
    return undefined;
  }
}

export function isSame(one: Identity, other: Identity | undefined): boolean {
  return one.ino === other?.ino && one.born === other.born;
}
