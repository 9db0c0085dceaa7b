/**
 * The catalogue page of a root: `index.html`, put there from where this program has it, and kept up to date.
 * An administrator's own page stays as it is.
 */
import type { BigIntStats } from 'node:fs';
import { lstat, readFile, realpath, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { systemCode, systemText } from '../errors.js';
import type { Logger } from '../log.js';
import { removeTemporaries, writeFileAtomically } from './files.js';
import { stampOf } from './stamp.js';

/** Its name, and its path relative to the root. */
export const pageName = 'index.html';

export interface PageKeeper {
  /**
   * Puts the page in place where there is none, or one of ours that is another. What keeps it from that is logged:
   * images are published all the same.
   *
   * @returns what was replaced: the page, or nothing.
   */
  publish(): Promise<string[]>;
  /** The page as it is now, here and where it comes from: equal texts mean that neither has changed. */
  present(): Promise<string>;
  /** The page that the root has, whoever made it, for mirrors; `undefined` where there is none that they could have. */
  content(): Promise<Buffer | undefined>;
}

export interface PageKeeperOptions {
  /** Absolute. */
  root: string;
  /** Where the program has its pages, absolute. Absent: the page is left alone. */
  pagesDir: string | undefined;
  log: Logger;
}

/** The largest page that is sent to mirrors, in bytes. */
const largestPage = 4 * 2 ** 20;
/** By this a page says that it is ours, near its beginning. */
const mark = '<meta name="generator" content="lxd-image-server">';
const markWithin = 4096;

/** A keeper for the page of `root`. Only one may be at work there: see `lock.ts`. */
export function createPageKeeper({ root, pagesDir, log }: PageKeeperOptions): PageKeeper {
  const file = join(root, pageName);
  const packaged = pagesDir && join(pagesDir, pageName);
  let ours: { stamp: string; content: Buffer } | undefined;
  let complaint: string | undefined;

  const complain = (reason: string, message: string) => {
    if (complaint === reason) return;
    complaint = reason;
    log.warn({ file, reason }, message);
  };

  return {
    async publish() {
      if (packaged === undefined) return [];
      try {
        const page = await readOurs(packaged);
        if (!(await isDue(page))) return [];
        await removeTemporaries(root, [pageName]);
        await writeFileAtomically(file, [page]);
        return [pageName];
      } catch (error) {
        if (!(error instanceof Error)) throw error;
        complain(error.message, 'the catalogue page cannot be put in place');
        return [];
      }
    },
    async present() {
      const [there, here] = await Promise.all([stateOf(file), packaged && stateOf(packaged)]);
      return `${pageName} ${there}, of ${here}`;
    },
    async content() {
      try {
        return await readForMirrors();
      } catch (error) {
        if (systemCode(error) === 'ENOENT') return undefined;
        complain(systemText(error), 'mirrors do not get the catalogue page');
        return undefined;
      }
    },
  };

  async function readOurs(packaged: string): Promise<Buffer> {
    const stamp = stampOf(await stat(packaged, { bigint: true }));
    if (ours?.stamp !== stamp) ours = { stamp, content: await readFile(packaged) };
    return ours.content;
  }

  /** Whether `page` belongs where nothing is, or something of ours that differs or that not everyone can read. */
  async function isDue(page: Buffer): Promise<boolean> {
    const found = await stateAt(file);
    if (found === undefined) return true;
    if (!found.isFile()) return false;
    const there = await readFile(file);
    if (!there.subarray(0, markWithin).includes(mark)) return false;
    return !there.equals(page) || (found.mode & 0o444n) !== 0o444n;
  }

  async function readForMirrors(): Promise<Buffer | undefined> {
    const found = await stat(file);
    const reason = (await leadsOut())
      ? 'it is a link that leads out of the root'
      : !found.isFile()
        ? 'it is no file'
        : found.size > largestPage
          ? `it has more than ${largestPage} bytes`
          : undefined;
    if (reason === undefined) return await readFile(file);
    complain(reason, 'mirrors do not get the catalogue page');
    return undefined;
  }

  async function leadsOut(): Promise<boolean> {
    const [at, from] = await Promise.all([realpath(file), realpath(root)]);
    return !at.startsWith(from.endsWith(sep) ? from : from + sep);
  }
}

/** What is at `path` itself, where a link counts as what it is; `undefined` for nothing. */
async function stateAt(path: string): Promise<BigIntStats | undefined> {
  return await lstat(path, { bigint: true }).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  });
}

async function stateOf(path: string): Promise<string> {
  const found = await stat(path, { bigint: true }).catch(() => undefined);
  return found === undefined ? 'none' : `${stampOf(found)} ${found.mode}`;
}
