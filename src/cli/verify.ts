/** `verify`: reads every published file again and checks it. */
import { createPool } from '../disk/pool.js';
import { exitCodes } from '../errors.js';
import { type Logger, logFirst } from '../log.js';
import { type RepairResult, verifyAndRepair } from '../repair.js';
import { type Damage, type Verification, verifyTree } from '../verify.js';
import type { Command } from './command.js';
import { byDaemonOrSelf } from './daemon.js';
import { counted, formatBytes } from './format.js';
import { createProgress } from './progress.js';
import { listed, logProblems, publishLocked, withLock } from './update.js';

export interface VerifyCommandOptions {
  /** Sets damaged files aside and publishes what is whole. */
  repair?: boolean;
}

/** Verifies what is published; damage is logged and exits with its own code, also where it was repaired. */
export async function verify(command: Command, options: VerifyCommandOptions): Promise<number> {
  const { log, json, print } = command;
  const tell = damageLog(log);
  const result = options.repair === true ? await repair(command, tell) : await onlyVerify(command);
  tell(result);
  const tellMoved = (path: string) => log.warn({ path }, 'set aside');
  logFirst(result.moved, { log, each: tellMoved, rest: listed });
  logProblems(log, result.problems);
  print(json ? JSON.stringify(result) : summary(result));
  return result.damage.length > 0 ? exitCodes.damaged : exitCodes.done;
}

/** Logs damage once, as soon as it is known: a repair can take long, or fail. */
function damageLog(log: Logger): (found: Verification) => void {
  let told = false;
  const each = ({ path, reason }: Damage) => log.error({ path, reason }, 'damaged');
  return ({ damage }) => {
    if (!told) logFirst(damage, { log, each, rest: listed });
    told = true;
  };
}

async function onlyVerify(command: Command): Promise<RepairResult> {
  return { ...(await check(command)), repaired: false, moved: [], problems: [] };
}

/** By the daemon that publishes here, or by this process under the lock. */
function repair(command: Command, onFound: (found: Verification) => void): Promise<RepairResult> {
  const { paths } = command.config;
  return byDaemonOrSelf<RepairResult>(command, {
    command: 'verify',
    args: { root: paths.root, images: paths.images, repair: true },
    stageName: () => 'Reading',
    self: () =>
      verifyAndRepair({
        paths,
        check: (folders) => check(command, folders),
        publish: () => publishLocked(command, {}),
        onFound,
        exclusively: (work) => withLock(paths.root, work),
      }),
  });
}

async function check(
  { config, signal, terminal }: Command,
  folders?: ReadonlySet<string>,
): Promise<Verification> {
  const pool = createPool();
  const progress = await createProgress({ terminal, bytesRead: pool.bytesRead });
  try {
    const onStart = (bytes: number) => progress.stage('Reading', bytes);
    const wanted = folders === undefined ? {} : { folders };
    return await verifyTree({ paths: config.paths, pool, signal, onStart, ...wanted });
  } finally {
    progress.stop();
    await pool.close();
  }
}

function summary({ files, bytes, damage, repaired }: RepairResult): string {
  const work = `read ${counted(files, 'file')} (${formatBytes(bytes)})`;
  if (damage.length === 0) return `${work}: all as published`;
  const cure = repaired
    ? 'damaged files were set aside, the documents written anew'
    : 'upload the damaged files again, or let --repair take them out';
  return `${work}: ${damage.length} damaged; ${cure}`;
}
