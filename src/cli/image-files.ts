/** The files of an image as the command line names them: opened, looked at, and read. */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { ImportedPart } from '../daemon/import.js';
import { Ends } from '../disk/ends.js';
import { inspectArchive } from '../disk/inspect.js';
import { stampOf } from '../disk/stamp.js';
import { ServerError, systemText } from '../errors.js';

export interface ImageFiles {
  parts: ImportedPart[];
  /** Of all files together. */
  bytes: number;
  /**
   * What is in them, one after the other; may be read several times.
   *
   * Rejects with ServerError IO where a file cannot be read, or changes meanwhile.
   */
  content(): AsyncIterable<Uint8Array>;
  close(): Promise<void>;
}

/**
 * Opens metadata archive and root file system, or the one file that has both. What is wrong with them for sure is told
 * now, for they can be long; whoever takes them judges the rest.
 *
 * @throws ServerError USAGE where one cannot be read or they are in the wrong order, IMAGE_INVALID
 */
export async function openImage(paths: readonly string[]): Promise<ImageFiles> {
  const files: ImageFile[] = [];
  const close = async () => {
    for (const { handle } of files) await handle.close();
  };
  try {
    for (const path of paths) files.push(await openFile(path));
    await judge(files);
  } catch (error) {
    await close();
    throw error;
  }
  const names = files.length === 1 ? (['unified'] as const) : (['metadata', 'rootfs'] as const);
  const parts = names.flatMap((part, at) => {
    const { size } = files[at] ?? {};
    return size === undefined ? [] : [{ part, size }];
  });
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  return { parts, bytes, content: () => contentOf(files), close };
}

interface ImageFile {
  path: string;
  handle: FileHandle;
  size: number;
  stamp: string;
}

/** Without O_NONBLOCK a FIFO would keep us waiting for its writer. */
const flags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

async function openFile(path: string): Promise<ImageFile> {
  const handle = await open(path, flags).catch((cause: unknown) => {
    throw unreadable(path, systemText(cause), cause);
  });
  try {
    const stat = await handle.stat({ bigint: true });
    if (stat.isDirectory()) throw unreadable(path, 'it is a folder');
    if (!stat.isFile()) throw unreadable(path, 'it is no regular file');
    return { path, handle, size: Number(stat.size), stamp: stampOf(stat) };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function judge(files: readonly ImageFile[]): Promise<void> {
  const [first, root] = files;
  if (first === undefined) throw new Error('an image without files');
  const [content, rootContent] = await Promise.all(files.map(contentByEnds));
  const isRoot = content === 'squashfs' || content === 'qcow2';
  if (isRoot && root === undefined) {
    throw invalid(
      `${first.path} is a root file system alone`,
      'name its metadata archive before it',
    );
  }
  const fault = isRoot
    ? 'it is a root file system'
    : await metadataFault(first, root === undefined);
  if (fault === undefined) return;
  const isSwapped =
    root !== undefined &&
    rootContent === 'archive' &&
    (await metadataFault(root, false)) === undefined;
  if (isSwapped) {
    throw new ServerError('USAGE', 'The two files are in the wrong order', {
      hint: `name the metadata archive first: ${root.path} ${first.path}`,
    });
  }
  const what = root === undefined ? 'unified image' : 'metadata archive';
  throw invalid(
    `${first.path} is no ${what}: ${fault}`,
    'export the image with "lxc image export", and import what that gives',
  );
}

/** What the file is by its content. @throws ServerError IMAGE_INVALID where it was cut short */
async function contentByEnds(file: ImageFile): Promise<ReturnType<Ends['content']>> {
  const { path, size } = file;
  if (size === 0) throw invalid(`${path} is empty`, 'get it again');
  const ends = new Ends();
  for (const at of [0, Math.max(0, size - 8)]) ends.push(await readAt(file, { at, most: 512 }));
  const fault = ends.fault({ name: path, size });
  if (fault === undefined) return ends.content();
  throw invalid(fault.reason, 'get it again');
}

/** Why it is no archive with metadata; `undefined` also where that cannot be told. */
async function metadataFault(
  { path, size }: ImageFile,
  unified: boolean,
): Promise<string | undefined> {
  const found = await inspectArchive({ path, size, unified });
  if ('rootless' in found && found.rootless) {
    throw invalid(`${path} is a metadata archive alone`, 'name its root file system after it');
  }
  return 'fault' in found ? found.fault : undefined;
}

const pieceBytes = 256 * 1024;

async function* contentOf(files: readonly ImageFile[]): AsyncGenerator<Uint8Array> {
  for (const file of files) {
    for (let at = 0; at < file.size; ) {
      const piece = await readAt(file, { at, most: Math.min(pieceBytes, file.size - at) });
      if (piece.length === 0) throw changed(file.path);
      at += piece.length;
      yield piece;
    }
    if (stampOf(await file.handle.stat({ bigint: true })) !== file.stamp) throw changed(file.path);
  }
}

async function readAt(
  { handle, path }: ImageFile,
  { at, most }: { at: number; most: number },
): Promise<Buffer> {
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(most), 0, most, at);
    return buffer.subarray(0, bytesRead);
  } catch (cause) {
    throw new ServerError('IO', `Cannot read ${path}: ${systemText(cause)}`, {
      hint: 'see to the disk that it is on',
      cause,
    });
  }
}

function unreadable(path: string, why: string, cause?: unknown): ServerError {
  return new ServerError('USAGE', `Cannot read ${path}: ${why}`, {
    hint: 'name the files of an image that you may read',
    cause,
  });
}

function changed(path: string): ServerError {
  return new ServerError('IO', `${path} changed while it was read`, {
    hint: 'import it when nobody writes it any more',
  });
}

function invalid(message: string, hint: string): ServerError {
  return new ServerError('IMAGE_INVALID', message, { hint });
}
