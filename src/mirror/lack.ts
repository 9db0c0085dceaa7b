/**
 * What a mirror lacks of a generation, counted along as files come and go: who asks often, as a scrape of metrics or a
 * page that is live does for hundreds of mirrors, must not go through all that is stored each time.
 */
import type { FileFacts, Files } from '../catalog/generation.js';
import type { Entries, Entry } from '../catalog/manifest.js';
import { isWhole } from '../catalog/plan.js';
import { folderOf } from './paths.js';

export interface Lack {
  /** What is wanted. */
  files: Files;
  /** How many files of a folder are not there; a folder that lacks none is not in it. */
  folders: Map<string, number>;
}

/** Goes through all of `files`, but where it is known what was lacking of others, through what differs. */
export function lackOf(files: Files, { entries, known }: { entries: Entries; known?: Lack }): Lack {
  if (known === undefined) {
    const lack: Lack = { files, folders: new Map() };
    for (const [path, facts] of files) {
      if (!isWhole(entries.get(path), facts)) count(lack, path, 1);
    }
    return lack;
  }
  if (known.files === files) return known;
  const lack: Lack = { files, folders: known.folders };
  for (const path of differences(known.files, files)) {
    const entry = entries.get(path);
    count(lack, path, lacks(files, path, entry) - lacks(known.files, path, entry));
  }
  return lack;
}

/** Takes down that there was `before` at `path`, and there is `now`. */
export function noteLack(
  lack: Lack,
  path: string,
  { before, now }: { before: Entry | undefined; now: Entry | undefined },
): void {
  count(lack, path, lacks(lack.files, path, now) - lacks(lack.files, path, before));
}

/** 1 where a file is wanted at `path` and `entry` is not that. */
function lacks(files: Files, path: string, entry: Entry | undefined): 0 | 1 {
  const facts = files.get(path);
  return facts === undefined || isWhole(entry, facts) ? 0 : 1;
}

function count({ folders }: Lack, path: string, by: number): void {
  if (by === 0) return;
  const folder = folderOf(path);
  const number = (folders.get(folder) ?? 0) + by;
  if (number === 0) folders.delete(folder);
  else folders.set(folder, number);
}

/** Of pairs that were compared: the mirrors all go from one generation to the next. */
const compared = new WeakMap<Files, WeakMap<Files, string[]>>();

/** The paths at which the two want something else, or only one wants anything. */
function differences(before: Files, after: Files): readonly string[] {
  const known = compared.get(before)?.get(after);
  if (known !== undefined) return known;
  const paths: string[] = [];
  for (const [path, facts] of after) if (!isSame(before.get(path), facts)) paths.push(path);
  for (const path of before.keys()) if (!after.has(path)) paths.push(path);
  const ofBefore = compared.get(before) ?? new WeakMap<Files, string[]>();
  compared.set(before, ofBefore.set(after, paths));
  return paths;
}

function isSame(one: FileFacts | undefined, other: FileFacts): boolean {
  return one?.sha256 === other.sha256 && one.size === other.size;
}
