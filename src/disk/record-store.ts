/**
 * Keeps the records of products in one file of the state folder.
 *
 * A line with a check sum, a line on the documents, then for each product a line of JSON, which states how many bytes of digests
 * and of versions follow it. It only saves time: damaged or missing, all files are read again.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { ProductHead } from '../catalog/product.js';
import { type ProductRecord, recordFormat } from '../catalog/record.js';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import { makeFolder, removeTemporaries, writeError, writeFileAtomically } from './files.js';

export type Records = Map<string, ProductRecord>;

/** What is kept from one run to the next. */
export interface Kept {
  /** By path. */
  records: Records;
  /** The documents that were made of these records, as {@link Publisher.present} told them. */
  documents?: string | undefined;
}

export interface RecordStore {
  /** What is kept; nothing, with a warning, where the file is damaged. */
  load(): Promise<Kept>;
  /** Keeps this in place of what was kept. A failure is logged: it costs nothing but time. */
  save(records: Iterable<ProductRecord>, documents?: string): Promise<void>;
}

export interface RecordStoreOptions {
  /** The state folder; made when something is saved. */
  stateDir: string;
  /** The images folder that the records are of: each has a file of its own. */
  imagesDir: string;
  /** The images folder as the documents name it; records hold such paths. */
  prefix: string;
  log: Logger;
}

/** The store for `options.imagesDir`. */
export function createRecordStore(options: RecordStoreOptions): RecordStore {
  const { stateDir, imagesDir, prefix, log } = options;
  const key = createHash('sha256').update(`${imagesDir}\0${prefix}`).digest('hex').slice(0, 12);
  const file = join(stateDir, `records-${key}`);
  return {
    load: () => load(file, log),
    async save(records, documents) {
      try {
        await makeFolder(stateDir, 0o750);
        await removeTemporaries(stateDir, [basename(file)]);
        await writeFileAtomically(file, encode(records, documents), { mode: 0o640 });
      } catch (err) {
        const { hint: cure } = writeError(stateDir, err);
        log.warn({ err, cure }, 'digests cannot be kept; the next run reads the files again');
      }
    },
  };
}

async function load(file: string, log: Logger): Promise<Kept> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (err) {
    if (systemCode(err) !== 'ENOENT')
      log.warn({ err }, 'kept digests cannot be read; files are read again');
    return { records: new Map() };
  }
  const kept = decode(bytes);
  if (kept === undefined) log.warn({ file }, 'kept digests are damaged; files are read again');
  return kept ?? { records: new Map() };
}

const magic = 'lxd-image-server records';
const header = new RegExp(`^${magic} (\\d+) (\\d+)$`);

interface Line extends Omit<ProductRecord, 'digests' | 'entry'> {
  head?: ProductHead;
  sizes: [digests: number, versions: number];
}

function encode(records: Iterable<ProductRecord>, documents?: string): Buffer[] {
  const parts: Buffer[] = [Buffer.from(`${JSON.stringify({ documents })}\n`)];
  for (const { digests, entry, ...rest } of records) {
    const versions = entry?.versions ?? Buffer.alloc(0);
    const line: Line = { ...rest, sizes: [digests.length, versions.length] };
    if (entry !== undefined) line.head = entry.head;
    parts.push(Buffer.from(`${JSON.stringify(line)}\n`), digests, versions);
  }
  const sum = parts.reduce((crc, part) => crc32(part, crc), 0);
  return [Buffer.from(`${magic} ${recordFormat} ${sum}\n`), ...parts];
}

/** What a file keeps; nothing where an older version wrote it, `undefined` where it is damaged. */
function decode(bytes: Buffer): Kept | undefined {
  const end = bytes.indexOf('\n');
  const [, format, sum] = header.exec(bytes.toString('latin1', 0, end)) ?? [];
  if (format === undefined) return undefined;
  if (format !== String(recordFormat)) return { records: new Map() };
  const body = bytes.subarray(end + 1);
  return sum === String(crc32(body)) ? decodeBody(body) : undefined;
}

function decodeBody(body: Buffer): Kept {
  const records: Records = new Map();
  const start = body.indexOf('\n') + 1;
  const { documents } = JSON.parse(body.toString('utf8', 0, start)) as Pick<Kept, 'documents'>;
  for (let at = start; at < body.length; ) {
    const end = body.indexOf('\n', at);
    const { sizes, head, ...rest } = JSON.parse(body.toString('utf8', at, end)) as Line;
    const digestsEnd = end + 1 + sizes[0];
    at = digestsEnd + sizes[1];
    const record: ProductRecord = { ...rest, digests: body.subarray(end + 1, digestsEnd) };
    if (head !== undefined) record.entry = { head, versions: body.subarray(digestsEnd, at) };
    records.set(record.path, record);
  }
  return { records, documents };
}
