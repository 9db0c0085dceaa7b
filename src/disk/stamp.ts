import type { BigIntStats } from 'node:fs';

/** What tells one state of a file's content from another: size, modification time and inode. */
export function stampOf(stat: Pick<BigIntStats, 'size' | 'mtimeNs' | 'ino'>): string {
  return `${stat.size}-${stat.mtimeNs}-${stat.ino}`;
}
