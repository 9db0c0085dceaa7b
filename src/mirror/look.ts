/** Looks at a mirror: what it has, by its manifest, by what is known of it, and by its tree. */
import { gunzipSync } from 'node:zlib';
import type { Wanted } from '../catalog/generation.js';
import {
  type Found,
  knownDocuments,
  noteRecord,
  type Present,
  recall,
  stillKnown,
} from '../catalog/present.js';
import { DocumentError, parseImages, versionsOf } from '../catalog/published.js';
import { ServerError } from '../errors.js';
import type { Generation } from './generation.js';
import { listFiles } from './inspect.js';
import { know, note } from './knowledge.js';
import { manifestPath, ownFolder, stagingFolder, stagingPath } from './names.js';
import { allDone, inTurns } from './together.js';
import type { Work } from './work.js';

/**
 * What the mirror has.
 *
 * @param options.inspect list its tree even where its manifest fits.
 * @throws ServerError as the mirror does; MIRROR_TAKEN.
 */
export async function look(
  work: Work,
  generation: Generation,
  { inspect }: { inspect: boolean },
): Promise<Present> {
  const { knowledge } = work;
  const looksForSure = inspect || knowledge.isDoubtful;
  work.meter.begin('look', []);
  const [manifest, documents] = await allDone([
    loadManifest(work),
    lookAtDocuments(work, generation),
  ]);
  const known = knowledge.present;
  if (known !== undefined && !looksForSure) return await lookAgain(work, known, documents);
  const isSettled = manifest !== undefined && manifest.documents.length > 0;
  const looksClosely = !isSettled || looksForSure || knowledge.unsure.size > 0;
  // What stands there by now is not known.
  for (const path of knowledge.unsure) note(knowledge, path, undefined);
  const tree = looksClosely ? await lookAtTree(work) : {};
  const contents = known ? stillKnown(documents, known) : knownDocuments(documents, manifest);
  const names = await namesIn(work, generation, { contents });
  const present = recall({ manifest, known, documents, names, wanted: generation.files, ...tree });
  know(knowledge, present, generation.files);
  knowledge.unsure.clear();
  knowledge.isDoubtful = false;
  return present;
}

/** Reads the manifest. What was known is forgotten where it was of another one. */
async function loadManifest({ store, knowledge, takeOver, signal }: Work) {
  const loaded = await store.load({ takeOver, ...signal });
  const known = knowledge.present;
  if (loaded?.isOurs !== true) know(knowledge, undefined);
  else if (known !== undefined && known.recorded !== loaded.manifest) {
    noteRecord(known, loaded.manifest);
  }
  return loaded?.manifest;
}

/** The documents that are there, with their sizes: those of the generation, and of JSON the compressed form too. */
async function lookAtDocuments(
  { mirror, signal }: Work,
  { documents }: Generation,
): Promise<Map<string, number>> {
  const plain = documents.map(({ path }) => path.replace(/\.gz$/, ''));
  const isPacked = (path: string) => path.endsWith('.json');
  const paths = [
    ...new Set(plain.flatMap((path) => (isPacked(path) ? [path, `${path}.gz`] : path))),
  ];
  const found = await allDone(
    paths.map(async (path) => [path, await mirror.stat(path, signal)] as const),
  );
  return new Map(found.flatMap(([path, entry]) => (entry ? [[path, entry.size]] : [])));
}

/** Takes up what is known from before, and looks at what its end has left in doubt. */
async function lookAgain(
  { mirror, knowledge, signal }: Work,
  present: Present,
  documents: Map<string, number>,
): Promise<Present> {
  await inTurns([...knowledge.unsure], mirror.parallel, async (path) => {
    const found = await mirror.stat(path, signal);
    note(knowledge, path, found?.kind === 'file' ? { size: found.size } : undefined);
    knowledge.unsure.delete(path);
  });
  present.documents = stillKnown(documents, present);
  return present;
}

async function lookAtTree({
  mirror,
  images,
  signal,
}: Work): Promise<{ found: Map<string, Found>; mtime?: number }> {
  const [found, manifest] = await allDone([
    listFiles(mirror, { images, ...signal }),
    mirror.stat(manifestPath, signal),
  ]);
  return { found, ...(manifest && { mtime: manifest.mtime }) };
}

/** The largest `images.json` that is read back, in bytes. */
const largestImages = 256 * 2 ** 20;

/**
 * Every file that `images.json` on the mirror names, and its compressed form, where these are not those of the
 * generation. One that no client can read names nothing.
 *
 * @param options.contents the documents that are there, and their SHA-256; '' where it is not known.
 */
export async function namesIn(
  { mirror, signal }: Work,
  { id, documents, files }: Generation,
  { contents, every = false }: { contents: ReadonlyMap<string, string>; every?: boolean },
): Promise<Set<string>> {
  const names = new Set<string>();
  const path = documents.find(({ sha256 }) => sha256 === id)?.path ?? '';
  for (const name of [path, `${path}.gz`]) {
    const content = contents.get(name);
    const wanted = documents.find((document) => document.path === name)?.sha256;
    if (content === undefined || (content !== '' && !every)) continue;
    if (content === wanted) for (const each of files.keys()) names.add(each);
    else {
      const bytes = await readIfSmall();
      for (const each of namesOf(bytes, name.endsWith('.gz'))) names.add(each);
    }

    async function readIfSmall(): Promise<Buffer | undefined> {
      try {
        return await mirror.read(name, { maxBytes: largestImages, ...signal });
      } catch (error) {
        if (error instanceof ServerError && error.code === 'MIRROR_DAMAGED') return undefined;
        throw error;
      }
    }
  }
  return names;
}

function namesOf(bytes: Buffer | undefined, isCompressed: boolean): string[] {
  if (bytes === undefined) return [];
  let plain = bytes;
  try {
    if (isCompressed) plain = gunzipSync(bytes, { maxOutputLength: largestImages });
  } catch {
    // No client can read it either.
    return [];
  }
  try {
    const products = Object.values(parseImages(plain.toString()).products);
    return products.flatMap(versionsOf).flatMap(({ items }) => items.map(({ path }) => path));
  } catch (error) {
    if (error instanceof DocumentError) return [];
    throw error;
  }
}

/** Removes what earlier tries have left and nobody will use, and notes what is left in the staging folder. */
export async function tidy(work: Work, { files, documents }: Wanted): Promise<void> {
  const { mirror, store, signal, left } = work;
  const wanted = new Set([...files.values(), ...documents].map(({ sha256 }) => sha256));
  const lists = new Set(store.lists().map((sha256) => `files-${sha256}.json`));
  const useless: string[] = [];
  const [own, staged] = await allDone([
    mirror.list(ownFolder, signal),
    mirror.list(stagingFolder, signal),
  ]);
  for (const { name, kind } of own ?? []) {
    const isList = name.startsWith('files-') && !lists.has(name);
    if (kind === 'file' && (isList || isTemporary(name))) useless.push(`${ownFolder}/${name}`);
  }
  left.clear();
  for (const { name, kind, size } of staged ?? []) {
    if (kind === 'file' && !wanted.has(name)) useless.push(stagingPath(name));
    else left.set(name, size);
  }
  await inTurns(useless, mirror.parallel, (path) => mirror.remove(path, signal));
}

/** What {@link Mirror.write} leaves where it is cut. */
function isTemporary(name: string): boolean {
  return name.startsWith('.') && name.endsWith('.tmp');
}
