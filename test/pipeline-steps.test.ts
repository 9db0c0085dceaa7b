/** Whatever happens to a tree, step by step: what follows it is where one is that starts from nothing. */
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, rename, rm, stat, symlink, utimes } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { createPool } from '../src/disk/pool.js';
import { createPipeline, type Pipeline, type RunResult } from '../src/pipeline.js';
import { metadataArchive, squashfs, writeFiles, writeSums } from './support/image-tree.js';
import { memoryLog } from './support/memory-log.js';
import { inTemporaryFolder } from './support/temporary.js';

const pool = createPool({ threads: 2 });
after(() => pool.close());

/** The second and the third have one product ID, and the first two have aliases in common. */
const products = [
  'a/x/amd64/default',
  'a/x:y/amd64/default',
  'a:x/y/amd64/default',
  'b/x/amd64/cloud',
];
const versions = ['20260101', '20260102', '20260103_12:00'];
const files = [
  'lxd.tar.xz',
  'incus.tar.xz',
  'rootfs.squashfs',
  'disk.qcow2',
  'SHA256SUMS',
  'image.yaml',
  'notes.part',
];
const yamls = [
  'os: One\n',
  'aliases: [same]\n',
  'aliases: [same]\nos: Two\n',
  'nonsense: 1\n',
  ':',
];

type Step =
  | { do: 'add'; product: string; version: string; seed: number; sums: boolean }
  | { do: 'remove'; path: string }
  | { do: 'move'; path: string; to: string }
  | { do: 'put'; product: string; version: string; file: string; seed: number }
  | { do: 'touch'; product: string; version: string; file: string }
  | { do: 'describe'; product: string; text: string };

const product = fc.constantFrom(...products);
const version = fc.constantFrom(...versions);
const file = fc.constantFrom(...files);
const seed = fc.nat(3);

const versionPath = fc.tuple(product, version).map((parts) => parts.join('/'));
const removable = fc.oneof(
  product,
  versionPath,
  fc.tuple(product, version, file).map((parts) => parts.join('/')),
  fc.tuple(product, fc.constant('product.yaml')).map((parts) => parts.join('/')),
);

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('add' as const),
      product,
      version,
      seed,
      sums: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('remove' as const), path: removable }) },
  {
    weight: 2,
    arbitrary: fc.oneof(
      fc.record({ do: fc.constant('move' as const), path: product, to: product }),
      fc.record({ do: fc.constant('move' as const), path: versionPath, to: versionPath }),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('put' as const), product, version, file, seed }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('touch' as const), product, version, file }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('describe' as const),
      product,
      text: fc.constantFrom(...yamls),
    }),
  },
);

/** Several changes between two runs, and whether their files keep the times at which they were made. */
const steps = fc.record({
  changes: fc.array(step, { minLength: 1, maxLength: 3 }),
  young: fc.boolean(),
});

/** Metadata by seed; all archives are of one size, so that only times and inodes tell them apart. */
const archives = await Promise.all(
  [0, 1, 2, 3].map((number) => metadataArchive({ os: `Os${number}` }, 'none')),
);

function contentOf(name: string, number: number): string | Buffer {
  if (name.endsWith('.tar.xz')) return archives[number] as Buffer;
  if (name === 'image.yaml') return `simplestream: {distro_name: Name${number}}\n`;
  if (name === 'SHA256SUMS') return `${String(number).repeat(64)}  rootfs.squashfs\n`;
  return squashfs(`${name} ${number}`);
}

async function apply(images: string, change: Step): Promise<void> {
  if (change.do === 'remove') {
    await rm(join(images, change.path), { recursive: true, force: true });
    return;
  }
  if (change.do === 'move') {
    const to = join(images, change.to);
    await mkdir(dirname(to), { recursive: true });
    // Nothing is moved where nothing is, nor to where something is.
    await rename(join(images, change.path), to).catch(() => undefined);
    return;
  }
  const folder = join(images, change.product);
  if (change.do === 'describe') {
    await writeFiles(folder, { 'product.yaml': change.text });
    return;
  }
  const version = join(folder, change.version);
  if (change.do === 'add') {
    await writeFiles(version, {
      'lxd.tar.xz': contentOf('lxd.tar.xz', change.seed),
      'rootfs.squashfs': contentOf('rootfs.squashfs', change.seed),
    });
    if (change.sums) await writeSums(version);
  }
  if (change.do === 'put') {
    await writeFiles(version, { [change.file]: contentOf(change.file, change.seed) });
  }
  if (change.do === 'touch') {
    const now = new Date();
    await utimes(join(version, change.file), now, now).catch(() => undefined);
  }
}

/**
 * Gives every file written after `since` a time of its own, long ago and later than all given before.
 * @returns the products of these files.
 */
async function settle(images: string, clock: () => number, since: number): Promise<string[]> {
  const touched: string[] = [];
  const entries = await readdir(images, { recursive: true, withFileTypes: true });
  for (const entry of entries.filter((candidate) => candidate.isFile())) {
    const path = join(entry.parentPath, entry.name);
    if ((await stat(path)).mtimeMs < since) continue;
    const time = clock();
    await utimes(path, time, time);
    touched.push(relative(images, path).split('/').slice(0, 4).join('/'));
  }
  return touched;
}

/** A root of its own, in which the images are a link to those of all. */
interface Site {
  streams: string;
  create: () => Pipeline;
}

async function siteIn(folder: string, name: string): Promise<Site> {
  const root = join(folder, name);
  const [images, streams, state] = [
    join(root, 'images'),
    join(root, 'streams/v1'),
    join(root, 'state'),
  ];
  await mkdir(root);
  await symlink(join(folder, 'images'), images);
  const paths = { root, images, streams, state };
  const create = () => {
    const { log } = memoryLog();
    return createPipeline({ paths, publish: { settle: 0, gzip: false }, pool, log });
  };
  return { streams, create };
}

/** What clients and users get to see after a run. */
async function outcomeOf(site: Site, result: RunResult) {
  const [images, index] = await Promise.all(
    ['images.json', 'index.json'].map((name) => readFile(join(site.streams, name), 'utf8')),
  );
  const { products, versions, bytes, problems } = result;
  const told = problems.map((problem) => JSON.stringify(problem)).sort();
  return { images, index, products, versions, bytes, told };
}

/** Where a product, or a version, that came or went was seen to do so. */
function folderAbove(path: string): string {
  return path.split('/').slice(0, -1).join('/');
}

/** The folders that a watcher would name for `changes`, some of them less precisely. */
function foldersOf(changes: readonly Step[]): string[] {
  return changes.flatMap((change, index) => {
    if (change.do === 'move') return [change.path, change.to].map(folderAbove);
    const path = change.do === 'remove' ? change.path : change.product;
    const product = path.split('/').slice(0, 4);
    // A product that comes or goes does so in the folder above it.
    const isDeep = change.do === 'put' || change.do === 'touch' || path.split('/').length > 4;
    return product.slice(0, isDeep ? 4 : index % 4).join('/');
  });
}

test('one pipeline, and one after the other, publish what a first run would', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(steps, { minLength: 1, maxLength: 5 }), async (sequence) => {
      await inTemporaryFolder(async (folder) => {
        const images = join(folder, 'images');
        await mkdir(images);
        let time = 1_767_225_600;
        const clock = () => {
          time += 10;
          return time;
        };
        const [lasting, watching, successive, fresh] = [
          await siteIn(folder, 'lasting'),
          await siteIn(folder, 'watching'),
          await siteIn(folder, 'successive'),
          await siteIn(folder, 'fresh'),
        ] as const;
        const pipeline = lasting.create();
        const watcher = watching.create();
        for (const { changes, young } of sequence) {
          const since = Date.now() - 100;
          for (const change of changes) await apply(images, change);
          const touched = young ? [] : await settle(images, clock, since);
          const expected = await outcomeOf(fresh, await fresh.create().run({ rebuild: true }));
          assert.deepEqual(await outcomeOf(lasting, await pipeline.run()), expected);
          // What could be read only in vain comes up again by itself, and not by a change.
          const folders = [...foldersOf(changes), ...touched, ...watcher.pending().keys()];
          const passed = await watcher.run({ folders, passing: true });
          assert.deepEqual(await outcomeOf(watching, passed), expected);
          assert.deepEqual(await outcomeOf(successive, await successive.create().run()), expected);
        }
      });
    }),
    { numRuns: 30 },
  );
});
