/**
 * Verification that mends: what has other bytes than published is set aside, and the rest published anew.
 */
import type { Problem } from './catalog/tree.js';
import type { RunResult } from './pipeline.js';
import { foldersWith, setAside, type Verification, type VerifyOptions } from './verify.js';

/** What was found first, and what became of it. */
export interface RepairResult extends Verification {
  /** Whether there was something to repair. */
  repaired: boolean;
  /** What was set aside, as the paths that it has now, relative to the root. */
  moved: string[];
  /** What the last publication held back; none where nothing was repaired. */
  problems: Problem[];
}

export interface RepairOptions {
  paths: VerifyOptions['paths'];
  /** {@link verifyTree} on these paths, of all folders or of those given. */
  check: (folders?: ReadonlySet<string>) => Promise<Verification>;
  /** A run of the pipeline on these paths, for whoever holds the lock. */
  publish: () => Promise<RunResult>;
  /** Does its work under the lock. Default: the caller holds it already. */
  exclusively?: (work: () => Promise<void>) => Promise<void>;
  /** Is told what was found before anything is done about it. */
  onFound?: (found: Verification) => void;
}

/**
 * Verifies what is published, and where something is damaged sets that aside and publishes what is whole. What
 * was replaced since the last publication is published first, for it is no damage.
 *
 * @throws ServerError as {@link verifyTree}, {@link setAside} and {@link Pipeline.run}
 */
export async function verifyAndRepair(options: RepairOptions): Promise<RepairResult> {
  const { paths, check, publish, exclusively = (work) => work(), onFound = () => {} } = options;
  const found = await check();
  onFound(found);
  const result: RepairResult = { ...found, repaired: false, moved: [], problems: [] };
  if (found.damage.length === 0) return result;
  await exclusively(async () => {
    await publish();
    const { damage } = await check(foldersWith(found.damage));
    result.moved = await setAside(paths, damage);
    result.problems = (await publish()).problems;
    result.repaired = true;
  });
  return result;
}
