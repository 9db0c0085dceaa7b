/** Gives documents their names on a mirror. */
import { type DocumentStage, nextDocuments } from '../catalog/plan.js';
import { noteNames, type Present } from '../catalog/present.js';
import type { Generation, GenerationDocument } from './generation.js';
import { folderOf, stagingFolder, stagingPath } from './names.js';
import { allDone } from './together.js';
import { makeOwnFolder, syncFolders, type Work } from './work.js';

/** Replaces the documents by those of `generation`, every file of which is there. */
export async function publishDocuments(
  work: Work,
  generation: Generation,
  present: Present,
): Promise<void> {
  await syncFolders(work);
  noteNames(present, generation.files);
  let stage = nextDocuments(generation.documents, present);
  for (; stage !== undefined; stage = nextDocuments(generation.documents, present)) {
    work.meter.begin(stage.do, []);
    if (stage.do === 'withdraw') await withdraw(work, stage.documents, present);
    else await replace(work, stage, { generation, present });
  }
  present.named = new Set(generation.files.keys());
}

async function withdraw(
  { mirror, signal }: Work,
  paths: readonly string[],
  { documents }: Present,
): Promise<void> {
  await allDone(
    paths.map(async (path) => {
      await mirror.remove(path, signal);
      documents.delete(path);
    }),
  );
}

async function replace(
  work: Work,
  stage: Extract<DocumentStage, { do: 'publish' }>,
  { generation, present: { documents } }: { generation: Generation; present: Present },
): Promise<void> {
  const { mirror, signal } = work;
  const due = new Set(stage.documents.map(({ path }) => path));
  const all = generation.documents.map((document) => stageDocument(work, document, documents));
  const renaming = generation.documents.map(async ({ path, sha256 }, index) => {
    if (!due.has(path)) return;
    await allDone([all[index], makeOwnFolder(work, folderOf(path))]);
    documents.set(path, '');
    await mirror.rename(stagingPath(sha256), path, { sync: true, ...signal });
    work.documents.delete(sha256);
    documents.set(path, sha256);
  });
  await allDone([...all, ...renaming]);
}

/** Has a document ready in the staging folder, unless it is in place. */
export function stageDocument(
  work: Work,
  document: GenerationDocument,
  there: Present['documents'],
): Promise<void> {
  const { path, sha256 } = document;
  if (there.get(path) === sha256) return Promise.resolve();
  const known = work.documents.get(sha256);
  if (known !== undefined) return known;
  const staging = putDocument(work, document);
  work.documents.set(sha256, staging);
  staging.catch(() => work.documents.delete(sha256));
  return staging;
}

async function putDocument(work: Work, document: GenerationDocument): Promise<void> {
  const { size, sha256, content } = document;
  await makeOwnFolder(work, stagingFolder);
  const bytes = Buffer.concat(content);
  const read = async (offset: number, length: number) => bytes.subarray(offset, offset + length);
  const settings = { resume: false, ...work.signal };
  await work.mirror.put({ size, read }, stagingPath(sha256), settings);
}
