/**
 * Keeps the records of products in one file of the state folder.
 *
 * A line with a check sum, then for each product a line of JSON, which states how many bytes of digests
 * and of versions follow it. It only saves time: damaged or missing, all files are read again.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { ProductHead } from '../catalog/catalog.js';
import { type ProductRecord, recordFormat } from '../catalog/record.js';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import { makeFolder, writeFileAtomically } from './files.js';

export type Records = Map<string, ProductRecord>;

export interface RecordStore {
  /** The records by path; none, with a warning, where the file is damaged. */
  load(): Promise<Records>;
  /** Keeps `records` in place of what was kept. A failure is logged: it costs nothing but time. */
  save(records: Iterable<ProductRecord>): Promise<void>;
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
    async save(records) {
      try {
        await makeFolder(stateDir, 0o750);
        await writeFileAtomically(file, encode(records), { mode: 0o640 });
      } catch (err) {
        log.warn({ err }, 'digests cannot be kept; the next run reads the files again');
      }
    },
  };
}

async function load(file: string, log: Logger): Promise<Records> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (err) {
    if (systemCode(err) !== 'ENOENT')
      log.warn({ err }, 'kept digests cannot be read; files are read again');
    return new Map();
  }
  const records = decode(bytes);
  if (records === undefined) log.warn({ file }, 'kept digests are damaged; files are read again');
  return records ?? new Map();
}

const magic = 'lxd-image-server records';

interface Line extends Omit<ProductRecord, 'digests' | 'entry'> {
  head?: ProductHead;
  sizes: [digests: number, versions: number];
}

function encode(records: Iterable<ProductRecord>): Buffer[] {
  const parts: Buffer[] = [];
  for (const { digests, entry, ...rest } of records) {
    const versions = entry?.versions ?? Buffer.alloc(0);
    const line: Line = { ...rest, sizes: [digests.length, versions.length] };
    if (entry !== undefined) line.head = entry.head;
    parts.push(Buffer.from(`${JSON.stringify(line)}\n`), digests, versions);
  }
  const sum = parts.reduce((crc, part) => crc32(part, crc), 0);
  return [Buffer.from(`${magic} ${recordFormat} ${sum}\n`), ...parts];
}

/** The records of a file; none where an older version wrote it, `undefined` where it is damaged. */
function decode(bytes: Buffer): Records | undefined {
  const end = bytes.indexOf('\n');
  const [name, format, sum] = bytes.toString('latin1', 0, end).split(/ (?=\d)/);
  if (name !== magic) return undefined;
  if (format !== String(recordFormat)) return new Map();
  const body = bytes.subarray(end + 1);
  return sum === String(crc32(body)) ? decodeBody(body) : undefined;
}

function decodeBody(body: Buffer): Records {
  const records: Records = new Map();
  for (let at = 0; at < body.length; ) {
    const end = body.indexOf('\n', at);
    const { sizes, head, ...rest } = JSON.parse(body.toString('utf8', at, end)) as Line;
    const digestsEnd = end + 1 + sizes[0];
    at = digestsEnd + sizes[1];
    const record: ProductRecord = { ...rest, digests: body.subarray(end + 1, digestsEnd) };
    if (head !== undefined) record.entry = { head, versions: body.subarray(digestsEnd, at) };
    records.set(record.path, record);
  }
  return records;
}
