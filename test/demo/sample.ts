/**
 * The tree that `npm start` publishes: one unified image from which a container really starts.
 */
import { execFileSync } from 'node:child_process';
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { findProgram } from '../support/command.js';
import {
  type ArchiveEntry,
  archive,
  busyboxRoot,
  initOnlyRoot,
  machine,
  metadataEntries,
  underRootfs,
} from '../support/image-files.js';
import { tinyInit } from './tiny-init.js';

/** The image of a sample: BusyBox of this machine, or an init that only waits to be stopped. */
export type SampleImage = 'busybox' | 'tiny';

/**
 * Makes the sample tree in `root` unless an earlier call has, and tells which image it has.
 * `wanted` is for a new sample; default: `busybox` where this machine has a static one, else `tiny`.
 */
export async function makeSample(root: string, wanted?: SampleImage): Promise<SampleImage> {
  const present = await readdir(join(root, 'images/sample')).catch((): string[] => []);
  if (present.includes('busybox')) return 'busybox';
  if (present.includes('tiny')) return 'tiny';
  const busybox = wanted === 'tiny' ? undefined : await staticBusybox();
  const image = busybox === undefined ? 'tiny' : 'busybox';
  await writeProduct(root, image, busybox ? busyboxRoot(busybox) : initOnlyRoot(waitingInit()));
  return image;
}

/** Writes the product beside the tree and moves it in as a whole: an interrupted start leaves no half. */
async function writeProduct(
  root: string,
  image: SampleImage,
  rootFiles: readonly ArchiveEntry[],
): Promise<void> {
  const work = join(root, '..', 'unfinished');
  const product = join(work, machine.folder, 'default');
  await mkdir(join(product, '20260101_00:00'), { recursive: true });
  await writeFile(join(product, 'product.yaml'), `os: Sample\naliases: [${image}]\n`);
  const properties = { os: 'Sample', release: image, description: `Sample image (${image})` };
  const creationDate = Date.UTC(2026, 0, 1) / 1000;
  const entries = [...metadataEntries({ creationDate, properties }), ...underRootfs(rootFiles)];
  const unified = gzipSync(await archive(entries));
  await writeFile(join(product, '20260101_00:00/lxd_combined.tar.gz'), unified);
  await mkdir(join(root, 'images/sample'), { recursive: true });
  await rename(work, join(root, 'images/sample', image));
}

function waitingInit(): Buffer {
  const init = tinyInit(process.arch);
  if (init === undefined) {
    throw new Error(`There is no sample image for ${process.arch}: install busybox-static`);
  }
  return init;
}

/** The machine's BusyBox if it can be all there is in a container: static, and with an init. */
async function staticBusybox(): Promise<Buffer | undefined> {
  const path = findProgram('busybox');
  if (path === undefined || process.platform !== 'linux') return undefined;
  const program = await readFile(path);
  const applets = execFileSync(path, ['--list'], { encoding: 'utf8' }).split('\n');
  return isStatic(program) && applets.includes('init') ? program : undefined;
}

/** Whether an ELF-64 program runs without a loader: none of its program headers names one. */
function isStatic(program: Buffer): boolean {
  const isElf64 = program.subarray(0, 5).equals(Buffer.from('\x7fELF\x02', 'latin1'));
  if (!isElf64) return false;
  const start = Number(program.readBigUInt64LE(32));
  const size = program.readUInt16LE(54);
  const count = program.readUInt16LE(56);
  const types = Array.from({ length: count }, (_, i) => program.readUInt32LE(start + i * size));
  const namesLoader = 3;
  return !types.includes(namesLoader);
}
