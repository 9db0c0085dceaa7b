/**
 * Puts the documents in place: `images.json` before `index.json`, each with its `.gz`, each whole or
 * not at all, and not at all where the bytes are there already.
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { constants, crc32, deflateRaw } from 'node:zlib';
import { imagesHead, imagesTail } from '../catalog/streams.js';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import {
  makeFolder,
  removeIfThere,
  removeTemporaries,
  type StagedFile,
  stageFile,
  syncFolder,
  writeError,
  writeFileAtomically,
} from './files.js';
import { stampOf } from './stamp.js';

/** The two documents of a generation. */
export interface Documents {
  /** `images.json` in segments; an unchanged segment is the same Buffer as last time. */
  images: readonly Buffer[];
  /** `index.json`. */
  index: Buffer;
}

export interface Publisher {
  /**
   * Publishes `documents`.
   *
   * @returns the names of the documents that were replaced; none where all was in place.
   * @throws ServerError DISK_FULL, DENIED or IO. Then the documents are what they were, unless the disk
   *   failed while they got their names: then those before that are new, each of them whole.
   */
  publish(documents: Documents): Promise<string[]>;
  /** The files of the documents as they are now: equal texts mean that nothing has replaced them. */
  present(): Promise<string>;
  /** What {@link Publisher.publish} makes of `documents`: files by name, in the order in which they get their names. */
  filesOf(documents: Documents): Promise<PublishedFile[]>;
}

export interface PublishedFile {
  name: string;
  content: readonly Buffer[];
}

export interface PublisherOptions {
  /** Where the documents go, absolute. */
  streamsDir: string;
  /** Whether to keep a `.gz` beside each. */
  gzip: boolean;
  log: Logger;
}

/** A publisher for `options.streamsDir`. Only one may be at work there: see `lock.ts`. */
export function createPublisher({ streamsDir, gzip, log }: PublisherOptions): Publisher {
  const compress = createCompressor();
  return {
    async publish({ images, index }) {
      await makeFolder(streamsDir);
      const staged: Staged[] = [];
      try {
        await removeTemporaries(streamsDir, [...documentNames, keptName]);
        await stage('images.json', images, staged);
        await stage('index.json', [index], staged);
        await commit(staged.filter(({ document }) => document === 'images.json'));
        await commit(staged.filter(({ document }) => document === 'index.json'));
      } catch (error) {
        await Promise.all(staged.map(({ file }) => file.discard()));
        throw systemCode(error) === undefined ? error : writeError(streamsDir, error);
      }
      return staged.map(({ name }) => name);
    },
    async present() {
      const stamps = documentNames.map(async (name) => {
        const found = await stat(join(streamsDir, name), { bigint: true }).catch(() => undefined);
        return found === undefined ? `no ${name}` : `${name} ${stampOf(found)} ${found.mode}`;
      });
      return [streamsDir, gzip ? 'gzip' : 'plain', ...(await Promise.all(stamps))].join('\n');
    },
    async filesOf({ images, index }) {
      return [
        ...(await filesOfDocument('images.json', images)),
        ...(await filesOfDocument('index.json', [index])),
      ];
    },
  };

  async function filesOfDocument(name: string, content: readonly Buffer[]) {
    const compressed = gzip ? [{ name: `${name}.gz`, content: await compress(content) }] : [];
    return [...compressed, { name, content }];
  }

  async function commit(staged: readonly Staged[]): Promise<void> {
    for (const { file } of staged) await file.commit();
    if (staged.length > 0) await syncFolder(streamsDir);
  }

  /** Writes what has to be replaced of a document and its `.gz`, in the order in which to name them. */
  async function stage(
    document: string,
    segments: readonly Buffer[],
    staged: Staged[],
  ): Promise<void> {
    const path = join(streamsDir, document);
    const add = async (name: string, content: readonly Buffer[]) => {
      staged.push({ document, name, file: await stageFile(join(streamsDir, name), content) });
    };
    const present = await readIfThere(path);
    const same =
      present !== undefined && consistsOf(present, segments) && (await isReadableByAll(path));
    if (!gzip) await removeIfThere(`${path}.gz`);
    else if (!same || !(await isGzipOf(`${path}.gz`, segments))) {
      await add(`${document}.gz`, await compress(segments));
    }
    if (same) return;
    if (document === 'images.json' && present !== undefined) await keepForeign(present);
    await add(document, segments);
  }

  /** Keeps a document that this server did not write, or not to its end, under a hidden name. */
  async function keepForeign(present: Buffer): Promise<void> {
    const tail = present.subarray(-200).toString('utf8');
    const head = present.subarray(0, imagesHead.length).toString('utf8');
    if (head === imagesHead && imagesTail.test(tail)) return;
    const kept = join(streamsDir, keptName);
    await writeFileAtomically(kept, [present]);
    log.warn(
      { kept },
      'images.json was cut short or not written by this server; it is written anew',
    );
  }
}

interface Staged {
  document: string;
  name: string;
  file: StagedFile;
}

const documentNames = ['images.json', 'index.json', 'images.json.gz', 'index.json.gz'];
const keptName = '.images.json.replaced';

/** Whether the web server can read a document, whoever it runs as. */
async function isReadableByAll(path: string): Promise<boolean> {
  return ((await stat(path)).mode & 0o444) === 0o444;
}

async function readIfThere(path: string): Promise<Buffer | undefined> {
  return await readFile(path).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw writeError(path, error);
  });
}

/** Whether the trailer of the gzip file at `path` (RFC 1952) has the check sum and length of `segments`. */
async function isGzipOf(path: string, segments: readonly Buffer[]): Promise<boolean> {
  const present = await readIfThere(path);
  return present?.subarray(-8).equals(gzipTrailer(segments)) ?? false;
}

/** Whether `bytes` are the concatenation of `segments`. */
function consistsOf(bytes: Buffer, segments: readonly Buffer[]): boolean {
  let at = 0;
  return (
    segments.every((segment) => {
      at += segment.length;
      return bytes.subarray(at - segment.length, at).equals(segment);
    }) && at === bytes.length
  );
}

type Compressor = (segments: readonly Buffer[]) => Promise<Buffer[]>;

const gzipHeader = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
/** An empty block with a fixed code that is marked as the last (RFC 1951, 3.2.3). */
const lastBlock = Buffer.from([3, 0]);

function gzipTrailer(segments: readonly Buffer[]): Buffer {
  const trailer = Buffer.alloc(8);
  const length = segments.reduce((sum, segment) => sum + segment.length, 0);
  trailer.writeUInt32LE(
    segments.reduce((sum, segment) => crc32(segment, sum), 0),
    0,
  );
  trailer.writeUInt32LE(length % 2 ** 32, 4);
  return trailer;
}

/**
 * A compressor that remembers segments: each is deflated on its own and ends at a byte boundary, so
 * that together they are one stream of one gzip member, and only new segments cost anything.
 */
function createCompressor(): Compressor {
  const deflate = promisify<Buffer, object, Buffer>(deflateRaw);
  const known = new WeakMap<Buffer, Promise<Buffer>>();
  const deflated = (segment: Buffer): Promise<Buffer> => {
    const work = known.get(segment) ?? deflate(segment, { finishFlush: constants.Z_FULL_FLUSH });
    known.set(segment, work);
    return work;
  };
  return async (segments) => {
    const bodies = await Promise.all(segments.map(deflated));
    return [gzipHeader, ...bodies, lastBlock, gzipTrailer(segments)];
  };
}
