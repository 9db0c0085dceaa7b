/**
 * Brings a mirror to the newest generation: carries out what `catalog/plan.ts` says is to be done next, notes what
 * came of it, and asks again. What is known of the mirror outlives a failure; what a failure has put in doubt is
 * looked at again.
 */
import { canMakeRoom, nextRemoval, nextStage, type Stage } from '../catalog/plan.js';
import type { Present } from '../catalog/present.js';
import { ServerError } from '../errors.js';
import { checkApart } from './apart.js';
import { checkFiles } from './check-files.js';
import type { Generation } from './generation.js';
import {
  createKnowledge,
  createLagMeter,
  createSampler,
  holds,
  isSure,
  type Knowledge,
  type NamedFile,
} from './knowledge.js';
import { look, tidy } from './look.js';
import { createManifestStore } from './manifest-store.js';
import type { Progress } from './progress.js';
import { publishDocuments } from './publish-documents.js';
import { removeFiles } from './remove-files.js';
import { sendFiles } from './send-files.js';
import { type Findings, nothingVerified, type Verified, verifyMirror } from './verify-mirror.js';
import {
  claimMirror,
  createWork,
  isOld,
  type ReplicatorOptions,
  type Sent,
  type Work,
  type WorkSettings,
  writeRecord,
} from './work.js';

export type { NamedFile } from './knowledge.js';
export type { Progress } from './progress.js';
export type { ReplicatorOptions, Sent } from './work.js';

export interface SyncOptions {
  signal?: AbortSignal;
  /** List the tree of the mirror even where its manifest fits. Default: no. */
  inspect?: boolean;
  /** Is told of every step. */
  onProgress?: (progress: Progress) => void;
  /** Is told of what was sent since the last call, also where the sync fails later. */
  onSending?: (sent: Sent) => void;
  /** Take over a mirror of another master. Default: no. */
  takeOver?: boolean;
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

export interface VerifyOptions {
  signal?: AbortSignal;
  /** Mend what is found. Default: no. */
  repair?: boolean;
  /** What one that was broken off has come to. Default: nothing. It is added to. */
  verified?: Verified;
  /** Is told of every step. */
  onProgress?: (progress: Progress) => void;
  /** As {@link SyncOptions.onSending}. */
  onSending?: (sent: Sent) => void;
}

/** What was found on a mirror. */
export interface MirrorCheck extends Omit<Findings, 'present'> {
  /** Whether it has been brought in order since: all of the damage is mended, what is extra goes after its time. */
  repaired: boolean;
  /** What that took. */
  sync?: SyncResult;
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

  /**
   * Reads what the mirror has back in full, and holds it against what `newest` gives at the start: what the mirror
   * has not been sent yet counts as missing. Changes nothing, unless it is to repair; what it finds is known to the
   * next sync, which mends it. Not at the same time as a sync.
   *
   * @throws ServerError as {@link Replicator.sync} does.
   */
  verify(newest: () => Generation, options?: VerifyOptions): Promise<MirrorCheck>;

  /**
   * How many versions of `generation` are not whole on the mirror, by what is known of it; `undefined` where
   * nothing is. Costs nothing while nothing changes.
   */
  lag(generation: Generation): number | undefined;

  /**
   * Learns what the mirror has: from its manifest where nothing is known yet, and from its tree where that does not
   * fit or is in doubt. Changes nothing. Not at the same time as a sync.
   *
   * @throws ServerError as {@link Replicator.sync} does.
   */
  recall(newest: () => Generation, options?: { signal?: AbortSignal }): Promise<void>;

  /**
   * Whether just that content is there under its name, as far as is known: not while the tree is in doubt, nor while
   * the name is given to another file. One look-up.
   */
  holds(file: NamedFile): boolean;
  /** One of the files that it holds, another at each call; `undefined` where it holds none. */
  sample(): NamedFile | undefined;
  /** The tree may be other than is known: until the next look it holds nothing for sure. */
  doubt(): void;
  /** Whether it has been looked at, and nothing is in doubt since. */
  isSure(): boolean;
}

export function createReplicator(options: ReplicatorOptions): Replicator {
  const store = createManifestStore(options);
  const knowledge = createKnowledge();
  const begin = (newest: () => Generation, settings: WorkSettings) =>
    createWork({ ...options, store, knowledge, newest }, settings);
  return {
    async sync(newest, { inspect = false, ...settings } = {}) {
      const work = begin(newest, settings);
      return await learning(knowledge, async () => {
        return await bringUpToDate(work, await look(work, newest(), { inspect }));
      });
    },
    async verify(newest, { repair = false, verified = nothingVerified(), ...settings } = {}) {
      const work = begin(newest, settings);
      const { present, ...found } = await verifyMirror(work, newest(), verified);
      const isGood = found.damage.length === 0 && found.extra.length === 0;
      if (!repair || isGood) return { ...found, repaired: false };
      const sync = await learning(knowledge, () => bringUpToDate(work, present));
      return { ...found, repaired: true, sync };
    },
    lag: createLagMeter(knowledge),
    async recall(newest, settings = {}) {
      if (isSure(knowledge)) return;
      await look(begin(newest, settings), newest(), { inspect: false });
    },
    holds: (file) => holds(knowledge, file),
    sample: createSampler(knowledge),
    doubt() {
      knowledge.isDoubtful = true;
    },
    isSure: () => isSure(knowledge),
  };
}

/** Lets changes be made to a mirror; what they leave in doubt when they fail is noted. */
async function learning<T>(knowledge: Knowledge, change: () => Promise<T>): Promise<T> {
  try {
    return await change();
  } catch (error) {
    // What is in staging is continued, and checked, anew.
    knowledge.present?.held.clear();
    knowledge.folders.clear();
    knowledge.isLittered = true;
    const code = error instanceof ServerError ? error.code : undefined;
    knowledge.isFull ||= code === 'MIRROR_FULL';
    knowledge.isDoubtful ||= code === 'MIRROR_MISSING' || code === 'MIRROR_DAMAGED';
    throw error;
  }
}

async function bringUpToDate(work: Work, present: Present): Promise<SyncResult> {
  const { newest, knowledge, grace, images, signal, now = Date.now } = work;
  const result = { sent: { files: 0, bytes: 0 }, adopted: 0, removed: 0 };
  await checkApart(work);
  if (present.recorded === undefined) await claimMirror(work, present);
  if (knowledge.isLittered) {
    // Documents and the manifest need some room as well, before anything can be removed.
    const isPressed = knowledge.isFull && canMakeRoom(newest(), present, { now: now(), grace });
    await tidy(work, isPressed ? { files: new Map(), documents: [] } : newest());
    knowledge.isLittered = work.left.size > 0;
  }
  for (;;) {
    signal.signal?.throwIfAborted();
    const generation = newest();
    const { isFull } = knowledge;
    const plan = { now: now(), grace, images, generation: generation.id, isFull };
    const stage = nextStage(generation, present, plan);
    if (stage !== undefined) await carryOut(work, stage, { generation, present, result });
    else if (knowledge.isLittered) await tidyAtLast(work, present);
    else {
      knowledge.isFull = false;
      const again = nextRemoval(generation, present, { grace });
      return { generation: generation.id, ...result, again };
    }
    if (isOld(work, generation)) knowledge.isLittered = true;
  }
}

interface Context {
  generation: Generation;
  present: Present;
  result: Pick<SyncResult, 'sent' | 'adopted' | 'removed'>;
}

async function carryOut(work: Work, stage: Stage, context: Context): Promise<void> {
  const { generation, present, result } = context;
  switch (stage.do) {
    case 'check':
      result.adopted += await checkFiles(work, stage, { generation, present });
      return;
    case 'send': {
      const onSent = ({ files, bytes }: SyncResult['sent']) => {
        result.sent.files += files;
        result.sent.bytes += bytes;
      };
      return await sendFiles(work, stage, { generation, present, onSent });
    }
    case 'record':
      return await writeRecord(work, stage.record, present);
    case 'retract':
      return await publishDocuments(work, generation.without(stage.missing), present);
    case 'withdraw':
    case 'publish':
      return await publishDocuments(work, generation, present);
    case 'remove': {
      const onRemoved = () => {
        result.removed += 1;
      };
      return await removeFiles(work, stage, { present, onRemoved });
    }
  }
}

/** All is in place: nothing in the staging folder is of any use. */
async function tidyAtLast(work: Work, present: Present): Promise<void> {
  await tidy(work, { files: new Map(), documents: [] });
  work.documents.clear();
  present.held.clear();
  work.knowledge.isLittered = false;
}
