/** `verify`: reads every published file again and checks it. */
import { createPool } from '../disk/pool.js';
import { exitCodes } from '../errors.js';
import { type Damage, setAside, type Verification, verifyTree } from '../verify.js';
import type { Command } from './command.js';
import { counted, formatBytes } from './format.js';
import { createProgress } from './progress.js';
import { logFirst, logProblems, publishLocked, withLock } from './update.js';

export interface VerifyCommandOptions {
  /** Sets damaged files aside and publishes what is whole. */
  repair?: boolean;
}

/** Verifies what is published; damage is logged and exits with its own code, also where it was repaired. */
export async function verify(command: Command, options: VerifyCommandOptions): Promise<number> {
  const { config, log, json, print } = command;
  const result = await check(command);
  const logDamage = ({ path, reason }: Damage) => log.error({ path, reason }, 'damaged');
  logFirst(result.damage, { log, each: logDamage });
  const repaired = options.repair === true && result.damage.length > 0;
  const moved = repaired ? await withLock(config.paths.root, () => repair(command)) : [];
  print(json ? JSON.stringify({ ...result, repaired, moved }) : summary(result, repaired));
  return result.damage.length > 0 ? exitCodes.damaged : exitCodes.done;
}

/**
 * For whoever holds the lock. What was replaced since the last publication is published first, for it is no
 * damage. @returns the paths of what was set aside.
 */
async function repair(command: Command): Promise<string[]> {
  const { config, log } = command;
  await publishLocked(command, {});
  const { damage } = await check(command);
  const moved = await setAside(config.paths, damage);
  logFirst(moved, { log, each: (path) => log.warn({ path }, 'set aside') });
  const { problems } = await publishLocked(command, {});
  logProblems(log, problems);
  return moved;
}

async function check({ config, signal, terminal }: Command): Promise<Verification> {
  const pool = createPool();
  const progress = await createProgress({ terminal, bytesRead: pool.bytesRead });
  try {
    const onStart = (bytes: number) => progress.stage('Reading', bytes);
    return await verifyTree({ paths: config.paths, pool, signal, onStart });
  } finally {
    progress.stop();
    await pool.close();
  }
}

function summary({ files, bytes, damage }: Verification, repaired: boolean): string {
  const work = `read ${counted(files, 'file')} (${formatBytes(bytes)})`;
  if (damage.length === 0) return `${work}: all as published`;
  const cure = repaired
    ? 'damaged files were set aside, the documents written anew'
    : 'upload the damaged files again, or let --repair take them out';
  return `${work}: ${damage.length} damaged; ${cure}`;
}
