/**
 * Reads mirrors as clients do, all along and in a process of its own: the documents, and every file that they name,
 * with its size and its SHA-256. Tells what should never be seen: a document that is not whole, an index that is
 * ahead, a file that is named and not there or not that content.
 *
 * Nobody reads all of a tree at one instant. What a document has named counts against the mirror where the document
 * is in its place still after the file was found wanting. A file has to be there, whatever has become of the
 * document, until it has been out of every document for the grace time: clients keep what they have read.
 *
 * This file is both: what starts that process, and what it runs.
 */
import { fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { type BigIntStats, closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { parseImages, versionsOf } from '../../src/catalog/published.js';
import { systemCode } from '../../src/errors.js';
import { createAsker } from './asking.js';

export interface FollowOptions {
  /** For how long a file outlives the last document that named it, in milliseconds. */
  graceMs: number;
  /** The mirror cannot replace files in one step: what is about to be replaced is not there for moments. Default: no. */
  mayMiss?: boolean;
}

/** What has been seen of one mirror. */
export interface Sightings {
  looks: number;
  /** How many different documents were read, compressed ones too. */
  documents: number;
  /** How many files were read in full. */
  files: number;
  /** What should never be seen. */
  faults: string[];
}

/** Reads any number of mirrors again and again. */
export interface MirrorReader {
  /** Looks at the mirror at `root`, too, as soon as it has an index. */
  follow(root: string, options: FollowOptions): Promise<void>;
  /** Files that should have this content will now be changed by hand: what becomes of them is no fault. */
  spare(root: string, sha256: string): Promise<void>;
  /** All that was done by hand has been mended. */
  caughtUp(root: string): Promise<void>;
  /** Looks once more, and tells what it has seen of the mirror so far. */
  sightings(root: string): Promise<Sightings>;
  /** Looks at that mirror no more. */
  leave(root: string): Promise<void>;
}

type Wish =
  | { of: 'follow'; root: string; options: FollowOptions }
  | { of: 'spare'; root: string; sha256: string }
  | { of: 'caughtUp' | 'sightings' | 'leave'; root: string };

/** Starts a reader that ends with the test. Each promise is kept between two looks. */
export function startMirrorReader(t: { after: (work: () => void) => void }): MirrorReader {
  const child = fork(fileURLToPath(import.meta.url), [], { serialization: 'advanced' });
  t.after(() => child.kill('SIGKILL'));
  const ask = createAsker<Wish>(child);
  return {
    follow: async (root, options) => void (await ask({ of: 'follow', root, options })),
    spare: async (root, sha256) => void (await ask({ of: 'spare', root, sha256 })),
    caughtUp: async (root) => void (await ask({ of: 'caughtUp', root })),
    sightings: async (root) => (await ask({ of: 'sightings', root })) as Sightings,
    leave: async (root) => void (await ask({ of: 'leave', root })),
  };
}

/** A file at one time: another one, or other content, has another. */
type Stamp = string;

interface Named {
  path: string;
  size: number;
  sha256: string;
}

interface Document {
  stamp: Stamp;
  /** IDs of the products that it lists. */
  products: string[];
  /** Of `images.json`: every file that it names. */
  files: Named[];
}

/** What is known of one mirror. */
interface Site extends FollowOptions {
  root: string;
  looks: number;
  faults: Set<string>;
  spared: Set<string>;
  /** Products that an `images.json` has listed at some time. */
  known: Set<string>;
  /** Every file that may have to be there, and when a look began that found it named. */
  named: Map<string, { file: Named; at: number }>;
  /** As they were read last, by path. */
  documents: Map<string, Document>;
  stamps: Set<Stamp>;
  digests: Map<string, { stamp: Stamp; sha256: string }>;
  filesRead: number;
}

function look(site: Site): void {
  const began = performance.now();
  const read = (name: string) => readDocument(site, `streams/v1/${name}`);
  // Each index before what it is the index of.
  const listed = ['index.json', 'index.json.gz']
    .map(read)
    .flatMap((index) => index?.products ?? []);
  for (const name of ['images.json', 'images.json.gz']) {
    const images = read(name);
    if (images === undefined) continue;
    const products = new Set(images.products);
    // One that was there before may have been removed since the index was read.
    for (const id of listed) {
      if (!products.has(id) && !site.known.has(id)) site.faults.add(`${name} lacks ${id}`);
    }
    for (const id of products) site.known.add(id);
    for (const file of images.files) check(site, file, { name, images, began });
  }
  checkEarlier(site, began);
  site.looks += 1;
}

/** `undefined` where there is none, which is a fault unless it is only the compressed form. */
function readDocument(site: Site, path: string): Document | undefined {
  const file = join(site.root, path);
  try {
    const known = site.documents.get(path);
    if (known !== undefined && stampAt(file) === known.stamp) return known;
    const { content, stamp } = readWhole(file);
    const text = (path.endsWith('.gz') ? gunzipSync(content) : content).toString('utf8');
    const document = { stamp, ...(path.includes('/index.') ? listIn(text) : filesIn(text)) };
    site.documents.set(path, document);
    site.stamps.add(`${path} ${stamp}`);
    return document;
  } catch (error) {
    const isMissing = systemCode(error) === 'ENOENT';
    const mayBe = path.endsWith('.gz') || site.mayMiss === true;
    if (!isMissing || !mayBe) site.faults.add(`${path}: ${error}`);
    return undefined;
  }
}

function listIn(text: string): Omit<Document, 'stamp'> {
  const { index } = JSON.parse(text) as { index: { images: { products: string[] } } };
  return { products: index.images.products, files: [] };
}

function filesIn(text: string): Omit<Document, 'stamp'> {
  const { products } = parseImages(text);
  const items = Object.values(products)
    .flatMap(versionsOf)
    .flatMap((version) => version.items);
  const files = items.map(({ path, size, sha256 }) => ({ path, size, sha256: sha256 ?? '' }));
  // A metadata file is listed once for LXD and once for Incus.
  const byPath = new Map(files.map((each) => [each.path, each]));
  return { products: Object.keys(products), files: [...byPath.values()] };
}

/** Notes what is wrong with a file that `images` names. */
function check(
  site: Site,
  file: Named,
  { name, images, began }: { name: string; images: Document; began: number },
): void {
  site.named.set(file.path, { file, at: began });
  const wrong = faultOf(site, file);
  if (wrong === undefined || site.spared.has(file.sha256)) return;
  const stands = stampAt(join(site.root, 'streams/v1', name)) === images.stamp;
  if (stands) site.faults.add(`${name} names ${file.path}, which ${wrong}`);
}

/** Notes which files have gone before their time: of those that were named, or are. */
function checkEarlier(site: Site, began: number): void {
  if (site.mayMiss) return;
  for (const [path, { file, at }] of site.named) {
    const isMissing = at !== began && stampAt(join(site.root, path)) === undefined;
    if (performance.now() - at >= site.graceMs) site.named.delete(path);
    else if (isMissing && !site.spared.has(file.sha256)) {
      site.faults.add(`${path}, which was named a moment ago, is not there any more`);
    }
  }
}

function faultOf(site: Site, { path, size, sha256 }: Named): string | undefined {
  const file = join(site.root, path);
  try {
    const found = statSync(file, { bigint: true });
    if (found.size !== BigInt(size)) return `has ${found.size} bytes, not ${size}`;
    const known = site.digests.get(path);
    const digest = known?.stamp === stampOf(found) ? known.sha256 : digestAt(site, path);
    return digest === sha256 ? undefined : `has SHA-256 ${digest}, not ${sha256}`;
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    return 'is not there';
  }
}

function digestAt(site: Site, path: string): string {
  const { content, stamp } = readWhole(join(site.root, path));
  const sha256 = createHash('sha256').update(content).digest('hex');
  site.digests.set(path, { stamp, sha256 });
  site.filesRead += 1;
  return sha256;
}

/** Reads a file, whatever becomes of its name meanwhile. */
function readWhole(file: string): { content: Buffer; stamp: Stamp } {
  const handle = openSync(file, 'r');
  try {
    const before = fstatSync(handle, { bigint: true });
    const content = Buffer.alloc(Number(before.size));
    let length = 0;
    for (let count = -1; count !== 0 && length < content.length; length += count) {
      count = readSync(handle, content, length, content.length - length, length);
    }
    return { content: content.subarray(0, length), stamp: stampOf(before) };
  } finally {
    closeSync(handle);
  }
}

function stampAt(file: string): Stamp | undefined {
  const found = statSync(file, { bigint: true, throwIfNoEntry: false });
  return found && stampOf(found);
}

/** Not the time at which its number of names changed last: links come and go. */
function stampOf({ ino, size, mtimeNs }: BigIntStats): Stamp {
  return `${ino} ${size} ${mtimeNs}`;
}

/** How long it rests after each look, in milliseconds: others need the machine as well. */
const restMs = 2;

/** The process: looks at one mirror after the other, for as long as the test does. */
async function readAllAlong(): Promise<void> {
  const sites = new Map<string, Site>();
  process.on('message', (wish: Wish) => process.send?.(answer(sites, wish)));
  process.once('disconnect', () => process.exit());
  for (;;) {
    for (const site of sites.values()) {
      lookIfBegun(site);
      await sleep(restMs);
    }
    await sleep(restMs);
  }
}

function lookIfBegun(site: Site): void {
  if (site.looks > 0 || stampAt(join(site.root, 'streams/v1/index.json'))) look(site);
}

function answer(sites: Map<string, Site>, wish: Wish): Sightings | 'done' {
  const { root } = wish;
  if (wish.of === 'follow') sites.set(root, newSite(root, wish.options));
  const site = sites.get(root) ?? newSite(root, { graceMs: 0 });
  if (wish.of === 'spare') site.spared.add(wish.sha256);
  if (wish.of === 'caughtUp') {
    site.spared.clear();
    site.named.clear();
  }
  if (wish.of === 'leave') sites.delete(root);
  if (wish.of !== 'sightings') return 'done';
  lookIfBegun(site);
  const { looks, stamps, filesRead, faults } = site;
  return { looks, documents: stamps.size, files: filesRead, faults: [...faults] };
}

function newSite(root: string, options: FollowOptions): Site {
  return {
    root,
    ...options,
    looks: 0,
    faults: new Set(),
    spared: new Set(),
    known: new Set(),
    named: new Map(),
    documents: new Map(),
    stamps: new Set(),
    digests: new Map(),
    filesRead: 0,
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await readAllAlong();
