/** Small text files of the tree that are read whole: whoever may upload can put anything there in their place. */
import { type BigIntStats, constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename } from 'node:path';
import { largestText } from '../catalog/metadata.js';
import type { Fault } from '../catalog/tree.js';
import { ServerError, systemCode, systemText } from '../errors.js';
import { stampOf } from './stamp.js';

export type SmallFile = { text: string; stamp: string } | { fault: Fault };

/** Without O_NONBLOCK a FIFO would hold a thread for ever, and there are few. */
const flags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY | constants.O_NOFOLLOW;

/**
 * Reads the file at `path`, which may hold at most {@link largestText}.
 *
 * @returns `undefined` where nothing is there; a fault where that is no file, a symbolic link, too large or not UTF-8.
 * @throws ServerError IO where it cannot be read.
 */
export async function readSmallFile(path: string): Promise<SmallFile | undefined> {
  try {
    const handle = await open(path, flags);
    try {
      const stat = await handle.stat({ bigint: true });
      const reason = refusal(stat);
      if (reason !== undefined) return faulty(path, reason);
      return decoded(path, await handle.readFile(), stat);
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return undefined;
    if (systemCode(error) === 'ELOOP') return faulty(path, 'is a symbolic link');
    // A socket, or a device without a driver.
    if (systemCode(error) === 'ENXIO') return faulty(path, 'is not a file');
    throw new ServerError('IO', `Cannot read ${path}: ${systemText(error)}`, {
      hint: 'see to the file and to the disk',
      cause: error,
    });
  }
}

function refusal(stat: BigIntStats): string | undefined {
  if (!stat.isFile()) return 'is not a file';
  if (stat.size > largestText) return `is larger than ${largestText / 1024 / 1024} MiB`;
  return undefined;
}

function decoded(path: string, bytes: Buffer, stat: BigIntStats): SmallFile {
  const text = bytes.toString('utf8');
  if (!Buffer.from(text).equals(bytes)) return faulty(path, 'is not UTF-8');
  return { text, stamp: stampOf(stat) };
}

function faulty(path: string, what: string): SmallFile {
  const name = basename(path);
  const cure = `put a proper ${name} in its place`;
  return { fault: { code: 'yaml-invalid', reason: `${name} ${what}`, cure } };
}
