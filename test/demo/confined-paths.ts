/** Paths of clients that see one folder as `/` and get to nothing outside of it. */
import { realpath } from 'node:fs/promises';
import { basename, dirname, join, posix, sep } from 'node:path';
import { systemCode } from '../../src/errors.js';

/** Each takes a path of a client, and throws an error with a code as system calls do. */
export interface ConfinedPaths {
  /** Where the entry of that name stands, whatever it is; not the root, which may not be renamed or removed. */
  entry(path: string): Promise<string>;
  /** Where that is to which it leads, symbolic links followed. */
  existing(path: string): Promise<string>;
  /** As `existing`; where there is nothing, where it can be made. */
  target(path: string): Promise<string>;
}

/**
 * Symbolic links that lead out of `root` are refused. Whoever can put links there by other ways, in the moment
 * between the look and the use, is not kept out.
 *
 * @param root absolute, without symbolic links
 */
export function confine(root: string): ConfinedPaths {
  return {
    entry,
    existing,
    async target(path) {
      try {
        return await existing(path);
      } catch (error) {
        if (systemCode(error) !== 'ENOENT') throw error;
        return await entry(path);
      }
    },
  };

  async function entry(path: string): Promise<string> {
    const place = inside(path);
    // What the root stands in is out of bounds, and so is the root as an entry.
    return join(await followed(dirname(place), path), basename(place));
  }

  async function existing(path: string): Promise<string> {
    return await followed(inside(path), path);
  }

  /** Without what would leave it: above `/` there is nothing. */
  function inside(path: string): string {
    const plain = posix.resolve('/', path);
    return plain === '/' ? root : join(root, plain);
  }

  async function followed(place: string, path: string): Promise<string> {
    const real = await realpath(place);
    if (real !== root && !real.startsWith(root + sep)) throw denied(path);
    return real;
  }
}

function denied(path: string): Error {
  return Object.assign(new Error(`${path} is out of bounds`), { code: 'EACCES' });
}
