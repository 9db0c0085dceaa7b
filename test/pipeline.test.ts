import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { parseImages } from '../src/catalog/published.js';
import { createPool, type Pool } from '../src/disk/pool.js';
import { createPipeline, type PipelineOptions, type Stage } from '../src/pipeline.js';
import { kill, said, startChild } from './support/children.js';
import { run } from './support/command.js';
import {
  addVersion,
  type Files,
  metadataArchive,
  sha256,
  splitImage,
  squashfs,
  writeFiles,
  writeSums,
} from './support/image-tree.js';
import { type LogEvent, memoryLog } from './support/memory-log.js';
import { needsRoot } from './support/programs.js';
import { temporaryFolder } from './support/temporary.js';

const pool = createPool({ threads: 2 });
after(() => pool.close());

const all = ['images.json.gz', 'images.json', 'index.json.gz', 'index.json'];
/** Long enough ago for a file's stamp to be relied upon, in seconds since 1970. */
const longAgo = 1_767_225_600;

interface Site {
  root: string;
  options: PipelineOptions;
  events: LogEvent[];
  /** One run of a new pipeline, which knows what is kept in the state folder. */
  update: () => ReturnType<ReturnType<typeof createPipeline>['run']>;
}

type Changes = Omit<Partial<PipelineOptions>, 'paths'> & { settle?: number };

function siteIn(root: string, { settle = 0, ...changes }: Changes = {}): Site {
  const { log, events } = memoryLog();
  const [images, streams, state] = ['images', 'streams/v1', 'state'].map((name) =>
    join(root, name),
  );
  const paths = { root, images, streams, state } as PipelineOptions['paths'];
  const options = { paths, publish: { settle, gzip: true }, pool, log, ...changes };
  return { root, options, events, update: () => createPipeline(options).run() };
}

/** An empty site that is gone after the test. */
async function makeSite(t: TestContext, changes: Changes = {}): Promise<Site> {
  const site = siteIn(await temporaryFolder(t), changes);
  await mkdir(site.options.paths.images);
  return site;
}

/** Adds a version whose files were all written long ago. */
async function addOld(root: string, path: string, files?: Files): Promise<string> {
  const folder = await addVersion(root, path, files);
  await makeOld(folder);
  return folder;
}

async function makeOld(folder: string, time = longAgo): Promise<void> {
  for (const name of await readdir(folder)) await utimes(join(folder, name), time, time);
}

/** The documents of `root` by name, and their .gz. */
async function documentsOf({ root }: Site): Promise<Record<string, string>> {
  const folder = join(root, 'streams/v1');
  const entries = (await readdir(folder)).sort();
  const contents = await Promise.all(entries.map((name) => readFile(join(folder, name), 'latin1')));
  return Object.fromEntries(entries.map((name, at) => [name, contents[at] as string]));
}

/** Published versions as `product/version`, sorted. */
async function versionsOf({ root }: Site): Promise<string[]> {
  const { products } = parseImages(await readFile(join(root, 'streams/v1/images.json'), 'utf8'));
  return Object.entries(products)
    .flatMap(([id, { versions }]) => Object.keys(versions).map((version) => `${id}/${version}`))
    .sort();
}

const nothing = { files: 0, bytes: 0 };

/** A tree with something of each kind: split images, sums, YAML, and versions that are held back. */
async function fillTree(root: string): Promise<void> {
  await addOld(root, 'a/x/amd64/default/20260101');
  const checked = await addVersion(root, 'a/x/amd64/default/20260102');
  await writeSums(checked);
  await makeOld(checked, longAgo + 50);
  await addOld(root, 'a/x/arm64/default/20260101');
  await addOld(root, 'b/y/amd64/cloud/20260101', { 'rootfs.squashfs': squashfs('alone') });
  await addOld(root, 'b/y/amd64/default/20260101_12:00');
  const product = join(root, 'images/b/y/amd64/default');
  await writeFiles(product, { 'product.yaml': 'os: Bee\naliases: [bee]\n' });
  await utimes(join(product, 'product.yaml'), longAgo, longAgo);
}

describe('the documents', () => {
  test('are the same, byte for byte, once all state is gone', async (t) => {
    const site = await makeSite(t);
    await fillTree(site.root);
    const first = await site.update();
    const documents = await documentsOf(site);
    assert.deepEqual(await versionsOf(site), [
      'a:x:amd64:default/20260101',
      'a:x:amd64:default/20260102',
      'a:x:arm64:default/20260101',
      'b:y:amd64:default/20260101_12:00',
    ]);
    const { paths } = site.options;
    await rm(paths.state, { recursive: true });
    await rm(paths.streams, { recursive: true });
    const { ms: _ms, ...again } = await site.update();
    assert.deepEqual(await documentsOf(site), documents);
    const { ms: _, ...before } = first;
    assert.deepEqual(again, before);
  });

  test('and all that is said are the same when every file is read again', async (t) => {
    const site = await makeSite(t);
    await fillTree(site.root);
    const { ms: _ms, published: _all, ...first } = await site.update();
    const rebuilding = createPipeline(site.options).run({ rebuild: true });
    const { ms: _, published, ...again } = await rebuilding;
    assert.deepEqual(again, first);
    assert.deepEqual(published, []);
  });

  test('are not touched, nor is any file read, where nothing is new', async (t) => {
    const site = await makeSite(t);
    await fillTree(site.root);
    const pipeline = createPipeline(site.options);
    const first = await pipeline.run();
    assert.deepEqual(first.published, all);
    const states = async () => {
      const { streams, state } = site.options.paths;
      const [records = ''] = await readdir(state);
      const paths = [...all.map((name) => join(streams, name)), join(state, records)];
      const stats = await Promise.all(paths.map((path) => stat(path, { bigint: true })));
      return stats.map(({ ino, mtimeNs, ctimeNs }) => ({ ino, mtimeNs, ctimeNs }));
    };
    const before = await states();
    for (const update of [() => pipeline.run(), site.update, site.update]) {
      const { ms: _ms, ...result } = await update();
      const { ms: _, ...expected } = { ...first, read: nothing, published: [] };
      assert.deepEqual(result, expected);
    }
    assert.deepEqual(await states(), before);
  });

  test('of an empty tree are there, and empty', async (t) => {
    const site = await makeSite(t);
    const { products, versions, bytes, published } = await site.update();
    assert.deepEqual(
      { products, versions, bytes, published },
      { products: 0, versions: 0, bytes: 0, published: all },
    );
    assert.deepEqual(await versionsOf(site), []);
  });

  test('lose what was removed, also in the eyes of a later pipeline', async (t) => {
    const site = await makeSite(t);
    await fillTree(site.root);
    await site.update();
    await rm(join(site.root, 'images/a'), { recursive: true });
    await site.update();
    assert.deepEqual(await versionsOf(site), ['b:y:amd64:default/20260101_12:00']);
    assert.deepEqual((await site.update()).published, []);
  });
});

describe('what is read', () => {
  /** A site with three versions of two products, published; `sizes` in bytes. */
  async function makePublished(t: TestContext) {
    const site = await makeSite(t);
    const folders: string[] = [];
    for (const path of [
      'a/x/amd64/default/20260101',
      'a/x/amd64/default/20260102',
      'b/y/amd64/default/20260101',
    ]) {
      folders.push(await addOld(site.root, path));
    }
    const pipeline = createPipeline(site.options);
    await pipeline.run();
    const folder = folders[0] as string;
    const [metadata, root] = await Promise.all(
      ['lxd.tar.xz', 'rootfs.squashfs'].map((name) => readFile(join(folder, name))),
    );
    return { site, folder, metadata: metadata as Buffer, root: root as Buffer, pipeline };
  }

  const later = longAgo + 100;

  test('is a version whose root was touched, and no other', async (t) => {
    const { site, folder, metadata, root } = await makePublished(t);
    await utimes(join(folder, 'rootfs.squashfs'), later, later);
    const { read } = await site.update();
    // The combined hash begins with the metadata.
    assert.deepEqual(read, { files: 2, bytes: metadata.length + root.length });
    assert.deepEqual((await site.update()).read, nothing);
  });

  test('is metadata that was touched, and nothing else', async (t) => {
    const { site, folder, metadata } = await makePublished(t);
    await utimes(join(folder, 'lxd.tar.xz'), later, later);
    assert.deepEqual((await site.update()).read, { files: 1, bytes: metadata.length });
  });

  test('is a product.yaml that is new, and nothing else', async (t) => {
    const { site, folder } = await makePublished(t);
    await writeFiles(join(folder, '..'), { 'product.yaml': 'os: New\n' });
    await utimes(join(folder, '../product.yaml'), later, later);
    assert.deepEqual((await site.update()).read, { files: 1, bytes: 8 });
  });

  test('is the version that was added; only images.json is written, for nothing is newer', async (t) => {
    const { site, pipeline } = await makePublished(t);
    const files = await splitImage('new');
    await addOld(site.root, 'b/y/amd64/default/20260102', files);
    const bytes = Object.values(files).reduce((sum, file) => sum + file.length, 0);
    const { read, published } = await pipeline.run();
    assert.deepEqual(read, { files: 2, bytes });
    assert.deepEqual(published, ['images.json.gz', 'images.json']);
  });

  test('is a root together with metadata that was replaced: its combined hash is a new one', async (t) => {
    const { site, folder, metadata, root } = await makePublished(t);
    const combined = async () => {
      const text = await readFile(join(site.root, 'streams/v1/images.json'), 'utf8');
      const product = parseImages(text).products['a:x:amd64:default'];
      const item = product?.versions['20260101']?.items['lxd.tar.xz'] as Record<string, unknown>;
      return [item.sha256, item.combined_squashfs_sha256];
    };
    assert.deepEqual(await combined(), [sha256(metadata), sha256(metadata, root)]);
    const other = await metadataArchive({ os: 'Other' });
    await writeFile(join(folder, 'lxd.tar.xz'), other);
    await utimes(join(folder, 'lxd.tar.xz'), later, later);
    const { read } = await site.update();
    assert.deepEqual(read, { files: 2, bytes: other.length + root.length });
    assert.deepEqual(await combined(), [sha256(other), sha256(other, root)]);
  });

  test('is what changed in size under the same times', async (t) => {
    const { site, folder, root } = await makePublished(t);
    await writeFile(join(folder, 'rootfs.squashfs'), squashfs('longer', root.length + 1));
    await makeOld(folder);
    assert.equal((await site.update()).read.files, 2);
  });

  test('so young that it could change unnoticed is read once more, and then no more', async (t) => {
    const site = await makeSite(t);
    const folder = await addVersion(site.root, 'a/x/amd64/default/20260101');
    // Such times have file systems that count whole seconds: it is two of them before one is past.
    await makeOld(folder, Math.ceil(Date.now() / 1000));
    assert.equal((await site.update()).read.files, 2);
    assert.deepEqual(await versionsOf(site), ['a:x:amd64:default/20260101']);
    assert.equal((await site.update()).read.files, 2);
    await makeOld(folder);
    assert.equal((await site.update()).read.files, 2);
    assert.deepEqual((await site.update()).read, nothing);
  });
});

describe('a version that was changed a moment ago', () => {
  const version = 'a:x:amd64:default/20260101';

  test('is published by one run, which waits for it to settle', async (t) => {
    const settle = 600;
    const site = await makeSite(t, { settle });
    const folder = await addVersion(site.root, 'a/x/amd64/default/20260101');
    const stages: Stage[] = [];
    const { problems } = await createPipeline(site.options).run({
      onStage: (stage) => stages.push(stage),
    });
    assert.deepEqual(problems, []);
    assert.deepEqual(await versionsOf(site), [version]);
    assert.ok(stages.includes('settle'), 'it had settled before it was looked at');
    const { ctimeMs } = await stat(join(folder, 'lxd.tar.xz'));
    assert.ok(Date.now() - Math.floor(ctimeMs) >= settle, 'it was published too early');
  });

  test('is published at once where SHA256SUMS says that it is whole', async (t) => {
    const site = await makeSite(t, { settle: 3_600_000 });
    await writeSums(await addVersion(site.root, 'a/x/amd64/default/20260101'));
    const stages: Stage[] = [];
    const { problems } = await createPipeline(site.options).run({
      onStage: (stage) => stages.push(stage),
    });
    assert.deepEqual(problems, []);
    assert.deepEqual([...new Set(stages)], ['scan', 'digest', 'publish']);
    assert.deepEqual(await versionsOf(site), [version]);
  });

  test('is never published without a file that came while it was waited for', async (t) => {
    const site = await makeSite(t, { settle: 300 });
    const folder = await addVersion(site.root, 'a/x/amd64/default/20260101');
    const pipeline = createPipeline(site.options);
    const items = async () => {
      const text = await readFile(join(site.root, 'streams/v1/images.json'), 'utf8');
      const found = parseImages(text).products['a:x:amd64:default']?.versions['20260101']?.items;
      return found && Object.keys(found).sort();
    };
    const whole = ['incus.tar.xz', 'lxd.tar.xz', 'notes.txt', 'rootfs.squashfs'];
    await pipeline.run({
      onStage: (stage) => stage === 'settle' && writeFileSync(join(folder, 'notes.txt'), 'late'),
    });
    // It is as young again as the file, and so held back, unless this process was held up for long.
    assert.deepEqual((await items()) ?? whole, whole);
    await pipeline.run();
    assert.deepEqual(await items(), whole);
  });

  test('is held back for as long as it grows, and holds nothing else back', async (t) => {
    const site = await makeSite(t, { settle: 200 });
    const folder = await addVersion(site.root, 'a/x/amd64/default/20260101');
    await addVersion(site.root, 'b/y/amd64/default/20260101');
    const writer = startChild('grow', join(folder, 'rootfs.squashfs'));
    t.after(() => kill(writer));
    await said(writer);
    const pipeline = createPipeline(site.options);
    const { problems } = await pipeline.run();
    assert.equal(problems.length, 1);
    assert.equal(problems[0]?.path, 'a/x/amd64/default/20260101');
    assert.ok(['settling', 'changed'].includes(problems[0]?.code ?? ''), problems[0]?.code);
    assert.deepEqual(await versionsOf(site), ['b:y:amd64:default/20260101']);
    await kill(writer);
    assert.deepEqual((await pipeline.run()).problems, []);
    assert.deepEqual(await versionsOf(site), [version, 'b:y:amd64:default/20260101']);
  });

  test('is settled by the next run, whoever saw it first, though nothing changed since', async (t) => {
    const site = await makeSite(t, { settle: 200 });
    await addVersion(site.root, 'a/x/amd64/default/20260101');
    const abort = new AbortController();
    const interrupted = createPipeline(site.options).run({
      signal: abort.signal,
      onStage: (stage) => stage === 'settle' && abort.abort(),
    });
    await assert.rejects(interrupted, { name: 'ServerError', code: 'INTERRUPTED' });
    assert.equal(existsSync(site.options.paths.streams), false);
    assert.deepEqual((await site.update()).problems, []);
    assert.deepEqual(await versionsOf(site), [version]);
  });
});

/** `change`, done at the first call only. */
function once(change: () => Promise<unknown>): () => Promise<void> {
  let done = false;
  return async () => {
    if (!done) await change();
    done = true;
  };
}

describe('a file that changes while it is read', () => {
  const path = 'a/x/amd64/default/20260101';

  /** Runs, and changes the tree between the scan and the reading. */
  function runWhile(site: Site, change: () => Promise<unknown>) {
    const changing: Pool = {
      ...pool,
      async digest(...args) {
        await change();
        return pool.digest(...args);
      },
    };
    return createPipeline({ ...site.options, pool: changing }).run();
  }

  test('that is replaced is read again in the same run', async (t) => {
    const site = await makeSite(t);
    const file = join(await addOld(site.root, path), 'rootfs.squashfs');
    const other = squashfs('other', 2000);
    const { problems } = await runWhile(
      site,
      once(() => writeFile(file, other)),
    );
    assert.deepEqual(problems, []);
    const text = await readFile(join(site.options.paths.streams, 'images.json'), 'utf8');
    assert.match(text, new RegExp(`"sha256":"${sha256(other)}","size":2000`));
  });

  /** Runs, and changes the tree once files have been read. */
  function runAfter(site: Site, change: () => Promise<unknown>) {
    const changing: Pool = {
      ...pool,
      async digest(...args) {
        await pool.digest(...args);
        await change();
      },
    };
    return createPipeline({ ...site.options, pool: changing }).run();
  }

  const changes = [
    {
      what: 'removed',
      problem: [path, 'root-missing'],
      change: (file: string) => rm(file, { force: true }),
    },
    {
      what: 'turned into a FIFO',
      problem: [`${path}/rootfs.squashfs`, 'kind'],
      change: async (file: string) => {
        await rm(file);
        await run('mkfifo', [file]);
      },
    },
  ];
  for (const { what, problem, change } of changes) {
    test(`that is ${what}: its version is held back, and taken up when it is whole`, async (t) => {
      const site = await makeSite(t);
      const folder = await addOld(site.root, path);
      await addOld(site.root, 'b/y/amd64/default/20260101');
      const file = join(folder, 'rootfs.squashfs');
      const { problems } = await runWhile(
        site,
        once(() => change(file)),
      );
      assert.deepEqual(
        problems.map((found) => [found.path, found.code]),
        [problem],
      );
      assert.deepEqual(await versionsOf(site), ['b:y:amd64:default/20260101']);
      await rm(file, { force: true });
      await writeFiles(folder, { 'rootfs.squashfs': squashfs('whole') });
      assert.deepEqual((await site.update()).problems, []);
    });
  }

  test('that is changed once it has been read is not published as it was', async (t) => {
    const site = await makeSite(t);
    const file = join(await addOld(site.root, path), 'rootfs.squashfs');
    const later = squashfs('later', 3000);
    const { problems } = await runAfter(
      site,
      once(() => writeFile(file, later)),
    );
    assert.deepEqual(problems, []);
    const text = await readFile(join(site.options.paths.streams, 'images.json'), 'utf8');
    assert.match(text, new RegExp(`"sha256":"${sha256(later)}","size":3000`));
  });

  test('that belongs to another product, and is removed meanwhile, is not published', async (t) => {
    const site = await makeSite(t);
    await addOld(site.root, 'b/y/amd64/default/20260101');
    await site.update();
    await addOld(site.root, path);
    await runAfter(site, () => rm(join(site.root, 'images/b'), { recursive: true, force: true }));
    assert.deepEqual(await versionsOf(site), ['a:x:amd64:default/20260101']);
  });

  // Where nothing is kept, this waits for ever: the limit only turns that into a failure.
  test('is kept from time to time, for a run that is killed', { timeout: 60_000 }, async (t) => {
    const site = await makeSite(t, { saveEvery: 0 });
    await addOld(site.root, path);
    const { state } = site.options.paths;
    await runAfter(site, async () => {
      while (!existsSync(state) || (await readdir(state)).every((name) => name.startsWith('.'))) {
        await new Promise(setImmediate);
      }
    });
    assert.equal((await site.update()).read.files, 0);
  });

  test('is known metadata, where the root is new: the run ends, and the next one publishes', async (t) => {
    const site = await makeSite(t);
    const folder = await addOld(site.root, path);
    await site.update();
    await writeFile(join(folder, 'rootfs.squashfs'), squashfs('new'));
    const metadata = await metadataArchive({ os: 'New', more: 'bytes' });
    let reads = 0;
    const { problems } = await runWhile(site, async () => {
      reads += 1;
      assert.ok(reads < 10, 'it reads without end');
      await writeFile(join(folder, 'lxd.tar.xz'), metadata);
    });
    assert.deepEqual(
      problems.map((problem) => [problem.path, problem.code]),
      [[path, 'changed']],
    );
    assert.deepEqual((await site.update()).problems, []);
    assert.deepEqual(await versionsOf(site), ['a:x:amd64:default/20260101']);
  });
});

test('a file that could not be read is tried again though nothing has changed', async (t) => {
  const site = await makeSite(t);
  const folder = await addOld(site.root, 'a/x/amd64/default/20260101');
  const { root } = site;
  for (const path of [root, site.options.paths.images]) await chmod(path, 0o755);
  // Readable for a group that nobody is in: the scan finds nothing wrong with that.
  if (process.geteuid?.() === 0) await chown(join(folder, 'rootfs.squashfs'), 0, 1);
  await chmod(join(folder, 'rootfs.squashfs'), 0o040);
  const pipeline = createPipeline(site.options);
  const back: (() => void)[] = [];
  const { problems } = await pipeline.run({
    onStage: (stage) => {
      if (stage === 'digest') back.push(becomeNobody());
      if (stage === 'publish') for (const undo of back.splice(0)) undo();
    },
  });
  assert.deepEqual(
    problems.map(({ path, code }) => [path, code]),
    [['a/x/amd64/default/20260101', 'unreadable']],
  );
  assert.deepEqual(await versionsOf(site), []);
  // Its mode changes back without any of what a scan looks at: size, modification time, inode.
  await chmod(join(folder, 'rootfs.squashfs'), 0o644);
  assert.deepEqual((await pipeline.run()).problems, []);
  assert.deepEqual(await versionsOf(site), ['a:x:amd64:default/20260101']);
});

/** Gives up the rights of root until the function that it returns is called; nothing for others. */
function becomeNobody(): () => void {
  const { geteuid, seteuid } = process;
  if (geteuid?.() !== 0 || seteuid === undefined) return () => {};
  seteuid(65534);
  return () => seteuid(0);
}

describe('a run that is interrupted', () => {
  /** Adds a version that takes far longer to read than everything else. */
  async function addHuge(root: string): Promise<string> {
    const folder = await addOld(root, 'z/huge/amd64/default/20260101');
    await truncate(join(folder, 'rootfs.squashfs'), 64 * 1024 ** 3);
    await makeOld(folder);
    return folder;
  }

  /** Interrupts a run of a pipeline with `options` as soon as something has been read. */
  async function interrupt(
    site: Site,
    pipelineOf: (pool: Pool) => ReturnType<typeof createPipeline>,
  ) {
    const abort = new AbortController();
    const interrupting: Pool = {
      ...pool,
      digest: (imagesDir, jobs, { onResults, ...options }) =>
        pool.digest(imagesDir, jobs, {
          ...options,
          onResults: (results) => {
            onResults(results);
            abort.abort();
          },
        }),
    };
    const pipeline = pipelineOf(interrupting);
    await assert.rejects(pipeline.run({ signal: abort.signal }), {
      name: 'ServerError',
      code: 'INTERRUPTED',
    });
    await rm(join(site.root, 'images/z'), { recursive: true });
    return pipeline;
  }

  for (const settle of [0, 100]) {
    test(`keeps what it has read for later pipelines, with ${settle} ms to settle`, async (t) => {
      const site = await makeSite(t, { settle });
      await addOld(site.root, 'a/x/amd64/default/20260101');
      await addHuge(site.root);
      await interrupt(site, (interrupting) =>
        createPipeline({ ...site.options, pool: interrupting }),
      );
      assert.equal(existsSync(site.options.paths.streams), false);
      assert.deepEqual((await site.update()).read, nothing);
      assert.deepEqual(await versionsOf(site), ['a:x:amd64:default/20260101']);
    });
  }

  for (const rebuild of [false, true]) {
    test(`keeps what it has read for itself, rebuilding or not: ${rebuild}`, async (t) => {
      const site = await makeSite(t);
      await addOld(site.root, 'a/x/amd64/default/20260101');
      let use = pool;
      const changeable: Pool = { ...pool, digest: (...args) => use.digest(...args) };
      const pipeline = createPipeline({ ...site.options, pool: changeable });
      await pipeline.run({ rebuild });
      await addOld(site.root, 'a/x/amd64/default/20260102');
      await addHuge(site.root);
      await interrupt(site, (interrupting) => {
        use = interrupting;
        return pipeline;
      });
      use = pool;
      assert.deepEqual((await pipeline.run()).read, nothing);
      assert.deepEqual(await versionsOf(site), [
        'a:x:amd64:default/20260101',
        'a:x:amd64:default/20260102',
      ]);
    });
  }
});

describe('files that were moved are not read again', () => {
  const moves: [what: string, from: string, to: string, published: string][] = [
    [
      'with their version',
      'a/x/amd64/default/20260101',
      'a/x/amd64/other/20260101',
      'a:x:amd64:other',
    ],
    ['with their product', 'a/x/amd64/default', 'a/x/amd64/other', 'a:x:amd64:other'],
    ['with their environment', 'a', 'b', 'b:x:amd64:default'],
  ];
  for (const [what, from, to, published] of moves) {
    test(`${what}, and need not settle`, async (t) => {
      const site = await makeSite(t, { settle: 3_600_000 });
      await addOld(site.root, 'a/x/amd64/default/20260101');
      const pipeline = createPipeline(site.options);
      pipeline.configure({ settle: 0, gzip: true });
      await pipeline.run({ passing: true });
      pipeline.configure(site.options.publish);
      const images = join(site.root, 'images');
      await mkdir(dirname(join(images, to)), { recursive: true });
      await rename(join(images, from), join(images, to));
      const { read } = await pipeline.run({ passing: true });
      assert.deepEqual(read, nothing);
      assert.deepEqual(await versionsOf(site), [`${published}/20260101`]);
      pipeline.configure({ settle: 0, gzip: true });
      assert.equal((await pipeline.run({ rebuild: true, passing: true })).read.files, 2);
    });
  }

  test('also where they go in one run and come in a later one', async (t) => {
    const site = await makeSite(t);
    await addOld(site.root, 'a/x/amd64/default/20260101');
    const pipeline = createPipeline(site.options);
    await pipeline.run({ passing: true });
    const images = join(site.root, 'images');
    await rename(join(images, 'a'), join(site.root, 'aside'));
    await pipeline.run({ passing: true });
    await rename(join(site.root, 'aside'), join(images, 'b'));
    assert.deepEqual((await pipeline.run({ passing: true })).read, nothing);
    assert.deepEqual(await versionsOf(site), ['b:x:amd64:default/20260101']);
  });

  test('unless they are others by the same name', async (t) => {
    const site = await makeSite(t);
    await addOld(site.root, 'a/x/amd64/default/20260101');
    const pipeline = createPipeline(site.options);
    await pipeline.run({ passing: true });
    await rm(join(site.root, 'images/a'), { recursive: true });
    await addOld(site.root, 'b/x/amd64/default/20260101', await splitImage('other'));
    assert.equal((await pipeline.run({ passing: true })).read.files, 2);
  });
});

test('other settings hold from the next run on', async (t) => {
  const site = await makeSite(t, { settle: 3_600_000 });
  await addVersion(site.root, 'a/x/amd64/default/20260101');
  const pipeline = createPipeline(site.options);
  await pipeline.run({ passing: true });
  assert.deepEqual(await versionsOf(site), []);
  pipeline.configure({ settle: 0, gzip: false });
  await pipeline.run({ passing: true });
  assert.deepEqual(await versionsOf(site), ['a:x:amd64:default/20260101']);
  assert.deepEqual(Object.keys(await documentsOf(site)), ['images.json', 'index.json']);
});

test('a rebuild that could not begin is made up for', async (t) => {
  const site = await makeSite(t);
  await addOld(site.root, 'a/x/amd64/default/20260101');
  const pipeline = createPipeline(site.options);
  await pipeline.run();
  const { images } = site.options.paths;
  await rename(images, `${images}-away`);
  await assert.rejects(pipeline.run({ rebuild: true }), { code: 'NOT_INITIALISED' });
  await rename(`${images}-away`, images);
  assert.equal((await pipeline.run()).read.files, 2);
  assert.deepEqual((await pipeline.run()).read, nothing);
});

test('an aborted run gives up its look at the tree', async (t) => {
  const site = await makeSite(t);
  await addOld(site.root, 'a/x/amd64/default/20260101');
  const ending = new AbortController();
  const scans: unknown[] = [];
  const aborting: Pool = {
    ...pool,
    listProducts: async (...args) => {
      ending.abort();
      return await pool.listProducts(...args);
    },
    scan: async (...args) => {
      const found = await pool.scan(...args);
      scans.push(...found);
      return found;
    },
  };
  const pipeline = createPipeline({ ...site.options, pool: aborting });
  await assert.rejects(pipeline.run({ signal: ending.signal }), { code: 'INTERRUPTED' });
  assert.deepEqual(scans, []);
});

describe('a passing run', () => {
  test('does not wait for what is fresh, and tells when to come again', async (t) => {
    const site = await makeSite(t, { settle: 400 });
    await addOld(site.root, 'a/x/amd64/default/20260101');
    const folder = await addVersion(site.root, 'b/y/amd64/default/20260101');
    const pipeline = createPipeline(site.options);
    const { problems } = await pipeline.run({ passing: true });
    assert.deepEqual(
      problems.map(({ code }) => code),
      ['settling', 'settling'],
    );
    const { ctimeMs } = await stat(join(folder, 'rootfs.squashfs'));
    const again = pipeline.pending().get('b/y/amd64/default');
    assert.equal(again, Math.trunc(ctimeMs) + 400);
    while (Date.now() <= again) await new Promise(setImmediate);
    await pipeline.run({ passing: true, folders: [...pipeline.pending().keys()] });
    assert.deepEqual(await versionsOf(site), [
      'a:x:amd64:default/20260101',
      'b:y:amd64:default/20260101',
    ]);
    assert.deepEqual([...pipeline.pending().keys()], []);
  });

  test('keeps records for others only when it is told to', async (t) => {
    const site = await makeSite(t);
    await addOld(site.root, 'a/x/amd64/default/20260101');
    const pipeline = createPipeline(site.options);
    await pipeline.run({ passing: true });
    assert.equal(existsSync(site.options.paths.state), false);
    await pipeline.save();
    assert.deepEqual((await site.update()).read, nothing);
    const [name = ''] = await readdir(site.options.paths.state);
    const file = join(site.options.paths.state, name);
    const { ino } = await stat(file);
    await pipeline.run({ passing: true });
    await pipeline.save();
    assert.equal((await stat(file)).ino, ino);
  });

  test('looks only where it is told to, but everywhere the first time', async (t) => {
    const site = await makeSite(t);
    await addOld(site.root, 'a/x/amd64/default/20260101');
    const pipeline = createPipeline(site.options);
    const look = (...folders: string[]) => pipeline.run({ passing: true, folders });
    await look();
    assert.deepEqual(await versionsOf(site), ['a:x:amd64:default/20260101']);
    await addOld(site.root, 'a/x/amd64/default/20260102');
    await addOld(site.root, 'b/y/amd64/default/20260101');
    assert.deepEqual((await look()).published, []);
    await look('a/x/amd64/default');
    assert.deepEqual(await versionsOf(site), [
      'a:x:amd64:default/20260101',
      'a:x:amd64:default/20260102',
    ]);
    await rm(join(site.root, 'images/a'), { recursive: true });
    assert.deepEqual(
      (await look('c')).published,
      all,
      'products that came or went are always seen',
    );
    assert.deepEqual(await versionsOf(site), ['b:y:amd64:default/20260101']);
    await rm(join(site.root, 'images/b'), { recursive: true });
    await look('b/y/amd64/default');
    assert.deepEqual(await versionsOf(site), []);
  });

  test('takes along products with links to what has changed, moved away or come back', async (t) => {
    const site = await makeSite(t);
    const [one, two, three] = ['one', 'two', 'three'].map((name) => `a/${name}/amd64/default`);
    const target = await addOld(site.root, `${one}/20260101`);
    const linking = await addOld(site.root, `${two}/20260101`);
    const file = join(linking, 'rootfs.squashfs');
    await rm(file);
    await symlink(join(target, 'rootfs.squashfs'), file);
    await mkdir(join(site.root, 'images', `${three}`), { recursive: true });
    await symlink(
      '../../../one/amd64/default/20260101',
      join(site.root, `images/${three}/20260101`),
    );
    const pipeline = createPipeline(site.options);
    const look = (folder = '') => pipeline.run({ passing: true, folders: [folder] });
    const ids = (...names: string[]) => names.map((name) => `a:${name}:amd64:default/20260101`);
    await look();
    assert.deepEqual(await versionsOf(site), ids('one', 'three', 'two'));
    const sizes = async () => {
      const text = await readFile(join(site.root, 'streams/v1/images.json'), 'utf8');
      return [...text.matchAll(/rootfs.squashfs","sha256":"[^"]*","size":(\d+)/g)].map(
        ([, size]) => size,
      );
    };
    await writeFiles(target, { 'rootfs.squashfs': squashfs('other', 2000) });
    await makeOld(target);
    await look(one);
    assert.deepEqual(await sizes(), ['2000', '2000', '2000']);
    const [there, away] = [join(site.root, 'images/a/one'), join(site.root, 'images/a/one-away')];
    await rename(there, away);
    await look('a/one');
    assert.deepEqual(await versionsOf(site), ids('one-away'));
    await rename(away, there);
    await look('a/one');
    await look('a/one-away');
    assert.deepEqual(await versionsOf(site), ids('one', 'three', 'two'));
  });

  test('takes along products with links by way of other links', async (t) => {
    const site = await makeSite(t);
    const version = (name: string) => join(site.root, `images/a/${name}/amd64/default/20260101`);
    const addLink = async (name: string, target: string) => {
      const link = join(await addOld(site.root, `a/${name}/amd64/default/20260101`), file);
      await rm(link);
      await symlink(target, link);
    };
    const file = 'rootfs.squashfs';
    const [source, other] = [join(version('source'), file), join(version('other'), file)];
    await addOld(site.root, 'a/source/amd64/default/20260101');
    await writeFiles(await addOld(site.root, 'a/other/amd64/default/20260101'), {
      [file]: squashfs('other', 2000),
    });
    await makeOld(version('other'));
    await addLink('third', source);
    await addLink('second', join(version('third'), file));
    await addLink('first', join(version('second'), file));
    await mkdir(dirname(version('folder')), { recursive: true });
    await symlink(version('source'), version('folder'));
    await addLink('through', join(version('folder'), file));
    const pipeline = createPipeline(site.options);
    const look = (folder: string) => pipeline.run({ passing: true, folders: [folder] });
    const sizeOf = async (name: string) => {
      const text = await readFile(join(site.root, 'streams/v1/images.json'), 'utf8');
      const { products } = JSON.parse(text);
      return products[`a:${name}:amd64:default`].versions['20260101'].items[file].size;
    };
    await look('');
    const size = await sizeOf('first');
    assert.notEqual(size, 2000);
    await rm(join(version('third'), file));
    await symlink(other, join(version('third'), file));
    await look('a/third/amd64/default');
    assert.equal(await sizeOf('first'), 2000, 'a link in the midst of the chain leads elsewhere');
    assert.equal(await sizeOf('through'), size);
    await writeFiles(version('source'), { [file]: squashfs('third', 3000) });
    await makeOld(version('source'));
    await look('a/source/amd64/default');
    assert.equal(await sizeOf('through'), 3000, 'the target of a path through a link has changed');
  });

  test('keeps what could not be published above the products', async (t) => {
    const site = await makeSite(t);
    await addOld(site.root, 'a/x/amd64/default/20260101');
    await mkdir(join(site.root, 'images/a b'));
    const pipeline = createPipeline(site.options);
    const codes = async (folders?: string[]) =>
      (await pipeline.run({ passing: true, ...(folders && { folders }) })).problems.map(
        ({ code }) => code,
      );
    assert.deepEqual(await codes(), ['name']);
    assert.deepEqual(await codes(['a/x/amd64/default']), ['name']);
    await rm(join(site.root, 'images/a b'), { recursive: true });
    assert.deepEqual(await codes(['']), []);
  });
});

describe('a generation', () => {
  const contentOf = async (root: string, path: string) => await readFile(join(root, path));

  test('is what stands in the root: the documents, and every file that they name', async (t) => {
    const site = await makeSite(t);
    await fillTree(site.root);
    const pipeline = createPipeline(site.options);
    assert.equal(await pipeline.generation(), undefined, 'nothing has been published');
    await pipeline.run();
    const generation = await pipeline.generation();
    assert.ok(generation);
    assert.deepEqual(
      generation.documents.map(({ path }) => path),
      ['images.json.gz', 'images.json', 'index.json.gz', 'index.json'].map(
        (name) => `streams/v1/${name}`,
      ),
      'in the order in which they get their names',
    );
    for (const document of generation.documents) {
      const bytes = await contentOf(site.root, document.path);
      assert.ok(bytes.equals(Buffer.concat(document.content)), document.path);
      assert.deepEqual([bytes.length, sha256(bytes)], [document.size, document.sha256]);
    }
    assert.equal(generation.id, sha256(await contentOf(site.root, 'streams/v1/images.json')));
    const { products } = JSON.parse(
      (await contentOf(site.root, 'streams/v1/images.json')).toString(),
    ) as { products: Record<string, { versions: Record<string, { items: object }> }> };
    const named = Object.values(products)
      .flatMap(({ versions }) => Object.values(versions))
      .flatMap(({ items }) => Object.values(items) as { path: string }[])
      .map(({ path }) => path);
    assert.ok(named.length > 2);
    assert.deepEqual([...generation.files.keys()].sort(), [...new Set(named)].sort());
    for (const [path, facts] of generation.files) {
      const bytes = await contentOf(site.root, path);
      assert.deepEqual({ size: bytes.length, sha256: sha256(bytes) }, facts, path);
    }
  });

  test('stays the same until something else is published, also over a restart', async (t) => {
    const site = await makeSite(t);
    await addOld(site.root, 'a/x/amd64/default/20260101');
    const pipeline = createPipeline(site.options);
    await pipeline.run();
    const first = await pipeline.generation();
    await pipeline.run();
    assert.equal(await pipeline.generation(), first);
    const other = createPipeline(site.options);
    assert.deepEqual((await other.run()).published, []);
    assert.equal((await other.generation())?.id, first?.id);
    await addOld(site.root, 'b/x/amd64/default/20260101');
    await pipeline.run();
    const second = await pipeline.generation();
    assert.notEqual(second?.id, first?.id);
    assert.equal(second?.files.size, 2 * (first?.files.size ?? 0));
    pipeline.configure({ settle: 0, gzip: false });
    await pipeline.run();
    assert.deepEqual(
      (await pipeline.generation())?.documents.map(({ path }) => path),
      ['streams/v1/images.json', 'streams/v1/index.json'],
    );
  });
});

test('a disk that is full costs nothing that was read', needsRoot('mount', 'umount'), async (t) => {
  const site = await makeSite(t);
  await fillTree(site.root);
  const { streams } = site.options.paths;
  await mkdir(streams, { recursive: true });
  await run('mount', ['-t', 'tmpfs', '-o', 'size=8k', 'tmpfs', streams]);
  t.after(() => run('umount', [streams]).catch(() => undefined));
  await writeFile(join(streams, 'ballast'), Buffer.alloc(8192));
  const pipeline = createPipeline(site.options);
  await assert.rejects(pipeline.run(), { name: 'ServerError', code: 'DISK_FULL' });
  await run('umount', [streams]);
  assert.deepEqual((await site.update()).read, nothing);
  await rm(streams, { recursive: true });
  const { read, published } = await pipeline.run();
  assert.deepEqual(read, nothing);
  assert.deepEqual(published, all);
});

test('a state folder that cannot be made costs a warning each run', async (t) => {
  const site = await makeSite(t);
  await addOld(site.root, 'a/x/amd64/default/20260101');
  await writeFile(site.options.paths.state, '');
  await site.update();
  assert.deepEqual(await versionsOf(site), ['a:x:amd64:default/20260101']);
  assert.deepEqual(
    site.events.map(({ msg }) => msg),
    [
      'kept digests cannot be read; files are read again',
      'digests cannot be kept; the next run reads the files again',
    ],
  );
});

describe('an images folder', () => {
  const cases = [
    { what: 'that is missing', code: 'NOT_INITIALISED', make: async () => {} },
    { what: 'that is a file', code: 'CONFIG', make: (path: string) => writeFile(path, '') },
    {
      what: 'that is a link in a circle',
      code: 'DENIED',
      make: (path: string) => symlink(path, path),
    },
  ];
  for (const { what, code, make } of cases) {
    test(`${what} is refused, and nothing is written`, async (t) => {
      const root = await temporaryFolder(t);
      await make(join(root, 'images'));
      const before = await readdir(root);
      await assert.rejects(siteIn(root).update(), { name: 'ServerError', code });
      assert.deepEqual(await readdir(root), before);
    });
  }

  test('that is a link to a folder is followed', async (t) => {
    const site = await makeSite(t);
    await fillTree(site.root);
    await site.update();
    const root = await mkdtemp(join(tmpdir(), 'linked-'));
    t.after(() => rm(root, { recursive: true }));
    await symlink(site.options.paths.images, join(root, 'images'));
    const linked = siteIn(root);
    await linked.update();
    assert.deepEqual(await documentsOf(linked), await documentsOf(site));
  });
});
