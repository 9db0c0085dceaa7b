/**
 * Which items simplestreams lists for the files of a version, for LXD and Incus at once:
 * LXD takes no notice of `incus…` items, and Incus of `lxd…` items. Pure.
 */
import type { Item } from './product.js';
import {
  compareNames,
  type FileDigest,
  type FileEntry,
  isVersionName,
  type RootType,
  roleOf,
  type VersionFolder,
} from './tree.js';

/** Where a version stands. */
export interface Place {
  /** The version's folder, relative to the root. */
  path: string;
  /** The versions of the product that are published, oldest first. */
  published: VersionFolder[];
}

/** The items of a complete version, sorted by key. */
export function itemsOf(version: VersionFolder, place: Place): Item[] {
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
      if (deltaBase === undefined || file.size === 0) return [];
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
export const combinedFields: Record<RootType, readonly string[]> = {
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
