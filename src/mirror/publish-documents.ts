/** Gives documents their names on a mirror. */
import type { DocumentFacts } from '../catalog/generation.js';
import { nextDocuments } from '../catalog/plan.js';
import { noteNames, type Present } from '../catalog/present.js';
import type { Generation, GenerationDocument } from './generation.js';
import { stagingFolder, stagingPath } from './names.js';
import { folderOf } from './paths.js';
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
  for (;;) {
    const stage = nextDocuments(generation.documents, present);
    if (stage === undefined) break;
    work.meter.begin(stage.do, []);
    if (stage.do === 'withdraw') await withdraw(work, stage.documents, present);
    else await replace(work, generation, present);
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

/** Has all documents ready, and gives them their names in the order that the plan has for them. */
async function replace(work: Work, generation: Generation, { documents }: Present): Promise<void> {
  const { mirror, signal } = work;
  const steps = stepsTo(generation, documents);
  const due = steps.flat();
  await allDone([
    ...generation.documents.map((document) => stageDocument(work, document, documents)),
    ...due.map(({ path }) => makeOwnFolder(work, folderOf(path))),
  ]);
  // Until all is done, nobody knows what has been.
  for (const { path } of due) documents.set(path, '');
  await mirror.renameInOrder(
    steps.map((step) => step.map(({ path, sha256 }) => ({ from: stagingPath(sha256), to: path }))),
    signal,
  );
  for (const { path, sha256 } of due) {
    work.documents.delete(sha256);
    documents.set(path, sha256);
  }
}

/** What the plan says next, and after that. */
function stepsTo(generation: Generation, there: Present['documents']): DocumentFacts[][] {
  const documents = new Map(there);
  const steps: DocumentFacts[][] = [];
  for (;;) {
    const stage = nextDocuments(generation.documents, { documents });
    if (stage?.do !== 'publish') return steps;
    steps.push(stage.documents);
    for (const { path, sha256 } of stage.documents) documents.set(path, sha256);
  }
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
