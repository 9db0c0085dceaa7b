/**
 * Watchers under test: in this process, with what they told; and in a process of their own, which can be
 * stopped or given narrow limits. This file is both: what starts the process, and what it runs.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { createTreeWatcher, type TreeWatcher, type WatchState } from '../../src/disk/watch.js';
import { outcome } from './command.js';
import { type LogEvent, memoryLog } from './memory-log.js';

/** The release below which {@link Watched.settled} makes its folders; it is no part of the tree under test. */
const sentinels = 'zz/zz/zz';

export interface Watched {
  watcher: TreeWatcher;
  /** Warnings and errors. */
  events: LogEvent[];
  /** Waits until all that has been done so far is told. @returns what was told since the last time, each once, sorted. */
  settled(): Promise<string[]>;
}

/** Far above what anything here takes: against a test that would wait for ever. */
const patienceMs = 30_000;

/** Waits for `promise`, and keeps the process running meanwhile, which a watch does not. Throws after 30 s. */
export async function soon<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`It never came: ${what}`)), patienceMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Watches `imagesDir` until the test is over. */
export async function watchTree(
  t: Pick<TestContext, 'after'>,
  imagesDir: string,
  onChange: (folder: string) => void = () => {},
): Promise<Watched> {
  mkdirSync(join(imagesDir, sentinels), { recursive: true });
  const { log, events } = memoryLog();
  let told: string[] = [];
  let awaited: { folder: string; resolve: () => void } | undefined;
  const watcher = await createTreeWatcher({
    imagesDir,
    log,
    onChange(folder) {
      told.push(folder);
      onChange(folder);
      if (folder === awaited?.folder) awaited.resolve();
    },
  });
  t.after(() => watcher.close());
  let count = 0;
  return {
    watcher,
    events,
    async settled() {
      count += 1;
      const folder = `${sentinels}/t${count}`;
      // The kernel tells of this last, and what is new is looked at in the order in which it was told.
      const seen = new Promise<void>((resolve) => {
        awaited = { folder, resolve };
      });
      mkdirSync(join(imagesDir, folder));
      await soon(seen, folder);
      const all = told.filter((path) => !path.startsWith(sentinels));
      told = [];
      return [...new Set(all)].sort();
    },
  };
}

/** Makes a file with some content, and its folders. */
export function put(path: string, content = 'x'): void {
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, content);
}

/** What a {@link WatchingProcess} says. */
export type Said =
  | { change: string }
  | { state: WatchState; resynced: number }
  | { warning: LogEvent };

export interface WatchingProcess {
  child: ChildProcess;
  /** All that it has said so far. */
  said: Said[];
  /** Resolves once it has said what `isIt` accepts, before or after. */
  hears<T extends Said>(isIt: (said: Said) => said is T): Promise<T>;
  changed(folder: string): Promise<unknown>;
  /** Has it bring its watches in line, and gives its state then. */
  resync(options?: { limit?: number }): Promise<WatchState>;
  /** Its state after the start. */
  started(): Promise<WatchState>;
}

/** A limit of the user namespace that the process gets for itself, see namespaces(7). */
export interface NarrowLimit {
  name: 'max_inotify_watches' | 'max_inotify_instances';
  value: number;
}

const limitFile = (name: string) => `/proc/sys/user/${name}`;

/** Starts a process that watches `imagesDir` until the test is over. */
export function watchInProcess(
  t: Pick<TestContext, 'after'>,
  imagesDir: string,
  limit?: NarrowLimit,
): WatchingProcess {
  const command = [process.execPath, fileURLToPath(import.meta.url), imagesDir];
  const narrowed =
    limit === undefined
      ? command
      : [
          ...['unshare', '--user', '--map-root-user', 'sh', '-c'],
          `echo ${limit.value} > ${limitFile(limit.name)} && exec "$@"`,
          ...['sh', ...command, limitFile(limit.name)],
        ];
  const [program, ...args] = narrowed as [string, ...string[]];
  const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  });
  const said: Said[] = [];
  child.on('message', (message: Said) => said.push(message));
  const hears = async <T extends Said>(isIt: (said: Said) => said is T): Promise<T> => {
    for (;;) {
      const found = said.find(isIt);
      if (found !== undefined) return found;
      await heard(child);
    }
  };
  const stateAfter = async (resynced: number) => {
    const isIt = (one: Said): one is Extract<Said, { state: WatchState }> =>
      'state' in one && one.resynced === resynced;
    return (await hears(isIt)).state;
  };
  let resyncs = 0;
  return {
    child,
    said,
    hears,
    changed: (folder) =>
      hears((one): one is { change: string } => 'change' in one && one.change === folder),
    async resync(options = {}) {
      resyncs += 1;
      child.send(options);
      return stateAfter(resyncs);
    },
    started: () => stateAfter(0),
  };
}

/** Waits for the next message; throws where the process ends first. */
async function heard(child: ChildProcess): Promise<void> {
  const ended = new AbortController();
  const ending = once(child, 'exit', { signal: ended.signal }).then(
    ([code]) => assert.fail(`the watching process ended with ${code}`),
    () => {},
  );
  try {
    const message = once(child, 'message', { signal: ended.signal });
    await soon(Promise.race([message, ending]), 'a message of the watching process');
  } finally {
    ended.abort();
  }
}

/** Options for a test that gives a process {@link NarrowLimit}s; as those of programs.ts. */
export async function needsUserNamespaces(): Promise<{ skip: string | false }> {
  if (process.env.REQUIRE_TESTS === '1') return { skip: false };
  const { code } = await outcome('unshare', ['--user', '--map-root-user', 'true']).catch(() => ({
    code: 127,
  }));
  return { skip: code !== 0 && 'needs user namespaces' };
}

async function watchHere(imagesDir: string, limit: string | undefined): Promise<void> {
  const say = (said: Said) => process.send?.(said);
  const { log, events } = memoryLog();
  const onChange = (change: string) => say({ change });
  const watcher = await createTreeWatcher({ imagesDir, log, onChange });
  let resynced = 0;
  const tell = () => {
    for (const warning of events.splice(0)) say({ warning });
    say({ state: watcher.state(), resynced });
  };
  tell();
  process.on('message', async (options: { limit?: number }) => {
    if (limit !== undefined && options.limit !== undefined) {
      writeFileSync(limit, String(options.limit));
    }
    await watcher.resync();
    resynced += 1;
    tell();
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [imagesDir, limit] = process.argv.slice(2);
  await watchHere(imagesDir as string, limit);
}
