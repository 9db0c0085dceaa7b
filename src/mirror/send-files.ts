/** Sends files to a mirror, several at once, and gives them their names. */
import { setMaxListeners } from 'node:events';
import type { Manifest } from '../catalog/manifest.js';
import { openRecord, type Sending, type Stage } from '../catalog/plan.js';
import type { Present } from '../catalog/present.js';
import { ServerError } from '../errors.js';
import type { Generation } from './generation.js';
import { note } from './knowledge.js';
import { resumeWindow } from './mirror.js';
import { stagingFolder, stagingPath } from './names.js';
import { folderOf } from './paths.js';
import { stageDocument } from './publish-documents.js';
import { bringContent, type SendOptions } from './send.js';
import { allDone, createBudget } from './together.js';
import { isOld, makeFolder, makeOwnFolder, syncFolders, type Work, writeRecord } from './work.js';

interface Context {
  generation: Generation;
  present: Present;
  /** Is called when a file has got its name, with the bytes sent for it. */
  onSent: (sent: { files: number; bytes: number }) => void;
}

/** So few files have their folders synced each for itself, which is sooner; more of them folder by folder. */
const few = 8;

/** Sends what a stage says, and records now and then what has arrived. Ends early where a newer generation comes. */
export async function sendFiles(
  work: Work,
  { files, record }: Extract<Stage, { do: 'send' }>,
  context: Context,
): Promise<void> {
  const { mirror, meter, window = 4 * resumeWindow } = work;
  const { generation, present } = context;
  meter.begin('send', files);
  await makeOwnFolder(work, stagingFolder);
  const failures: unknown[] = [];
  const ending = new AbortController();
  const signals = [ending.signal, ...(work.signal.signal ? [work.signal.signal] : [])];
  const signal = AbortSignal.any(signals);
  setMaxListeners(0, signal);
  const fail = (error: unknown) => {
    failures.push(error);
    if (!isOfSource(error)) ending.abort(error);
  };
  const isOver = () => signal.aborted || isOld(work, generation);
  const recorder = createRecorder(work, { generation, present, fail });
  if (record !== undefined) recorder.write(record);
  for (const document of generation.documents) {
    stageDocument(work, document, present.documents).catch(fail);
  }

  const budget = createBudget({ bytes: window, count: mirror.parallel });
  const sending: Promise<void>[] = [];
  for (const file of files) {
    const release = await budget.take(Math.min(file.size, resumeWindow));
    if (isOver()) break;
    sending.push(
      sendFile(work, file, { ...context, signal, sync: files.length <= few })
        .then(recorder.keepUp)
        .catch(fail)
        .finally(release),
    );
  }
  await Promise.all(sending);
  const syncing = signal.aborted ? undefined : syncFolders(work).catch(fail);
  await Promise.allSettled([recorder.idle(), syncing, ...work.documents.values()]);
  work.signal.signal?.throwIfAborted();
  const [worst] = failures.filter((error) => !isOfSource(error));
  if (worst !== undefined) throw worst;
  if (failures.length > 0 && !isOld(work, generation)) throw failures[0];
}

async function sendFile(
  work: Work,
  file: Sending,
  { present, onSent, signal, sync }: Context & { signal: AbortSignal; sync: boolean },
): Promise<void> {
  const { mirror, openSource, knowledge, meter, left, onSending } = work;
  const { path, size, sha256 } = file;
  const folder = folderOf(path);
  const making = makeFolder(work, folder);
  if (!present.held.has(sha256)) {
    const staged = left.get(sha256);
    left.delete(sha256);
    const onLost = (from: string) => note(knowledge, from, undefined);
    const settings: SendOptions = {
      ...{ openSource, signal, staged, onLost, onBytes: meter.move },
      onSent: (bytes) => onSending({ files: 0, bytes }),
    };
    const bringing = bringContent(mirror, file, settings);
    await allDone([bringing, making]);
    onSent({ files: 0, bytes: await bringing });
    present.held.add(sha256);
  } else meter.move(size);
  await making;
  if (!file.hold) {
    knowledge.unsure.add(path);
    await mirror.rename(stagingPath(sha256), path, { signal, sync });
    if (!sync) knowledge.unsynced.add(folder);
    knowledge.unsure.delete(path);
    present.held.delete(sha256);
    note(knowledge, path, { size, sha256 });
    onSent({ files: 1, bytes: 0 });
    onSending({ files: 1, bytes: 0 });
  }
  meter.move(0, 1);
}

/** Writes the manifest while files are sent, one after the other. */
function createRecorder(
  work: Work,
  { generation, present, fail }: Omit<Context, 'onSent'> & { fail: (error: unknown) => void },
) {
  const { recordEvery = 5000 } = work;
  let last = performance.now();
  let writing: Promise<void> | undefined;
  const write = (record: Manifest) => {
    // It claims no name that is not on the disk: whoever believes it later does not look.
    writing = syncFolders(work)
      .then(() => writeRecord(work, record, present))
      .catch(fail)
      .then(() => {
        writing = undefined;
        last = performance.now();
      });
  };
  return {
    write,
    /** Writes what there is by now, if it is time. */
    keepUp() {
      if (writing !== undefined || performance.now() - last < recordEvery) return;
      write(openRecord(generation.files, present));
    },
    idle: () => writing,
  };
}

/** Whether the file on the master is the reason, so that others can go on. */
function isOfSource(error: unknown): boolean {
  return error instanceof ServerError && error.code === 'SOURCE_CHANGED';
}
