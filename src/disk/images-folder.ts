/** The images folder as it is used: resolved once, refused with one wording. */
import { realpath, stat } from 'node:fs/promises';
import { ServerError, systemCode, systemText } from '../errors.js';

/**
 * The images folder without symbolic links.
 *
 * @throws ServerError NOT_INITIALISED where it is missing, CONFIG where it is not a folder, DENIED.
 */
export async function imagesFolder(path: string): Promise<string> {
  try {
    const folder = await realpath(path);
    if ((await stat(folder)).isDirectory()) return folder;
  } catch (error) {
    throw imagesFolderError(path, error);
  }
  throw new ServerError('CONFIG', `The images folder ${path} is not a folder`, {
    hint: 'move what is there away, or set paths.root in the configuration',
  });
}

/** The system error `cause`, which came as the images folder was used, as one of ours. */
export function imagesFolderError(path: string, cause: unknown): ServerError {
  const message = `Cannot use the images folder ${path}: ${systemText(cause)}`;
  if (systemCode(cause) === 'ENOENT') {
    const hint = 'make it with "lxd-image-server init"; or mount the file system that holds it';
    return new ServerError('NOT_INITIALISED', message, { hint, cause });
  }
  if (systemCode(cause) === 'ENOTDIR') {
    const hint = 'move the file in its way, or set paths.root in the configuration';
    return new ServerError('CONFIG', message, { hint, cause });
  }
  const hint = 'run the command as the user who owns it, or as root';
  return new ServerError('DENIED', message, { hint, cause });
}
