/** Which versions are to go: those that somebody names, and those that the rules of retention do not keep. */
import { lstat, readdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageIndex } from '../catalog/images.js';
import { outlivedVersions, type RetentionRules } from '../catalog/retention.js';
import { compareNames, isName } from '../catalog/tree.js';
import { removedAt } from '../disk/version-files.js';
import { ServerError, systemCode, systemText } from '../errors.js';

export interface OutgoingOptions {
  index: ImageIndex;
  /** Absolute. */
  imagesDir: string;
}

/**
 * The versions that `name` means, published or held back.
 *
 * @param name `env/release/arch/type` or `env/release/arch/type/version`, a product ID (`env:release:arch:type`), or a
 *   fingerprint or the beginning of one
 * @returns `env/release/arch/type/version` of each
 * @throws ServerError NOT_FOUND where there is none, DENIED for a symbolic link
 */
export async function namedVersions(name: string, options: OutgoingOptions): Promise<string[]> {
  const parts = name.includes('/') ? name.split('/') : name.split(':');
  if (parts.length === 1) return fingerprinted(name, options);
  if (!parts.every(isName)) throw notThere(name);
  const path = parts.join('/');
  if (parts.length === 4) return await versionsIn(path, options);
  if (parts.length !== 5 || !name.includes('/')) throw notThere(name);
  return [await versionAt(path, options)];
}

function fingerprinted(name: string, { index }: OutgoingOptions): string[] {
  const image = index.find(name.toLowerCase());
  if (image === undefined) throw notThere(name);
  return [...image.places];
}

async function versionAt(path: string, { imagesDir }: OutgoingOptions): Promise<string> {
  const found = await lstat(join(imagesDir, path)).catch((error: unknown) => {
    if (isMissing(error)) return undefined;
    throw unreadable(path, error);
  });
  if (found?.isSymbolicLink()) throw onlyLink(path);
  if (!found?.isDirectory() || (await isOut(path, imagesDir))) throw notThere(path);
  return path;
}

async function versionsIn(product: string, { imagesDir }: OutgoingOptions): Promise<string[]> {
  const versions = await versionsThere(product, imagesDir);
  if (versions.length === 0) throw notThere(product);
  const link = versions.find((version) => version.isLink);
  if (link !== undefined) throw onlyLink(link.path);
  return versions.map(({ path }) => path);
}

/** `places`, and the published versions that are symbolic links to one of them: they have one mark. */
export async function withLinks(
  places: readonly string[],
  { index, imagesDir }: OutgoingOptions,
): Promise<string[]> {
  const folders = new Set(await foldersOf(places, imagesDir));
  const published = index.images.flatMap((image) => image.places);
  const theirs = await foldersOf(published, imagesDir);
  const links = published.filter(
    (_place, at) => theirs[at] !== '' && folders.has(theirs[at] ?? ''),
  );
  return [...new Set([...places, ...links])].sort(compareNames);
}

/** What of a product is in the tree and was not taken out. */
export async function versionsThere(
  product: string,
  imagesDir: string,
): Promise<{ path: string; isLink: boolean }[]> {
  const entries = await readdir(join(imagesDir, product), { withFileTypes: true }).catch(
    (error: unknown) => {
      if (isMissing(error)) return [];
      throw unreadable(product, error);
    },
  );
  const versions = entries
    .filter((entry) => isName(entry.name) && (entry.isDirectory() || entry.isSymbolicLink()))
    .map((entry) => ({ path: `${product}/${entry.name}`, isLink: entry.isSymbolicLink() }));
  const gone = await Promise.all(versions.map(({ path }) => isOut(path, imagesDir)));
  return versions.filter((_version, at) => !gone[at]);
}

async function isOut(place: string, imagesDir: string): Promise<boolean> {
  return (await removedAt(join(imagesDir, place))) !== undefined;
}

/** What `rules` do not keep. What is by a link a version that stays has the same mark, and stays. */
export async function outlivedPlaces(
  rules: RetentionRules,
  { index, imagesDir }: OutgoingOptions,
): Promise<string[]> {
  if (rules.keep === 0 && rules.days === 0) {
    throw new ServerError('CONFIG', 'There are no rules to prune by', {
      hint: 'set retention.keep or retention.days in the configuration, and reload it',
    });
  }
  const places = new Set(index.images.flatMap((image) => image.places));
  const now = Date.now();
  const outlived = [...new Set([...places].map(productOf))].flatMap((product) =>
    outlivedVersions(index.versions(product), { rules, now }).map((name) => `${product}/${name}`),
  );
  if (outlived.length === 0) return [];
  for (const place of outlived) places.delete(place);
  const kept = new Set(await foldersOf([...places], imagesDir));
  const folders = await foldersOf(outlived, imagesDir);
  // What has gone meanwhile needs no mark.
  return outlived.filter((_place, at) => folders[at] !== '' && !kept.has(folders[at] as string));
}

/** Where the files of each are, without symbolic links; '' for what has gone. */
async function foldersOf(places: readonly string[], imagesDir: string): Promise<string[]> {
  return await Promise.all(places.map((place) => realpath(join(imagesDir, place)).catch(() => '')));
}

function isMissing(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '');
}

/** Of `env/release/arch/type/version`. */
export function productOf(place: string): string {
  return place.slice(0, place.lastIndexOf('/'));
}

function notThere(name: string): ServerError {
  return new ServerError('NOT_FOUND', `There is no product or version ${JSON.stringify(name)}`, {
    hint: 'name env/release/arch/type or env/release/arch/type/version; lxd-image-server list has them, and fingerprints, which do as well',
  });
}

function unreadable(path: string, cause: unknown): ServerError {
  return new ServerError('DENIED', `Cannot look at ${path}: ${systemText(cause)}`, {
    hint: 'let the owner of the images folder read it',
    cause,
  });
}

function onlyLink(path: string): ServerError {
  return new ServerError('DENIED', `${path} is a symbolic link, and holds no files of its own`, {
    hint: 'delete the link, or take out what it leads to',
  });
}
