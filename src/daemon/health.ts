/**
 * `/healthz`: whether the daemon can do its job, which is to notice what changes, to publish it, and to serve it. That
 * a mirror fails is not its ill health: clients are served all the same, and status and metrics tell of it.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, systemText } from '../errors.js';
import type { Serving } from '../server/following.js';
import type { Health } from '../server/monitor/contract.js';
import type { Lookout } from './lookout.js';
import type { RunActivity } from './runner.js';

/** The parts of the daemon that know; each is absent until it is there. */
export interface HealthSources {
  serving?: Pick<Serving, 'state'> | undefined;
  lookout?: Pick<Lookout, 'failure'> | undefined;
  /** What the configuration in force has as `server.listen`; '' is no server. */
  listen: string;
}

export interface HealthOptions {
  paths: { images: string; streams: string };
  sources: () => HealthSources;
  /** Aborts when the daemon ends: then it is out of service for whoever balances loads. */
  signal: AbortSignal;
}

export interface HealthCheck {
  /** What is being done has changed. */
  activity(activity: RunActivity): void;
  /** Costs nothing to ask. */
  state(): Health;
  close(): Promise<void>;
}

/** How often folders and documents are looked for, in milliseconds. */
const lookMs = 2000;
/** How long that may take before it counts as a file system that does not answer, in milliseconds. */
const longestLook = 10_000;

/** Why nothing can be published, for anyone to read: what has failed says more, with names of files. */
const reasons: Partial<Record<ErrorCode, string>> = {
  DISK_FULL: 'cannot publish: the disk is full',
  NOT_INITIALISED: 'cannot publish: the images folder is not there',
  DENIED: 'cannot publish: access to its files is denied',
  CONFIG: 'cannot publish: a folder is not as the configuration has it',
  IO: 'cannot publish: the disk does not work as it should',
};

/** Begins to look after what can go away by itself; ends with `close`. */
export function createHealth({ paths, sources, signal }: HealthOptions): HealthCheck {
  const ending = new AbortController();
  /** Since a run has failed; no other has come to its end since. */
  let stuck: Health | undefined;
  let hasRun = false;
  let files = unknown;
  let successes = 0;
  let lookingSince: number | undefined;
  const looking = keepLooking();

  return {
    activity(now) {
      if (now.doing === 'waiting') {
        stuck = ill((now.code && reasons[now.code]) ?? 'cannot publish', now.failure);
      } else if (now.doing === 'idle') {
        stuck = undefined;
        hasRun = true;
        // A run needs all of it, and leaves documents behind; what was seen before is of no account.
        files = { ok: true };
        successes += 1;
      }
    },
    state: () => firstIll() ?? { ok: true },
    async close() {
      ending.abort();
      await looking;
    },
  };

  /** What explains most comes first. */
  function firstIll(): Health | undefined {
    if (signal.aborted) return ill('it is ending');
    const { serving, lookout, listen } = sources();
    if (isHanging()) return ill('the file system of the images does not answer', paths.images);
    if (stuck !== undefined) return stuck;
    if (!hasRun) return ill('the tree has not been looked at yet');
    if (!files.ok) return files;
    const failure = lookout === undefined ? 'it has not begun' : lookout.failure();
    if (failure !== undefined) return ill('the tree is not watched for changes', failure);
    const served = serving?.state() ?? { reason: 'it has not started yet' };
    if (listen !== '' && 'reason' in served) {
      return ill('the HTTPS server does not listen', served.reason);
    }
    return undefined;
  }

  function isHanging(): boolean {
    return lookingSince !== undefined && performance.now() - lookingSince > longestLook;
  }

  async function keepLooking(): Promise<void> {
    while (!ending.signal.aborted) {
      lookingSince = performance.now();
      // What hangs must not keep the daemon from ending.
      const ended = once(ending.signal);
      const before = successes;
      const found = await Promise.race([look(paths), ended.promise]);
      if (found !== undefined && before === successes) files = found;
      ended.forget();
      lookingSince = undefined;
      await sleep(lookMs, undefined, { signal: ending.signal }).catch(() => undefined);
    }
  }
}

const unknown: Health = { ok: false, reason: 'its files have not been looked for yet' };

/** Whether what the daemon works on, and what it publishes, is there. */
async function look({ images, streams }: HealthOptions['paths']): Promise<Health> {
  const folder = await presence(images, (found) => found.isDirectory());
  if (folder !== undefined) return ill('the images folder cannot be reached', folder);
  for (const name of ['index.json', 'images.json']) {
    const document = await presence(join(streams, name), (found) => found.isFile());
    if (document !== undefined) return ill('the published documents are not there', document);
  }
  return { ok: true };
}

/** @returns what is wrong with `path`, with its name */
async function presence(
  path: string,
  isRight: (found: Awaited<ReturnType<typeof stat>>) => boolean,
): Promise<string | undefined> {
  try {
    return isRight(await stat(path)) ? undefined : `${path} is something else`;
  } catch (error) {
    return `${path}: ${systemText(error)}`;
  }
}

function once(signal: AbortSignal): { promise: Promise<undefined>; forget: () => void } {
  let forget = () => {};
  const promise = new Promise<undefined>((resolve) => {
    const onAbort = () => resolve(undefined);
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort);
    forget = () => signal.removeEventListener('abort', onAbort);
  });
  return { promise, forget };
}

function ill(reason: string, detail?: string): Health {
  return { ok: false, reason, ...(detail !== undefined && { detail }) };
}
