/**
 * Reads files in full, once each: for their own SHA-256, for the combined one of a split image, and
 * for what metadata, YAML and SHA256SUMS say. Runs in the threads of the pool; reads synchronously.
 */
import { createHash, type Hash } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import type { DigestJob, FileRequest } from '../catalog/completeness.js';
import {
  largestText,
  type Reading,
  readImageYaml,
  readMetadataYaml,
  readProductYaml,
  readSums,
} from '../catalog/metadata.js';
import type { Facts, Fault, FileDigest } from '../catalog/tree.js';
import { systemCode, systemText } from '../errors.js';
import { findMetadataYaml } from './archive.js';
import { Ends } from './ends.js';
import { stampOf } from './stamp.js';

/** What became of one file of a job. */
export interface FileOutcome {
  name: string;
  digest?: FileDigest;
  failure?: Fault;
  /** True where the file is so young that it could change again without a new stamp. */
  fleeting?: boolean;
}

export interface DigestResult {
  /** As in the job. */
  path: string;
  files: FileOutcome[];
}

/** What `onBytes` throws to leave a file in the middle. */
export class Stopped extends Error {}

/** How much of an archive is kept in memory to look for metadata.yaml, in bytes. */
export const largestHead = 8 * 1024 * 1024;

/** Reads of this size keep SHA-256 busy and stay in the processor's cache. */
const buffer = Buffer.allocUnsafeSlow(256 * 1024);

/**
 * Does `job`: reads each of its files that is not known yet.
 *
 * @param imagesDir absolute.
 * @param onBytes is told how many bytes have been read since the last call; may throw {@link Stopped}.
 * @returns an outcome for every file, or for those read before the stop; a file that cannot be read is an
 *   outcome, never an exception.
 */
export async function runDigestJob(
  imagesDir: string,
  job: DigestJob,
  onBytes: (bytes: number) => void,
): Promise<DigestResult> {
  const folder = `${imagesDir}/${job.path}`;
  const prefixes: Prefix[] = [];
  const read = (file: FileRequest) =>
    readFile(`${folder}/${file.name}`, file, { prefixes, onBytes });
  const metadata = job.files.filter((file) => file.read === 'metadata');
  const others = job.files.filter((file) => file.read !== 'metadata');
  const known = metadata.flatMap((file) => file.known ?? []);
  const allKnown =
    known.length === metadata.length &&
    others.every((file) => file.read !== 'root' || isComplete(file, known));
  const files: FileOutcome[] = [];
  try {
    // Known metadata is read again where the hash of a root has to go on from it.
    for (const file of metadata)
      files.push(reuse(allKnown ? file.known : undefined, file) ?? (await read(file)));
    for (const file of others) {
      const complete = isComplete(file, allKnown ? known : prefixes);
      files.push(reuse(complete ? file.known : undefined, file) ?? (await read(file)));
    }
  } catch (error) {
    if (!(error instanceof Stopped)) throw error;
  }
  return { path: job.path, files };
}

function reuse(digest: FileDigest | undefined, { name }: FileRequest): FileOutcome | undefined {
  return digest === undefined ? undefined : { name, digest };
}

/** Whether all that is wanted of `file` is known: for a root, its hash after each of the metadata files too. */
function isComplete(file: FileRequest, metadata: readonly { sha256: string }[]): boolean {
  const { known } = file;
  if (known === undefined || file.read !== 'root') return known !== undefined;
  return metadata.every(({ sha256 }) => known.combined?.[sha256] !== undefined);
}

/** A metadata file that has been read: its digest, and the state from which a combined hash goes on. */
interface Prefix {
  sha256: string;
  hash: Hash;
}

interface ReadContext {
  prefixes: Prefix[];
  onBytes: (bytes: number) => void;
}

async function readFile(
  path: string,
  file: FileRequest,
  context: ReadContext,
): Promise<FileOutcome> {
  const sink = createSink(file, context.prefixes);
  let lasting: boolean;
  try {
    lasting = readWhole(path, file, (chunk) => {
      sink.push(chunk);
      context.onBytes(chunk.length);
    });
  } catch (error) {
    return { name: file.name, failure: failureOf(file.name, error) };
  }
  const digest = await sink.end();
  if (file.read === 'metadata') context.prefixes.push({ sha256: digest.sha256, hash: sink.own });
  return { name: file.name, digest, fleeting: !lasting };
}

/** Thrown by {@link readWhole} when the file is not what the scan saw. */
class Changed extends Error {}

/** Hands over the content of a file piece by piece. @returns whether its stamp can be relied upon. */
function readWhole(path: string, file: FileRequest, push: (chunk: Buffer) => void): boolean {
  // Without O_NONBLOCK a FIFO that took the file's place would hold the thread for ever.
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    let { stamp } = file;
    const check = () => {
      const stat = fstatSync(fd, { bigint: true });
      if (!stat.isFile() || (stamp !== undefined && stampOf(stat) !== stamp)) throw new Changed();
      return stat;
    };
    const began = BigInt(Date.now()) * 1_000_000n;
    const before = check();
    stamp ??= stampOf(before);
    let total = 0;
    for (;;) {
      const length = readSync(fd, buffer, 0, buffer.length, null);
      if (length === 0) break;
      total += length;
      push(length === buffer.length ? buffer : buffer.subarray(0, length));
    }
    check();
    if (total !== Number(before.size)) throw new Changed();
    return isLasting(before.mtimeNs, began);
  } finally {
    closeSync(fd);
  }
}

/**
 * Whether no change after `nowNs` can leave a file with `mtimeNs`, being in the same tick of the file
 * system's clock: ticks are some milliseconds, on file systems that keep whole seconds up to two seconds.
 */
function isLasting(mtimeNs: bigint, nowNs: bigint): boolean {
  const tick = mtimeNs % 1_000_000_000n === 0n ? 2_000_000_000n : 20_000_000n;
  const age = nowNs - mtimeNs;
  return age > tick || age < -tick;
}

function failureOf(name: string, error: unknown): Fault {
  if (systemCode(error) === 'ENOENT') {
    return { code: 'gone', reason: `${name} is not there any more`, cure: 'upload it again' };
  }
  if (error instanceof Changed) {
    return {
      code: 'changed',
      reason: `${name} changed while it was read`,
      cure: 'it is taken up when its upload has ended',
    };
  }
  if (systemCode(error) === undefined) throw error;
  const cure =
    systemCode(error) === 'EACCES' ? `make it readable: chmod a+r ${name}` : 'see to the disk';
  return { code: 'unreadable', reason: `${name} cannot be read: ${systemText(error)}`, cure };
}

interface Sink {
  /** The state of the file's own hash; still open for copies after {@link Sink.end}. */
  own: Hash;
  push(chunk: Buffer): void;
  end(): Promise<FileDigest>;
}

function createSink(file: FileRequest, prefixes: Prefix[]): Sink {
  const own = createHash('sha256');
  const combined = file.read === 'root' ? prefixes : [];
  const continued = combined.map(({ sha256, hash }) => ({ sha256, hash: hash.copy() }));
  const head = headOf(file);
  const ends = file.read === 'root' || file.read === 'unified' ? new Ends() : undefined;
  return {
    own,
    push(chunk) {
      own.update(chunk);
      for (const { hash } of continued) hash.update(chunk);
      head?.push(chunk);
      ends?.push(chunk);
    },
    async end() {
      const digest: FileDigest = { sha256: own.copy().digest('hex') };
      if (continued.length > 0) {
        digest.combined = Object.fromEntries(
          continued.map(({ sha256, hash }) => [sha256, hash.digest('hex')]),
        );
      }
      const fault = ends?.fault(file);
      if (fault !== undefined) return { ...digest, fault };
      return head === undefined ? digest : { ...digest, ...(await contentOf(file, head)) };
    },
  };
}

/** The first bytes of a file, as many as are asked for. */
class Head {
  readonly #limit: number;
  readonly #chunks: Buffer[] = [];
  #length = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  push(chunk: Buffer): void {
    const room = this.#limit - this.#length;
    if (room <= 0) return;
    const part = Buffer.from(chunk.subarray(0, room));
    this.#chunks.push(part);
    this.#length += part.length;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}

function headOf(file: FileRequest): Head | undefined {
  switch (file.read) {
    case 'metadata':
    case 'unified':
      return new Head(largestHead);
    case 'sums':
    case 'image-yaml':
    case 'product-yaml':
      return new Head(largestText + 1);
    default:
      return undefined;
  }
}

type Content = Pick<FileDigest, 'facts' | 'sums' | 'fault'>;

async function contentOf(file: FileRequest, head: Head): Promise<Content> {
  const bytes = head.bytes();
  if (file.read === 'metadata' || file.read === 'unified') return archiveContent(file, bytes);
  if (bytes.length > largestText) {
    const code = file.read === 'sums' ? 'sums-invalid' : 'yaml-invalid';
    const reason = `${file.name} is larger than ${largestText / 1024 / 1024} MiB`;
    return { fault: { code, reason, cure: `put a proper ${file.name} in its place` } };
  }
  const text = bytes.toString('utf8');
  if (file.read === 'sums') {
    const read = readSums(text);
    return 'fault' in read ? read : { sums: read.value };
  }
  return factsOf(file.read === 'image-yaml' ? readImageYaml(text) : readProductYaml(text));
}

async function archiveContent(file: FileRequest, head: Buffer): Promise<Content> {
  const search = await findMetadataYaml(head, { whole: head.length === file.size });
  if ('found' in search) return factsOf(readMetadataYaml(search.found));
  if ('unknown' in search) return {};
  const what = 'broken' in search ? search.broken : 'has no metadata.yaml in it';
  return {
    fault: {
      code: 'metadata-invalid',
      reason: `${file.name} ${what}`,
      cure: 'build the image again and upload it anew',
    },
  };
}

function factsOf(read: Reading<Facts>): Content {
  return 'fault' in read ? read : { facts: read.value };
}
