/** `update`: brings the documents up to date with the tree. */
import type { Problem } from '../catalog/tree.js';
import { acquireLock } from '../disk/lock.js';
import { createPool } from '../disk/pool.js';
import { exitCodes } from '../errors.js';
import { type Logger, logFirst } from '../log.js';
import { createPipeline, type RunResult, type Stage } from '../pipeline.js';
import type { Command } from './command.js';
import { byDaemonOrSelf } from './daemon.js';
import { counted, formatBytes } from './format.js';
import { createProgress } from './progress.js';

export interface UpdateOptions {
  /** Forgets what is remembered, and reads every file again. */
  rebuild?: boolean;
}

/** Runs the pipeline once, under the lock of the root. */
export async function update(command: Command, options: UpdateOptions): Promise<number> {
  const result = await publishTree(command, options);
  command.print(command.json ? JSON.stringify(result) : summary(result));
  return result.problems.length > 0 ? exitCodes.partial : exitCodes.done;
}

/** What `update` and `init` have in common: one run, of the daemon or under the lock, with its problems logged. */
export async function publishTree(
  command: Command,
  { rebuild = false }: UpdateOptions,
): Promise<RunResult> {
  const { root, images } = command.config.paths;
  const result = await byDaemonOrSelf<RunResult>(command, {
    command: 'update',
    args: { root, images, rebuild },
    stageName: (stage) => (stageNames as Record<string, string>)[stage] ?? stage,
    self: () => withLock(root, () => publishLocked(command, { rebuild })),
  });
  logProblems(command.log, result.problems);
  return result;
}

/** Does `work` while this process holds the lock of `root`. @throws ServerError as {@link acquireLock}, or of `work`. */
export async function withLock<T>(root: string, work: () => Promise<T>): Promise<T> {
  const lock = await acquireLock(root);
  try {
    return await work();
  } finally {
    await lock.release();
  }
}

/** One run for whoever holds the lock; its problems are left to log. @throws ServerError as {@link createPipeline}. */
export async function publishLocked(
  { config, log, signal, terminal, pagesDir }: Command,
  { rebuild = false }: UpdateOptions,
): Promise<RunResult> {
  const { paths, publish } = config;
  const pool = createPool();
  const progress = await createProgress({ terminal, bytesRead: pool.bytesRead });
  let closing = Promise.resolve();
  const onStage = (stage: Stage, bytes: number) => {
    progress.stage(stageNames[stage], bytes);
    // All has been read; publication is better off with the memory of the threads.
    if (stage === 'publish') closing = pool.close();
  };
  try {
    const pipeline = createPipeline({ paths, publish, pagesDir, pool, log });
    return await pipeline.run({ signal, onStage, rebuild });
  } finally {
    progress.stop();
    await Promise.all([closing, pool.close()]);
  }
}

/** Where all is that a command logs only the first of. */
export const listed = '… and more; --json lists them all';

/** Warns of what a run has not published. */
export function logProblems(log: Logger, problems: readonly Problem[]): void {
  logFirst(problems, {
    log,
    each: ({ path, code, reason, cure }) => log.warn({ path, reason, cure, code }, 'not published'),
    rest: listed,
  });
}

const stageNames: Record<Stage, string> = {
  scan: 'Looking',
  digest: 'Reading',
  settle: 'Settling',
  publish: 'Publishing',
};

function summary({ products, versions, bytes, read, published, problems }: RunResult): string {
  const stock = `${counted(products, 'product')}, ${counted(versions, 'version')}, ${formatBytes(bytes)}`;
  const work =
    read.files > 0 ? `read ${counted(read.files, 'file')} (${formatBytes(read.bytes)})` : '';
  const documents = published.filter((name) => !name.endsWith('.gz')).toReversed();
  const news =
    published.length > 0
      ? `wrote ${enumerated(documents.length > 0 ? documents : published)}`
      : 'nothing new';
  const held = problems.length > 0 ? `${counted(problems.length, 'problem')}, see above` : '';
  return `${stock}: ${[work, news, held].filter((part) => part !== '').join('; ')}`;
}

function enumerated(names: readonly string[]): string {
  const last = names.at(-1) ?? '';
  return names.length < 2 ? last : `${names.slice(0, -1).join(', ')} and ${last}`;
}
