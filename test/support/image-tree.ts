/**
 * Trees of images on disk, as small as they can be and still hold what the server looks at: real
 * archives, and root files with the headers of their formats.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { dump } from 'js-yaml';
import { filter } from './command.js';
import { archive } from './image-files.js';

export type Compression = 'none' | 'gzip' | 'xz' | 'zstd';

/** `bytes` through gzip of this process, or through the real `xz` or `zstd`. */
export async function compress(bytes: Uint8Array, compression: Compression): Promise<Buffer> {
  switch (compression) {
    case 'none':
      return Buffer.from(bytes);
    case 'gzip':
      return gzipSync(bytes);
    case 'xz':
      return filter('xz', ['--stdout'], bytes);
    case 'zstd':
      return filter('zstd', ['--stdout', '--quiet'], bytes);
  }
}

/** The text of a metadata.yaml with these properties. */
export function metadataYaml(properties: Record<string, string> = {}): string {
  return dump({ architecture: 'x86_64', creation_date: 1_767_225_600, properties });
}

/** `lxd.tar.xz`, with a metadata.yaml that has these properties. Default: gzip, which needs no program. */
export async function metadataArchive(
  properties: Record<string, string> = {},
  compression: Compression = 'gzip',
): Promise<Buffer> {
  const content = metadataYaml(properties);
  return compress(await archive([{ name: 'metadata.yaml', type: 'file', content }]), compression);
}

/** A unified image: metadata.yaml and a root file system in one archive. */
export async function unifiedArchive(
  seed = '',
  compression: Compression = 'gzip',
): Promise<Buffer> {
  const tar = await archive([
    { name: 'metadata.yaml', type: 'file', content: metadataYaml() },
    { name: 'rootfs', type: 'directory' },
    { name: 'rootfs/etc-hostname', type: 'file', content: seed },
  ]);
  return compress(tar, compression);
}

/** `size` bytes that begin as a squashfs of that size does; different for each `seed`. */
export function squashfs(seed = '', size = 1000): Buffer {
  const content = filled(seed, size);
  content.write('hsqs', 0, 'latin1');
  content.writeBigUInt64LE(BigInt(size), 40);
  return content;
}

/** `size` bytes that begin as a qcow2 of that size does; different for each `seed`. */
export function qcow2(seed = '', size = 1000): Buffer {
  const content = filled(seed, size);
  content.write('QFI\u00fb', 0, 'latin1');
  content.writeUInt32BE(3, 4);
  content.writeBigUInt64BE(128n, 40);
  content.writeBigUInt64BE(256n, 48);
  return content;
}

function filled(seed: string, size: number): Buffer {
  return Buffer.alloc(size, createHash('sha512').update(seed).digest());
}

/** Contents by file name. */
export type Files = Record<string, string | Uint8Array>;

/** Metadata and a squashfs, with bytes of their own for each `seed`. */
export async function splitImage(seed: string): Promise<Files> {
  return {
    'lxd.tar.xz': await metadataArchive({ os: 'Demo', serial: seed }),
    'rootfs.squashfs': squashfs(seed),
  };
}

/**
 * Puts a version into the tree below `root`.
 *
 * @param path `env/release/arch/type/version`.
 * @param files what is in it. Default: {@link splitImage} of `path`.
 * @returns its folder.
 */
export async function addVersion(root: string, path: string, files?: Files): Promise<string> {
  const folder = join(root, 'images', path);
  await writeFiles(folder, files ?? (await splitImage(path)));
  return folder;
}

/** Writes `files` into `folder`, which is made if need be. */
export async function writeFiles(folder: string, files: Files): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), content);
}

/** Writes SHA256SUMS over all files of `folder`. */
export async function writeSums(folder: string): Promise<void> {
  const names = (await readdir(folder)).filter((name) => name !== 'SHA256SUMS').sort();
  const lines: string[] = [];
  for (const name of names) lines.push(`${sha256(await readFile(join(folder, name)))}  ${name}\n`);
  await writeFile(join(folder, 'SHA256SUMS'), lines.join(''));
}

/** SHA-256 of all `parts`, one after the other, in hexadecimal. */
export function sha256(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}
