/**
 * Reads the documents as clients do, and tells what should never be seen: a document that is cut short, an
 * index that is ahead, a file that is named and not there. In a process of its own it does so all along.
 * This file is both: what starts that process, and what it runs.
 */
import { fork } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { parseImages, versionsOf } from '../../src/catalog/published.js';
import { systemCode } from '../../src/errors.js';
import { createAsker } from './asking.js';
import { sha256 } from './image-tree.js';

/** What has been seen so far. */
export interface Seen {
  looks: number;
  /** SHA-256 of every document that was read, those that came compressed too. */
  documents: Set<string>;
  /** What should never be seen. */
  faults: Set<string>;
}

export function nothingSeen(): Seen {
  return { looks: 0, documents: new Set(), faults: new Set() };
}

export interface LookOptions {
  /** Where the files are that `images.json` names. Default: they are not looked at. */
  root?: string;
  /** Paths below `root` under which files may be missing or others: they are changed by hand. */
  spared?: ReadonlySet<string>;
}

/** Reads all four documents, each index before what it is the index of. They must be there. */
export function look(streamsDir: string, seen: Seen, options: LookOptions = {}): void {
  try {
    const read = (name: string) => {
      const bytes = readFileSync(join(streamsDir, name));
      const text = (name.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8');
      seen.documents.add(sha256(text));
      return text;
    };
    const listed = [read('index.json'), read('index.json.gz')].map(productsListed);
    for (const name of ['images.json', 'images.json.gz']) {
      for (const fault of faultsOf(read(name), { ...options, listed })) {
        seen.faults.add(`${name}: ${fault}`);
      }
    }
  } catch (error) {
    seen.faults.add(String(error));
  }
  seen.looks += 1;
}

/** The products that an `index.json` names. @throws where it is not whole. */
function productsListed(text: string): string[] {
  return (JSON.parse(text) as { index: { images: { products: string[] } } }).index.images.products;
}

/** What is wrong with an `images.json`. @throws where it is not whole. */
function* faultsOf(
  text: string,
  { root, spared = new Set(), listed }: LookOptions & { listed: string[][] },
): Generator<string> {
  const { products } = parseImages(text);
  for (const id of new Set(listed.flat())) {
    const path = join('images', ...id.split(':'));
    if (!(id in products) && !touches(spared, path)) yield `the index names ${id} too early`;
  }
  if (root === undefined) return;
  const items = Object.values(products).flatMap(versionsOf);
  for (const { path, size } of items.flatMap((version) => version.items)) {
    const found = statSync(join(root, path), { throwIfNoEntry: false })?.size;
    if (found !== size && !touches(spared, path)) yield `${path} has ${size} bytes, not ${found}`;
  }
}

/** Whether one of `spared` lies above `path`, or below it. */
function touches(spared: ReadonlySet<string>, path: string): boolean {
  return [...spared].some(
    (each) => each === path || path.startsWith(`${each}/`) || each.startsWith(`${path}/`),
  );
}

/** Reads the documents of any number of roots again and again. */
export interface DocumentsReader {
  /** Looks at the documents of `root`, too, as soon as there are any. */
  follow(root: string): Promise<void>;
  /** What lies at `path` below `root` will now be taken away or replaced by hand: that is no fault. */
  spare(root: string, path: string): Promise<void>;
  /** The documents of `root` have caught up with all that was done by hand. */
  caughtUp(root: string): Promise<void>;
  /** What it has seen of `root`: how many documents, how often it looked, what was wrong. */
  sightings(root: string): Promise<{ looks: number; documents: number; faults: string[] }>;
}

type Wish = { of: 'follow' | 'caughtUp' | 'sightings' | 'spare'; root: string; path?: string };

/** Starts a reader that ends with the test. Each promise is kept between two looks. */
export function startReader(t: { after: (work: () => void) => void }): DocumentsReader {
  const child = fork(fileURLToPath(import.meta.url), [], { serialization: 'advanced' });
  t.after(() => child.kill('SIGKILL'));
  const ask = createAsker<Wish>(child);
  return {
    follow: async (root) => void (await ask({ of: 'follow', root })),
    spare: async (root, path) => void (await ask({ of: 'spare', root, path })),
    caughtUp: async (root) => void (await ask({ of: 'caughtUp', root })),
    async sightings(root) {
      const { looks, documents, faults } = (await ask({ of: 'sightings', root })) as Seen;
      return { looks, documents: documents.size, faults: [...faults] };
    },
  };
}

/** How long it rests after each look, in milliseconds: others need the machine as well. */
const restMs = 2;

/** The process: looks at one root after the other, for as long as the test does. */
async function readAllAlong(): Promise<void> {
  const sites = new Map<string, { seen: Seen; spared: Set<string>; hasBegun: boolean }>();
  process.on('message', ({ of, root, path = '' }: Wish) => {
    if (of === 'follow')
      sites.set(root, { seen: nothingSeen(), spared: new Set(), hasBegun: false });
    if (of === 'spare') sites.get(root)?.spared.add(path);
    if (of === 'caughtUp') sites.get(root)?.spared.clear();
    process.send?.(of === 'sightings' ? sites.get(root)?.seen : 'done');
  });
  process.once('disconnect', () => process.exit());
  for (;;) {
    for (const [root, site] of sites) {
      const streamsDir = join(root, 'streams/v1');
      site.hasBegun ||= isThere(join(streamsDir, 'index.json'));
      if (site.hasBegun) look(streamsDir, site.seen, { root, spared: site.spared });
      await sleep(restMs);
    }
    await sleep(restMs);
  }
}

/** The document that comes last is there. */
function isThere(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await readAllAlong();
