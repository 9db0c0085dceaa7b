/** Work with mirrors that the daemon does, or this process where there is none. */
import type { MirrorConfig } from '../config.js';
import { createReplication, type Replication } from '../daemon/replication.js';
import type { MirrorActivity } from '../daemon/status.js';
import { createPool } from '../disk/pool.js';
import { ServerError } from '../errors.js';
import { createPipeline } from '../pipeline.js';
import type { Command } from './command.js';
import { callDaemonOrSelf } from './daemon.js';
import { createMirrorProgress } from './mirror-progress.js';
import { logProblems, withLock } from './update.js';

export interface MirrorWorkOf<T> {
  /** The command of the control socket, with its arguments. */
  command: string;
  args: object;
  /** The mirrors that it is about; none is all. */
  names: readonly string[];
  /** Does it in this process. */
  work: (replication: Replication) => Promise<T>;
}

/** Has the daemon do the work, or does it here under the lock of the root, and shows how far it is. */
export async function withMirrorProgress<T>(
  command: Command,
  { command: name, args, names, work }: MirrorWorkOf<T>,
): Promise<T> {
  const progress = await createMirrorProgress(command.terminal);
  const isMeant = (mirror: MirrorActivity) => names.length === 0 || names.includes(mirror.name);
  const show = (event: unknown) => progress.show((event as MirrorActivity[]).filter(isMeant));
  try {
    return await callDaemonOrSelf<T>(command, {
      command: name,
      args,
      onEvent: show,
      self: () => withLock(command.config.paths.root, () => byHand(command, { names, show, work })),
    });
  } finally {
    progress.stop();
  }
}

const progressMs = 200;

/** Publishes what is in the tree, and does the work with mirrors of this process's own. */
async function byHand<T>(
  { config, log, signal, pagesDir }: Command,
  {
    names,
    show,
    work,
  }: Pick<MirrorWorkOf<T>, 'names' | 'work'> & { show: (event: unknown) => void },
): Promise<T> {
  const { paths, publish } = config;
  const pool = createPool();
  const pipeline = createPipeline({ paths, publish, pagesDir, pool, log });
  try {
    const { problems } = await pipeline.run({ signal });
    logProblems(log, problems);
  } finally {
    await pool.close();
  }
  const { generation } = pipeline;
  const replication = createReplication({ paths, generation, log, byHand: true });
  const timer = setInterval(() => show(replication.activity()), progressMs);
  const isMeant = ({ name }: MirrorConfig) => names.length === 0 || names.includes(name);
  try {
    await replication.apply({ ...config, mirrors: config.mirrors.filter(isMeant) });
    return await work(replication);
  } finally {
    clearInterval(timer);
    await replication.close();
  }
}

/** @throws ServerError USAGE for a name that the configuration does not have */
export function mirrorOf({ mirrors }: Command['config'], name: string): MirrorConfig {
  const mirror = mirrors.find((each) => each.name === name);
  if (mirror !== undefined) return mirror;
  if (mirrors.length === 0) throw noMirrors();
  throw new ServerError('USAGE', `There is no mirror "${name}"`, {
    hint: `the configuration has ${mirrors.map((each) => each.name).join(', ')}`,
  });
}

export function noMirrors(): ServerError {
  return new ServerError('USAGE', 'No mirrors are configured', {
    hint: 'add a table [mirrors.NAME] to the configuration',
  });
}
