/** Reads what a mirror has back in full, and holds it against a generation. Changes nothing. */

import type { Present } from '../catalog/present.js';
import { compareNames } from '../catalog/tree.js';
import { faultOf, sizeFault } from './check-files.js';
import type { Generation } from './generation.js';
import { note } from './knowledge.js';
import { look, namesIn } from './look.js';
import { inTurns } from './together.js';
import type { Work } from './work.js';

/** One thing on a mirror that is not as published. */
export interface MirrorDamage {
  path: string;
  /** The end of the sentence that begins with the path. */
  reason: string;
}

export interface Findings {
  /** How many files were read back, documents too, and their bytes. */
  files: number;
  bytes: number;
  /** In path order. */
  damage: MirrorDamage[];
  /** Files of the images that no document names, and that are not kept for their grace time; in path order. */
  extra: string[];
  /** What is known by now. */
  present: Present;
}

/** What a verification that was broken off has come to: the next one need not read that again. */
export interface Verified {
  files: number;
  bytes: number;
  /** What was wrong, by path; it may have been mended since. */
  damage: Map<string, string>;
  /** SHA-256 of what was read and found right, by path. */
  whole: Map<string, string>;
}

export function nothingVerified(): Verified {
  return { files: 0, bytes: 0, damage: new Map(), whole: new Map() };
}

/**
 * Goes on from `verified`, and adds to it.
 *
 * @throws ServerError as the mirror does; MIRROR_TAKEN; the reason of an abort.
 */
export async function verifyMirror(
  work: Work,
  generation: Generation,
  verified: Verified,
): Promise<Findings> {
  const { mirror, knowledge, meter } = work;
  const present = await look(work, generation, { inspect: true });
  const extra = await readDocuments(work, generation, { present, verified });
  const kept = [...present.entries].flatMap(([path, { size, sha256 }]) =>
    sha256 === undefined || generation.files.has(path) ? [] : [{ path, size, sha256 }],
  );
  const files = [...generation.files].map(([path, facts]) => ({ path, ...facts }));
  meter.begin('check', [...files, ...kept]);
  const readBack = async (file: (typeof files)[number]) => {
    const { path, size, sha256 } = file;
    const entry = present.entries.get(path);
    const isWhole = entry?.size === size;
    if (isWhole && verified.whole.get(path) === sha256) {
      meter.move(size, 1);
      return { entry, fault: undefined };
    }
    if (!isWhole) meter.move(size);
    const fault = isWhole ? await faultOf(work, file) : otherFault(entry, size);
    if (isWhole) count(verified, size);
    if (fault === undefined) verified.whole.set(path, sha256);
    meter.move(0, 1);
    return { entry, fault };
  };
  await inTurns(files, mirror.parallel, async (file) => {
    const { path, size, sha256 } = file;
    const { entry, fault } = await readBack(file);
    if (fault !== undefined) verified.damage.set(path, fault);
    note(knowledge, path, fault === undefined ? { ...entry, size, sha256 } : undefined);
  });
  // Nothing names these, and nothing can mend them; but their content could be taken for others.
  await inTurns(kept, mirror.parallel, async (file) => {
    const { entry, fault } = await readBack(file);
    if (entry === undefined || fault === undefined) return;
    const { sha256, ...unknown } = entry;
    note(knowledge, file.path, unknown);
  });
  const damage = [...verified.damage].map(([path, reason]) => ({ path, reason }));
  damage.sort((a, b) => compareNames(a.path, b.path));
  return { files: verified.files, bytes: verified.bytes, damage, extra, present };
}

function count(verified: Verified, bytes: number): void {
  verified.files += 1;
  verified.bytes += bytes;
}

/** What is wrong with a file that need not be read to tell. */
function otherFault(entry: { size: number } | undefined, size: number): string {
  return entry === undefined ? 'is not there' : sizeFault(entry.size, size);
}

/** Reads the documents, and learns what they name. @returns the files that nobody has a use for. */
async function readDocuments(
  work: Work,
  generation: Generation,
  { present, verified }: { present: Present; verified: Verified },
): Promise<string[]> {
  const { mirror, signal } = work;
  const { damage } = verified;
  const { documents, entries, named, recorded } = present;
  await inTurns([...generation.documents], mirror.parallel, async ({ path, size, sha256 }) => {
    const there = await mirror.hash(path, signal);
    if (there === undefined) {
      documents.delete(path);
      damage.set(path, 'is not there');
      return;
    }
    documents.set(path, there.sha256);
    count(verified, there.size);
    if (there.sha256 === sha256) return;
    const reason =
      there.size === size
        ? `has SHA-256 ${there.sha256}, published is ${sha256}`
        : sizeFault(there.size, size);
    damage.set(path, reason);
  });
  const published = new Set(generation.documents.map(({ path }) => path));
  for (const path of documents.keys()) {
    if (!published.has(path)) damage.set(path, 'is there, and not published');
  }
  const names = await namesIn(work, generation, { contents: documents, every: true });
  for (const path of names) named.add(path);
  const isKept = (path: string) => recorded?.entries.get(path)?.since !== undefined;
  return [...entries.keys()]
    .filter((path) => !generation.files.has(path) && !names.has(path) && !isKept(path))
    .sort(compareNames);
}
