/** The real daemon, `lxd-image-server watch`, in a process of its own. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import type { DaemonStatus } from '../../src/daemon/status.js';
import { callDaemon } from '../../src/server/control-client.js';
import { cli, nodeOptions, publishedVersions, runCli } from './cli.js';
import type { LogEvent } from './memory-log.js';
import { temporaryFolder } from './temporary.js';

export interface Daemon {
  pid: number;
  /** What it has logged so far, debug events too. */
  events: readonly LogEvent[];
  /** Waits for an event called `msg` that has not been waited for before. */
  event(msg: string): Promise<LogEvent>;
  /** Asks after every run, and now, whether `isTrue`; waits until it is. */
  until(isTrue: () => boolean | Promise<boolean>): Promise<void>;
  call<T>(command: string, args?: object): Promise<T>;
  status(): Promise<DaemonStatus>;
  signal(name: NodeJS.Signals): void;
  /** Resolves when it has ended, in whatever way. */
  ended: Promise<void>;
  /** Ends it with a signal. @returns its exit code, or the signal where that ended it. */
  end(name?: NodeJS.Signals): Promise<number | NodeJS.Signals>;
}

export interface DaemonOptions {
  /** How long versions must be left alone. Default: 300ms. */
  settle?: string;
  /** Further lines of the configuration. */
  config?: string;
  /** Where the configuration is, the state and the control socket. Default: the root. */
  home?: string;
  env?: NodeJS.ProcessEnv;
  /** Further arguments. */
  args?: readonly string[];
  /** What it is run by, for example `['setpriv', …]`. */
  runner?: readonly string[];
}

/** How long to wait for what must come, in milliseconds. */
const patience = 60_000;

/** An empty root, gone after the test. */
export async function emptyRoot(t: Pick<TestContext, 'after'>): Promise<string> {
  const root = await temporaryFolder(t);
  await mkdir(join(root, 'images'));
  return root;
}

/** Writes the configuration for a daemon at `root`, which serves nothing unless `more` says so. */
export async function daemonConfig(
  root: string,
  { settle = '300ms', config = '', home = root }: DaemonOptions = {},
): Promise<string> {
  const file = join(home, 'config.toml');
  const keys = { root, state: join(home, 'state'), run: join(home, 'run') };
  const paths = Object.entries(keys).map(([key, path]) => `paths.${key} = ${JSON.stringify(path)}`);
  const listen = config.includes('server.listen') ? [] : ['server.listen = ""'];
  await writeFile(
    file,
    [...paths, `publish.settle = "${settle}"`, ...listen, config, ''].join('\n'),
  );
  return file;
}

/**
 * Whether exactly `names` are published, each with the files that the index says. Where files were taken
 * away or replaced by hand the index is wrong for a moment.
 */
export function shows(root: string, ...names: string[]): () => Promise<boolean> {
  return async () => {
    const found = await publishedVersions(root).catch(() => undefined);
    return found?.join() === names.toSorted().join();
  };
}

/** The documents are those that a run from nothing makes; the daemon has ended. */
export async function assertAsRebuilt(root: string, home = root): Promise<void> {
  const read = () => readFile(join(root, 'streams/v1/images.json'), 'utf8');
  const before = await read();
  const config = join(home, 'config.toml');
  const result = await runCli(['update', '--rebuild', '--json', '--config', config]);
  assert.ok(result.code === 0 || result.code === 3, result.stderr);
  assert.deepEqual((JSON.parse(result.stdout) as { published: string[] }).published, []);
  assert.equal(await read(), before);
}

/** Starts the daemon at `root`, which ends with the test, and waits until it is ready. */
export async function startDaemon(
  t: Pick<TestContext, 'after'>,
  root: string,
  options: DaemonOptions = {},
): Promise<Daemon> {
  const daemon = await launchDaemon(t, root, options);
  await daemon.event('ready');
  return daemon;
}

/** Starts the daemon without waiting for anything. */
export async function launchDaemon(
  t: Pick<TestContext, 'after'>,
  root: string,
  options: DaemonOptions = {},
): Promise<Daemon> {
  const { env, args = [], runner = [], home = root } = options;
  const file = await daemonConfig(root, options);
  const command = [
    ...runner,
    process.execPath,
    ...nodeOptions,
    cli,
    'watch',
    '--log-level',
    'debug',
  ];
  const [program = '', ...rest] = [...command, '--config', file, ...args];
  const child = spawn(program, rest, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...env },
  });
  t.after(() => endChild(child, 'SIGKILL'));
  return follow(child, join(home, 'run'));
}

function follow(child: ChildProcess, runDir: string): Daemon {
  const events: LogEvent[] = [];
  const texts: string[] = [];
  const listeners = new Set<() => void>();
  let ended = false;
  const changed = () => {
    for (const listener of [...listeners]) listener();
  };
  createInterface({ input: child.stderr as NodeJS.ReadableStream })
    .on('line', (line) => {
      if (line.startsWith('{')) events.push(JSON.parse(line) as LogEvent);
      else texts.push(line);
      changed();
    })
    .on('close', () => {
      ended = true;
      changed();
    });

  /** Waits until `find` finds something; looks after each event. */
  const waitFor = <T>(what: string, find: () => T | undefined): Promise<T> =>
    new Promise((resolve, reject) => {
      const done = () => {
        listeners.delete(look);
        clearTimeout(timer);
      };
      const give = (reason: string) => {
        done();
        const last = events.slice(-5).map((event) => JSON.stringify(event));
        reject(new Error([`waited for ${what}: ${reason}`, ...last, ...texts].join('\n')));
      };
      const timer = setTimeout(() => give('it did not come'), patience);
      const look = () => {
        const found = find();
        if (found !== undefined) {
          done();
          resolve(found);
        } else if (ended) give('the daemon ended');
      };
      listeners.add(look);
      look();
    });

  const seen = new Map<string, number>();
  const event = async (msg: string): Promise<LogEvent> => {
    const found = await waitFor(msg, () => {
      const from = seen.get(msg) ?? 0;
      const index = events.findIndex((candidate, at) => at >= from && candidate.msg === msg);
      return index === -1 ? undefined : { index, value: events[index] as LogEvent };
    });
    seen.set(msg, found.index + 1);
    return found.value;
  };
  const call = async <T>(command: string, args = {}): Promise<T> => {
    const answer = await callDaemon<T>({ runDir, command, args });
    if (answer === undefined) throw new Error('no daemon listens');
    return answer.result;
  };
  return {
    pid: child.pid as number,
    events,
    event,
    async until(isTrue) {
      for (;;) {
        const runs = countOf(events, 'looked');
        if (await isTrue()) return;
        await waitFor('a run', () => (countOf(events, 'looked') > runs ? true : undefined));
      }
    },
    call,
    status: () => call<DaemonStatus>('status'),
    signal: (name) => void child.kill(name),
    ended: once(child, 'exit').then(() => undefined),
    end: (name = 'SIGTERM') => endChild(child, name),
  };
}

function countOf(events: readonly LogEvent[], msg: string): number {
  return events.filter((event) => event.msg === msg).length;
}

async function endChild(
  child: ChildProcess,
  name: NodeJS.Signals,
): Promise<number | NodeJS.Signals> {
  if (child.exitCode === null && child.signalCode === null) {
    const gone = once(child, 'exit');
    child.kill(name);
    await gone;
  }
  return child.exitCode ?? (child.signalCode as NodeJS.Signals);
}
