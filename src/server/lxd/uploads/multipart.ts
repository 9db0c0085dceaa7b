/**
 * Reads `multipart/form-data` (RFC 7578) as it comes: one part after the other, none kept in memory. It takes what
 * LXD and Incus send, from clients and from servers, and tells everything else apart from a body that is whole.
 */
import { ServerError } from '../../../errors.js';

export interface Part {
  /** Of the form's field. */
  name: string;
  filename?: string;
  /** To be read to its end before the next part. */
  content: AsyncIterable<Buffer>;
}

/** The headers of a part have two lines. */
const mostHeaderBytes = 16_384;
/** Nothing of use comes after the last part. */
const mostBytesAfter = 65_536;
const newline = Buffer.from('\r\n');
const headersEnd = Buffer.from('\r\n\r\n');

/**
 * The boundary that a Content-Type names.
 *
 * @throws ServerError IMAGE_INVALID where it names none that RFC 2046 allows
 */
export function boundaryOf(contentType: string): string {
  const boundary = parameters(contentType).get('boundary') ?? '';
  if (/^[\w'()+,./:=? -]{0,69}[\w'()+,./:=?-]$/.test(boundary)) return boundary;
  throw malformed('its Content-Type has no boundary');
}

/**
 * The parts of a body. However its bytes are cut into chunks, the parts are the same.
 *
 * @throws ServerError IMAGE_INVALID for a body that is cut short or no such form; whatever `source` throws
 */
export async function* partsOf(
  source: AsyncIterable<Uint8Array>,
  boundary: string,
): AsyncGenerator<Part, void, undefined> {
  const delimiter = Buffer.from(`\r\n--${boundary}`, 'latin1');
  const reader = createReader(source);
  try {
    // The first delimiter has no line before it.
    reader.unread(newline);
    for await (const _ of until(reader, delimiter))
      throw malformed('it does not start with a part');
    while (!(await isLast(reader))) {
      const about = describe(await headers(reader));
      let ended = false;
      const content = until(reader, delimiter, () => {
        ended = true;
      });
      yield { ...about, content };
      if (!ended) throw new Error('The next part was asked for before this one was read');
    }
    await readRest(reader);
  } finally {
    await reader.close();
  }
}

/** Bytes that were taken from the source and not used yet, and more of them. */
interface Reader {
  /** What is there; empty at the start. */
  rest(): Buffer;
  /** Takes that many of the bytes that are there. */
  take(count: number): Buffer;
  unread(bytes: Buffer): void;
  /** Waits for more. @throws ServerError IMAGE_INVALID where there are none; `false` with `optional` */
  more(optional?: boolean): Promise<boolean>;
  close(): Promise<void>;
}

function createReader(source: AsyncIterable<Uint8Array>): Reader {
  const iterator = source[Symbol.asyncIterator]();
  let bytes: Buffer = Buffer.alloc(0);
  return {
    rest: () => bytes,
    take: (count) => {
      const taken = bytes.subarray(0, count);
      bytes = bytes.subarray(count);
      return taken;
    },
    unread: (before) => {
      bytes = Buffer.concat([before, bytes]);
    },
    more: async (optional = false) => {
      const step = await iterator.next();
      if (step.done && !optional) throw malformed('it was cut short');
      if (step.done) return false;
      const { buffer, byteOffset, byteLength } = step.value;
      const next = Buffer.from(buffer, byteOffset, byteLength);
      bytes = bytes.length === 0 ? next : Buffer.concat([bytes, next]);
      return true;
    },
    close: async () => {
      await iterator.return?.();
    },
  };
}

/** What comes before the delimiter, which is taken as well. */
async function* until(
  reader: Reader,
  delimiter: Buffer,
  atEnd: () => void = () => {},
): AsyncGenerator<Buffer, void, undefined> {
  for (;;) {
    const found = reader.rest().indexOf(delimiter);
    const count = found >= 0 ? found : safeLength(reader.rest(), delimiter);
    if (count > 0) yield reader.take(count);
    if (found >= 0) {
      reader.take(delimiter.length);
      return atEnd();
    }
    await reader.more();
  }
}

/** How much of `bytes` cannot be the beginning of the delimiter, which is not in it as a whole. */
function safeLength(bytes: Buffer, delimiter: Buffer): number {
  let at = bytes.indexOf(delimiter[0] ?? 0, Math.max(0, bytes.length - delimiter.length + 1));
  while (at >= 0) {
    if (bytes.subarray(at).equals(delimiter.subarray(0, bytes.length - at))) return at;
    at = bytes.indexOf(delimiter[0] ?? 0, at + 1);
  }
  return bytes.length;
}

/** Whether the delimiter before was the last one; with nothing but headers left of the next part if not. */
async function isLast(reader: Reader): Promise<boolean> {
  // Blanks may stand between a boundary and the end of its line.
  for (let blanks = 0; ; blanks += 1) {
    while (reader.rest().length < 2) await reader.more();
    const next = reader.rest().subarray(0, 2).toString('latin1');
    if (next === '\r\n') return false;
    if (blanks === 0 && next === '--') return true;
    if (!/^[ \t]/.test(next) || blanks > 100) throw malformed('a boundary is followed by more');
    reader.take(1);
  }
}

/** The header lines of a part; the newline before them was not taken. */
async function headers(reader: Reader): Promise<string> {
  for (;;) {
    const end = reader.rest().indexOf(headersEnd);
    if ((end < 0 ? reader.rest().length - 3 : end) > mostHeaderBytes) {
      throw malformed('a part has too many headers');
    }
    if (end >= 0) return reader.take(end + headersEnd.length).toString('utf8');
    await reader.more();
  }
}

function describe(text: string): Omit<Part, 'content'> {
  const line = text.split('\r\n').find((header) => /^content-disposition:/i.test(header)) ?? '';
  const value = line.slice(line.indexOf(':') + 1).trim();
  const { name, filename } = Object.fromEntries(parameters(value));
  if (!/^form-data\s*(?:;|$)/i.test(value) || name === undefined) {
    throw malformed('a part has no name');
  }
  return filename === undefined ? { name } : { name, filename };
}

async function readRest(reader: Reader): Promise<void> {
  let count = 0;
  do {
    count += reader.take(reader.rest().length).length;
    if (count > mostBytesAfter) throw malformed('it goes on after its last part');
  } while (await reader.more(true));
}

/** `a=b` and `c="d"` after the first word of a header, by lower-case names. Of two with one name the first counts. */
function parameters(value: string): Map<string, string> {
  const found = new Map<string, string>();
  const form = /;\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))/g;
  for (const [, name = '', quoted, token = ''] of value.matchAll(form)) {
    const key = name.toLowerCase();
    if (!found.has(key)) found.set(key, quoted?.replace(/\\(.)/g, '$1') ?? token);
  }
  return found;
}

function malformed(what: string): ServerError {
  return new ServerError('IMAGE_INVALID', `The upload is malformed: ${what}`, {
    hint: 'a split image is multipart/form-data with the parts "metadata" and "rootfs", in this order',
  });
}
