/** Writes small files whole: a reader sees what was there before, or what is there after. */
import { randomBytes } from 'node:crypto';
import type { Mirror, MirrorOptions, PutSource } from '../mirror.js';
import { besideAs } from '../paths.js';
import type { Session } from './session.js';

export interface WriteOperations extends Pick<Mirror, 'put' | 'rename' | 'remove'> {
  session: Session;
}

/** @returns {@link Mirror.write} made of other operations */
export function createWrite({ session, put, rename, remove }: WriteOperations): Mirror['write'] {
  return async (path, pieces, { signal }: MirrorOptions = {}) => {
    session.at(path);
    const temporary = besideAs(path, randomBytes(3).toString('hex'));
    const content = Buffer.concat(pieces);
    const source: PutSource = {
      size: content.length,
      read: async (offset, length) => content.subarray(offset, offset + length),
    };
    try {
      await put(source, temporary, { resume: false, signal });
      await rename(temporary, path, { sync: true });
    } catch (error) {
      // The first error is the one to tell; a name that ends in .tmp is cleared away by whoever lists the folder.
      await remove(temporary).catch(() => {});
      throw error;
    }
  };
}
