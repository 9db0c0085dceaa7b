/** Which folders have changed since somebody last looked: merged, so that each place is looked at once. Pure. */

export interface Changes {
  /** Notes a folder below the images folder, '' for all of it; what lies below it is part of it. */
  add(folder: string): void;
  isEmpty(): boolean;
  /** How many are noted. */
  size(): number;
  /** All that was noted, none of it inside another; from then on nothing is noted. */
  take(): string[];
}

export function createChanges(): Changes {
  const folders = new Set<string>();
  return {
    add(folder) {
      folders.add(folder);
    },
    isEmpty: () => folders.size === 0,
    size: () => folders.size,
    take() {
      const taken = [...folders].filter(
        (folder) => !above(folder).some((name) => folders.has(name)),
      );
      folders.clear();
      return taken;
    },
  };
}

/** The folders that `folder` lies in: `a/b` lies in `a` and in ''. */
function above(folder: string): string[] {
  if (folder === '') return [];
  const names = folder.split('/');
  return names.map((_name, depth) => names.slice(0, depth).join('/'));
}
