/**
 * disk/ owns the local file system: scan, digests and their cache, publication, locks.
 * This file turns the images folder into values; every entry is judged by the grammar of `tree.ts`.
 */
import { type Dirent, lstatSync, readdirSync, realpathSync, statSync } from 'node:fs';
import {
  byName,
  type Fault,
  type FileEntry,
  isHidden,
  isName,
  isTemporary,
  type Problem,
  type ProductFolder,
  printable,
  productPath,
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
 * @throws the system error where `imagesDir` itself cannot be listed.
 */
export function listProducts(imagesDir: string): ProductList {
  const problems: Problem[] = [];
  let level: string[][] = [[]];
  for (let depth = 0; depth < 4; depth++) {
    level = level.flatMap((address) => {
      const folder = { imagesDir: realpathSync(imagesDir), path: address.join('/'), problems };
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
  const place = { imagesDir, path: productPath(product), problems: product.problems };
  for (const entry of readFolder(place)) {
    if (entry.kind === 'folder') {
      product.versions.push(
        scanVersion({ ...place, path: `${place.path}/${entry.name}` }, entry.name),
      );
    } else if (entry.name === 'product.yaml') {
      const file = statFile(place, entry);
      if (file !== undefined) product.yaml = file;
    }
  }
  return product;
}

function scanVersion(place: Place, name: string): VersionFolder {
  const version: VersionFolder = { name, files: [], temporaries: [] };
  for (const entry of readFolder(place, version.temporaries)) {
    if (entry.kind === 'folder') {
      report(place, entry.name, {
        code: 'misplaced',
        reason: 'it is a folder inside a version, which is not published',
        cure: 'put its files into the version itself',
      });
      continue;
    }
    const file = statFile(place, entry);
    if (file !== undefined) version.files.push(file);
  }
  return version;
}

interface Place {
  /** Absolute, without symbolic links. */
  imagesDir: string;
  /** Relative to the images folder. */
  path: string;
  problems: Problem[];
}

interface Entry {
  name: string;
  kind: 'folder' | 'file';
  /** Whether it is reached by a symbolic link. */
  linked: boolean;
}

/** The entries of a folder that belong to the tree, sorted; temporaries are named in `temporaries`. */
function readFolder(place: Place, temporaries?: string[]): Entry[] {
  const entries: Entry[] = [];
  for (const dirent of listFolder(place)) {
    const { name } = dirent;
    if (isTemporary(name)) temporaries?.push(name);
    else if (!isHidden(name)) {
      const entry = judge(place, dirent, temporaries !== undefined);
      if (entry !== undefined) entries.push(entry);
    }
  }
  return entries.sort(byName);
}

function listFolder(place: Place): Dirent[] {
  const path = absolute(place);
  try {
    return readdirSync(path, { withFileTypes: true });
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

function judge(place: Place, dirent: Dirent, inVersion: boolean): Entry | undefined {
  const { name } = dirent;
  const fault = nameFault(place, name);
  if (fault !== undefined) {
    place.problems.push(fault);
    return undefined;
  }
  const kind = dirent.isSymbolicLink() ? targetKind(place, name) : kindOf(dirent);
  if (kind === 'other') {
    report(place, name, {
      code: 'kind',
      reason: 'it is neither a file nor a folder, and such things are not published',
      cure: 'remove it',
    });
  }
  if (kind === undefined || kind === 'other') return undefined;
  if (kind === 'file' && !inVersion && isImagePart(name)) {
    report(place, name, {
      code: 'misplaced',
      reason: 'it is an image file outside a version',
      cure: 'move it to images/<env>/<release>/<arch>/<type>/<version>/',
    });
    return undefined;
  }
  return { name, kind, linked: dirent.isSymbolicLink() };
}

function isImagePart(name: string): boolean {
  const { kind } = roleOf(name);
  return kind === 'metadata' || kind === 'root' || kind === 'unified';
}

function kindOf(entry: Pick<Dirent, 'isDirectory' | 'isFile'>): 'folder' | 'file' | 'other' {
  if (entry.isDirectory()) return 'folder';
  return entry.isFile() ? 'file' : 'other';
}

function nameFault(place: Place, name: string): Problem | undefined {
  if (isName(name)) return undefined;
  return {
    path: `${place.path === '' ? '' : `${place.path}/`}${shownName(place, name)}`,
    code: 'name',
    reason: 'its name has characters that cannot be published',
    cure: 'rename it: letters, digits and . _ : + ~ @ -, a letter or digit first',
  };
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
function targetKind(place: Place, name: string): 'folder' | 'file' | 'other' | undefined {
  const path = `${absolute(place)}/${name}`;
  try {
    const target = realpathSync(path);
    const stat = statSync(target);
    if (!isInTree(target, place.imagesDir)) {
      report(place, name, linkFault('it is a symbolic link that leaves the images folder'));
    } else if (stat.uid !== lstatSync(path).uid) {
      // nginx refuses such links (disable_symlinks if_not_owner): clients would find nothing there.
      report(place, name, linkFault('it is a symbolic link to what belongs to another user'));
    } else return kindOf(stat);
  } catch (error) {
    const reason = systemCode(error) === 'ENOENT' ? 'nothing is there' : systemText(error);
    report(place, name, linkFault(`it is a symbolic link that cannot be followed: ${reason}`));
  }
  return undefined;
}

function isInTree(path: string, imagesDir: string): boolean {
  if (!path.startsWith(`${imagesDir}/`)) return false;
  return path
    .slice(imagesDir.length + 1)
    .split('/')
    .every(isName);
}

function linkFault(reason: string): Fault {
  return { code: 'link', reason, cure: 'put the file itself in its place' };
}

function statFile(place: Place, entry: Entry): FileEntry | undefined {
  const path = `${absolute(place)}/${entry.name}`;
  try {
    const stat = entry.linked
      ? statSync(path, { bigint: true })
      : lstatSync(path, { bigint: true });
    if (!stat.isFile()) return undefined;
    return {
      name: entry.name,
      size: Number(stat.size),
      stamp: stampOf(stat),
      modified: Number(stat.mtimeMs),
      touched: Number(stat.ctimeMs),
    };
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    report(place, entry.name, {
      code: 'unreadable',
      reason: `it cannot be looked at: ${systemText(error)}`,
      cure: 'see to its permissions and to the disk',
    });
    return undefined;
  }
}

function report(place: Place, name: string, fault: Fault): void {
  place.problems.push({ path: place.path === '' ? name : `${place.path}/${name}`, ...fault });
}

function absolute(place: Place): string {
  return place.path === '' ? place.imagesDir : `${place.imagesDir}/${place.path}`;
}
