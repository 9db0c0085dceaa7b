/**
 * A reader of `images.json` that looks whenever the document is replaced, and compares what it names with
 * what was meant to be there: the files as they lie with whoever uploads them.
 */
import { readFileSync, statSync, watch } from 'node:fs';
import { basename, join } from 'node:path';
import type { TestContext } from 'node:test';
import { parseImages, versionsOf } from '../../src/catalog/published.js';
import { type Files, sha256 } from './image-tree.js';

export interface PublishedReader {
  /** Names a version that may be published, as `env/release/arch/type/version`, and the files it has then. */
  expect(version: string, files: Files): void;
  /** What should never be seen: each fault once. */
  faults(): string[];
  /** What is published now. */
  published(): string[];
}

/** Never listed, but part of an upload. */
const unlisted = new Set(['SHA256SUMS', 'image.yaml']);

/** Reads until the test is over. The daemon at `root` has started. */
export function readAllAlong(t: Pick<TestContext, 'after'>, root: string): PublishedReader {
  const streams = join(root, 'streams/v1');
  const expected = new Map<string, string>();
  const faults = new Set<string>();
  const digest = createDigester();
  let published: string[] = [];

  const look = () => {
    try {
      published = readOnce(root, { expected, faults, digest });
    } catch (error) {
      faults.add(String(error));
    }
  };
  const watcher = watch(streams, (_event, name) => {
    if (name === 'images.json') look();
  });
  t.after(() => watcher.close());
  return {
    expect(version, files) {
      const listed = Object.entries(files).filter(([name]) => !unlisted.has(name));
      expected.set(version, listOf(listed));
    },
    faults() {
      look();
      return [...faults];
    },
    published() {
      look();
      return published;
    },
  };
}

interface Sight {
  expected: ReadonlyMap<string, string>;
  faults: Set<string>;
  digest: (path: string) => string;
}

/** Reads the document and, before anything else can happen in this process, the files that it names. */
function readOnce(root: string, { expected, faults, digest }: Sight): string[] {
  const { products } = parseImages(readFileSync(join(root, 'streams/v1/images.json'), 'utf8'));
  const published: string[] = [];
  for (const [id, product] of Object.entries(products)) {
    for (const { name, items } of versionsOf(product)) {
      const version = `${id.replaceAll(':', '/')}/${name}`;
      published.push(version);
      const paths = new Map(items.map((item) => [item.path, `${item.size} ${item.sha256}`]));
      const named = [...paths].map(([path, said]) => `${path.split('/').at(-1)} ${said}`);
      const found = [...paths.keys()].map((path) => digest(join(root, path)));
      const meant = expected.get(version);
      for (const list of [named, found]) {
        if (meant !== list.sort().join('\n')) faults.add(`${version} has ${list}`);
      }
    }
  }
  return published;
}

/** A function that gives name, size and SHA-256 of a file, which it reads again only where it was touched. */
function createDigester(): (path: string) => string {
  const known = new Map<string, string>();
  return (path) => {
    const { ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
    const state = [path, ino, size, mtimeNs, ctimeNs].join(' ');
    const digest = known.get(state) ?? listOf([[basename(path), readFileSync(path)]]);
    known.set(state, digest);
    return digest;
  };
}

function listOf(files: readonly (readonly [name: string, content: string | Uint8Array])[]): string {
  return files
    .map(([name, content]) => `${name} ${Buffer.byteLength(content)} ${sha256(content)}`)
    .sort()
    .join('\n');
}
