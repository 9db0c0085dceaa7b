/**
 * The two simplestreams documents, held in memory and read again when another process replaced them.
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { crc32, gzip } from 'node:zlib';
import { ServerError, systemCode, systemText } from '../errors.js';
import type { Logger } from '../log.js';
import type { DocumentName } from './request-path.js';

/** What `images.json` says about a file. */
export interface PublishedFile {
  sha256: string;
  /** Bytes. */
  size: number;
}

/** One document, whole and consistent in itself. */
export interface StreamDocument {
  bytes: Buffer;
  /** Of `bytes`, in hexadecimal. */
  sha256: string;
  /** An HTTP date. */
  lastModified: string;
  /** The files that it names, by their path relative to the root. */
  files: ReadonlyMap<string, PublishedFile>;
  /** The gzip form: the `.gz` file beside the document if it is of these bytes, else made once. */
  gzip(): Promise<Buffer>;
}

/** `missing`: nothing published yet. `damaged`: it cannot be read, and never could since the start. */
export type DocumentState = StreamDocument | 'missing' | 'damaged';

export interface Documents {
  get(name: DocumentName): Promise<DocumentState>;
}

/** What `images.json` says of the file at `path`, relative to the root; `undefined` where it does not name it. */
export async function publishedFile(
  documents: Documents,
  path: string,
): Promise<PublishedFile | undefined> {
  const document = await documents.get('images.json');
  return typeof document === 'string' ? undefined : document.files.get(path);
}

export interface DocumentsOptions {
  /** The folder of the documents. */
  dir: string;
  log: Logger;
  /** How long an answer stands before the file is looked at again, in milliseconds. Default: 20. */
  freshMs?: number;
}

/** Holds the documents of a folder; looks at the disk only when asked for one. */
export function createDocuments(options: DocumentsOptions): Documents {
  const holders = {
    'index.json': createHolder(join(options.dir, 'index.json'), options),
    'images.json': createHolder(join(options.dir, 'images.json'), options),
  };
  return { get: (name) => holders[name]() };
}

function createHolder(path: string, { log, freshMs = 20 }: DocumentsOptions) {
  let held: Held = { state: 'missing', identity: '' };
  let checkedAt = Number.NEGATIVE_INFINITY;
  let checking: Promise<void> | undefined;
  const check = async () => {
    held = await refreshed(path, held, log);
    checkedAt = performance.now();
    checking = undefined;
  };
  return async (): Promise<DocumentState> => {
    if (checking === undefined && performance.now() - checkedAt >= freshMs) checking = check();
    await checking;
    return held.state;
  };
}

interface Held {
  state: DocumentState;
  /** Which file on disk was read last; empty for none. */
  identity: string;
  /** What was last reported as wrong, so that it is reported once. */
  complaint?: string;
}

/** What to hold from now on. A document that cannot be read leaves the last good one in place. */
async function refreshed(path: string, held: Held, log: Logger): Promise<Held> {
  try {
    const found = await stat(path, { bigint: true });
    const identity = `${found.dev}:${found.ino}:${found.size}:${found.mtimeNs}`;
    if (identity === held.identity) return held;
    return { state: await loadDocument(path, found.mtime.toUTCString()), identity };
  } catch (cause) {
    if (systemCode(cause) === 'ENOENT') return { state: 'missing', identity: '' };
    return complained(path, { held, cause, log });
  }
}

function complained(path: string, options: { held: Held; cause: unknown; log: Logger }): Held {
  const { held, cause } = options;
  const complaint = cause instanceof ServerError ? cause.message : systemText(cause);
  const state = held.state === 'missing' ? 'damaged' : held.state;
  if (complaint !== held.complaint) {
    const cure = 'run "lxd-image-server update" to write it again';
    const fields = { path, reason: complaint, cure, lastGoodServed: typeof state === 'object' };
    options.log.error(fields, 'Cannot read a published document');
  }
  return { ...held, state, complaint };
}

async function loadDocument(path: string, lastModified: string): Promise<StreamDocument> {
  const bytes = await readFile(path);
  const files = publishedFiles(parseObject(bytes));
  let zipped: Promise<Buffer> | undefined;
  return {
    bytes,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    lastModified,
    files,
    gzip() {
      zipped ??= gzipForm(path, bytes);
      return zipped;
    },
  };
}

function parseObject(bytes: Buffer): object {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    if (typeof value === 'object' && value !== null) return value;
  } catch (cause) {
    throw new ServerError('DAMAGED', 'it is not JSON, or it is cut short', { cause });
  }
  throw new ServerError('DAMAGED', 'it is not a JSON object');
}

/** The files of a `products:1.0` document; whatever has another form names none. */
function publishedFiles(document: object): Map<string, PublishedFile> {
  const files = new Map<string, PublishedFile>();
  for (const product of members(document, 'products')) {
    for (const version of members(product, 'versions')) {
      for (const item of members(version, 'items')) addFile(files, item);
    }
  }
  return files;
}

function members(value: unknown, key: string): unknown[] {
  const inner: unknown = typeof value === 'object' && value !== null ? Reflect.get(value, key) : {};
  return typeof inner === 'object' && inner !== null ? Object.values(inner) : [];
}

function addFile(files: Map<string, PublishedFile>, item: unknown): void {
  if (typeof item !== 'object' || item === null) return;
  const { path, sha256, size } = item as Record<string, unknown>;
  if (typeof path !== 'string' || typeof sha256 !== 'string' || typeof size !== 'number') return;
  if (/^[0-9a-f]{64}$/.test(sha256)) files.set(path, { sha256, size });
}

const compress = promisify(gzip);

async function gzipForm(path: string, bytes: Buffer): Promise<Buffer> {
  const stored = await readFile(`${path}.gz`).catch(() => undefined);
  return stored !== undefined && isGzipOf(stored, bytes) ? stored : compress(bytes);
}

/** Whether the trailer of a gzip file (RFC 1952, section 2.3.1) is that of these bytes. */
function isGzipOf(zipped: Buffer, bytes: Buffer): boolean {
  if (zipped.length < 18 || zipped.readUInt16BE(0) !== 0x1f8b) return false;
  const checksum = zipped.readUInt32LE(zipped.length - 8);
  return zipped.readUInt32LE(zipped.length - 4) === bytes.length && checksum === crc32(bytes);
}
