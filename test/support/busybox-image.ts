/**
 * Small images from which containers really start: BusyBox is init and every command.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { filter, findProgram, missingPrograms, run } from './command.js';
import {
  type ArchiveEntry,
  archive,
  busyboxRoot,
  metadataEntries,
  underRootfs,
} from './image-files.js';

/** What {@link makeSplitImage} runs. */
export const splitImagePrograms = ['busybox', 'mksquashfs', 'xz'] as const;

export interface BusyboxImageOptions {
  /** Properties of metadata.yaml, on top of `os: BusyBox` and the like. */
  properties?: Record<string, string>;
  /** Text files in the root file system: `{'etc/motd': 'hello'}`. */
  files?: Record<string, string>;
}

/** Writes `lxd.tar.xz` and `rootfs.squashfs` into `folder`, which exists. Gives their paths. */
export async function makeSplitImage(
  folder: string,
  options: BusyboxImageOptions = {},
): Promise<{ metadata: string; root: string }> {
  const metadata = await makeImageMetadata(folder, options);
  const root = join(folder, 'rootfs.squashfs');
  await run('mksquashfs', ['-', root, '-tar', '-noappend', '-quiet', '-no-progress'], {
    input: await archive(await rootFiles(options)),
  });
  return { metadata, root };
}

/** Writes `lxd.tar.xz`, the metadata of a split image, into `folder`, which exists. Gives its path. */
export async function makeImageMetadata(
  folder: string,
  options: BusyboxImageOptions = {},
): Promise<string> {
  const path = join(folder, 'lxd.tar.xz');
  const metadata = await archive(description(options));
  await writeFile(path, await filter('xz', ['--stdout'], metadata));
  return path;
}

/** Writes `lxd_combined.tar.gz`, a unified image, into `folder`, which exists. Gives its path. */
export async function makeUnifiedImage(
  folder: string,
  options: BusyboxImageOptions = {},
): Promise<string> {
  const path = join(folder, 'lxd_combined.tar.gz');
  const entries = [...description(options), ...underRootfs(await rootFiles(options))];
  await writeFile(path, gzipSync(await archive(entries)));
  return path;
}

function description({ properties = {} }: BusyboxImageOptions): ArchiveEntry[] {
  const common = { os: 'BusyBox', release: 'busybox', description: 'BusyBox for tests' };
  return metadataEntries({
    creationDate: Date.UTC(2026, 0, 1) / 1000,
    properties: { ...common, ...properties },
  });
}

async function rootFiles({ files = {} }: BusyboxImageOptions): Promise<ArchiveEntry[]> {
  const busybox = findProgram('busybox');
  if (busybox === undefined) throw new Error(String(missingPrograms('busybox')));
  return busyboxRoot(await readFile(busybox), files);
}
