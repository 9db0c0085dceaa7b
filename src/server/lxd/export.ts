/** Sends the files of an image as daemons and clients of the API fetch them. */
import { randomBytes } from 'node:crypto';
import { ServerError } from '../../errors.js';
import { type OpenFile, openInside } from '../image-files.js';
import { createContent, sendFile, sendSource } from '../responses.js';
import type { Visit } from '../service.js';
import { fileSource, joinedSource, memorySource } from '../transfer.js';
import type { LibraryImage } from './contract.js';
import type { Answer } from './exchange.js';
import { fileNames } from './image-view.js';

interface ExportOptions {
  image: LibraryImage;
  /** Absolute. */
  root: string;
}

/**
 * A split image goes as multipart/form-data, metadata first, and a unified one as it is.
 *
 * @throws ServerError BUSY; DAMAGED where the files are not those that were published
 */
export async function exportImage(visit: Visit, { image, root }: ExportOptions): Promise<Answer> {
  await visit.files.hold(image.files.length, async () => {
    const files = await openAll(image, root);
    try {
      await (files.length === 1 ? sendUnified : sendSplit)(visit, image, files);
    } finally {
      await Promise.all(files.map(({ handle }) => handle.close()));
    }
  });
  return { kind: 'sent' };
}

async function openAll({ fingerprint, files }: LibraryImage, root: string): Promise<OpenFile[]> {
  const found = await Promise.allSettled(files.map(({ path }) => openInside(root, path)));
  const open = found.flatMap((each) => (each.status === 'fulfilled' ? (each.value ?? []) : []));
  if (open.length === files.length && open.every(({ size }, i) => size === files[i]?.size)) {
    return open;
  }
  await Promise.all(open.map(({ handle }) => handle.close()));
  const failure = found.find((each) => each.status === 'rejected');
  if (failure !== undefined) throw failure.reason;
  throw new ServerError('DAMAGED', `The files of ${fingerprint} are not as they were published`, {
    hint: 'run "lxd-image-server verify" on the server',
  });
}

async function sendUnified(
  visit: Visit,
  image: LibraryImage,
  [file]: readonly OpenFile[],
): Promise<void> {
  if (file === undefined) return;
  const content = createContent(
    {
      size: file.size,
      etag: `"${image.fingerprint}"`,
      lastModified: file.modified.toUTCString(),
    },
    {
      'Content-Type': 'application/octet-stream',
      'Content-Disposition': `inline;filename=${fileNames(image)[0]}`,
      'Accept-Ranges': 'bytes',
    },
  );
  await sendFile(visit, { ...file, content });
}

async function sendSplit(
  visit: Visit,
  image: LibraryImage,
  files: readonly OpenFile[],
): Promise<void> {
  const boundary = randomBytes(30).toString('hex');
  const names = fileNames(image);
  const parts = files.flatMap(({ handle, size }, index) => {
    const name = index === 0 ? 'metadata' : rootPart(image);
    const disposition = `form-data; name="${name}"; filename="${names[index]}"`;
    const head = `--${boundary}\r\nContent-Disposition: ${disposition}\r\nContent-Type: application/octet-stream\r\n\r\n`;
    const before = textPart(index === 0 ? head : `\r\n${head}`);
    return [before, { source: fileSource(handle), size }];
  });
  const source = joinedSource([...parts, textPart(`\r\n--${boundary}--\r\n`)]);
  await sendSource(visit, source, {
    'Content-Type': `multipart/form-data; boundary=${boundary}`,
  });
}

const rootPart = ({ type }: LibraryImage) => (type === 'container' ? 'rootfs' : 'rootfs.img');

function textPart(text: string) {
  const bytes = Buffer.from(text);
  return { source: memorySource(bytes), size: bytes.length };
}
