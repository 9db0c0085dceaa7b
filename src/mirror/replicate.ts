/**
 * Brings a mirror to the newest generation: carries out what `catalog/plan.ts` says is to be done next, notes what
 * came of it, and asks again. What is known of the mirror outlives a failure; what a failure has put in doubt is
 * looked at again.
 */

import { setMaxListeners } from 'node:events';
import type { Wanted } from '../catalog/generation.js';
import type { Manifest, Master } from '../catalog/manifest.js';
import {
  type DocumentStage,
  nextDocuments,
  nextRemoval,
  nextStage,
  openRecord,
  type Sending,
  type Stage,
} from '../catalog/plan.js';
import { type Found, noteRecord, type Present, recall } from '../catalog/present.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Generation, GenerationDocument } from './generation.js';
import { inTurns, listFiles } from './inspect.js';
import { createManifestStore, type ListCache } from './manifest-store.js';
import { type Mirror, resumeWindow } from './mirror.js';
import { folderOf, manifestPath, ownFolder, stagingFolder, stagingPath } from './names.js';
import { bringContent, type OpenSource } from './send.js';

export interface ReplicatorOptions {
  mirror: Mirror;
  master: Master;
  /** The folder of the images, relative to the root. */
  images: string;
  /** For how long a file outlives the last document that named it, in milliseconds. */
  grace: number;
  openSource: OpenSource;
  cache: ListCache;
  log: Logger;
  /** Take over a mirror of another master. Default: no. */
  takeOver?: boolean;
  /** How often to record what has been sent, in milliseconds. Default: 5,000. */
  recordEvery?: number;
  /** Bytes of large files that may be under way at once. Default: 4 × {@link resumeWindow}. */
  window?: number;
  /** Milliseconds since 1970. Default: the clock. */
  now?: () => number;
}

/** What is being done. */
export interface Progress {
  stage: Stage['do'] | 'look';
  files: { done: number; total: number };
  /** Of the files; those that the mirror had count as well. */
  bytes: { done: number; total: number };
}

export interface SyncOptions {
  signal?: AbortSignal;
  /** List the tree of the mirror even where its manifest fits. Default: no. */
  inspect?: boolean;
  onProgress?: (progress: Progress) => void;
}

/** What a sync did. */
export interface SyncResult {
  /** What the mirror has now. */
  generation: string;
  /** Files that got their names, and the bytes sent for them. */
  sent: { files: number; bytes: number };
  /** Files that were there with the content wanted, and were read to know that. */
  adopted: number;
  removed: number;
  /** When to come again to remove what is due then, in milliseconds since 1970. */
  again: number | undefined;
}

export interface Replicator {
  /**
   * Brings the mirror to what `newest` gives; it is asked again and again, and a newer generation takes the place
   * of one in progress at the next boundary of a file. One sync at a time.
   *
   * @throws ServerError as the mirror does; MIRROR_TAKEN; SOURCE_CHANGED, when all else has been sent; the reason
   *   of an abort.
   */
  sync(newest: () => Generation, options?: SyncOptions): Promise<SyncResult>;
}

export function createReplicator(options: ReplicatorOptions): Replicator {
  const { takeOver = false, now = Date.now, ...rest } = options;
  const store = createManifestStore({ ...options, takeOver });
  const knowledge: Knowledge = {
    present: undefined,
    unsure: new Set(),
    isLittered: false,
  };
  return {
    async sync(newest, settings = {}) {
      const sync = new Sync({ ...rest, now, store, knowledge, newest, settings });
      try {
        return await sync.run();
      } catch (error) {
        // What is in staging is continued, and checked, anew.
        knowledge.present?.held.clear();
        knowledge.isLittered = true;
        throw error;
      }
    },
  };
}

/** What outlives a sync. */
interface Knowledge {
  present: Present | undefined;
  /** Paths at which a file may have been replaced. */
  unsure: Set<string>;
  /** Whether there may be something in the staging folder that will not be used. */
  isLittered: boolean;
}

interface SyncInput extends Omit<ReplicatorOptions, 'takeOver' | 'now'> {
  now: () => number;
  store: ReturnType<typeof createManifestStore>;
  knowledge: Knowledge;
  newest: () => Generation;
  settings: SyncOptions;
}

/** What one sync has in hand. */
class Sync {
  readonly #input: SyncInput;
  readonly #signal: { signal?: AbortSignal };
  readonly #folders = new Map<string, Promise<void>>();
  readonly #documents = new Map<string, Promise<void>>();
  readonly #result = { sent: { files: 0, bytes: 0 }, adopted: 0, removed: 0 };
  #progress: Progress = {
    stage: 'look',
    files: { done: 0, total: 0 },
    bytes: { done: 0, total: 0 },
  };

  constructor(input: SyncInput) {
    this.#input = input;
    const { signal } = input.settings;
    this.#signal = signal === undefined ? {} : { signal };
    if (signal !== undefined) setMaxListeners(0, signal);
  }

  async run(): Promise<SyncResult> {
    const { newest, grace, images, now } = this.#input;
    const present = await this.#look(newest());
    for (;;) {
      this.#signal.signal?.throwIfAborted();
      const generation = newest();
      const plan = { now: now(), grace, images, generation: generation.id };
      const stage = nextStage(generation, present, plan);
      if (stage === undefined) {
        await this.#tidyAtLast();
        const again = nextRemoval(present.entries, { grace });
        return { generation: generation.id, ...this.#result, again };
      }
      await this.#carryOut(stage, generation, present);
      if (this.#isOld(generation)) this.#input.knowledge.isLittered = true;
    }
  }

  async #carryOut(stage: Stage, generation: Generation, present: Present): Promise<void> {
    switch (stage.do) {
      case 'check':
        return await this.#check(stage.files, generation, present);
      case 'send':
        return await this.#send(stage, generation, present);
      case 'record':
        return await this.#record(stage.record, present);
      case 'retract':
        return await this.#publish(generation.without(stage.missing), present);
      case 'withdraw':
      case 'publish':
        return await this.#publish(generation, present);
      case 'remove':
        return await this.#remove(stage, present);
    }
  }

  // What is there

  /** What the mirror has: by its manifest, by what is known of it, and, where these do not tell, by its tree. */
  async #look(generation: Generation): Promise<Present> {
    const { store, knowledge, settings } = this.#input;
    this.#begin('look', []);
    const [loaded, documents] = await Promise.all([
      store.load(this.#signal),
      this.#lookAtDocuments(generation),
    ]);
    const known = knowledge.present;
    if (loaded?.isOurs && known !== undefined && !settings.inspect) {
      if (loaded.manifest !== known.recorded) noteRecord(known, loaded.manifest);
      return await this.#lookAgain(known, documents);
    }
    const manifest = loaded?.manifest;
    const isSettled = manifest !== undefined && manifest.documents.length > 0;
    const looksClosely = !isSettled || settings.inspect || knowledge.unsure.size > 0;
    const tree = looksClosely ? await this.#inspect() : {};
    const present = recall({ manifest, documents, wanted: generation.files, ...tree });
    await this.#tidy(generation);
    knowledge.present = present;
    knowledge.unsure.clear();
    return present;
  }

  /** The documents that are there, with their sizes: those of the generation, compressed and not. */
  async #lookAtDocuments({ documents }: Generation): Promise<Map<string, number>> {
    const plain = documents.map(({ path }) => path.replace(/\.gz$/, ''));
    const paths = [...new Set(plain.flatMap((path) => [path, `${path}.gz`]))];
    const found = await Promise.all(
      paths.map(async (path) => [path, await this.#input.mirror.stat(path, this.#signal)] as const),
    );
    return new Map(found.flatMap(([path, entry]) => (entry ? [[path, entry.size]] : [])));
  }

  /** Takes up what is known from the sync before, and looks at what its end has left in doubt. */
  async #lookAgain(present: Present, documents: Map<string, number>): Promise<Present> {
    const { mirror, knowledge } = this.#input;
    await inTurns([...knowledge.unsure], mirror.parallel, async (path) => {
      const found = await mirror.stat(path, this.#signal);
      if (found?.kind === 'file') present.entries.set(path, { size: found.size });
      else present.entries.delete(path);
      knowledge.unsure.delete(path);
    });
    const sizes = new Map(present.recorded?.documents.map(({ path, size }) => [path, size]));
    present.documents = new Map(
      [...documents].map(([path, size]) => {
        const isAsRecorded = (sizes.get(path) ?? size) === size;
        return [path, (isAsRecorded && present.documents.get(path)) || ''];
      }),
    );
    return present;
  }

  async #inspect(): Promise<{ found: Map<string, Found>; mtime?: number }> {
    const { mirror, images } = this.#input;
    const [found, manifest] = await Promise.all([
      listFiles(mirror, { images, ...this.#signal }),
      mirror.stat(manifestPath, this.#signal),
    ]);
    return { found, ...(manifest && { mtime: manifest.mtime }) };
  }

  /** Removes what earlier tries have left and nobody will use. */
  async #tidy({ files, documents }: Wanted): Promise<void> {
    const { mirror, store } = this.#input;
    const wanted = new Set([...files.values(), ...documents].map(({ sha256 }) => sha256));
    const lists = new Set(store.lists().map((sha256) => `files-${sha256}.json`));
    const useless: string[] = [];
    const own = (await mirror.list(ownFolder, this.#signal)) ?? [];
    for (const { name, kind } of own) {
      const isList = name.startsWith('files-') && !lists.has(name);
      if (kind === 'file' && (isList || isTemporary(name))) useless.push(`${ownFolder}/${name}`);
    }
    const staged = (await mirror.list(stagingFolder, this.#signal)) ?? [];
    for (const { name, kind } of staged) {
      if (kind === 'file' && !wanted.has(name)) useless.push(stagingPath(name));
    }
    await inTurns(useless, mirror.parallel, (path) => mirror.remove(path, this.#signal));
  }

  async #tidyAtLast(): Promise<void> {
    const { knowledge } = this.#input;
    if (!knowledge.isLittered) return;
    await this.#tidy({ files: new Map(), documents: [] });
    knowledge.isLittered = false;
  }

  // What is done

  /** Reads files whose content is not known. */
  async #check(
    files: Extract<Stage, { do: 'check' }>['files'],
    generation: Generation,
    { entries }: Present,
  ): Promise<void> {
    const { mirror } = this.#input;
    this.#begin('check', files);
    await inTurns(files, mirror.parallel, async ({ path, size, sha256 }) => {
      if (this.#isOld(generation)) return;
      const onBytes = (count: number) => this.#move(count);
      const isWorthReading = entries.get(path)?.size === size;
      const there = isWorthReading
        ? await mirror.hash(path, { onBytes, ...this.#signal })
        : undefined;
      if (there?.size === size && there.sha256 === sha256) {
        entries.set(path, { size, sha256 });
        this.#result.adopted += 1;
      } else entries.delete(path);
      this.#move(0, 1);
    });
  }

  /** Sends files, several at once, and records now and then what has arrived. */
  async #send(
    { files, record }: Extract<Stage, { do: 'send' }>,
    generation: Generation,
    present: Present,
  ): Promise<void> {
    const { mirror, window = 4 * resumeWindow, recordEvery = 5000 } = this.#input;
    this.#begin('send', files);
    await this.#folder(stagingFolder);
    const failures: unknown[] = [];
    const ending = new AbortController();
    const signals = [ending.signal, ...(this.#signal.signal ? [this.#signal.signal] : [])];
    const signal = AbortSignal.any(signals);
    // Every operation under way listens.
    setMaxListeners(0, signal);
    const fail = (error: unknown) => {
      failures.push(error);
      if (!isOfSource(error)) ending.abort(error);
    };
    const isOver = () => signal.aborted || this.#isOld(generation);
    const touched = new Set<string>();

    let recorded = performance.now();
    let recording: Promise<unknown> = record ? this.#record(record, present).catch(fail) : ready;
    let isRecording = record !== undefined;
    recording = recording.then(() => {
      isRecording = false;
    });
    const recordNow = () => {
      if (isRecording || performance.now() - recorded < recordEvery) return;
      isRecording = true;
      const next = openRecord(generation.files, present);
      recording = this.#record(next, present)
        .catch(fail)
        .then(() => {
          isRecording = false;
          recorded = performance.now();
        });
    };
    for (const document of generation.documents) {
      this.#stage(document, present.documents).catch(fail);
    }

    const budget = createBudget({ bytes: window, count: mirror.parallel });
    const sending: Promise<void>[] = [];
    for (const file of files) {
      const release = await budget.take(file.size);
      if (isOver()) break;
      sending.push(
        this.#sendFile(file, { present, touched, signal })
          .then(recordNow)
          .catch(fail)
          .finally(release),
      );
    }
    await Promise.all(sending);
    await Promise.allSettled([recording, ...this.#documents.values()]);
    this.#signal.signal?.throwIfAborted();
    const [worst] = failures.filter((error) => !isOfSource(error));
    if (worst !== undefined) throw worst;
    await inTurns([...touched], mirror.parallel, (path) => mirror.sync(path, this.#signal));
    if (failures.length > 0 && !this.#isOld(generation)) throw failures[0];
  }

  async #sendFile(
    file: Sending,
    { present, touched, signal }: { present: Present; touched: Set<string>; signal: AbortSignal },
  ): Promise<void> {
    const { mirror, openSource, knowledge } = this.#input;
    const { path, size, sha256 } = file;
    const folder = folderOf(path);
    const making = this.#folder(folder);
    if (!present.held.has(sha256)) {
      const onBytes = (count: number) => this.#move(count);
      const bringing = bringContent(mirror, file, { openSource, signal, onBytes });
      await allDone([bringing, making]);
      // Others add to it meanwhile.
      const sent = await bringing;
      this.#result.sent.bytes += sent;
      present.held.add(sha256);
    } else this.#move(size);
    await making;
    if (!file.hold) {
      knowledge.unsure.add(path);
      await mirror.rename(stagingPath(sha256), path, { signal });
      knowledge.unsure.delete(path);
      present.held.delete(sha256);
      present.entries.set(path, { size, sha256 });
      this.#result.sent.files += 1;
      touched.add(folder);
    }
    this.#move(0, 1);
  }

  async #record(record: Manifest, present: Present): Promise<void> {
    await this.#folder(ownFolder);
    await this.#input.store.write(record, this.#signal);
    noteRecord(present, record);
  }

  /** Replaces the documents by those of `generation`, every file of which is there. */
  async #publish(generation: Generation, present: Present): Promise<void> {
    for (const path of generation.files.keys()) present.named.add(path);
    let stage = nextDocuments(generation.documents, present);
    for (; stage !== undefined; stage = nextDocuments(generation.documents, present)) {
      await this.#publishStage(stage, generation, present);
    }
    present.named = new Set(generation.files.keys());
  }

  async #publishStage(
    stage: DocumentStage,
    generation: Generation,
    { documents }: Present,
  ): Promise<void> {
    const { mirror } = this.#input;
    this.#begin(stage.do, []);
    if (stage.do === 'withdraw') {
      await Promise.all(
        stage.documents.map(async (path) => {
          await mirror.remove(path, this.#signal);
          documents.delete(path);
        }),
      );
      return;
    }
    const due = new Set(stage.documents.map(({ path }) => path));
    const all = generation.documents.map((document) => this.#stage(document, documents));
    const renaming = generation.documents.map(async ({ path, sha256 }, index) => {
      if (!due.has(path)) return;
      await Promise.all([all[index], this.#folder(folderOf(path))]);
      documents.set(path, '');
      await mirror.rename(stagingPath(sha256), path, this.#signal);
      this.#documents.delete(sha256);
      documents.set(path, sha256);
    });
    await allDone([...all, ...renaming]);
    const folders = new Set([...due].map(folderOf));
    await Promise.all([...folders].map((path) => mirror.sync(path, this.#signal)));
  }

  /** Removes files, then the folders that this leaves empty. */
  async #remove(
    { files, record }: Extract<Stage, { do: 'remove' }>,
    present: Present,
  ): Promise<void> {
    const { mirror, images } = this.#input;
    const left = new Map(files.map((path) => [path, present.entries.get(path)]));
    this.#begin('remove', []);
    await this.#record(record, present);
    for (const path of files) present.entries.delete(path);
    try {
      await inTurns(files, mirror.parallel, async (path) => {
        await mirror.remove(path, this.#signal);
        left.delete(path);
        this.#result.removed += 1;
      });
    } finally {
      // Whether these are there still, nobody knows.
      for (const [path, entry] of left) {
        if (entry?.since !== undefined) {
          present.entries.set(path, { size: entry.size, since: entry.since });
        }
      }
    }
    this.#folders.clear();
    await inTurns([...new Set(files.map(folderOf))], mirror.parallel, async (folder) => {
      let path = folder;
      while (path.length > images.length && (await mirror.removeFolder(path, this.#signal))) {
        path = folderOf(path);
      }
    });
  }

  #isOld({ id }: Generation): boolean {
    return this.#input.newest().id !== id;
  }

  // Means

  /** Makes a folder, once. */
  #folder(path: string): Promise<void> {
    const making = this.#folders.get(path) ?? this.#input.mirror.makeFolder(path, this.#signal);
    this.#folders.set(path, making);
    making.catch(() => this.#folders.delete(path));
    return making;
  }

  /** Has a document ready in the staging folder. */
  #stage(
    { size, sha256, content, path }: GenerationDocument,
    there?: Present['documents'],
  ): Promise<void> {
    if (there?.get(path) === sha256) return ready;
    const known = this.#documents.get(sha256);
    if (known !== undefined) return known;
    const staging = this.#putDocument({ size, sha256, content });
    this.#documents.set(sha256, staging);
    staging.catch(() => this.#documents.delete(sha256));
    return staging;
  }

  async #putDocument({
    size,
    sha256,
    content,
  }: Pick<GenerationDocument, 'size' | 'sha256' | 'content'>): Promise<void> {
    await this.#folder(stagingFolder);
    const bytes = Buffer.concat(content);
    const read = async (offset: number, length: number) => bytes.subarray(offset, offset + length);
    const settings = { resume: false, ...this.#signal };
    await this.#input.mirror.put({ size, read }, stagingPath(sha256), settings);
  }

  #begin(stage: Progress['stage'], files: readonly { size: number }[]): void {
    const bytes = files.reduce((sum, { size }) => sum + size, 0);
    this.#progress = {
      stage,
      files: { done: 0, total: files.length },
      bytes: { done: 0, total: bytes },
    };
    this.#move(0);
  }

  #move(bytes: number, files = 0): void {
    this.#progress.bytes.done += bytes;
    this.#progress.files.done += files;
    this.#input.settings.onProgress?.(this.#progress);
  }
}

const ready = Promise.resolve();

/** What {@link Mirror.write} leaves where it is cut. */
function isTemporary(name: string): boolean {
  return name.startsWith('.') && name.endsWith('.tmp');
}

/** Whether the file on the master is the reason, so that others can go on. */
function isOfSource(error: unknown): boolean {
  return error instanceof ServerError && error.code === 'SOURCE_CHANGED';
}

/** Resolves when all have ended, and rejects then if one has failed. */
async function allDone(work: readonly Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(work);
  await Promise.all(work);
}

/** Lets so many things go on at once, of so many bytes together; one alone may be larger than that. */
function createBudget({ bytes, count }: { bytes: number; count: number }): {
  /** Resolves when there is room, with what is to be called in the end. */
  take(size: number): Promise<() => void>;
} {
  let usedBytes = 0;
  let used = 0;
  let wake = () => {};
  return {
    async take(size) {
      const cost = Math.min(size, resumeWindow, bytes);
      while (used > 0 && (used >= count || usedBytes + cost > bytes)) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      used += 1;
      usedBytes += cost;
      return () => {
        used -= 1;
        usedBytes -= cost;
        wake();
      };
    },
  };
}
