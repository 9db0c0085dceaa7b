/**
 * From a tree with digests to the products that are published, and which files still need a digest.
 *
 * A version is published when it is complete: metadata and a root file (or a unified image), nothing
 * in it temporary or still growing, every digest of its SHA256SUMS met. Pure; time comes in.
 */
import {
  compareNames,
  type Facts,
  type Fault,
  type FileDigest,
  type FileEntry,
  type FileRole,
  isVersionName,
  type Problem,
  type ProductFolder,
  printable,
  productId,
  productPath,
  type RequirementRule,
  type RootType,
  roleOf,
  type VersionFolder,
} from './tree.js';

/** A file of a published version, as simplestreams lists it. */
export interface Item {
  /** Its key among the items of the version. */
  key: string;
  ftype: string;
  /** Relative to the server's root, with `/`. */
  path: string;
  /** Bytes. */
  size: number;
  sha256: string;
  /** On metadata: fingerprints of split images, by the field that simplestreams has for the root's type. */
  combined?: Record<string, string>;
  /** On deltas: the version of the same product that they start from. */
  deltaBase?: string;
}

export interface Version {
  name: string;
  items: Item[];
}

/** What a product is, without its versions. */
export interface ProductHead {
  env: string;
  release: string;
  arch: string;
  type: string;
  os: string;
  releaseTitle: string;
  /** What it would like to be called; {@link resolveAliases} decides. */
  aliases: string[];
  requirements: Record<string, string>;
  /** When the newest published file was modified, in milliseconds since 1970. */
  updated: number;
}

/** A product with at least one version to publish. */
export interface Product {
  head: ProductHead;
  /** Oldest first. */
  versions: Version[];
}

export interface CatalogueOptions {
  /** Milliseconds since 1970. */
  now: number;
  /** How long nothing may have changed in a version without SHA256SUMS, in milliseconds. */
  settle: number;
  /** The images folder as the documents name it, relative to the root: `images`. */
  prefix: string;
}

export interface ProductResult {
  product?: Product;
  /** Versions held back and files passed over, each with its reason. */
  problems: Problem[];
  /** Whether a version waits for time to pass or for files to be read, and is to be judged again. */
  pending: boolean;
}

/** One file to read, and what to look for in it. */
export interface FileRequest {
  name: string;
  /** Bytes, as far as they are known beforehand. */
  size: number;
  /** What the scan saw; without it the file may be whatever it is. */
  stamp?: string;
  read: 'metadata' | 'unified' | 'root' | 'sums' | 'image-yaml' | 'product-yaml' | 'plain';
  /** For a root, its type: it decides which marks of a whole file are looked for. */
  ftype?: string;
  /** What is known already under the same stamp. */
  known?: FileDigest;
}

/** Files of one folder to be read together: metadata first, so that each root is read only once. */
export interface DigestJob {
  /** The folder, relative to the images folder. */
  path: string;
  files: FileRequest[];
}

/** What may be published of `folder`, from names, sizes and digests alone. */
export function catalogueProduct(folder: ProductFolder, options: CatalogueOptions): ProductResult {
  const problems = [...folder.problems];
  const complete: VersionFolder[] = [];
  let pending = false;
  for (const version of folder.versions) {
    const verdict = judgeVersion(version, options);
    if (verdict === 'complete') complete.push(version);
    else {
      const path = `${productPath(folder)}/${version.name}`;
      if (!isExplained(verdict.fault, path, folder.problems)) {
        problems.push({ path, ...verdict.fault });
      }
      pending ||= verdict.settlesAt !== undefined || verdict.unread === true;
    }
  }
  problems.push(...sideFileProblems(folder, complete));
  if (complete.length === 0) return { problems, pending };
  return { product: buildProduct(folder, complete, options), problems, pending };
}

/** The files of `folder` that must be read before {@link catalogueProduct} can judge it, by folder. */
export function missingDigests(folder: ProductFolder, options: CatalogueOptions): DigestJob[] {
  const jobs: DigestJob[] = [];
  const { yaml } = folder;
  if (yaml !== undefined && isUnread(yaml)) {
    jobs.push({ path: productPath(folder), files: [request(yaml, 'product-yaml')] });
  }
  for (const version of folder.versions) {
    const files = unreadFiles(version, options);
    if (files.length > 0) jobs.push({ path: `${productPath(folder)}/${version.name}`, files });
  }
  return jobs;
}

/** When the last of the versions that only have to be left alone for a while can be judged. */
export function settlingUntil(
  folder: ProductFolder,
  options: CatalogueOptions,
): number | undefined {
  const times = folder.versions.flatMap((version) => {
    const obstacle = obstacleInNames(version) ?? obstacleInTime(version, options);
    return obstacle?.settlesAt ?? [];
  });
  return times.length > 0 ? Math.max(...times) : undefined;
}

interface Obstacle {
  fault: Fault;
  settlesAt?: number;
  unread?: true;
}

function judgeVersion(version: VersionFolder, options: CatalogueOptions): 'complete' | Obstacle {
  return (
    obstacleInNames(version) ??
    obstacleInTime(version, options) ??
    obstacleInContent(version) ??
    'complete'
  );
}

const hidingCodes = new Set<Fault['code']>(['unreadable', 'link', 'kind', 'name']);

/** Whether what is missing is there, but could not be taken up, as one of `problems` says already. */
function isExplained({ code }: Fault, path: string, problems: readonly Problem[]): boolean {
  if (code !== 'metadata-missing' && code !== 'root-missing') return false;
  return problems.some(
    (problem) => hidingCodes.has(problem.code) && `${problem.path}/`.startsWith(`${path}/`),
  );
}

function unreadFiles(version: VersionFolder, options: CatalogueOptions): FileRequest[] {
  if (obstacleInNames(version) !== undefined || knownFault(version) !== undefined) return [];
  const sums = version.files.find((file) => file.name === 'SHA256SUMS');
  if (sums !== undefined && isUnread(sums)) return [request(sums, 'sums')];
  if (obstacleInTime(version, options) !== undefined) return [];
  if (!version.files.some((file) => needsReading(file, version))) return [];
  return version.files.map((file) => request(file, readingOf(roleOf(file.name))));
}

/** What names and sizes show: an upload under way, a part missing, a part too much. */
function obstacleInNames(version: VersionFolder): Obstacle | undefined {
  if (!isVersionName(version.name)) {
    return held('date', 'its name does not start with a date, and clients skip such versions', {
      cure: 'name the folder YYYYMMDD or YYYYMMDD_HH:MM',
    });
  }
  const [temporary] = version.temporaries;
  if (temporary !== undefined) {
    return held('uploading', `an upload into it has not ended (${printable(temporary)})`, {
      cure: 'wait for it to end, or remove that file if it was given up',
    });
  }
  return (
    missingPart(version) ?? emptyPart(version) ?? doublePart(version) ?? missingListed(version)
  );
}

function missingPart(version: VersionFolder): Obstacle | undefined {
  const kinds = new Set(version.files.map((file) => roleOf(file.name).kind));
  if (kinds.has('unified')) return undefined;
  if (!kinds.has('metadata')) {
    return held('metadata-missing', 'it has no metadata', {
      cure: 'add lxd.tar.xz or incus.tar.xz, or a unified lxd_combined.tar.gz',
    });
  }
  if (kinds.has('root')) return undefined;
  return held('root-missing', 'it has metadata, but no root file', {
    cure: 'add a .squashfs, rootfs.tar.xz or .qcow2 file',
  });
}

function emptyPart(version: VersionFolder): Obstacle | undefined {
  const empty = version.files.find((file) => file.size === 0 && roleOf(file.name).kind !== 'other');
  if (empty === undefined) return undefined;
  return held('empty', `${empty.name} is empty`, { cure: 'upload it again' });
}

function doublePart(version: VersionFolder): Obstacle | undefined {
  const seen = new Map<RootType, string>();
  for (const { name } of version.files) {
    const role = roleOf(name);
    if (role.kind !== 'root') continue;
    const first = seen.get(role.ftype);
    if (first !== undefined) {
      return held('root-twice', `${first} and ${name} are both of type ${role.ftype}`, {
        cure: 'keep one of them: clients would take either',
      });
    }
    seen.set(role.ftype, name);
  }
  return undefined;
}

/** A file that SHA256SUMS, once it has been read, names in vain. */
function missingListed(version: VersionFolder): Obstacle | undefined {
  const sums = sumsOf(version);
  if (sums === undefined) return undefined;
  const names = new Set(version.files.map((file) => file.name));
  const missing = Object.keys(sums).find((name) => !names.has(name));
  if (missing === undefined) return undefined;
  return held('sums-missing', `SHA256SUMS names ${missing}, which is not there`, {
    cure: 'upload it, or take its line out of SHA256SUMS',
  });
}

/** Files that nothing vouches for must have been left alone for the settle time. */
function obstacleInTime(version: VersionFolder, options: CatalogueOptions): Obstacle | undefined {
  const sums = sumsOf(version);
  const touched = version.files
    .filter(
      ({ name }) => sums === undefined || (!Object.hasOwn(sums, name) && name !== 'SHA256SUMS'),
    )
    .reduce((latest, file) => Math.max(latest, file.touched), -Infinity);
  const age = options.now - touched;
  // A clock that was set back leaves times in the future: those files are as old as they can get.
  if (age >= options.settle || age <= -options.settle) return undefined;
  const obstacle = held('settling', 'it was changed a moment ago', {
    cure: 'it is published once it has been left alone for the settle time',
  });
  return { ...obstacle, settlesAt: touched + options.settle };
}

/** What reading the files has shown. */
function obstacleInContent(version: VersionFolder): Obstacle | undefined {
  const fault = knownFault(version);
  if (fault !== undefined) return { fault };
  const unread = version.files.find((file) => needsReading(file, version));
  if (unread === undefined) return mismatch(version);
  const obstacle = held('unreadable', `${unread.name} has not been read yet`, {
    cure: 'run update again',
  });
  return { ...obstacle, unread: true };
}

/** What is wrong with files that have been read, whatever the others may hold. */
function knownFault(version: VersionFolder): Fault | undefined {
  for (const { name, failure, digest } of version.files) {
    if (failure !== undefined) return failure;
    // A faulty image.yaml costs its own words only; see sideFileProblems.
    if (roleOf(name).kind !== 'image-yaml' && digest?.fault !== undefined) return digest.fault;
  }
  return undefined;
}

function sumsOf(version: VersionFolder): Record<string, string> | undefined {
  return version.files.find((file) => file.name === 'SHA256SUMS')?.digest?.sums;
}

function mismatch(version: VersionFolder): Obstacle | undefined {
  const sums = sumsOf(version) ?? {};
  const different = version.files.find(
    ({ name, digest }) => Object.hasOwn(sums, name) && sums[name] !== digest?.sha256,
  );
  if (different === undefined) return undefined;
  const { name } = different;
  return held('sums-mismatch', `${name} does not have the digest that SHA256SUMS states`, {
    cure: `upload ${name} again, or correct SHA256SUMS`,
  });
}

function held(code: Fault['code'], reason: string, options: { cure: string }): Obstacle {
  return { fault: { code, reason, cure: options.cure } };
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

function isUnread(file: FileEntry): boolean {
  return file.digest === undefined && file.failure === undefined;
}

function needsReading(file: FileEntry, version: VersionFolder): boolean {
  return isUnread(file) || lacksCombined(file, version);
}

/** Whether `file` is a root whose fingerprint with one of the metadata files is not known. */
function lacksCombined(file: FileEntry, version: VersionFolder): boolean {
  if (file.digest === undefined || file.failure !== undefined) return false;
  if (roleOf(file.name).kind !== 'root') return false;
  const { combined = {} } = file.digest;
  return metadataFiles(version).some(
    ({ digest }) => digest !== undefined && combined[digest.sha256] === undefined,
  );
}

function metadataFiles(version: VersionFolder): FileEntry[] {
  return version.files.filter((file) => roleOf(file.name).kind === 'metadata');
}

function readingOf(role: FileRole): FileRequest['read'] {
  return role.kind === 'delta' || role.kind === 'other' ? 'plain' : role.kind;
}

function request(file: FileEntry, read: FileRequest['read']): FileRequest {
  const result: FileRequest = { name: file.name, size: file.size, stamp: file.stamp, read };
  const role = roleOf(file.name);
  if (role.kind === 'root') result.ftype = role.ftype;
  if (file.digest !== undefined) result.known = file.digest;
  return result;
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

function aliasesOf(folder: ProductFolder, facts: Facts): string[] {
  const { releaseAliases = {} } = facts;
  const further = Object.hasOwn(releaseAliases, folder.release)
    ? (releaseAliases[folder.release] ?? [])
    : [];
  const releases = [folder.release, ...further];
  const standard = releases.flatMap((release) => standardAliases({ ...folder, release }));
  return [...new Set([...standard, ...(facts.aliases ?? [])])];
}

function standardAliases({ env, release, arch, type }: ProductFolder): string[] {
  const aliases = [`${env}/${release}/${arch}/${type}`, `${env}/${release}/${type}`];
  if (type !== 'default') return aliases;
  aliases.push(`${env}/${release}`);
  if (release === 'current') aliases.push(env);
  return aliases;
}

interface Place {
  /** The version's folder, relative to the root. */
  path: string;
  /** The versions of the product that are published, oldest first. */
  published: VersionFolder[];
}

function itemsOf(version: VersionFolder, place: Place): Item[] {
  const items = version.files.flatMap((file) => itemsOfFile(file, version, place));
  return items.sort((a, b) => compareNames(a.key, b.key));
}

function itemsOfFile(file: FileEntry, version: VersionFolder, place: Place): Item[] {
  const role = roleOf(file.name);
  switch (role.kind) {
    case 'sums':
    case 'image-yaml':
      return [];
    case 'metadata':
      return keysForClients(role, { version, ending: '.tar.xz' }).map((key) => ({
        ...plainItem(file, key, place),
        combined: combinedDigests(file, version),
      }));
    case 'unified':
      return keysForClients(role, { version, ending: '_combined.tar.gz' }).map((key) =>
        plainItem(file, key, place),
      );
    case 'root':
      return [{ ...plainItem(file, file.name, place), ftype: role.ftype }];
    case 'delta': {
      const deltaBase = deltaBaseOf(role, version, place.published);
      if (deltaBase === undefined) return [];
      return [{ ...plainItem(file, file.name, place), ftype: role.ftype, deltaBase }];
    }
    case 'other':
      return [plainItem(file, file.name, place)];
  }
}

function plainItem(file: FileEntry, key: string, place: Place): Item {
  const { sha256 } = file.digest as FileDigest;
  return { key, ftype: key, path: `${place.path}/${file.name}`, size: file.size, sha256 };
}

/**
 * The item names of a metadata or unified file. LXD reads those of `lxd…` alone and Incus those of
 * `incus…`, so one file stands under both, unless the version has a file of its own for the other.
 */
function keysForClients(
  role: { client: string },
  options: { version: VersionFolder; ending: string },
): string[] {
  const names = new Set(options.version.files.map((file) => file.name));
  return ['incus', 'lxd']
    .map((client) => ({ client, key: `${client}${options.ending}` }))
    .filter(({ client, key }) => client === role.client || !names.has(key))
    .map(({ key }) => key);
}

/** Fields of simplestreams for the combined digest, by the type of the root file. */
const combinedFields: Record<RootType, readonly string[]> = {
  squashfs: ['combined_squashfs_sha256'],
  // combined_sha256 is the older name of combined_rootxz_sha256.
  'root.tar.xz': ['combined_rootxz_sha256', 'combined_sha256'],
  'disk-kvm.img': ['combined_disk-kvm-img_sha256'],
  'disk1.img': ['combined_disk1-img_sha256'],
  'uefi1.img': ['combined_uefi1-img_sha256'],
};

function combinedDigests(metadata: FileEntry, version: VersionFolder): Record<string, string> {
  const fields: [string, string][] = [];
  for (const file of version.files) {
    const role = roleOf(file.name);
    const digest = file.digest?.combined?.[metadata.digest?.sha256 ?? ''];
    if (role.kind !== 'root' || digest === undefined) continue;
    for (const field of combinedFields[role.ftype]) fields.push([field, digest]);
  }
  return Object.fromEntries(fields.sort(([a], [b]) => compareNames(a, b)));
}

/**
 * The published version that a delta starts from: the one that its name ends with, or, where it names
 * none, the version before its own. A delta from a version that is gone is of no use to anyone.
 */
function deltaBaseOf(
  role: { stem: string },
  version: VersionFolder,
  published: VersionFolder[],
): string | undefined {
  const endings = [...role.stem.matchAll(/(?:^|\.)(?=(.+)$)/g)].map((match) => match[1] ?? '');
  const named = endings.filter(isVersionName);
  const names = published.map(({ name }) => name).filter((name) => name !== version.name);
  if (named.length > 0) return named.find((name) => names.includes(name));
  return names.filter((name) => name < version.name).at(-1);
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
