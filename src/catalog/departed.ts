/**
 * What was known of files that have gone from their places: where a version, a product or a whole environment
 * was only moved, its files need not be read again. Pure.
 */
import type { KnownDigests } from './record.js';
import type { FileDigest, FileEntry, ProductFolder } from './tree.js';

export interface Departed {
  /** Takes down what is known of versions that are not in `now`, which is what their product has become. */
  note(known: KnownDigests, now?: ProductFolder): void;
  /** Gives files of `folder` that lack digests those of files with their version, name and stamp. */
  recall(folder: ProductFolder): void;
  forget(): void;
}

/** How many files are remembered; of more, those that went first are forgotten. */
const mostFiles = 50_000;

export function createDeparted(): Departed {
  /** By version, name and stamp. A stamp has the inode, which a file keeps when it is moved. */
  const digests = new Map<string, FileDigest>();
  const keyOf = (version: string, { name, stamp }: Pick<FileEntry, 'name' | 'stamp'>) =>
    `${version}/${name} ${stamp}`;
  return {
    note(known, now) {
      const there = new Set(now?.versions.map(({ name }) => name));
      for (const [version, files] of Object.entries(known)) {
        if (there.has(version)) continue;
        for (const [name, stamp, digest] of files)
          digests.set(keyOf(version, { name, stamp }), digest);
      }
      for (const key of digests.keys()) {
        if (digests.size <= mostFiles) break;
        digests.delete(key);
      }
    },
    recall({ yaml, versions }) {
      if (digests.size === 0) return;
      const all = versions.map(({ name, files }) => ({ version: name, files }));
      if (yaml !== undefined) all.push({ version: '', files: [yaml] });
      for (const { version, files } of all) {
        for (const file of files) {
          const digest = file.digest ?? digests.get(keyOf(version, file));
          if (digest !== undefined) file.digest = digest;
        }
      }
    },
    forget: () => digests.clear(),
  };
}
