/**
 * Finds `metadata.yaml` in the tar archives that images are made of, compressed or not, by content:
 * the endings of their names promise nothing (LXD and Incus go by content as well).
 */
import { crc32, createGunzip } from 'node:zlib';
import { Decompress } from 'fzstd';
import xzDecompress from 'xz-decompress';
import { largestText } from '../catalog/metadata.js';

/** How much unpacked content is looked at, in bytes: what guards against decompression bombs. */
export const largestSearch = 64 * 1024 * 1024;

export type MetadataSearch =
  /** `rootless`: there certainly is no root file system; told only where that was looked for. */
  | { found: string; disk?: true; rootless?: true }
  /** The archive is whole and has no metadata.yaml. */
  | { missing: true }
  /** What is wrong with the archive, as the end of the sentence "lxd.tar.xz …". */
  | { broken: string }
  /** It may be further on, or in a compression that is not read here. */
  | { unknown: true };

export interface SearchOptions {
  /** Whether `head` is all of the file. Then it is unpacked to its end, so that damage shows. */
  whole: boolean;
  /** Whether to look on for the root file system, and tell where it is the disk of a virtual machine. Default: no. */
  root?: boolean;
}

/**
 * Looks for `metadata.yaml` in the archive that begins with `head`.
 *
 * @param head the first bytes of the file, or all of them.
 */
export async function findMetadataYaml(
  head: Uint8Array,
  { whole, root = false }: SearchOptions,
): Promise<MetadataSearch> {
  const unpack = unpackerFor(head);
  if (unpack === undefined) return { unknown: true };
  const tar = new TarSearch();
  let unpacked = 0;
  try {
    for await (const chunk of unpack(head)) {
      unpacked += chunk.length;
      if (unpacked > largestSearch) return tar.soFar() ?? tooLarge();
      tar.push(chunk);
      const result = tar.soFar();
      if (result === undefined) continue;
      if ('broken' in result || (!whole && (!root || tar.hasRoot()))) return result;
    }
  } catch {
    return whole ? { broken: 'is damaged or was cut short' } : (tar.soFar() ?? { unknown: true });
  }
  if (!whole) return tar.soFar() ?? { unknown: true };
  const result = tar.end();
  return root && !tar.hasRoot() && 'found' in result ? { ...result, rootless: true } : result;
}

function tooLarge(): MetadataSearch {
  return {
    broken: `unpacks to more than ${largestSearch / 1024 / 1024} MiB without a metadata.yaml`,
  };
}

type Unpacker = (head: Uint8Array) => AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

const plainTar: Unpacker = (head) => [head];

interface Compression {
  /** The first bytes of a file. */
  magic: number[];
  /** Absent where it is not read here. */
  unpack?: Unpacker;
  /** Whether the decoder is up to this file. Default: to every one. */
  readable?: (head: Uint8Array) => boolean;
}

const compressions: readonly Compression[] = [
  { magic: [0x1f, 0x8b], unpack: gunzip },
  { magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], unpack: unxz, readable: isCommonXz },
  { magic: [0x28, 0xb5, 0x2f, 0xfd], unpack: unzstd, readable: hasCommonWindow },
  // bzip2 and lzma: rare, and not worth a library of their own. Such an image goes by its path.
  { magic: [0x42, 0x5a, 0x68] },
  { magic: [0x5d, 0x00, 0x00] },
];

function unpackerFor(head: Uint8Array): Unpacker | undefined {
  const known = compressions.find(({ magic }) =>
    magic.every((byte, index) => head[index] === byte),
  );
  if (known === undefined) return plainTar;
  return known.readable?.(head) === false ? undefined : known.unpack;
}

/**
 * Whether the decoder is up to an .xz file (its format description, sections 2.1 and 3.1): a check that it
 * knows (none, CRC32 or CRC64, not SHA-256), and LZMA2 alone with a dictionary of at most 64 MiB.
 */
function isCommonXz(head: Uint8Array): boolean {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  // Where its own check sums do not fit it is damaged, and that is for the decoder to find.
  if (!hasWholeHeaders(bytes)) return true;
  const [check = 0, blockFlags = 0] = [head[7], head[13]];
  if (![0, 1, 4].includes(check & 0x0f) || (blockFlags & 0x03) !== 0) return false;
  let at = 14;
  // The block may state its sizes first, as numbers of seven bits a byte.
  for (const stated of [0x40, 0x80]) {
    if ((blockFlags & stated) === 0) continue;
    while (((head[at] ?? 0) & 0x80) !== 0) at++;
    at++;
  }
  const [filter, , dictionary = 0] = head.subarray(at, at + 3);
  return filter === 0x21 && dictionary <= 28;
}

function hasWholeHeaders(bytes: Buffer): boolean {
  const blockEnd = 12 + ((bytes[12] ?? 0) + 1) * 4;
  if (bytes.length < blockEnd || bytes[12] === 0) return false;
  return (
    crc32(bytes.subarray(6, 8)) === bytes.readUInt32LE(8) &&
    crc32(bytes.subarray(12, blockEnd - 4)) === bytes.readUInt32LE(blockEnd - 4)
  );
}

/** Every zstd decoder should take windows of this size (RFC 8878, 3.1.1.1.2); larger ones cost memory and time. */
const largestWindow = 8 * 1024 * 1024;

function hasCommonWindow(head: Uint8Array): boolean {
  const [, , , , flags = 0, descriptor = 0] = head;
  // A frame in a single segment has no window but its content, of which it states the size.
  if ((flags & 0x20) !== 0) return true;
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7) <= largestWindow;
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
  // Four bytes can stand for 128 KiB: of larger steps a bomb would fill the memory.
  const step = 1024;
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
  #found: string | undefined;
  #broken: string | undefined;
  #pending: Uint8Array = new Uint8Array(0);
  /** Bytes of the current entry that are still to be passed over. */
  #skip = 0;
  #entries = 0;
  #root: 'disk' | 'folder' | undefined;
  /** Size of the wanted file, while it is still to come. */
  #wanted: number | undefined;
  /** Whether the block of zeros has come that stands behind the last entry. */
  #ended = false;

  push(chunk: Uint8Array): void {
    const skipped = Math.min(this.#skip, chunk.length);
    this.#skip -= skipped;
    if (this.#isOver() || skipped === chunk.length) return;
    this.#pending = Buffer.concat([this.#pending, chunk.subarray(skipped)]);
    while (!this.#isOver() && this.#step());
  }

  /** What can be said already. */
  soFar(): MetadataSearch | undefined {
    if (this.#broken !== undefined) return { broken: this.#broken };
    if (this.#found === undefined) return undefined;
    return { found: this.#found, ...(this.#root === 'disk' && { disk: true }) };
  }

  /** Whether the root file system of a unified image has come, or its beginning. */
  hasRoot(): boolean {
    return this.#root !== undefined;
  }

  /** What to say when nothing more comes. */
  end(): MetadataSearch {
    if (this.#broken !== undefined) return { broken: this.#broken };
    if (this.#entries === 0) return { broken: 'is not a tar archive' };
    if (!this.#ended) return { broken: 'was cut short' };
    return this.soFar() ?? { missing: true };
  }

  #isOver(): boolean {
    return this.#ended || this.#broken !== undefined;
  }

  /** Takes one header or the wanted file from what has come; false if more is needed. */
  #step(): boolean {
    if (this.#wanted !== undefined) return this.#takeWanted(this.#wanted);
    if (this.#pending.length < blockSize) return false;
    const header = this.#take(blockSize);
    if (header.every((byte) => byte === 0)) {
      this.#ended = true;
      return false;
    }
    const size = readHeader(header);
    if (size === undefined) {
      this.#broken = this.#entries === 0 ? 'is not a tar archive' : 'is damaged';
      return false;
    }
    this.#entries++;
    this.#root ??= rootIn(header);
    return isMetadataYaml(header) ? this.#want(size) : this.#passOver(size);
  }

  #want(size: number): boolean {
    if (size > largestText) {
      this.#broken = `has a metadata.yaml of more than ${largestText / 1024 / 1024} MiB`;
    }
    this.#wanted = size;
    return true;
  }

  #takeWanted(size: number): boolean {
    if (this.#pending.length < size) return false;
    this.#found = Buffer.from(this.#pending.subarray(0, size)).toString('utf8');
    this.#wanted = undefined;
    return this.#passOver(size);
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

/** What of the root file system an entry is: `rootfs.img` is the disk of a virtual machine. */
function rootIn(header: Uint8Array): 'disk' | 'folder' | undefined {
  const [top] = textOf(header.subarray(0, 100)).replace(/^\.\//, '').split('/');
  if (top === 'rootfs.img') return 'disk';
  return top === 'rootfs' ? 'folder' : undefined;
}

/** A field of a tar header up to its first NUL. */
function textOf(field: Uint8Array): string {
  const end = field.indexOf(0);
  return Buffer.from(end === -1 ? field : field.subarray(0, end)).toString('latin1');
}
