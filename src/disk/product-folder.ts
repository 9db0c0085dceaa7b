/** Product folders for uploads: made as they are needed, and taken away where nothing came of it. */
import { chmod, lstat, mkdir, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ServerError, systemCode } from '../errors.js';
import { leaveToOwner, syncFolder, writeError } from './files.js';

/**
 * Makes the folder of a product, and what is missing above it; the disk has confirmed it when this returns.
 *
 * @param imagesDir absolute, without symbolic links.
 * @param product `env/release/arch/type`.
 * @returns the folders that were made, the innermost first.
 * @throws ServerError DISK_FULL, DENIED or IO; then none was made. IO where something else has such a name, or the
 *   way leads over a symbolic link: the tree has none there.
 */
export async function makeProductFolder(imagesDir: string, product: string): Promise<string[]> {
  const made: string[] = [];
  let folder = imagesDir;
  try {
    for (const name of product.split('/')) {
      folder = join(folder, name);
      if (await makeOne(folder)) made.unshift(folder);
    }
    return made;
  } catch (error) {
    await removeFolders(made);
    throw writeError(folder, error);
  }
}

async function makeOne(folder: string): Promise<boolean> {
  try {
    await mkdir(folder);
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
    if ((await lstat(folder)).isDirectory()) return false;
    throw new ServerError('IO', `Cannot put an image into ${folder}: it is not a folder`, {
      hint: 'move what is there away; the tree has no symbolic links above the versions',
      cause: error,
    });
  }
  try {
    // Whatever the umask: the web server runs as another user.
    await chmod(folder, 0o755);
    await leaveToOwner(folder);
    await syncFolder(dirname(folder));
  } catch (error) {
    await removeFolders([folder]);
    throw error;
  }
  return true;
}

/** Removes those of `folders` that are empty, in this order. */
export async function removeFolders(folders: readonly string[]): Promise<void> {
  for (const folder of folders) {
    try {
      await rmdir(folder);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') continue;
      // Somebody has put something there: then those above it stay as well.
      if (['ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) return;
      throw writeError(folder, error);
    }
  }
}
