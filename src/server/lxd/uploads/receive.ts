/** The files of an image, out of a body in one of the two forms in which LXD and Incus send them. */
import { ServerError } from '../../../errors.js';
import type { Upload, UploadPart } from '../contract.js';
import { counted } from './body.js';
import { boundaryOf, type Part, partsOf } from './multipart.js';

export interface ReceiveOptions {
  /** Decides about the form. */
  contentType: string;
  body: AsyncIterable<Uint8Array>;
  /** For all bytes of the body. */
  maxSize: number;
  /** Told of each chunk before it is written. */
  onBytes?: (part: UploadPart, bytes: number) => void;
}

export function isMultipart(contentType: string): boolean {
  return /^multipart\/form-data\s*(?:;|$)/i.test(contentType);
}

/**
 * Writes what comes into `upload`, as it comes.
 *
 * @returns the name of the root file, where the sender gave it one
 * @throws ServerError IMAGE_INVALID where a part is missing, unknown or in the wrong place, and for a body that is
 *   cut short; TOO_LARGE; whatever the body and the upload throw
 */
export async function receive(
  upload: Upload,
  options: ReceiveOptions,
): Promise<string | undefined> {
  const { contentType, maxSize } = options;
  const body = counted(options.body, { most: maxSize });
  const write = (part: UploadPart, source: AsyncIterable<Uint8Array>) => {
    const count = (bytes: number) => options.onBytes?.(part, bytes);
    return upload.write(part, counted(source, { most: Number.POSITIVE_INFINITY, count }));
  };
  if (!isMultipart(contentType)) {
    await write('unified', body);
    return undefined;
  }
  return receiveParts(partsOf(body, boundaryOf(contentType)), write);
}

type Write = (part: UploadPart, source: AsyncIterable<Uint8Array>) => Promise<number>;

async function receiveParts(parts: AsyncIterable<Part>, write: Write): Promise<string | undefined> {
  const expected: { part: UploadPart; names: readonly string[] }[] = [
    { part: 'metadata', names: ['metadata'] },
    // The second is the disk of a virtual machine.
    { part: 'rootfs', names: ['rootfs', 'rootfs.img'] },
  ];
  let filename: string | undefined;
  for await (const { name, content, ...part } of parts) {
    const next = expected.shift();
    if (!next?.names.includes(name)) throw unexpected(name, next?.part);
    await write(next.part, content);
    filename = part.filename;
  }
  const [missing] = expected;
  if (missing !== undefined) throw wrongParts(`the part "${missing.part}" is missing`);
  return filename;
}

function unexpected(name: string, wanted: UploadPart | undefined): ServerError {
  const found = JSON.stringify(name.slice(0, 100));
  if (wanted === undefined) return wrongParts(`the part ${found} is one too many`);
  return wrongParts(`the part ${found} stands where "${wanted}" should`);
}

function wrongParts(what: string): ServerError {
  return new ServerError('IMAGE_INVALID', `The upload is not a split image: ${what}`, {
    hint: 'send "metadata" and then "rootfs", or "rootfs.img" for a virtual machine',
  });
}
