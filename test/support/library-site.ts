/** A root whose images are kept as in the daemon, by a pipeline, a runner and a library of this process. */
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { parseImages } from '../../src/catalog/published.js';
import {
  createLibrary,
  type KeptLibrary,
  type LibraryConfig,
  type LibraryOptions,
} from '../../src/daemon/library.js';
import { createRunner, type Runner } from '../../src/daemon/runner.js';
import { createPool } from '../../src/disk/pool.js';
import { createPipeline, type Pipeline, type RunResult } from '../../src/pipeline.js';
import type { LibraryImage, UploadFacts } from '../../src/server/lxd/contract.js';
import { archive } from './image-files.js';
import { type Compression, compress, metadataYaml, sha256, squashfs } from './image-tree.js';
import { type LogEvent, memoryLog } from './memory-log.js';
import { temporaryFolder } from './temporary.js';

export interface LibrarySite {
  root: string;
  library: KeptLibrary;
  runner: Runner;
  pipeline: Pipeline;
  /** Of all runs so far. */
  results: RunResult[];
  events: LogEvent[];
  config: LibraryConfig;
  /** Ends library and runner; they end with the test as well. */
  close(): Promise<void>;
}

export interface SiteOptions {
  /** An existing root. Default: an empty one. */
  root?: string;
  maxSize?: number;
  removalGrace?: number;
  /** In milliseconds. Default: an hour. */
  settle?: number;
  reserve?: number;
  /** In place of the runner's own functions. */
  runner?: (runner: Runner) => LibraryOptions['runner'];
}

/** Starts one; nothing is published before somebody asks for it. */
export async function librarySite(
  t: Pick<TestContext, 'after'>,
  options: SiteOptions = {},
): Promise<LibrarySite> {
  const { maxSize = 1e12, removalGrace = 3_600_000, settle = 3_600_000, reserve } = options;
  // What is set up later is cleared away later: the folder goes when nobody writes into it any more.
  const parts: { library?: KeptLibrary; close?: () => Promise<void> } = {};
  t.after(() => parts.close?.());
  const root = options.root ?? (await temporaryFolder(t));
  const [images, streams, state] = ['images', 'streams/v1', 'state'].map((name) =>
    join(root, name),
  );
  const paths = { root, images, streams, state } as Record<
    'root' | 'images' | 'streams' | 'state',
    string
  >;
  await mkdir(paths.images, { recursive: true });
  const { log, events } = memoryLog();
  const results: RunResult[] = [];
  const pool = createPool({ threads: 2 });
  const pipeline = createPipeline({
    paths,
    publish: { settle, gzip: false },
    pool,
    log,
  });
  const runner = createRunner({
    pipeline,
    pool,
    log,
    onActivity: () => {},
    onRun: (result) => {
      results.push(result);
      void parts.library?.ran();
    },
  });
  const config = { paths, uploads: { enabled: true, maxSize }, publish: { removalGrace } };
  const library = createLibrary({
    config,
    pipeline,
    runner: options.runner?.(runner) ?? runner,
    log,
    ...(reserve !== undefined && { reserve }),
  });
  parts.library = library;
  let closing: Promise<unknown> | undefined;
  const close = async () => {
    closing ??= Promise.all([library.close(), runner.close()]);
    await closing;
  };
  parts.close = close;
  return { root, library, runner, pipeline, results, events, config, close };
}

/** Contents of the parts of an image, in the order in which they are sent. */
export type Parts = Partial<Record<'metadata' | 'rootfs' | 'unified', Uint8Array>>;

/** `lxd.tar.xz` with this metadata.yaml. */
export async function metadataOf(yaml: string, compression: Compression = 'gzip'): Promise<Buffer> {
  const tar = await archive([{ name: 'metadata.yaml', type: 'file', content: yaml }]);
  return compress(tar, compression);
}

/** A split image, another one for each `seed`; made on 2026-01-01. */
export async function splitParts(
  seed = '',
  properties: Record<string, string> = { os: 'Demo', release: 'box' },
): Promise<Required<Pick<Parts, 'metadata' | 'rootfs'>>> {
  return { metadata: await metadataOf(metadataYaml(properties)), rootfs: squashfs(seed) };
}

export function fingerprintOf(parts: Parts): string {
  return sha256(...Object.values(parts));
}

/** `bytes` in pieces, as they come from a connection. */
export async function* piecesOf(bytes: Uint8Array, size = 65_536): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** Uploads an image and leaves nothing of it in staging. */
export async function upload(
  { library }: Pick<LibrarySite, 'library'>,
  parts: Parts,
  facts: UploadFacts = {},
): Promise<LibraryImage> {
  const upload = await library.begin({ signal: new AbortController().signal });
  try {
    for (const [part, bytes] of Object.entries(parts)) {
      await upload.write(part as keyof Parts, piecesOf(bytes));
    }
    return await upload.finish(facts);
  } finally {
    await upload.discard();
  }
}

/** What is in staging. */
export async function staged({ root }: Pick<LibrarySite, 'root'>): Promise<string[]> {
  return readdir(join(root, '.staging')).catch(() => []);
}

/** All files and folders below `images`, hidden ones too. */
export async function treeOf({ root }: Pick<LibrarySite, 'root'>): Promise<string[]> {
  return (await readdir(join(root, 'images'), { recursive: true })).sort();
}

/** The paths of the files that `images.json` names. */
export async function publishedPaths({ root }: Pick<LibrarySite, 'root'>): Promise<string[]> {
  const text = await readFile(join(root, 'streams/v1/images.json'), 'utf8');
  const products = Object.values(parseImages(text).products);
  const versions = products.flatMap(({ versions }) => Object.values(versions));
  const paths = versions.flatMap(({ items }) => Object.values(items).map(({ path }) => path));
  return [...new Set(paths)].sort();
}
