/**
 * Keeps lists of mirrors' files, named by their SHA-256, in a folder of the state: after a restart they need not be
 * read from the mirrors again. It only saves time; whoever takes a list from it checks it.
 */
import { readdir, readFile, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import { makeFolder, removeIfThere, writeError, writeFileAtomically } from './files.js';

export interface ListCache {
  /** The list with the SHA-256 `sha256`, not checked; `undefined` where it is not kept. */
  get(sha256: string): Promise<Buffer | undefined>;
  /** Keeps a list. A failure is logged: it costs nothing but time. */
  set(sha256: string, bytes: Buffer): Promise<void>;
}

export interface ListCacheOptions {
  /** The state folder; made when something is kept. */
  stateDir: string;
  /** How many lists to keep: those used last. Default: 64. */
  most?: number;
  log: Logger;
}

/** The lists of all mirrors: those that have the same files have the same lists. */
export function createListCache({ stateDir, most = 64, log }: ListCacheOptions): ListCache {
  const folder = join(stateDir, 'mirror-lists');
  const fileOf = (sha256: string) => join(folder, sha256);
  let turn: Promise<unknown> = Promise.resolve();

  return {
    async get(sha256) {
      const file = fileOf(sha256);
      try {
        const bytes = await readFile(file);
        const now = new Date();
        await utimes(file, now, now);
        return bytes;
      } catch (err) {
        if (systemCode(err) !== 'ENOENT') log.debug({ err }, 'a kept list of files cannot be read');
        return undefined;
      }
    },
    async set(sha256, bytes) {
      // One after the other: who makes room must know what is there.
      const done = turn.then(() => keep(sha256, bytes));
      turn = done;
      await done;
    },
  };

  async function keep(sha256: string, bytes: Buffer): Promise<void> {
    try {
      await makeFolder(stateDir, 0o750);
      await makeFolder(folder, 0o750);
      await writeFileAtomically(fileOf(sha256), [bytes], { mode: 0o640 });
      await makeRoom();
    } catch (err) {
      const { hint: cure } = writeError(folder, err);
      log.warn({ err, cure }, 'a list of files cannot be kept; it is read from the mirror again');
    }
  }

  async function makeRoom(): Promise<void> {
    const names = await readdir(folder);
    if (names.length <= most) return;
    const files = await Promise.all(
      names.map(async (name) => ({ name, used: (await stat(join(folder, name))).mtimeMs })),
    );
    files.sort((a, b) => b.used - a.used);
    for (const { name } of files.slice(most)) await removeIfThere(join(folder, name));
  }
}
