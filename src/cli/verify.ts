/** `verify`: reads every published file again and checks it. */
import { createPool } from '../disk/pool.js';
import { exitCodes } from '../errors.js';
import { type Logger, logFirst } from '../log.js';
import type { MirrorCheck } from '../mirror/replicate.js';
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
  /** Reads back what this mirror has, in place of the tree. */
  mirror?: string;
}

/** Verifies what is published; damage is logged and exits with its own code, also where it was repaired. */
export async function verify(command: Command, options: VerifyCommandOptions): Promise<number> {
  if (options.mirror !== undefined) {
    return await verifyMirror(command, { name: options.mirror, repair: options.repair === true });
  }
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
function damageLog(
  log: Logger,
): (found: { damage: readonly Pick<Damage, 'path' | 'reason'>[] }) => void {
  let told = false;
  const each = ({ path, reason }: Pick<Damage, 'path' | 'reason'>) =>
    log.error({ path, reason }, 'damaged');
  return ({ damage }) => {
    if (!told) logFirst(damage, { log, each, rest: listed });
    told = true;
  };
}

async function verifyMirror(
  command: Command,
  { name, repair: mend }: { name: string; repair: boolean },
): Promise<number> {
  const { config, log, json, print, signal } = command;
  const { mirrorOf, withMirrorProgress } = await import('./mirror-work.js');
  mirrorOf(config, name);
  const found = await withMirrorProgress<MirrorCheck>(command, {
    command: 'mirror-verify',
    args: { root: config.paths.root, name, repair: mend },
    names: [name],
    work: (replication) => replication.verify(name, { repair: mend, signal }),
  });
  damageLog(log)(found);
  const tellExtra = (path: string) => log.warn({ path }, 'too much');
  logFirst(found.extra, { log, each: tellExtra, rest: listed });
  print(json ? JSON.stringify(found) : mirrorSummary(name, found));
  return found.damage.length > 0 ? exitCodes.damaged : exitCodes.done;
}

function mirrorSummary(name: string, { files, bytes, damage, extra, sync }: MirrorCheck): string {
  const work = `${name}: read back ${counted(files, 'file')} (${formatBytes(bytes)})`;
  const found = [
    damage.length === 0 ? 'all as published' : `${damage.length} damaged or missing`,
    extra.length > 0 && `${extra.length} too much`,
    sync !== undefined && damage.length > 0 && `mended: ${counted(sync.sent.files, 'file')} sent`,
    sync === undefined &&
      damage.length > 0 &&
      `--repair mends it: lxd-image-server verify --mirror ${name} --repair`,
    sync !== undefined && extra.length > 0 && 'what is too much goes after the grace time',
  ];
  return `${work}: ${found.filter(Boolean).join('; ')}`;
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
