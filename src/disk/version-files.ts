/** The hidden files of a version: what is known of it beside its files, and the mark that takes it out. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import {
  parseStoredFacts,
  type StoredFacts,
  storedFactsName,
  storedFactsText,
} from '../catalog/stored-facts.js';
import { removedMark } from '../catalog/tree.js';
import { ServerError, systemCode } from '../errors.js';
import { removeTemporaries, writeError, writeFileAtomically } from './files.js';
import { readSmallFile } from './small-file.js';

/** What is kept with the version in `folder`; `undefined` where nothing is, `'damaged'` where that is none of ours. */
export async function readStoredFacts(
  folder: string,
): Promise<StoredFacts | 'damaged' | undefined> {
  const read = await readSmallFile(join(folder, storedFactsName));
  if (read === undefined) return undefined;
  return ('text' in read && parseStoredFacts(read.text)) || 'damaged';
}

/** Keeps `facts` with the version in `folder`. @throws ServerError IMAGE_MISSING where that is gone, DISK_FULL, DENIED, IO */
export async function writeStoredFacts(folder: string, facts: StoredFacts): Promise<void> {
  await write(folder, storedFactsName, storedFactsText(facts));
}

const markText =
  'This version was taken out, and its files are deleted after the grace time.\nWithout this file it is published again.\n';

/** Takes the version in `folder` out of what is published. @throws ServerError as {@link writeStoredFacts} */
export async function markRemoved(folder: string): Promise<void> {
  await write(folder, removedMark, markText);
}

/**
 * When the version in `folder` was taken out here, in milliseconds since 1970; `undefined` where it was not. A mark that
 * was copied with its times has been here since it was copied: only then did it leave the documents of this server.
 */
export async function removedAt(folder: string): Promise<number | undefined> {
  const path = join(folder, removedMark);
  return stat(path).then(
    ({ mtimeMs, ctimeMs }) => Math.max(mtimeMs, ctimeMs),
    (error: unknown) => {
      if (isMissing(error)) return undefined;
      throw writeError(path, error);
    },
  );
}

async function write(folder: string, name: string, text: string): Promise<void> {
  try {
    await removeTemporaries(folder, [name]);
    await writeFileAtomically(join(folder, name), [Buffer.from(text)]);
  } catch (error) {
    const cause = error instanceof ServerError ? error.cause : error;
    if (!isMissing(cause)) throw writeError(folder, error);
    throw new ServerError('IMAGE_MISSING', 'The image was removed a moment ago', { cause: error });
  }
}

function isMissing(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '');
}
