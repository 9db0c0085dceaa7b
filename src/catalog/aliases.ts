/** What products are called: their aliases, and who keeps a name that several claim. Pure. */
import type { ProductHead } from './product.js';
import { type Facts, type Problem, type ProductFolder, productId, productPath } from './tree.js';

/** The aliases that a product would like to have: by its path and further names of its release, then its own. */
export function aliasesOf(folder: ProductFolder, facts: Facts): string[] {
  const { releaseAliases = {} } = facts;
  const further = Object.hasOwn(releaseAliases, folder.release)
    ? (releaseAliases[folder.release] ?? [])
    : [];
  const releases = [folder.release, ...further];
  const standard = releases.flatMap((release) => standardAliases({ ...folder, release }));
  return [...new Set([...standard, ...(facts.aliases ?? [])])];
}

/** What a product is called after its folders. */
export function standardAliases({
  env,
  release,
  arch,
  type,
}: Pick<ProductFolder, 'env' | 'release' | 'arch' | 'type'>): string[] {
  const aliases = [`${env}/${release}/${arch}/${type}`, `${env}/${release}/${type}`];
  if (type !== 'default') return aliases;
  aliases.push(`${env}/${release}`);
  if (release === 'current') aliases.push(env);
  return aliases;
}

/**
 * Takes out products whose ID another one has: names may hold colons, so `a:b/c/…` and `a/b:c/…`
 * would both be `a:b:c:…`. The one whose path comes first stays, in whatever order they are given.
 */
export function withoutTwins<T extends { head: ProductHead }>(
  products: readonly T[],
): { products: T[]; problems: Problem[] } {
  const owners = new Map<string, ProductHead>();
  for (const { head } of products) {
    const id = productId(head);
    const owner = owners.get(id);
    if (owner === undefined || productPath(head) < productPath(owner)) owners.set(id, head);
  }
  const problems: Problem[] = [];
  const kept = products.filter(({ head }) => {
    const owner = owners.get(productId(head)) ?? head;
    if (owner !== head) problems.push(twinProblem(head, owner));
    return owner === head;
  });
  return { products: kept, problems };
}

function twinProblem(product: ProductHead, owner: ProductHead): Problem {
  return {
    path: productPath(product),
    code: 'name',
    reason: `its product ID ${productId(product)} is that of ${productPath(owner)} as well`,
    cure: 'rename one of the folders: without colons above the version no two IDs are the same',
  };
}

export interface AliasResult {
  /** The aliases that each product keeps, in its own order. */
  aliases: Map<ProductHead, string[]>;
  problems: Problem[];
}

/**
 * Decides who keeps an alias that several products of one architecture claim: the first in order.
 *
 * @param products in product order.
 */
export function resolveAliases(products: readonly ProductHead[]): AliasResult {
  const owners = new Map<string, ProductHead>();
  const aliases = new Map<ProductHead, string[]>();
  const problems: Problem[] = [];
  for (const product of products) {
    const kept = product.aliases.filter((alias) => {
      const key = `${product.arch} ${alias}`;
      const owner = owners.get(key) ?? product;
      owners.set(key, owner);
      if (owner !== product) problems.push(aliasProblem(alias, product, owner));
      return owner === product;
    });
    aliases.set(product, kept);
  }
  return { aliases, problems };
}

function aliasProblem(alias: string, product: ProductHead, owner: ProductHead): Problem {
  return {
    path: productPath(product),
    code: 'alias',
    reason: `its alias "${alias}" belongs to ${productPath(owner)} already`,
    cure: 'take the alias out of the product.yaml or image.yaml of one of them',
  };
}
