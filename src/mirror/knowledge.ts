/** What is known of a mirror from one piece of work to the next, for as long as the process runs. */
import type { Files } from '../catalog/generation.js';
import type { Entry } from '../catalog/manifest.js';
import type { Present } from '../catalog/present.js';
import { type Lack, lackOf, noteLack } from './lack.js';

export interface Knowledge {
  /** Absent before the first look, and when what was known was of another manifest. */
  present: Present | undefined;
  /** What it lacks of the generation that was asked about last; absent before that, and where nothing is known. */
  lack: Lack | undefined;
  /** Paths at which a file may have been replaced. */
  unsure: Set<string>;
  /** Folders in which files got names that may not be on the disk of the mirror yet. */
  unsynced: Set<string>;
  /** Folders that have been made or found: those of the documents and our own, of which there are few. */
  folders: Set<string>;
  /** Whether there may be something in the staging folder that will not be used. */
  isLittered: boolean;
  /** Whether the tree was found to be other than was known. */
  isDoubtful: boolean;
  /** Whether there was no room the last time. */
  isFull: boolean;
  /** Whether it is known that the mirror is not the master itself. */
  isApart: boolean;
}

export function createKnowledge(): Knowledge {
  return {
    present: undefined,
    lack: undefined,
    unsure: new Set(),
    unsynced: new Set(),
    folders: new Set(),
    // Whatever the process before has left.
    isLittered: true,
    isDoubtful: false,
    isFull: false,
    isApart: false,
  };
}

/** From now on `present` is what is known; what it lacks of `wanted` is counted now, when all is gone through anyway. */
export function know(knowledge: Knowledge, present: Present | undefined, wanted?: Files): void {
  knowledge.present = present;
  knowledge.lack = present && wanted && lackOf(wanted, present);
}

/** Notes what is at `path` now; `undefined` where nothing of use is. */
export function note(knowledge: Knowledge, path: string, entry: Entry | undefined): void {
  const { present, lack } = knowledge;
  if (present === undefined) return;
  if (lack !== undefined) noteLack(lack, path, { before: present.entries.get(path), now: entry });
  if (entry === undefined) present.entries.delete(path);
  else present.entries.set(path, entry);
}

/** A function that tells how many versions are not whole; it costs as much as what has changed since. */
export function createLagMeter(
  knowledge: Knowledge,
): (generation: { files: Files }) => number | undefined {
  return ({ files }) => {
    const { present, lack } = knowledge;
    if (present === undefined) return undefined;
    knowledge.lack = lackOf(files, { entries: present.entries, ...(lack && { known: lack }) });
    return knowledge.lack.folders.size;
  };
}

/** A file by its name and its content. */
export interface NamedFile {
  /** Relative to the root. */
  path: string;
  /** 64 lower-case hexadecimal digits. */
  sha256: string;
  /** Bytes. */
  size: number;
}

/** Whether the mirror has been looked at, and nothing is in doubt since. */
export function isSure({ present, isDoubtful }: Knowledge): boolean {
  return present !== undefined && !isDoubtful;
}

/** Whether just that content is there under its name, for sure. */
export function holds(knowledge: Knowledge, { path, sha256, size }: NamedFile): boolean {
  const { present, unsure, isDoubtful } = knowledge;
  const entry = present?.entries.get(path);
  if (isDoubtful || entry?.sha256 === undefined || unsure.has(path)) return false;
  return entry.sha256 === sha256 && entry.size === size;
}

/** How many entries one call passes over at most: thousands may have a content that is not known. */
const longestSearch = 100;

/** A function that gives one file after the other of those that are there for sure, round and round. */
export function createSampler(knowledge: Knowledge): () => NamedFile | undefined {
  let of: Present | undefined;
  let entries: Iterator<[string, Entry]> = [].values();
  return () => {
    const { present } = knowledge;
    if (present === undefined || present.entries.size === 0) return undefined;
    for (let tries = 0; tries < longestSearch; tries += 1) {
      let next = of === present ? entries.next() : { done: true as const, value: undefined };
      if (next.done) {
        // It follows what is added and removed meanwhile.
        entries = present.entries.entries();
        of = present;
        next = entries.next();
      }
      if (next.done) return undefined;
      const [path, { size, sha256, since }] = next.value;
      // What waits to be removed may be gone at the next moment.
      if (sha256 === undefined || since !== undefined) continue;
      if (holds(knowledge, { path, sha256, size })) return { path, sha256, size };
    }
    return undefined;
  };
}
