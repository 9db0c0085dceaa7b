/** Which versions of a product have had their time. Pure. */
import { versionTime } from './placement.js';
import { compareNames } from './tree.js';

export interface RetentionRules {
  /** How many versions of a product stay; 0 is all of them. */
  keep: number;
  /** For how many days a version stays after the date in its name; 0 is for ever. */
  days: number;
}

const dayMs = 86_400_000;

/**
 * The versions of one product that a rule does not keep, newest first. The newest of all is never among them.
 *
 * @param now in milliseconds since 1970.
 */
export function outlivedVersions(
  names: readonly string[],
  { rules: { keep, days }, now }: { rules: RetentionRules; now: number },
): string[] {
  const oldest = days === 0 ? -Infinity : now - days * dayMs;
  const newestFirst = names.toSorted(compareNames).reverse();
  return newestFirst.filter((name, at) => {
    const isOneTooMany = keep > 0 && at >= keep;
    return at > 0 && (isOneTooMany || versionTime(name) < oldest);
  });
}
