/** Small images in every shape that LXD and Incus take, as files for `image import`. */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import {
  type BusyboxImageOptions,
  makeImageMetadata,
  makeSplitImage,
  makeUnifiedImage,
} from './busybox-image.js';
import { filter, run } from './command.js';

/** What {@link makeSample} runs. */
export const samplePrograms = ['busybox', 'mksquashfs', 'xz', 'zstd'] as const;

export const shapes = [
  'split',
  'unified, gzip',
  'unified, xz',
  'unified, zstd',
  'unified, not compressed',
  'virtual machine',
] as const;

export type Shape = (typeof shapes)[number];

export interface Sample {
  /** In the order in which clients take them. */
  files: readonly string[];
  /** SHA-256 of their bytes, one file after the other. */
  fingerprint: string;
  type: 'container' | 'virtual-machine';
}

/**
 * Makes an image in `folder`, which is made if need be. Different properties or files give it a fingerprint of its own.
 */
export async function makeSample(
  folder: string,
  { shape, ...image }: BusyboxImageOptions & { shape: Shape },
): Promise<Sample> {
  await mkdir(folder, { recursive: true });
  const files = await makeFiles(folder, { shape, image });
  const type = shape === 'virtual machine' ? 'virtual-machine' : 'container';
  return { files, fingerprint: await fingerprintOf(files), type };
}

/**
 * Makes a split image whose root file system is `bytes` long and cannot be compressed. It has the first block of a
 * squashfs, which is all that anyone looks at who does not start a container from it.
 */
export async function makeLargeSample(
  folder: string,
  { bytes, properties = {} }: { bytes: number; properties?: Record<string, string> },
): Promise<Sample> {
  await mkdir(folder, { recursive: true });
  const root = join(folder, 'rootfs.squashfs');
  const content = randomBytes(bytes);
  superblock(bytes).copy(content);
  await writeFile(root, content);
  const files = [await makeImageMetadata(folder, { properties }), root];
  return { files, fingerprint: await fingerprintOf(files), type: 'container' };
}

/** How a squashfs of `bytes` begins. Format: Linux's Documentation/filesystems/squashfs.rst. */
export function superblock(bytes: number): Buffer {
  const block = Buffer.alloc(96);
  block.write('hsqs', 'latin1');
  // Blocks of 128 KiB, gzip, version 4.0.
  block.writeUInt32LE(1 << 17, 12);
  block.writeUInt16LE(1, 20);
  block.writeUInt16LE(17, 22);
  block.writeUInt16LE(4, 28);
  block.writeBigUInt64LE(BigInt(bytes), 40);
  return block;
}

/** What clients know an image of these files by. */
export async function fingerprintOf(files: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const file of files) await pipeline(createReadStream(file), hash, { end: false });
  return hash.digest('hex');
}

async function makeFiles(
  folder: string,
  { shape, image }: { shape: Shape; image: BusyboxImageOptions },
): Promise<string[]> {
  if (shape === 'virtual machine') {
    const disk = join(folder, 'disk.qcow2');
    await writeFile(disk, emptyDisk());
    return [await makeImageMetadata(folder, image), disk];
  }
  if (shape === 'split') {
    const { metadata, root } = await makeSplitImage(folder, image);
    return [metadata, root];
  }
  const file = await makeUnifiedImage(folder, image);
  if (shape === 'unified, gzip') return [file];
  const tar = join(folder, 'image.tar');
  await writeFile(tar, await filter('gzip', ['-dc'], await readFile(file)));
  if (shape === 'unified, not compressed') return [tar];
  const program = shape === 'unified, xz' ? 'xz' : 'zstd';
  await run(program, ['-q', '-1', tar]);
  return [`${tar}.${program === 'xz' ? 'xz' : 'zst'}`];
}

const clusterBits = 16;
const cluster = 1 << clusterBits;

/**
 * A disk of 1 GiB in which nothing has been written yet, as QEMU's qcow2, version 3. Format: QEMU's
 * docs/interop/qcow2.txt. Its clusters: header, refcount table, refcount block, L1 table.
 */
function emptyDisk(): Buffer {
  const disk = Buffer.alloc(4 * cluster);
  disk.write('QFI\xfb', 'latin1');
  disk.writeUInt32BE(3, 4);
  disk.writeUInt32BE(clusterBits, 20);
  disk.writeBigUInt64BE(1n << 30n, 24);
  // One L2 table is for 512 MiB.
  disk.writeUInt32BE(2, 36);
  disk.writeBigUInt64BE(BigInt(3 * cluster), 40);
  disk.writeBigUInt64BE(BigInt(cluster), 48);
  disk.writeUInt32BE(1, 56);
  // Reference counts have 16 bits; the header has 104 bytes.
  disk.writeUInt32BE(4, 96);
  disk.writeUInt32BE(104, 100);
  disk.writeBigUInt64BE(BigInt(2 * cluster), cluster);
  for (let used = 0; used < 4; used += 1) disk.writeUInt16BE(1, 2 * cluster + 2 * used);
  return disk;
}
