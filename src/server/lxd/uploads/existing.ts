/** An image that is here already, which a pull takes for done. */
import { ServerError } from '../../../errors.js';
import type { Library, LibraryImage } from '../contract.js';

/** The image with this fingerprint, all of it. */
export async function existingImage(
  library: Library,
  fingerprint: string,
): Promise<LibraryImage | undefined> {
  try {
    return await library.image(fingerprint);
  } catch (error) {
    if (error instanceof ServerError && error.code === 'IMAGE_MISSING') return undefined;
    throw error;
  }
}

/** Gives an image further names; those that it has already do no harm. @throws ServerError as {@link Library.addAlias} */
export async function addAliases(
  library: Library,
  { fingerprint }: LibraryImage,
  names: readonly string[] = [],
): Promise<void> {
  for (const name of names) await library.addAlias(name, fingerprint);
}

/** As LXD says it; one of its clients looks for these words. */
export function alreadyExists(cause?: unknown): ServerError {
  const message = 'Image with same fingerprint already exists';
  return new ServerError('IMAGE_EXISTS', message, cause === undefined ? {} : { cause });
}

export function isExisting(error: unknown): boolean {
  return error instanceof ServerError && error.code === 'IMAGE_EXISTS';
}
