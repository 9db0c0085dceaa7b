/**
 * Deletes the files of versions that were taken out, once the grace time is over. When that was is told by a mark in
 * the version's folder, so that a restart forgets nothing.
 */
import { lstat, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { imagesFolder } from '../disk/images-folder.js';
import { versionsInto } from '../disk/links.js';
import { removeFolders } from '../disk/product-folder.js';
import type { Staging } from '../disk/staging.js';
import { removedAt } from '../disk/version-files.js';
import type { Logger } from '../log.js';
import type { Pipeline } from '../pipeline.js';
import type { Holdings } from './holdings.js';
import type { Turns } from './turns.js';

export interface RemovalsOptions {
  /** Absolute. */
  imagesDir: string;
  holdings: Pick<Holdings, 'index'>;
  staging: Pick<Staging, 'delete'>;
  pipeline: Pick<Pipeline, 'removed' | 'linking'>;
  /** Is told of a product that has one folder less. */
  onDeleted: (product: string) => void;
  /** One thing at a time changes the tree. */
  turns: Turns;
  log: Logger;
}

export interface Removals {
  /** Looks for what is due, now and when more will be; for after each run. */
  look(): Promise<void>;
  /** @param graceMs how long files stay. */
  configure(graceMs: number): void;
  close(): Promise<void>;
}

/** What failed, or was too early by a clock that jumped, is looked at again after this, in milliseconds. */
const againMs = 60_000;
const longestWait = 24 * 3_600_000;

export function createRemovals(options: RemovalsOptions, graceMs: number): Removals {
  const { imagesDir, holdings, staging, pipeline, onDeleted, turns, log } = options;
  /** What stays longer, and has been told of. */
  const needed = new Set<string>();
  let grace = graceMs;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  let looking: Promise<void> | undefined;
  let asked = false;

  const lookOnce = async (): Promise<void> => {
    clearTimeout(timer);
    let wait = Infinity;
    // Links and what they lead to have one mark, and go together.
    const now = Date.now();
    for (const place of pipeline.removed()) {
      if (closed) return;
      const left = await turns
        .take(() => deleteIfDue(place, now))
        .catch((err: unknown) => {
          log.error({ err, version: place }, 'files that were taken out cannot be deleted');
          return againMs;
        });
      wait = Math.min(wait, left);
    }
    if (closed || wait === Infinity) return;
    timer = setTimeout(() => void look(), Math.min(wait, longestWait));
  };

  /** @returns in how many milliseconds to look again; `Infinity` where nothing is left. */
  const deleteIfDue = async (place: string, now: number): Promise<number> => {
    const path = join(imagesDir, place);
    const marked =
      (await removedAt(path)) ?? ((await leadsNowhere(path)) ? now - grace : undefined);
    if (marked === undefined) return Infinity;
    const left = Math.min(marked, now) + grace - now;
    if (left > 0) return left;
    const [product, version] = [dirname(place), place.slice(dirname(place).length + 1)];
    // The documents come first: while they name it, it stays.
    if ((await holdings.index()).versions(product).includes(version)) return againMs;
    if (await isNeeded(place, product)) return Infinity;
    await staging.delete(path);
    await removeFolders(foldersAbove(place).map((folder) => join(imagesDir, folder)));
    log.info({ version: place }, 'deleted');
    onDeleted(product);
    return Infinity;
  };

  /** Whether versions that stay have links into this one; once they are gone, there is a run to look after. */
  const isNeeded = async (place: string, product: string): Promise<boolean> => {
    const parent = await imagesFolder(imagesDir);
    const gone = new Set(pipeline.removed());
    const by: string[] = [];
    for (const other of [product, ...pipeline.linking(product)]) {
      const names = await versionsInto(join(parent, other), join(parent, place));
      by.push(...names.map((name) => `${other}/${name}`).filter((version) => !gone.has(version)));
    }
    if (by.length > 0 && !needed.has(place)) {
      log.warn({ version: place, by }, 'files that were taken out stay: others link to them');
    }
    if (by.length > 0) needed.add(place);
    else needed.delete(place);
    return by.length > 0;
  };

  const lookWhileAsked = async (): Promise<void> => {
    while (asked && !closed) {
      asked = false;
      await lookOnce();
    }
    looking = undefined;
  };

  const look = (): Promise<void> => {
    asked = true;
    looking ??= lookWhileAsked();
    return looking;
  };
  return {
    look,
    configure(next) {
      grace = next;
    },
    async close() {
      closed = true;
      clearTimeout(timer);
      await looking;
    },
  };
}

/** Whether `path` is a symbolic link to what has been deleted. */
async function leadsNowhere(path: string): Promise<boolean> {
  const isLink = await lstat(path).then(
    (found) => found.isSymbolicLink(),
    () => false,
  );
  return (
    isLink &&
    (await stat(path).then(
      () => false,
      () => true,
    ))
  );
}

/** The folders that a version is in, the innermost first, without the images folder. */
function foldersAbove(place: string): string[] {
  const folders: string[] = [];
  for (let folder = dirname(place); folder !== '.'; folder = dirname(folder)) folders.push(folder);
  return folders;
}
