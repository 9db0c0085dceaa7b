/** Versions that are symbolic links to versions elsewhere in the tree: what changes there changes here. */
import { realpathSync } from 'node:fs';

/** Where the products lie that have such links: `env/release/arch/type`, as everywhere in this file. */
export interface LinkedVersions {
  /** Takes down which versions of `product` are links. @returns whether that, or where one leads, is new. */
  set(product: string, names: readonly string[]): boolean;
  /** Follows all links again. @returns the products of which one leads elsewhere than before. */
  follow(): string[];
  /** The other products that have links to something at or below `folder`. */
  linkersTo(folder: string): Iterable<string>;
}

/** @param imagesDir absolute, without symbolic links. */
export function createLinkedVersions(imagesDir: string): LinkedVersions {
  /** By product: the products that its links lead to, in the links' order; '' for one that leads nowhere. */
  const targets = new Map<string, { names: readonly string[]; leadTo: string[] }>();

  function follow(product: string, names: readonly string[]): boolean {
    const leadTo = names.map((name) => targetOf(`${imagesDir}/${product}/${name}`));
    const before = targets.get(product);
    if (names.length === 0) targets.delete(product);
    else targets.set(product, { names, leadTo });
    return before?.leadTo.join('\n') !== (names.length === 0 ? undefined : leadTo.join('\n'));
  }

  function targetOf(path: string): string {
    const target = resolve(path);
    if (target?.startsWith(`${imagesDir}/`) !== true) return '';
    const names = target.slice(imagesDir.length + 1).split('/');
    return names.length === 5 ? names.slice(0, 4).join('/') : '';
  }

  return {
    set: follow,
    follow: () =>
      [...targets].flatMap(([product, { names }]) => (follow(product, names) ? [product] : [])),
    *linkersTo(folder) {
      if (targets.size === 0) return;
      for (const [product, { leadTo }] of targets) {
        if (product !== folder && leadTo.some((target) => isAtOrBelow(target, folder))) {
          yield product;
        }
      }
    },
  };
}

function isAtOrBelow(target: string, folder: string): boolean {
  if (target === '') return false;
  return folder === '' || target === folder || target.startsWith(`${folder}/`);
}

function resolve(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    // It leads nowhere, or where this process may not look; a scan reports that.
    return undefined;
  }
}
