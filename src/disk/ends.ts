/** What the first and last bytes of a file tell of it, gathered while it passes by. */
import type { Content } from '../catalog/placement.js';
import type { Fault } from '../catalog/tree.js';

/** How much of the beginning is kept: up to the mark of a tar archive, in bytes. */
const firstBytes = 264;

/** The first and last bytes of a root file, where formats have the marks of a whole file. */
export class Ends {
  #first: Buffer = Buffer.alloc(0);
  #last: Buffer = Buffer.alloc(0);

  push(chunk: Uint8Array): void {
    if (this.#first.length < firstBytes)
      this.#first = Buffer.concat([this.#first, chunk.subarray(0, firstBytes)]);
    this.#last = Buffer.concat([this.#last, chunk.subarray(-8)]).subarray(-8);
  }

  /** What the file is, by its first bytes; `undefined` for none of what images are made of. */
  content(): Content | undefined {
    return contentOf(this.#first);
  }

  /** Why the file is not whole, if that can be told. */
  fault(file: { name: string; size: number }): Fault | undefined {
    if (!isCutShort(this.#first, this.#last, file.size)) return undefined;
    const reason = `${file.name} was cut short: its own header promises more than its ${file.size} bytes`;
    return { code: 'damaged', reason, cure: 'upload it again' };
  }
}

/**
 * Whether a file of `size` bytes is shorter than its own format says: squashfs (`bytes_used` of the
 * superblock), qcow2 (first-level and refcount tables of the header), xz (magic of the footer).
 */
function isCutShort(first: Buffer, last: Buffer, size: number): boolean {
  const magic = first.subarray(0, 4).toString('latin1');
  if (magic === 'hsqs') return first.length < 48 || first.readBigUInt64LE(40) > BigInt(size);
  if (magic === 'QFI\u00fb') {
    if (first.length < 64) return true;
    const tables = [first.readBigUInt64BE(40), first.readBigUInt64BE(48)];
    return tables.some((offset) => offset >= BigInt(size));
  }
  if (magic === '\u00fd7zX') return !endsAsXz(last);
  return false;
}

/** An .xz file ends with `YZ`, perhaps with zero bytes after it in groups of four. */
function endsAsXz(last: Buffer): boolean {
  const tail = last.toString('latin1').replace(/(?:\0{4})+$/, '');
  return tail === '' || tail.endsWith('YZ');
}

/** The first bytes of compressed files: gzip, xz, zstd, bzip2, lzma. */
const compressed = ['\u001f\u008b', '\u00fd7zXZ\0', '(\u00b5/\u00fd', 'BZh', ']\0\0'];

function contentOf(first: Buffer): Content | undefined {
  const text = first.toString('latin1');
  if (text.startsWith('hsqs')) return 'squashfs';
  if (text.startsWith('QFI\u00fb')) return 'qcow2';
  // POSIX has this in the header of the first entry, and so does GNU.
  const isArchive = text.startsWith('ustar', 257);
  return isArchive || compressed.some((magic) => text.startsWith(magic)) ? 'archive' : undefined;
}
