/**
 * Finds `metadata.yaml` in the tar archives that images are made of, compressed or not, by content:
 * the endings of their names promise nothing (LXD and Incus go by content as well).
 */
import { createGunzip } from 'node:zlib';
import { Decompress } from 'fzstd';
import xzDecompress from 'xz-decompress';
import { largestText } from '../catalog/metadata.js';

/** How much unpacked content is looked at, in bytes: what guards against decompression bombs. */
export const largestSearch = 64 * 1024 * 1024;

export type MetadataSearch =
  | { found: string }
  /** The archive is whole and has no metadata.yaml. */
  | { missing: true }
  /** What is wrong with the archive, as the end of the sentence "lxd.tar.xz …". */
  | { broken: string }
  /** It may be further on, or in a compression that is not read here. */
  | { unknown: true };

export interface SearchOptions {
  /** Whether `head` is all of the file. Then it is unpacked to its end, so that damage shows. */
  whole: boolean;
}

/**
 * Looks for `metadata.yaml` in the archive that begins with `head`.
 *
 * @param head the first bytes of the file, or all of them.
 */
export async function findMetadataYaml(
  head: Uint8Array,
  { whole }: SearchOptions,
): Promise<MetadataSearch> {
  const unpack = unpackerFor(head);
  if (unpack === undefined) return { unknown: true };
  const tar = new TarSearch();
  let unpacked = 0;
  try {
    for await (const chunk of unpack(head)) {
      unpacked += chunk.length;
      if (unpacked > largestSearch) return tar.result ?? tooLarge();
      tar.push(chunk);
      if (tar.result !== undefined && (!whole || 'broken' in tar.result)) return tar.result;
    }
  } catch {
    return whole ? { broken: 'is damaged or was cut short' } : (tar.result ?? { unknown: true });
  }
  if (!whole) return tar.result ?? { unknown: true };
  return tar.result ?? tar.end();
}

function tooLarge(): MetadataSearch {
  return {
    broken: `unpacks to more than ${largestSearch / 1024 / 1024} MiB without a metadata.yaml`,
  };
}

type Unpacker = (head: Uint8Array) => AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

const plainTar: Unpacker = (head) => [head];

const unpackers: readonly (readonly [magic: number[], Unpacker | undefined])[] = [
  [[0x1f, 0x8b], gunzip],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], unxz],
  [[0x28, 0xb5, 0x2f, 0xfd], unzstd],
  // bzip2 and lzma: rare, and not worth a library of their own. Such an image goes by its path.
  [[0x42, 0x5a, 0x68], undefined],
  [[0x5d, 0x00, 0x00], undefined],
];

function unpackerFor(head: Uint8Array): Unpacker | undefined {
  const known = unpackers.find(([magic]) => magic.every((byte, index) => head[index] === byte));
  return known === undefined ? plainTar : known[1];
}

async function* gunzip(head: Uint8Array): AsyncGenerator<Uint8Array> {
  const stream = createGunzip();
  stream.end(head);
  yield* stream;
}

async function* unxz(head: Uint8Array): AsyncGenerator<Uint8Array> {
  // All that the library asks of its source is a reader; a real stream costs as much as the decoding.
  const pieces = [head].values();
  const read = async () => pieces.next();
  const source = { getReader: () => ({ read, cancel: async () => {} }) };
  const reader = new xzDecompress.XzReadableStream(source as unknown as ReadableStream).getReader();
  let ended = false;
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        ended = true;
        throw error;
      });
      ended = done;
      if (done) return;
      yield value;
    }
  } finally {
    // Gives back the decoder, of which the library has one at a time.
    if (!ended) await reader.cancel();
  }
}

function* unzstd(head: Uint8Array): Generator<Uint8Array> {
  let chunks: Uint8Array[] = [];
  const decoder = new Decompress((chunk) => chunks.push(chunk));
  const step = 64 * 1024;
  for (let start = 0; start < head.length; start += step) {
    decoder.push(head.subarray(start, start + step), start + step >= head.length);
    yield* chunks;
    chunks = [];
  }
}

const blockSize = 512;
const typeRegular = new Set(['0', '\0', '']);

/** Reads a tar archive (POSIX.1-2001, `ustar`) piece by piece for one file: `metadata.yaml` at its top. */
class TarSearch {
  result: MetadataSearch | undefined;
  #pending: Uint8Array = new Uint8Array(0);
  /** Bytes of the current entry that are still to be passed over. */
  #skip = 0;
  #entries = 0;
  #wanted: number | undefined;

  push(chunk: Uint8Array): void {
    if (this.result !== undefined) return;
    const skipped = Math.min(this.#skip, chunk.length);
    this.#skip -= skipped;
    if (skipped === chunk.length) return;
    this.#pending = Buffer.concat([this.#pending, chunk.subarray(skipped)]);
    while (this.result === undefined && this.#step());
  }

  /** What to say when the archive has ended. */
  end(): MetadataSearch {
    if (this.#skip > 0 || this.#wanted !== undefined) return { broken: 'was cut short' };
    return this.#entries === 0 ? { broken: 'is not a tar archive' } : { missing: true };
  }

  /** Takes one header or the wanted file from what has come; false if more is needed. */
  #step(): boolean {
    if (this.#wanted !== undefined) return this.#takeWanted(this.#wanted);
    if (this.#pending.length < blockSize) return false;
    const header = this.#take(blockSize);
    if (header.every((byte) => byte === 0)) return true;
    const size = readHeader(header);
    if (size === undefined) {
      this.result = { broken: this.#entries === 0 ? 'is not a tar archive' : 'is damaged' };
      return false;
    }
    this.#entries++;
    return isMetadataYaml(header) ? this.#want(size) : this.#passOver(size);
  }

  #want(size: number): boolean {
    if (size > largestText) {
      this.result = { broken: `has a metadata.yaml of more than ${largestText / 1024 / 1024} MiB` };
    }
    this.#wanted = size;
    return true;
  }

  #takeWanted(size: number): boolean {
    if (this.#pending.length < size) return false;
    this.result = { found: Buffer.from(this.#take(size)).toString('utf8') };
    return false;
  }

  #passOver(size: number): boolean {
    const padded = Math.ceil(size / blockSize) * blockSize;
    const here = Math.min(padded, this.#pending.length);
    this.#take(here);
    this.#skip = padded - here;
    return this.#skip === 0;
  }

  #take(length: number): Uint8Array {
    const taken = this.#pending.subarray(0, length);
    this.#pending = this.#pending.subarray(length);
    return taken;
  }
}

/** The size that a header states, in bytes, or `undefined` where its checksum does not fit. */
function readHeader(header: Uint8Array): number | undefined {
  const sum = header.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 32 : byte), 0);
  if (octal(header.subarray(148, 156)) !== sum) return undefined;
  const field = header.subarray(124, 136);
  // GNU tar writes sizes of 8 GiB and more as a binary number with the first bit set.
  if (((field[0] ?? 0) & 0x80) !== 0) {
    return field.subarray(1).reduce((total, byte) => total * 256 + byte, 0);
  }
  return octal(field);
}

function octal(field: Uint8Array): number | undefined {
  const text = textOf(field).trim();
  return /^[0-7]*$/.test(text) ? Number.parseInt(text || '0', 8) : undefined;
}

function isMetadataYaml(header: Uint8Array): boolean {
  const name = textOf(header.subarray(0, 100));
  const type = textOf(header.subarray(156, 157));
  return typeRegular.has(type) && (name === 'metadata.yaml' || name === './metadata.yaml');
}

/** A field of a tar header up to its first NUL. */
function textOf(field: Uint8Array): string {
  const end = field.indexOf(0);
  return Buffer.from(end === -1 ? field : field.subarray(0, end)).toString('latin1');
}
