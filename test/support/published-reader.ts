/**
 * A reader of `images.json` that looks whenever the document is replaced, and compares what it names with
 * what was meant to be there: the files as they lie with whoever uploads them.
 */
import { readFileSync, watch } from 'node:fs';
import { join } from 'node:path';
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
  let published: string[] = [];

  const look = () => {
    try {
      published = readOnce(root, { expected, faults });
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

/** Reads the document and, before anything else can happen in this process, the files that it names. */
function readOnce(
  root: string,
  { expected, faults }: { expected: ReadonlyMap<string, string>; faults: Set<string> },
): string[] {
  const { products } = parseImages(readFileSync(join(root, 'streams/v1/images.json'), 'utf8'));
  const published: string[] = [];
  for (const [id, product] of Object.entries(products)) {
    for (const { name, items } of versionsOf(product)) {
      const version = `${id.replaceAll(':', '/')}/${name}`;
      published.push(version);
      const paths = new Map(items.map((item) => [item.path, `${item.size} ${item.sha256}`]));
      const named = [...paths].map(([path, said]) => `${path.split('/').at(-1)} ${said}`);
      const found = [...paths.keys()].map(
        (path) => [path.split('/').at(-1) as string, readFileSync(join(root, path))] as const,
      );
      const meant = expected.get(version);
      if (meant !== named.sort().join('\n')) faults.add(`${version} is named with ${named}`);
      if (meant !== listOf(found)) faults.add(`${version} has ${listOf(found)}`);
    }
  }
  return published;
}

function listOf(files: readonly (readonly [name: string, content: string | Uint8Array])[]): string {
  return files
    .map(([name, content]) => `${name} ${Buffer.byteLength(content)} ${sha256(content)}`)
    .sort()
    .join('\n');
}
