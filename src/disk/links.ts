/** Which versions have files that are symbolic links into another version. */
import { readdir, readlink, realpath } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { systemCode } from '../errors.js';

/**
 * The versions in a product folder with a link to or through what is in the folder `target`.
 *
 * @param product absolute, without symbolic links; so is `target`, which itself may be one.
 */
export async function versionsInto(product: string, target: string): Promise<string[]> {
  // Where it is a link to what has gone, it has no other name.
  const real = await realpath(target).catch(() => target);
  const ends = [target, real].map((folder) => `${folder}/`);
  const found: string[] = [];
  for (const { name } of await entriesOf(product)) {
    const folder = join(product, name);
    const links = (await entriesOf(folder)).filter((entry) => entry.isSymbolicLink());
    for (const link of links) {
      if (!(await leadsInto(join(folder, link.name), ends))) continue;
      found.push(name);
      break;
    }
  }
  return found;
}

async function entriesOf(folder: string) {
  return readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return [];
    throw error;
  });
}

/** So many links in a row are followed, as by the kernel. */
const mostLinks = 40;

async function leadsInto(link: string, folders: readonly string[]): Promise<boolean> {
  const isInside = (path: string) => folders.some((folder) => path.startsWith(folder));
  let at = link;
  for (let count = 0; count < mostLinks; count++) {
    const next = await readlink(at).catch(() => undefined);
    if (next === undefined) break;
    at = resolve(dirname(at), next);
    if (isInside(at)) return true;
  }
  return isInside(await realpath(link).catch(() => ''));
}
