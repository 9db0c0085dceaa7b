/**
 * From a tree with digests to the products that are published, and what is held back, with the reasons. Pure.
 */
import { aliasesOf } from './aliases.js';
import { type CatalogueOptions, isUnread, judgeVersion } from './completeness.js';
import { itemsOf } from './items.js';
import type { Product, ProductHead } from './product.js';
import {
  compareNames,
  type Facts,
  type Fault,
  type FileEntry,
  type FileRole,
  type Problem,
  type ProductFolder,
  productPath,
  type RequirementRule,
  roleOf,
  type VersionFolder,
} from './tree.js';

export interface ProductResult {
  product?: Product;
  /** Versions held back and files passed over, each with its reason. */
  problems: Problem[];
  /** When to look again at what waits for time to pass or was not read, in milliseconds since 1970. */
  again?: number;
  /** Names of versions that were read in vain: they changed meanwhile, or are not what SHA256SUMS states. */
  restless: string[];
}

/** How soon to look again at what changed while it was read, in milliseconds. */
const retryAfter = 1000;

/** What may be published of `folder`, from names, sizes and digests alone. */
export function catalogueProduct(folder: ProductFolder, options: CatalogueOptions): ProductResult {
  const problems = [...folder.problems];
  const complete: VersionFolder[] = [];
  const restless: string[] = [];
  const times: number[] = [];
  for (const version of folder.versions) {
    const verdict = judgeVersion(version, options);
    if (verdict === 'complete') complete.push(version);
    else {
      const path = `${productPath(folder)}/${version.name}`;
      if (!isExplained(verdict.fault, path, folder.problems)) {
        problems.push({ path, ...verdict.fault });
      }
      if (isRestless(version, verdict.fault)) restless.push(version.name);
      const retryAt = verdict.unread === true ? [options.now + retryAfter] : [];
      times.push(...[verdict.settlesAt ?? retryAt].flat());
    }
  }
  // It holds nothing back, but there is more to say once it has been read.
  if (folder.yaml !== undefined && isUnread(folder.yaml)) times.push(options.now + retryAfter);
  problems.push(...sideFileProblems(folder, complete));
  const result: ProductResult = { problems, restless };
  if (times.length > 0) result.again = Math.min(...times);
  if (complete.length > 0) result.product = buildProduct(folder, complete, options);
  return result;
}

const restlessCodes = new Set<Fault['code']>(['changed', 'sums-mismatch']);

/** Whether a version was read in vain, and has not come to rest since. */
function isRestless({ restless }: VersionFolder, { code }: Fault): boolean {
  return restlessCodes.has(code) || (restless === true && code === 'settling');
}

const hidingCodes = new Set<Fault['code']>(['unreadable', 'link', 'kind', 'name']);

/** Whether what is missing is there, but could not be taken up, as one of `problems` says already. */
function isExplained({ code }: Fault, path: string, problems: readonly Problem[]): boolean {
  if (code !== 'metadata-missing' && code !== 'root-missing') return false;
  return problems.some(
    (problem) => hidingCodes.has(problem.code) && `${problem.path}/`.startsWith(`${path}/`),
  );
}

/** YAML files that are passed over without holding anything back. */
function sideFileProblems(folder: ProductFolder, complete: VersionFolder[]): Problem[] {
  const problems: Problem[] = [];
  const newest = complete.at(-1);
  const imageYaml = newest?.files.find((file) => file.name === 'image.yaml');
  const sides = [
    { file: folder.yaml, path: productPath(folder) },
    { file: imageYaml, path: `${productPath(folder)}/${newest?.name}` },
  ];
  for (const { file, path } of sides) {
    const fault = file?.failure ?? file?.digest?.fault;
    if (file !== undefined && fault !== undefined)
      problems.push({ path: `${path}/${file.name}`, ...fault });
  }
  return problems;
}

function buildProduct(
  folder: ProductFolder,
  complete: VersionFolder[],
  options: CatalogueOptions,
): Product {
  const { env, release, arch, type } = folder;
  const newest = complete.at(-1) as VersionFolder;
  const sources = factSources(folder, newest);
  const facts = mergeFacts(sources.map((file) => file.digest?.facts ?? {}));
  const contents = complete.flatMap((version) => version.files);
  const head: ProductHead = {
    env,
    release,
    arch,
    type,
    os: facts.os ?? env,
    releaseTitle: facts.releaseTitle ?? release,
    aliases: aliasesOf(folder, facts),
    requirements: requirementsOf(folder, facts.requirements ?? []),
    updated: [...contents, ...sources].reduce((latest, file) => Math.max(latest, file.modified), 0),
  };
  const versions = complete.map((version) => ({
    name: version.name,
    items: itemsOf(version, {
      path: `${options.prefix}/${productPath(folder)}/${version.name}`,
      published: complete,
    }),
  }));
  return { head, versions };
}

/** The files that describe a product, the one with the last word last. */
function factSources(folder: ProductFolder, newest: VersionFolder): FileEntry[] {
  const kinds = (kind: FileRole['kind']) =>
    newest.files.filter((file) => roleOf(file.name).kind === kind);
  const [metadata] = [...kinds('metadata').reverse(), ...kinds('unified').reverse()];
  return [metadata, ...kinds('image-yaml'), folder.yaml].filter((file) => file !== undefined);
}

function mergeFacts(sources: Facts[]): Facts {
  const requirements = sources.flatMap((facts) => facts.requirements ?? []);
  return Object.assign({}, ...sources, { requirements });
}

function requirementsOf(folder: ProductFolder, rules: RequirementRule[]): Record<string, string> {
  const { release, arch, type } = folder;
  const fits = (names: string[] | undefined, name: string) => names?.includes(name) ?? true;
  const fitting = rules.filter(
    (rule) =>
      fits(rule.releases, release) && fits(rule.architectures, arch) && fits(rule.types, type),
  );
  const merged = Object.assign({}, ...fitting.map((rule) => rule.values)) as Record<string, string>;
  return Object.fromEntries(Object.entries(merged).sort(([a], [b]) => compareNames(a, b)));
}
