/** `list`: what is published, product by product. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import picocolors from 'picocolors';
import {
  DocumentError,
  type PublishedImages,
  parseImages,
  versionsOf,
} from '../catalog/published.js';
import { compareNames } from '../catalog/tree.js';
import { exitCodes, ServerError, systemCode, systemText } from '../errors.js';
import type { Command } from './command.js';
import { counted, formatBytes, formatTable } from './format.js';

type Colors = ReturnType<typeof picocolors.createColors>;

/** Prints the published products and versions. @throws ServerError NOT_INITIALISED or DAMAGED */
export async function list({ config, json, print, colour }: Command): Promise<number> {
  const products = describe(await readImages(config.paths.streams));
  print(json ? JSON.stringify(products) : table(products, picocolors.createColors(colour)));
  return exitCodes.done;
}

interface ListedVersion {
  name: string;
  /** Bytes of its files. */
  size: number;
  /** Types of its files, as simplestreams names them. */
  ftypes: string[];
  /** By which clients know its images. */
  fingerprints: string[];
}

interface ListedProduct {
  product: string;
  aliases: string[];
  /** Oldest first. */
  versions: ListedVersion[];
}

/** The `images.json` in that folder. @throws ServerError NOT_INITIALISED, DENIED or DAMAGED */
export async function readImages(streamsDir: string): Promise<PublishedImages> {
  const file = join(streamsDir, 'images.json');
  const hint = 'run "lxd-image-server update"';
  try {
    return parseImages(await readFile(file, 'utf8'));
  } catch (cause) {
    if (cause instanceof DocumentError) {
      throw new ServerError('DAMAGED', `${file} ${cause.message}`, { hint, cause });
    }
    const code = systemCode(cause) === 'ENOENT' ? 'NOT_INITIALISED' : 'DENIED';
    throw new ServerError(code, `Cannot read ${file}: ${systemText(cause)}`, { hint, cause });
  }
}

/** Its products and versions, as `list` tells them. */
export function describe({ products }: PublishedImages): ListedProduct[] {
  return Object.entries(products)
    .sort(([a], [b]) => compareNames(a, b))
    .map(([id, product]) => ({
      product: id,
      aliases: product.aliases === '' ? [] : product.aliases.split(','),
      versions: versionsOf(product).map(({ name, items }) => ({
        name,
        size: [...new Map(items.map((item) => [item.path, item.size])).values()].reduce(sum, 0),
        ftypes: [...new Set(items.map(({ ftype }) => ftype))].sort(compareNames),
        fingerprints: [...new Set(items.flatMap(fingerprintsOf))].sort(compareNames),
      })),
    }));
}

const sum = (a: number, b: number) => a + b;

/** Fingerprints that an item gives rise to: combined digests, or its own for a unified image. */
function fingerprintsOf(item: Record<string, unknown>): string[] {
  if (/_combined\.tar\.gz$/.test(String(item.ftype))) return [String(item.sha256)];
  return Object.entries(item).flatMap(([field, value]) =>
    /^combined_.*sha256$/.test(field) ? String(value) : [],
  );
}

function table(products: readonly ListedProduct[], { bold }: Colors): string {
  const rows = products.flatMap(({ product, versions }) =>
    versions.map((version) => [
      product,
      version.name,
      version.ftypes.filter((ftype) => !/^(lxd|incus)\.tar\.xz$/.test(ftype)).join(' '),
      formatBytes(version.size),
      version.fingerprints.map((fingerprint) => fingerprint.slice(0, 12)).join(' '),
    ]),
  );
  const head = ['PRODUCT', 'VERSION', 'FILES', 'SIZE', 'FINGERPRINT'];
  const total = `${counted(products.length, 'product')}, ${counted(rows.length, 'version')}`;
  if (rows.length === 0) return total;
  const [heading = '', ...lines] = formatTable([head, ...rows], [3]).split('\n');
  return [bold(heading), ...lines, total].join('\n');
}
