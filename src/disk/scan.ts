/**
 * disk/ owns the local file system: scan, digests and their cache, publication, locks.
 * This file turns the images folder into values; every entry is judged by the grammar of `tree.ts`.
 */
import {
  type BigIntStats,
  type Dirent,
  lstatSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  type Stats,
  statSync,
} from 'node:fs';
import { dirname, resolve } from 'node:path';
import {
  byName,
  compareNames,
  type Fault,
  type FileEntry,
  isHidden,
  isName,
  isTemporary,
  type Problem,
  type ProductFolder,
  printable,
  productPath,
  removedMark,
  roleOf,
  type VersionFolder,
} from '../catalog/tree.js';
import { systemCode, systemText } from '../errors.js';
import { stampOf } from './stamp.js';

/** Where a product lies: `[env, release, arch, type]`. */
export type ProductAddress = [env: string, release: string, arch: string, type: string];

export interface ProductList {
  /** In the order of the folders' names, level by level. */
  products: ProductAddress[];
  problems: Problem[];
}

/**
 * Lists the product folders below `imagesDir`; synchronously, for the threads of the pool.
 *
 * @param imagesDir absolute, without symbolic links.
 * @throws the system error where `imagesDir` itself cannot be listed.
 */
export function listProducts(imagesDir: string): ProductList {
  const problems: Problem[] = [];
  let level: string[][] = [[]];
  for (let depth = 0; depth < 4; depth++) {
    level = level.flatMap((address) => {
      const folder = { imagesDir, path: address.join('/'), problems };
      return readFolder(folder)
        .filter((entry) => entry.kind === 'folder')
        .map((entry) => [...address, entry.name]);
    });
  }
  return { products: level as ProductAddress[], problems };
}

/**
 * Takes up one product folder: its versions and their files, without reading any content.
 * What vanishes meanwhile is not there; what cannot be read or published is among the problems.
 */
export function scanProduct(imagesDir: string, address: ProductAddress): ProductFolder {
  const [env, release, arch, type] = address;
  const product: ProductFolder = { env, release, arch, type, versions: [], problems: [] };
  const targets = new Set<string>();
  const place = { imagesDir, path: productPath(product), problems: product.problems, targets };
  for (const { name, kind } of readFolder(place)) {
    if (kind === 'folder') scanVersion(product, below(place, name), name);
    else if (name === 'product.yaml') {
      const stat = lookAt(place, name, { follow: true });
      if (stat?.isFile()) product.yaml = fileEntry(name, stat);
    }
  }
  targets.delete(productPath(product));
  if (targets.size > 0) product.links = [...targets].sort(compareNames);
  return product;
}

function scanVersion(product: ProductFolder, place: Place, name: string): void {
  const version: VersionFolder = { name, files: [], temporaries: [] };
  // Every file is looked at anyway, so the folder is asked for names alone.
  const names = list(place, () => readdirSync(absolute(place)));
  if (names.includes(removedMark)) {
    product.removed = [...(product.removed ?? []), name];
    return;
  }
  let touched = 0n;
  for (const file of names.sort(compareNames)) {
    if (isTemporary(file)) version.temporaries.push(file);
    else if (isWanted(place, file)) {
      const stat = scanFile(place, file, version);
      if (stat !== undefined && stat.ctimeNs > touched) touched = stat.ctimeNs;
    }
  }
  product.versions.push({ ...version, ...originOf(place, touched) });
}

/** How long after its last change nobody asks any more how a version came to its place, in nanoseconds: a day. */
const longAgo = 86_400_000_000_000n;

/**
 * What a version folder tells of how it came. One that was renamed, or given its times, after all in it was
 * last changed may have come whole: an upload into it leaves it with one time for both its entries and its
 * attributes, or with younger files. But `chmod -R` does the same to half an upload, and so does `rsync -a`
 * when it begins once more: whether the folder was there before, only a record tells.
 *
 * @param touched when its files were last changed, in nanoseconds since 1970; 0 where there are none.
 */
function originOf(place: Place, touched: bigint): Pick<VersionFolder, 'placed' | 'id'> {
  const isOld = touched > 0n && BigInt(Date.now()) * 1_000_000n - touched > longAgo;
  if (isOld) return {};
  try {
    const { ino, ctimeNs, mtimeNs } = statSync(absolute(place), { bigint: true });
    const isPlaced = ctimeNs > mtimeNs && ctimeNs > touched;
    return { id: String(ino), ...(isPlaced && { placed: true }) };
  } catch {
    // It has vanished; then nothing is in it either.
    return {};
  }
}

/** The web server runs as another user, in the same group perhaps. */
const othersMayRead = 0o044n;

/** @returns what the file system says of the file, where it is taken up. */
function scanFile(place: Place, name: string, version: VersionFolder): BigIntStats | undefined {
  const entry = lookAt(place, name);
  if (entry === undefined) return undefined;
  const kind = kindIn(place, name, entry);
  if (kind === 'folder') {
    report(place, name, {
      code: 'misplaced',
      reason: 'it is a folder inside a version, which is not published',
      cure: 'put its files into the version itself',
    });
  }
  if (kind !== 'file') return undefined;
  const stat = entry.isSymbolicLink() ? lookAt(place, name, { follow: true }) : entry;
  if (stat === undefined) return undefined;
  if ((stat.mode & othersMayRead) === 0n) {
    report(place, name, {
      code: 'unreadable',
      reason: 'the web server, as another user, may not read it',
      cure: 'make it readable: chmod a+r',
    });
    return undefined;
  }
  version.files.push(fileEntry(name, stat));
  return stat;
}

interface Place {
  /** Absolute, without symbolic links. */
  imagesDir: string;
  /** Relative to the images folder. */
  path: string;
  problems: Problem[];
  /** Products that symbolic links were found to lead to. */
  targets?: Set<string>;
}

/** What {@link Dirent} and stat results have in common. */
type Typed = Pick<Dirent, 'isDirectory' | 'isFile' | 'isSymbolicLink'>;

type Kind = 'folder' | 'file';

function below(place: Place, name: string): Place {
  return { ...place, path: place.path === '' ? name : `${place.path}/${name}` };
}

/** The folders and files above the versions that belong to the tree, sorted. */
function readFolder(place: Place): { name: string; kind: Kind }[] {
  const dirents = list(place, () => readdirSync(absolute(place), { withFileTypes: true }));
  return dirents
    .filter(({ name }) => !isTemporary(name) && isWanted(place, name))
    .flatMap((dirent) => {
      const kind = kindIn(place, dirent.name, dirent);
      if (kind === 'file' && isImagePart(dirent.name)) {
        report(place, dirent.name, {
          code: 'misplaced',
          reason: 'it is an image file outside a version',
          cure: 'move it to images/<env>/<release>/<arch>/<type>/<version>/',
        });
      }
      return kind === undefined ? [] : [{ name: dirent.name, kind }];
    })
    .sort(byName);
}

/** What `read` lists, or nothing where the folder has vanished or cannot be listed; the latter is reported. */
function list<T>(place: Place, read: () => T[]): T[] {
  try {
    return read();
  } catch (error) {
    if (place.path === '') throw error;
    if (systemCode(error) === 'ENOENT') return [];
    place.problems.push({
      path: place.path,
      code: 'unreadable',
      reason: `it cannot be listed: ${systemText(error)}`,
      cure: 'make it readable: chmod a+rx',
    });
    return [];
  }
}

/** Whether an entry belongs to the tree by its name; one that cannot be published is reported. */
function isWanted(place: Place, name: string): boolean {
  if (isHidden(name)) return false;
  if (isName(name)) return true;
  place.problems.push({
    path: `${place.path === '' ? '' : `${place.path}/`}${shownName(place, name)}`,
    code: 'name',
    reason: 'its name has characters that cannot be published',
    cure: 'rename it: letters, digits and . _ : + ~ @ -, a letter or digit first',
  });
  return false;
}

/** What an entry is, or what its link leads to; `undefined`, and a report, for what is never published. */
function kindIn(place: Place, name: string, entry: Typed): Kind | undefined {
  const kind = entry.isSymbolicLink() ? targetKind(place, name) : kindOf(entry);
  if (kind !== 'other') return kind;
  report(place, name, {
    code: 'kind',
    reason: 'it is neither a file nor a folder, and such things are not published',
    cure: 'remove it',
  });
  return undefined;
}

function isImagePart(name: string): boolean {
  const { kind } = roleOf(name);
  return kind === 'metadata' || kind === 'root' || kind === 'unified';
}

function kindOf(entry: Pick<Typed, 'isDirectory' | 'isFile'>): Kind | 'other' {
  if (entry.isDirectory()) return 'folder';
  return entry.isFile() ? 'file' : 'other';
}

/** `name` fit to be printed, with the bytes that are not UTF-8 as `\xNN`. */
function shownName(place: Place, name: string): string {
  if (!name.includes('\ufffd')) return printable(name);
  const raw = readdirSync(absolute(place), { encoding: 'buffer' });
  const bytes = raw.find((candidate) => candidate.toString('utf8') === name) ?? Buffer.from(name);
  return [...bytes]
    .map((byte) =>
      byte < 0x20 || byte > 0x7e
        ? `\\x${byte.toString(16).padStart(2, '0')}`
        : String.fromCharCode(byte),
    )
    .join('');
}

/** What a symbolic link leads to, or `undefined` where it may not be followed; then that is reported. */
function targetKind(place: Place, name: string): Kind | 'other' | undefined {
  const path = `${absolute(place)}/${name}`;
  try {
    noteWay(place, path);
    const target = realpathSync(path);
    noteTarget(place, target);
    const stat = statSync(target);
    const refusal = refuse(below(place, name).path, {
      target,
      stat,
      link: lstatSync(path),
      ...place,
    });
    if (refusal === undefined) return kindOf(stat);
    report(place, name, refusal);
  } catch (error) {
    const reason = systemCode(error) === 'ENOENT' ? 'nothing is there' : systemText(error);
    report(place, name, linkFault(`it is a symbolic link that cannot be followed: ${reason}`));
  }
  return undefined;
}

/** So many links in a row are followed, as by the kernel. */
const mostLinks = 40;

/**
 * Takes down the products on the way of a link, which can be a chain of links: each of these may be changed,
 * and where nothing is there yet, it may come.
 */
function noteWay(place: Place, path: string): void {
  let at = path;
  for (let count = 0; count < mostLinks; count++) {
    if (lstatSync(at, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return;
    at = resolve(dirname(at), readlinkSync(at));
    noteTarget(place, at);
  }
}

/** Takes down the product that a link leads to, where it is one of the tree. */
function noteTarget({ imagesDir, targets }: Place, target: string): void {
  const names = pathInTree(target, imagesDir);
  if (names !== undefined && names.length >= versionDepth) {
    targets?.add(names.slice(0, versionDepth - 1).join('/'));
  }
}

const versionDepth = 5;

/** Why a link is not followed. Links of folders above the versions would multiply what is below them. */
function refuse(
  path: string,
  {
    imagesDir,
    target,
    stat,
    link,
  }: { imagesDir: string; target: string; stat: Stats; link: Stats },
): Fault | undefined {
  const inside = pathInTree(target, imagesDir);
  const depth = path.split('/').length;
  if (inside === undefined) return linkFault('it is a symbolic link that leaves the images folder');
  if (stat.uid !== link.uid) {
    // nginx refuses such links (disable_symlinks if_not_owner): clients would find nothing there.
    return linkFault('it is a symbolic link to what belongs to another user');
  }
  if (stat.isDirectory() && depth !== versionDepth) {
    return {
      ...linkFault('it is a symbolic link of a folder above the versions, which is not followed'),
      cure: 'give the product another name with aliases in its product.yaml',
    };
  }
  return inside.length === depth
    ? undefined
    : linkFault('it is a symbolic link to another level of the tree');
}

/** The names on the way from the images folder to `path`, or `undefined` where that is not in the tree. */
function pathInTree(path: string, imagesDir: string): string[] | undefined {
  if (!path.startsWith(`${imagesDir}/`)) return undefined;
  const names = path.slice(imagesDir.length + 1).split('/');
  return names.every(isName) ? names : undefined;
}

function linkFault(reason: string): Fault {
  return { code: 'link', reason, cure: 'put the file itself in its place' };
}

/** What the file system says of an entry, or `undefined` where it has vanished or that is reported. */
function lookAt(
  place: Place,
  name: string,
  { follow = false }: { follow?: boolean } = {},
): BigIntStats | undefined {
  const path = `${absolute(place)}/${name}`;
  try {
    return follow ? statSync(path, { bigint: true }) : lstatSync(path, { bigint: true });
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    report(place, name, {
      code: 'unreadable',
      reason: `it cannot be looked at: ${systemText(error)}`,
      cure: 'see to its permissions and to the disk',
    });
    return undefined;
  }
}

/** The latest time that a JavaScript date can hold, in milliseconds since 1970. */
const latestDate = 8.64e15;

function fileEntry(name: string, stat: BigIntStats): FileEntry {
  return {
    name,
    size: Number(stat.size),
    stamp: stampOf(stat),
    modified: Math.min(Number(stat.mtimeMs), latestDate),
    touched: Number(stat.ctimeMs),
  };
}

function report(place: Place, name: string, fault: Fault): void {
  place.problems.push({ path: below(place, name).path, ...fault });
}

function absolute(place: Place): string {
  return place.path === '' ? place.imagesDir : `${place.imagesDir}/${place.path}`;
}
