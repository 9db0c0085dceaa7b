/** What an image says of itself, from its metadata archive. Runs in the threads of the pool; reads synchronously. */
import { closeSync, openSync, readSync } from 'node:fs';
import { type ImageMetadata, readImageMetadata, readMetadataYaml } from '../catalog/metadata.js';
import type { Facts } from '../catalog/tree.js';
import { findMetadataYaml } from './archive.js';
import { largestHead } from './digest.js';

export interface InspectionRequest {
  /** Of the metadata archive or the unified image, absolute. */
  path: string;
  /** Its size in bytes. */
  size: number;
  /** Whether the root file system is in the same archive. */
  unified: boolean;
}

export type Inspection =
  | {
      metadata: ImageMetadata;
      facts: Facts;
      /** Whether the root of a unified image is the disk of a virtual machine. */
      disk: boolean;
      /** Whether it certainly has no root, where it was to have one. */
      rootless: boolean;
    }
  /** What is wrong, as a sentence without its full stop. */
  | { fault: string }
  /** The compression is none that is read here, or metadata.yaml stands far behind. */
  | { unknown: true };

/** Looks for metadata.yaml in the archive at `path` and reads it. @throws the system error where that cannot be read */
export async function inspectArchive({
  path,
  size,
  unified,
}: InspectionRequest): Promise<Inspection> {
  const head = readHead(path, Math.min(size, largestHead));
  const search = await findMetadataYaml(head, { whole: head.length === size, root: unified });
  if ('unknown' in search) return search;
  if ('broken' in search)
    return { fault: `${unified ? 'The image' : 'Its metadata'} ${search.broken}` };
  if ('missing' in search) return { fault: 'There is no metadata.yaml in it' };
  const metadata = readImageMetadata(search.found);
  const facts = readMetadataYaml(search.found);
  if ('fault' in metadata) return { fault: metadata.fault.reason };
  if ('fault' in facts) return { fault: facts.fault.reason };
  const [disk, rootless] = [search.disk === true, search.rootless === true];
  return { metadata: metadata.value, facts: facts.value, disk, rootless };
}

function readHead(path: string, length: number): Buffer {
  const head = Buffer.alloc(length);
  const fd = openSync(path, 'r');
  try {
    let read = 0;
    while (read < length) {
      const count = readSync(fd, head, read, length - read, read);
      if (count === 0) break;
      read += count;
    }
    return head.subarray(0, read);
  } finally {
    closeSync(fd);
  }
}
