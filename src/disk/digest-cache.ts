/**
 * The digests of files that have been read before, kept in one file of the state folder.
 * It only saves time: without it, or where it is damaged, files are read again.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import {
  type FileDigest,
  type FileEntry,
  type ProductFolder,
  productPath,
} from '../catalog/tree.js';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import { makeFolder, writeFileAtomically } from './files.js';

/** `[name, stamp, digest]` of each file, by the folder's path below the images folder. */
type Content = Record<string, [name: string, stamp: string, digest: FileDigest][]>;

export interface DigestCache {
  /**
   * Reads what is kept; a damaged file counts as empty, with a warning.
   *
   * @returns a function that gives the files of a product the digests that are known under their stamps.
   */
  load(): Promise<(product: ProductFolder) => void>;
  /** Keeps the digests of `products`, and those only. A failure is logged: it costs nothing but time. */
  save(products: readonly ProductFolder[]): Promise<void>;
}

export interface DigestCacheOptions {
  /** The state folder; made when something is saved. */
  stateDir: string;
  /** The images folder that the digests are of: each has a file of its own. */
  imagesDir: string;
  log: Logger;
}

const magic = 'lxd-image-server digests 1';

/** The cache of `options.imagesDir`. */
export function createDigestCache({ stateDir, imagesDir, log }: DigestCacheOptions): DigestCache {
  const key = createHash('sha256').update(imagesDir).digest('hex').slice(0, 12);
  const file = join(stateDir, `digests-${key}.json`);
  return {
    async load() {
      const content = await load(file, log);
      return (product) => attach(product, content);
    },
    async save(products) {
      try {
        await makeFolder(stateDir, 0o750);
        await writeFileAtomically(file, encode(products), { mode: 0o640 });
      } catch (err) {
        log.warn({ err }, 'digests cannot be kept; the next run reads the files again');
      }
    },
  };
}

async function load(file: string, log: Logger): Promise<Content> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (err) {
    if (systemCode(err) !== 'ENOENT')
      log.warn({ err }, 'digest cache cannot be read; files are read again');
    return {};
  }
  const content = decode(bytes);
  if (content === undefined) log.warn({ file }, 'digest cache is damaged; files are read again');
  return content ?? {};
}

/** The file: a line with a check sum, then JSON. */
function encode(products: readonly ProductFolder[]): Buffer {
  const content: Content = {};
  for (const product of products) {
    const path = productPath(product);
    if (product.yaml !== undefined) content[path] = lasting([product.yaml]);
    for (const version of product.versions) {
      const entries = lasting(version.files);
      if (entries.length > 0) content[`${path}/${version.name}`] = entries;
    }
  }
  const body = Buffer.from(JSON.stringify(content));
  return Buffer.concat([Buffer.from(`${magic} ${crc32(body)}\n`), body]);
}

function decode(bytes: Buffer): Content | undefined {
  const end = bytes.indexOf('\n');
  const body = bytes.subarray(end + 1);
  if (bytes.toString('latin1', 0, end) !== `${magic} ${crc32(body)}`) return undefined;
  return JSON.parse(body.toString('utf8')) as Content;
}

function lasting(files: readonly FileEntry[]): Content[string] {
  return files.flatMap(({ name, stamp, digest, fleeting }) =>
    digest === undefined || fleeting === true ? [] : [[name, stamp, digest]],
  );
}

function attach(product: ProductFolder, content: Content): void {
  const path = productPath(product);
  if (product.yaml !== undefined) attachTo([product.yaml], content[path]);
  for (const version of product.versions)
    attachTo(version.files, content[`${path}/${version.name}`]);
}

function attachTo(files: readonly FileEntry[], known: Content[string] = []): void {
  for (const [name, stamp, digest] of known) {
    const file = files.find((candidate) => candidate.name === name && candidate.stamp === stamp);
    if (file !== undefined) file.digest = digest;
  }
}
