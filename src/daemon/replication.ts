/** All mirrors: each with a worker of its own, all fed from the same generations and the same open files. */
import { readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { Config, MirrorConfig } from '../config.js';
import { createListCache } from '../disk/list-cache.js';
import { masterOf } from '../disk/master.js';
import { createMirrorStates, type MirrorState, ofPlace, placeOf } from '../disk/mirror-states.js';
import { createSharedFiles } from '../disk/shared-files.js';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { Generation } from '../mirror/generation.js';
import type { Mirror } from '../mirror/mirror.js';
import {
  createReplicator,
  type MirrorCheck,
  type NamedFile,
  type SyncResult,
} from '../mirror/replicate.js';
import { withRetry } from '../mirror/retry.js';
import { createSftpMirror } from '../mirror/sftp.js';
import { acceptHostKey, type ShownKey, showHostKey } from '../mirror/trust.js';
import { formatHostPort } from '../units.js';
import { type CheckRequest, createMirrorWorker, type MirrorWorker } from './mirror-worker.js';
import { createSchedule, type Schedule } from './schedule.js';
import type { MirrorActivity, MirrorStatus } from './status.js';
import { createTurns } from './turns.js';

export interface ReplicationOptions {
  paths: Config['paths'];
  /** What was published last; `undefined` before anything was. */
  generation: () => Promise<Generation | undefined>;
  log: Logger;
  /** Mirrors do nothing that nobody has asked for. Default: no. */
  byHand?: boolean;
  /** Is told when a mirror has become another than it was. */
  onChange?: () => void;
}

/** The part of the configuration that it goes by. */
export interface ReplicationConfig {
  mirrors: readonly MirrorConfig[];
  publish: Pick<Config['publish'], 'removalGrace'>;
}

/** What became of one mirror. */
export type MirrorOutcome = { name: string } & (
  | { result: SyncResult }
  | { failure: { message: string; hint?: string } }
);

export interface Replication {
  /** Has just these mirrors: those that are as before go on undisturbed, others begin anew. */
  apply(config: ReplicationConfig): Promise<void>;
  /** Something may have been published. */
  published(): Promise<void>;
  /** Brings mirrors up to date now; without names all of them. @throws ServerError USAGE for an unknown name. */
  sync(request: {
    names: readonly string[];
    takeOver?: boolean;
    signal?: AbortSignal;
  }): Promise<MirrorOutcome[]>;
  /** @throws ServerError USAGE for an unknown name, or as {@link MirrorWorker.verify}. */
  verify(name: string, request: CheckRequest): Promise<MirrorCheck>;
  /** The host key that a mirror shows. @throws ServerError USAGE, or as {@link showHostKey}. */
  showKey(name: string, options: { signal?: AbortSignal }): Promise<ShownKey>;
  /** Takes a host key for the right one. @throws ServerError USAGE, or as {@link acceptHostKey}. */
  trust(name: string, options: { fingerprint: string; signal?: AbortSignal }): Promise<void>;
  /** Whether a mirror has just that file, for sure. One look-up; `false` for an unknown name. */
  holds(name: string, file: NamedFile): boolean;
  /** As {@link MirrorWorker.sample}, {@link MirrorWorker.recall} and {@link MirrorWorker.doubt}, of the one so called. */
  sample(name: string): NamedFile | undefined;
  recall(name: string): void;
  doubt(name: string): void;
  state(): MirrorStatus[];
  /** The part of the state that is cheap to ask for again and again. */
  activity(): MirrorActivity[];
  close(): Promise<void>;
}

/** One mirror, while its configuration is what it is. */
interface Member {
  config: MirrorConfig;
  grace: number;
  mirror: Mirror;
  worker: MirrorWorker;
}

/** How long changed states wait to be kept, in milliseconds. */
const saveMs = 5000;

export function createReplication(options: ReplicationOptions): Replication {
  const { paths, log, byHand = false } = options;
  const members = new Map<string, Member>();
  const files = createSharedFiles({ root: paths.root });
  const cache = createListCache({ stateDir: paths.state, log });
  const states = createMirrorStates({ stateDir: paths.state, log });
  let kept: Map<string, MirrorState> | undefined;
  let saving: NodeJS.Timeout | undefined;
  let newest: Generation | undefined;
  let schedule: Schedule | undefined;
  let isClosed = false;
  /** Changes of the members. */
  const turns = createTurns();

  return {
    apply: (config) => turns.take(() => apply(config)),
    published: () => turns.take(takeNewest),
    async sync({ names, ...request }) {
      const chosen = names.length > 0 ? names.map(member) : [...members.values()];
      return await Promise.all(
        chosen.map(async ({ config: { name }, worker }): Promise<MirrorOutcome> => {
          try {
            return { name, result: await worker.sync(request) };
          } catch (error) {
            if (!(error instanceof ServerError) || request.signal?.aborted) throw error;
            const { message, hint } = error;
            return { name, failure: { message, ...(hint !== undefined && { hint }) } };
          }
        }),
      );
    },
    verify: async (name, request) => await member(name).worker.verify(request),
    showKey: async (name, given) => await showHostKey(member(name).config, given),
    async trust(name, given) {
      const { config, worker } = member(name);
      await acceptHostKey(config, given);
      worker.retry();
    },
    holds: (name, file) => members.get(name)?.worker.holds(file) ?? false,
    sample: (name) => members.get(name)?.worker.sample(),
    recall: (name) => members.get(name)?.worker.recall(),
    doubt: (name) => members.get(name)?.worker.doubt(),
    state() {
      const hours = new Map(schedule?.state().map(({ name, next }) => [name, next]));
      return [...members.values()].map((member) => statusOf(member, hours));
    },
    activity: () =>
      [...members.values()].map(({ config: { name }, worker }) => ({ name, ...worker.activity() })),
    async close() {
      isClosed = true;
      await turns.take(async () => {
        await schedule?.close();
        await Promise.all([...members.values()].map(end));
        clearTimeout(saving);
        await save();
        members.clear();
      });
    },
  };

  function member(name: string): Member {
    const found = members.get(name);
    if (found !== undefined) return found;
    const known = [...members.keys()].join(', ');
    throw new ServerError('USAGE', `There is no mirror "${name}"`, {
      hint: known === '' ? 'no mirrors are configured' : `the configuration has ${known}`,
    });
  }

  async function apply({ mirrors, publish }: ReplicationConfig): Promise<void> {
    if (isClosed) return;
    const grace = publish.removalGrace;
    kept ??= await states.load();
    const isAsBefore = (config: MirrorConfig) => {
      const known = members.get(config.name);
      if (known === undefined || known.grace !== grace) return false;
      return isDeepStrictEqual(workOf(known.config), workOf(config));
    };
    const same = new Set(mirrors.filter(isAsBefore).map(({ name }) => name));
    const gone = [...members.values()].filter(({ config }) => !same.has(config.name));
    await Promise.all(gone.map(end));
    const next: Member[] = [];
    for (const config of mirrors) {
      const known = same.has(config.name) ? members.get(config.name) : undefined;
      // What was in its way may be out of it: a key in a file, a folder on the mirror.
      known?.worker.retry();
      next.push(known ? { ...known, config } : await begin(config, grace));
    }
    // At once: somebody may ask for one at any moment.
    members.clear();
    for (const member of next) members.set(member.config.name, member);
    await keepHours();
    if (members.size > 0) await takeNewest();
    else newest = undefined;
    // Those that have just begun are yet to be told, where nothing is new.
    for (const { config, worker } of members.values()) {
      if (!same.has(config.name)) worker.published();
    }
  }

  async function begin(config: MirrorConfig, grace: number): Promise<Member> {
    const { name } = config;
    const onLost = () => worker.lost();
    const mirror = withRetry(createSftpMirror({ config, log }), { log, onLost });
    const replicator = createReplicator({
      mirror,
      master: await masterOf(paths.root),
      images: relative(paths.root, paths.images),
      grace,
      openSource: files.openSource,
      isHere: async (path, content) => (await readHere(path)) === content,
      cache,
      log,
    });
    const worker = createMirrorWorker({
      name,
      replicator,
      newest: () => newest,
      scheduled: byHand || config.schedule !== '',
      kept: ofPlace(config, kept?.get(name)),
      log,
      onChange: changed,
    });
    return { config, grace, mirror, worker };
  }

  /** A file of the master's root; `undefined` where it cannot be read, which is as good as none. */
  async function readHere(path: string): Promise<string | undefined> {
    return await readFile(join(paths.root, path), 'utf8').catch(() => undefined);
  }

  async function end({ config, mirror, worker }: Member): Promise<void> {
    await worker.close();
    await mirror.close();
    kept?.set(config.name, stateOf({ config, worker }));
  }

  /** Has those with hours of their own be told of them: on a schedule apart, so that no other job holds them up. */
  async function keepHours(): Promise<void> {
    const all = byHand ? [] : [...members.values()];
    const scheduled = all.filter(({ config }) => config.schedule !== '');
    const crons = Object.fromEntries(
      scheduled.map(({ config }) => [config.name, config.schedule] as const),
    );
    const before = schedule?.state().map((job) => [job.name, job.schedule] as const) ?? [];
    if (isDeepStrictEqual(Object.fromEntries(before), crons)) return;
    await schedule?.close();
    const jobs = scheduled.map(({ config: { name, schedule: cron } }) => {
      return { name, cron, run: async () => members.get(name)?.worker.due() };
    });
    schedule = jobs.length > 0 ? createSchedule({ jobs, log }) : undefined;
  }

  async function takeNewest(): Promise<void> {
    if (members.size === 0 || isClosed) return;
    const next = await options.generation();
    if (next === undefined || next === newest) return;
    newest = next;
    for (const { worker } of members.values()) worker.published();
  }

  function changed(): void {
    options.onChange?.();
    if (isClosed) return;
    saving ??= setTimeout(() => {
      saving = undefined;
      void turns.take(save);
    }, saveMs);
  }

  async function save(): Promise<void> {
    if (members.size === 0) return;
    const now = [...members.values()].map((member) => {
      return [member.config.name, stateOf(member)] as const;
    });
    // Who works by hand has only the mirrors that were named.
    const others = byHand ? (kept ?? []) : [];
    await states.save(new Map([...others, ...now]));
  }

  function stateOf({ config, worker }: Pick<Member, 'config' | 'worker'>): MirrorState {
    return { place: placeOf(config), ...worker.state() };
  }

  function statusOf(
    { config, worker }: Member,
    hours: ReadonlyMap<string, string | undefined>,
  ): MirrorStatus {
    const { name, url, user, remote, schedule: cron } = config;
    const { next = hours.get(name), ...status } = worker.status();
    return {
      name,
      url,
      remote: `${user}@${formatHostPort(remote)}`,
      schedule: cron,
      ...status,
      ...(next !== undefined && { next }),
    };
  }
}

/** What a mirror is begun anew for where it has changed; by all else its work does not go. */
function workOf({ url, weight, networks, tlsCa, schedule, ...work }: MirrorConfig) {
  return { ...work, isScheduled: schedule !== '' };
}
