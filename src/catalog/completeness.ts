/**
 * When a version is complete, and which files must be read to tell.
 *
 * It has metadata and a root file, or a unified image; nothing in it is temporary, still growing or cut
 * short; and where it has a SHA256SUMS, every file that this names is there with that digest. Pure.
 */
import {
  type Fault,
  type FileDigest,
  type FileEntry,
  type FileRole,
  isVersionName,
  type ProductFolder,
  printable,
  productPath,
  type RootType,
  roleOf,
  type VersionFolder,
} from './tree.js';

export interface CatalogueOptions {
  /** Milliseconds since 1970. */
  now: number;
  /** How long nothing may have changed in a version without SHA256SUMS, in milliseconds. */
  settle: number;
  /** The images folder as the documents name it, relative to the root: `images`. */
  prefix: string;
}

/** One file to read, and what to look for in it. */
export interface FileRequest {
  name: string;
  /** Bytes, as far as they are known beforehand. */
  size: number;
  /** What the scan saw; without it the file may be whatever it is. */
  stamp?: string;
  read: 'metadata' | 'unified' | 'root' | 'sums' | 'image-yaml' | 'product-yaml' | 'plain';
  /** What is known already under the same stamp. */
  known?: FileDigest;
}

/** Files of one folder to be read together: metadata first, so that each root is read only once. */
export interface DigestJob {
  /** The folder, relative to the images folder. */
  path: string;
  files: FileRequest[];
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

/**
 * When the versions that only have to be left alone for a while can be judged, in milliseconds since 1970:
 * the first of them, and the last.
 */
export function settlingTimes(
  folder: ProductFolder,
  options: CatalogueOptions,
): { first: number; last: number } | undefined {
  const times = folder.versions.flatMap((version) => {
    const obstacle = obstacleInNames(version) ?? obstacleInTime(version, options);
    return obstacle?.settlesAt ?? [];
  });
  if (times.length === 0) return undefined;
  return { first: Math.min(...times), last: Math.max(...times) };
}

/** What stands in the way of a version. */
export interface Obstacle {
  fault: Fault;
  /** When it can be judged again, where it only has to be left alone, in milliseconds since 1970. */
  settlesAt?: number;
  /** Whether it could not be judged because files have not been read. */
  unread?: true;
}

/** Whether a version may be published, or what stands in the way. */
export function judgeVersion(
  version: VersionFolder,
  options: CatalogueOptions,
): 'complete' | Obstacle {
  return (
    obstacleInNames(version) ??
    obstacleInTime(version, options) ??
    obstacleInContent(version) ??
    'complete'
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

/** Files without which a version is none; whatever else is empty costs only itself. */
const neededKinds = new Set<FileRole['kind']>(['metadata', 'unified', 'root', 'sums']);

function emptyPart(version: VersionFolder): Obstacle | undefined {
  const empty = version.files.find(
    (file) => file.size === 0 && neededKinds.has(roleOf(file.name).kind),
  );
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

/** Files that neither SHA256SUMS nor a digest vouches for must have been left alone for the settle time. */
function obstacleInTime(version: VersionFolder, options: CatalogueOptions): Obstacle | undefined {
  // What was put in its place whole was written elsewhere, and is not being written any more.
  if (version.placed === true) return undefined;
  // A clock that was set back leaves times in the future: those files are as old as they can get.
  const settling = version.files
    .map((file) => ({ touched: file.touched, wait: waitFor(file, { version, ...options }) }))
    .filter(({ touched, wait }) => Math.abs(options.now - touched) < wait);
  if (settling.length === 0) return undefined;
  const obstacle = held('settling', 'it was changed a moment ago', {
    cure: 'it is published once it has been left alone for the settle time',
  });
  return {
    ...obstacle,
    settlesAt: Math.max(...settling.map(({ touched, wait }) => touched + wait)),
  };
}

/**
 * How long a file that was read in vain is left alone before it is read once more, in milliseconds: one that
 * grows is not read over and over again to see whether it fits SHA256SUMS by now.
 */
const readAgainAfter = 1000;

/** For how long nothing may have touched a file, in milliseconds. */
function waitFor(
  file: FileEntry,
  { version, settle }: { version: VersionFolder; settle: number },
): number {
  // New permissions or a further name touch a file as well, and leave the content what it was.
  if (file.digest !== undefined && file.fleeting !== true) return 0;
  const sums = sumsOf(version);
  const isListed =
    sums !== undefined && (Object.hasOwn(sums, file.name) || file.name === 'SHA256SUMS');
  if (!isListed) return settle;
  return version.restless === true ? Math.min(readAgainAfter, settle) : 0;
}

/** What reading the files has shown. */
function obstacleInContent(version: VersionFolder): Obstacle | undefined {
  const fault = knownFault(version);
  if (fault !== undefined) return { fault };
  const unread = version.files.find((file) => needsReading(file, version));
  if (unread === undefined) return mismatch(version);
  const obstacle = held('changed', `${unread.name} came or changed while the tree was read`, {
    cure: 'it is taken up when its upload has ended',
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

/** Whether nobody has tried to read a file since it came or changed. */
export function isUnread(file: FileEntry): boolean {
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
  if (file.digest !== undefined) result.known = file.digest;
  return result;
}
