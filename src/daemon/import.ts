/** Puts an image that comes from this machine into the tree, by way of an upload. */
import { posix } from 'node:path';
import { ServerError } from '../errors.js';
import { createCutter } from '../server/control-stream.js';
import type { LibraryImage, UploadFacts, UploadPart } from '../server/lxd/contract.js';
import type { KeptLibrary } from './library.js';

export interface ImportRequest {
  /** The files, in the order in which they come. */
  parts: readonly ImportedPart[];
  /** Their bytes, one file after the other. */
  source: AsyncIterable<Uint8Array>;
  facts: Pick<UploadFacts, 'aliases' | 'properties'>;
  /** Its reason is what is thrown after it, where that is a ServerError. */
  signal: AbortSignal;
}

export interface ImportedPart {
  part: UploadPart;
  /** In bytes. */
  size: number;
}

export interface ImportedImage
  extends Pick<
    LibraryImage,
    'fingerprint' | 'type' | 'arch' | 'product' | 'version' | 'aliases' | 'size'
  > {
  /** Of its folder, below the root: `images/env/release/arch/type/version`. */
  path: string;
}

/**
 * Resolves when the image is published.
 *
 * @throws ServerError as {@link KeptLibrary.take} and an upload do, IMAGE_INVALID where more or fewer bytes come than
 *   `parts` has; whatever `source` throws. Then nothing is left of it.
 */
export async function importImage(
  library: Pick<KeptLibrary, 'take'>,
  request: ImportRequest,
): Promise<ImportedImage> {
  try {
    return told(await take(library, request));
  } catch (error) {
    const { aborted, reason } = request.signal;
    throw aborted && reason instanceof ServerError ? reason : error;
  }
}

async function take(
  library: Pick<KeptLibrary, 'take'>,
  { parts, source, facts, signal }: ImportRequest,
): Promise<LibraryImage> {
  const size = parts.reduce((sum, part) => sum + part.size, 0);
  const upload = await library.take({ signal, size });
  const cutter = createCutter(source);
  try {
    for (const { part, size } of parts) await upload.write(part, cutter.take(size));
    await cutter.end();
    return await upload.finish(facts);
  } finally {
    await upload.discard();
  }
}

function told({ fingerprint, type, arch, product, version, ...image }: LibraryImage) {
  const { aliases, size, files } = image;
  const path = posix.dirname(files[0]?.path ?? '');
  return { path, fingerprint, type, arch, product, version, aliases, size };
}
