/**
 * Looks at the tree, or at the parts of it that may have changed, and tells what is as it was on record
 * from what has to be judged anew.
 */
import { type ProductRecord, recall, type Scanned } from './catalog/record.js';
import { isName, type Problem, type ProductFolder, productPath } from './catalog/tree.js';
import type { Pool } from './disk/pool.js';
import type { ProductAddress } from './disk/scan.js';
import type { ScanRequest } from './disk/tasks.js';
import { ServerError } from './errors.js';

/** What the tree is now, against what is known of it. */
export interface Scan {
  /** Of the products that are as they were, in no particular order. */
  unchanged: ProductRecord[];
  /** The others, with the digests that are still good. */
  changed: Scanned[];
  /** What could not be taken up above the products. */
  problems: Problem[];
}

export interface ScanOptions {
  /** Absolute, without symbolic links. */
  imagesDir: string;
  pool: Pool;
  /**
   * Folders below the images folder in which something may have changed: products, or folders above them
   * for all that is below. What lies elsewhere is taken to be as it is on record. Absent: everywhere.
   */
  folders?: readonly string[] | undefined;
  signal?: AbortSignal | undefined;
  /** What was found above the products when all of them were last listed. */
  problems: Problem[];
}

const productDepth = 4;

/**
 * Products under the fingerprint of a final record are not unpacked.
 *
 * @param records what is known, by path; a promise of it is awaited while the products are listed.
 * @throws the system error where the images folder cannot be listed; ServerError INTERRUPTED after an abort.
 */
export async function scanTree(
  records: ReadonlyMap<string, ProductRecord> | Promise<ReadonlyMap<string, ProductRecord>>,
  options: ScanOptions,
): Promise<Scan> {
  const { imagesDir, pool } = options;
  const folders = options.folders && withLinking(options.folders, await records);
  if (folders?.every(isProduct) === true) {
    const addresses = folders.map(addressOf).filter((names) => names.every(isName));
    const scan = await scanProducts(addresses, { ...options, records: await records });
    return { ...scan, problems: options.problems };
  }
  const { products, problems } = await pool.listProducts(imagesDir);
  const known = await records;
  const isStale = (path: string) =>
    folders === undefined || !known.has(path) || folders.some((folder) => isIn(path, folder));
  const there = new Set(products.map((address) => address.join('/')));
  const present = new Map([...known].filter(([path]) => there.has(path)));
  const stale = products.filter((address) => isStale(address.join('/')));
  return { ...(await scanProducts(stale, { ...options, records: present })), problems };
}

/** `folders`, each once, and the products with links that lead into one of them. */
function withLinking(
  folders: readonly string[],
  records: ReadonlyMap<string, ProductRecord>,
): string[] {
  const all = new Set(folders);
  for (const { path, links = [] } of records.values()) {
    if (links.some((link) => folders.some((folder) => isIn(link, folder)))) all.add(path);
  }
  return [...all];
}

/** Looks at the products at `addresses`, and takes all others in `records` as they are. */
async function scanProducts(
  addresses: readonly ProductAddress[],
  {
    imagesDir,
    pool,
    signal,
    records,
  }: ScanOptions & { records: ReadonlyMap<string, ProductRecord> },
): Promise<Pick<Scan, 'unchanged' | 'changed'>> {
  const requests = addresses.map((address): ScanRequest => {
    const record = records.get(address.join('/'));
    return { address, known: record?.final === true ? record.fingerprint : undefined };
  });
  const looked = new Set(addresses.map((address) => address.join('/')));
  const unchanged = [...records.values()].filter(({ path }) => !looked.has(path));
  const changed: Scanned[] = [];
  const all = await pool.scan(imagesDir, requests, signal);
  if (signal?.aborted === true) throw new ServerError('INTERRUPTED', 'Interrupted');
  for (const scanned of all) {
    const record = records.get(scanned.path);
    if (scanned.folder === undefined) {
      if (record !== undefined) unchanged.push(record);
      continue;
    }
    const folder = JSON.parse(scanned.folder) as ProductFolder;
    if (isNothing(folder)) continue;
    const known = record && recall(folder, record);
    changed.push({ folder, fingerprint: scanned.fingerprint, ...(known && { known }) });
  }
  return { unchanged, changed };
}

/** A scan in which a product counts as unchanged under its fingerprint, also where its record is not final. */
export function stillSame(
  scan: Scan,
  records: ReadonlyMap<string, ProductRecord>,
): Pick<Scan, 'unchanged' | 'changed'> {
  const unchanged = [...scan.unchanged];
  const changed = scan.changed.filter((product) => {
    const record = records.get(productPath(product.folder));
    if (record?.fingerprint !== product.fingerprint) return true;
    unchanged.push(record);
    return false;
  });
  return { unchanged, changed };
}

/** Whether there is nothing to publish and nothing to say of a product: it is empty, or has vanished. */
function isNothing({ versions, yaml, problems, removed }: ProductFolder): boolean {
  return (
    versions.length === 0 && yaml === undefined && problems.length === 0 && removed === undefined
  );
}

function isProduct(folder: string): boolean {
  return addressOf(folder).length === productDepth;
}

function addressOf(folder: string): ProductAddress {
  return folder.split('/') as ProductAddress;
}

function isIn(path: string, folder: string): boolean {
  return folder === '' || path === folder || path.startsWith(`${folder}/`);
}
