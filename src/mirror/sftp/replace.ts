/** Writes small files whole: a reader sees what was there before, or what is there after. */
import { randomBytes } from 'node:crypto';
import type { Mirror, MirrorOptions, PutSource } from '../mirror.js';
import { besideAs } from '../paths.js';
import type { createNaming } from './naming.js';
import type { Session } from './session.js';

export interface WriteOperations extends Pick<Mirror, 'put'> {
  session: Session;
  naming: Pick<ReturnType<typeof createNaming>, 'openFolder' | 'renameAll' | 'remove'>;
}

/** @returns {@link Mirror.write} made of other operations */
export function createWrite({ session, put, naming }: WriteOperations): Mirror['write'] {
  return async (path, pieces, { signal }: MirrorOptions = {}) => {
    session.at(path);
    const temporary = besideAs(path, randomBytes(3).toString('hex'));
    const content = Buffer.concat(pieces);
    const source: PutSource = {
      size: content.length,
      read: async (offset, length) => content.subarray(offset, offset + length),
    };
    const connection = await session.take(signal);
    const opened = naming.openFolder(connection, path);
    try {
      // Whether the folder can be opened is told when it is needed.
      await Promise.all([
        put(source, temporary, { resume: false, signal }),
        opened.catch(() => undefined),
      ]);
      await naming.renameAll(connection, [[{ from: temporary, to: path }]], {
        opened,
        signal,
      });
    } catch (error) {
      // The first error is the one to tell; a name that ends in .tmp is cleared away by whoever lists the folder.
      await naming.remove(temporary).catch(() => {});
      throw error;
    }
  };
}
