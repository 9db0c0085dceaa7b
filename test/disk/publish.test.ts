import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import fc from 'fast-check';
import { createPublisher, type Documents, type PublisherOptions } from '../../src/disk/publish.js';
import { ServerError } from '../../src/errors.js';
import { kill, type Sightings, said, startChild } from '../support/children.js';
import { filter, run } from '../support/command.js';
import { seeded } from '../support/dice.js';
import { createGenerations, generationOf } from '../support/generations.js';
import { sha256 } from '../support/image-tree.js';
import { memoryLog } from '../support/memory-log.js';
import { needsRoot } from '../support/programs.js';
import { inTemporaryFolder, temporaryFolder } from '../support/temporary.js';

const names = ['images.json', 'images.json.gz', 'index.json', 'index.json.gz'];

/** A publisher for a `streamsDir` in a folder that is gone after the test. */
async function setUp(t: TestContext, options: Partial<PublisherOptions> = {}) {
  const { log, events } = memoryLog();
  const streamsDir = join(await temporaryFolder(t), 'streams/v1');
  const publisher = createPublisher({ streamsDir, gzip: true, log, ...options });
  return { streamsDir, publisher, events, generations: createGenerations(), log };
}

/** What there is in `folder`, by name. */
async function contentOf(folder: string): Promise<Record<string, string>> {
  const entries = (await readdir(folder)).sort();
  const contents = await Promise.all(entries.map((name) => readFile(join(folder, name), 'base64')));
  return Object.fromEntries(entries.map((name, at) => [name, contents[at] as string]));
}

async function assertIs(streamsDir: string, { images, index }: Documents): Promise<void> {
  const [document = '', packed, list = '', packedList] = await Promise.all(
    names.map((name) => readFile(join(streamsDir, name))),
  );
  assert.deepEqual(document, Buffer.concat(images));
  assert.deepEqual(gunzipSync(packed as Buffer), document);
  assert.deepEqual(list, index);
  assert.deepEqual(gunzipSync(packedList as Buffer), list);
}

/** What a rewritten file has anew: its inode, or the time of its last change. */
async function states(folder: string): Promise<unknown[]> {
  const all = names.map((name) => stat(join(folder, name), { bigint: true }));
  return (await Promise.all(all)).map(({ ino, mtimeNs, ctimeNs }) => ({ ino, mtimeNs, ctimeNs }));
}

describe('publishing', () => {
  test('makes the folder and puts both documents and their .gz in place', async (t) => {
    const { streamsDir, publisher, generations } = await setUp(t);
    const published = await publisher.publish(generations(3));
    assert.deepEqual(published, ['images.json.gz', 'images.json', 'index.json.gz', 'index.json']);
    assert.deepEqual((await readdir(streamsDir)).sort(), names);
    await assertIs(streamsDir, generations(3));
  });

  test('leaves alone what is in place, also what another publisher put there', async (t) => {
    const { streamsDir, publisher, generations, log } = await setUp(t);
    await publisher.publish(generations(3));
    const before = await states(streamsDir);
    assert.deepEqual(await publisher.publish(generations(3)), []);
    const another = createPublisher({ streamsDir, gzip: true, log });
    assert.deepEqual(await another.publish(createGenerations()(3)), []);
    assert.deepEqual(await states(streamsDir), before);
  });

  const losses = [
    { lost: 'images.json', rewritten: ['images.json.gz', 'images.json'] },
    { lost: 'images.json.gz', rewritten: ['images.json.gz'] },
    { lost: 'index.json', rewritten: ['index.json.gz', 'index.json'] },
    { lost: 'index.json.gz', rewritten: ['index.json.gz'] },
  ];
  for (const { lost, rewritten } of losses) {
    test(`puts a lost ${lost} back and leaves the other document alone`, async (t) => {
      const { streamsDir, publisher, generations } = await setUp(t);
      await publisher.publish(generations(3));
      await rm(join(streamsDir, lost));
      assert.deepEqual(await publisher.publish(generations(3)), rewritten);
      await assertIs(streamsDir, generations(3));
    });
  }

  test('replaces a .gz that is of another content', async (t) => {
    const { streamsDir, publisher, generations, log } = await setUp(t);
    const plain = createPublisher({ streamsDir, gzip: false, log });
    await publisher.publish(generations(3));
    const old = await readFile(join(streamsDir, 'images.json.gz'));
    await plain.publish(generations(4));
    await writeFile(join(streamsDir, 'images.json.gz'), old);
    assert.deepEqual(await publisher.publish(generations(4)), ['images.json.gz', 'index.json.gz']);
    await assertIs(streamsDir, generations(4));
  });

  test('removes every .gz where none are wanted, and touches nothing else', async (t) => {
    const { streamsDir, publisher, generations, log } = await setUp(t);
    await publisher.publish(generations(3));
    const { ino } = await stat(join(streamsDir, 'images.json'));
    const plain = createPublisher({ streamsDir, gzip: false, log });
    assert.deepEqual(await plain.publish(generations(3)), []);
    assert.deepEqual((await readdir(streamsDir)).sort(), ['images.json', 'index.json']);
    assert.equal((await stat(join(streamsDir, 'images.json'))).ino, ino);
  });

  test('sweeps what killed runs left, and leaves what looks different', async (t) => {
    const { streamsDir, publisher, generations } = await setUp(t);
    const left = names.map((name) => `.${name}.0a1b2c`);
    const kept = ['.images.json.replaced', '.other.json.0a1b2c', 'images.json.0a1b2c', 'notes'];
    await mkdir(streamsDir, { recursive: true });
    for (const name of [...left, ...kept]) await writeFile(join(streamsDir, name), 'x');
    await publisher.publish(generations(1));
    assert.deepEqual((await readdir(streamsDir)).sort(), [...kept, ...names].sort());
  });
});

describe('an images.json that is already there', () => {
  const ours = Buffer.concat(createGenerations()(2).images);
  const foreign = [
    { what: 'of another server', content: '{"format":"products:1.0","products":{}}\n' },
    { what: 'that is no JSON', content: '<html>' },
    { what: 'that is empty', content: '' },
    { what: 'of ours that was cut short', content: ours.subarray(0, -1) },
    { what: 'of ours that was cut in the middle', content: ours.subarray(0, ours.length / 2) },
    { what: 'of ours with something behind it', content: Buffer.concat([ours, Buffer.from(' ')]) },
  ];
  for (const { what, content } of foreign) {
    test(`${what} is kept under a hidden name and told in one warning`, async (t) => {
      const { streamsDir, publisher, events, generations } = await setUp(t);
      const kept = join(streamsDir, '.images.json.replaced');
      await mkdir(streamsDir, { recursive: true });
      await writeFile(kept, 'one that was kept before');
      await writeFile(join(streamsDir, 'images.json'), content);
      await publisher.publish(generations(2));
      await publisher.publish(generations(3));
      await assertIs(streamsDir, generations(3));
      assert.deepEqual(await readFile(kept), Buffer.from(content));
      assert.deepEqual(
        events.map(({ level, msg, kept }) => ({ level, msg, kept })),
        [
          {
            level: 40,
            msg: 'images.json was cut short or not written by this server; it is written anew',
            kept,
          },
        ],
      );
    });
  }

  test('and is ours is replaced without a word', async (t) => {
    const { streamsDir, publisher, events, generations } = await setUp(t);
    await mkdir(streamsDir, { recursive: true });
    await writeFile(join(streamsDir, 'images.json'), ours);
    await publisher.publish(generations(3));
    assert.deepEqual((await readdir(streamsDir)).sort(), names);
    assert.deepEqual(events, []);
  });
});

describe('the .gz', () => {
  const sizes = fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: 1, max: 300 }) },
    { weight: 1, arbitrary: fc.constantFrom(16_383, 16_384, 16_385, 70_000) },
  );
  /** Noise does not get smaller: it fills the compressor's buffers to the brim. */
  const segment = fc
    .tuple(sizes, fc.nat(), fc.boolean())
    .map(([size, seed, noise]) =>
      noise ? noiseOf(size, seed) : Buffer.alloc(size, `seed ${seed} `),
    );

  test('is one member that unpacks to the document, whatever segments come again', async () => {
    const segments = fc.array(segment, { minLength: 1, maxLength: 6 });
    const picks = fc.array(fc.array(fc.nat(5), { maxLength: 8 }), { minLength: 1, maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(segments, picks, async (pool, sequence) => {
        await inTemporaryFolder(async (streamsDir) => {
          const { log } = memoryLog();
          const publisher = createPublisher({ streamsDir, gzip: true, log });
          for (const pick of sequence) {
            const images = pick.map((at) => pool[at % pool.length] as Buffer);
            await publisher.publish({ images, index: Buffer.from('{}\n') });
            const packed = await readFile(join(streamsDir, 'images.json.gz'));
            assert.deepEqual(gunzipSync(packed), Buffer.concat(images));
            assertOneMember(packed);
          }
        });
      }),
      { numRuns: 60 },
    );
  });

  test('passes gzip itself, also after segments were used again', async (t) => {
    const { streamsDir, publisher, generations } = await setUp(t);
    for (const number of [0, 1, 5, 40, 41, 10]) {
      const documents = generations(number);
      await publisher.publish(documents);
      const file = join(streamsDir, 'images.json.gz');
      await run('gzip', ['-t', file]);
      const unpacked = await filter('gzip', ['-dc'], await readFile(file));
      assert.deepEqual(unpacked, Buffer.concat(documents.images));
    }
  });
});

function noiseOf(size: number, seed: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < size; at += 32) parts.push(Buffer.from(sha256(`${seed} ${at}`), 'hex'));
  return Buffer.concat(parts).subarray(0, size);
}

/** zlib of Node reads one member after another; what follows the first must fail if it is no other one. */
function assertOneMember(packed: Buffer): void {
  // One more byte of the trailer would make up a second member's header: none of it is there.
  const twice = gunzipSync(Buffer.concat([packed, packed]));
  assert.equal(twice.length, 2 * packed.readUInt32LE(packed.length - 4));
}

test('a reader never sees half a document, nor an index that is ahead', async (t) => {
  const { streamsDir, publisher, generations } = await setUp(t);
  const published = new Set<string>();
  const publish = async (number: number) => {
    const documents = generations(number);
    for (const parts of [documents.images, [documents.index]]) published.add(sha256(...parts));
    await publisher.publish(documents);
  };
  await publish(0);
  const reader = startChild('read', streamsDir);
  t.after(() => kill(reader));
  await said(reader);
  for (let number = 1; number <= 150; number++) await publish(number);
  reader.send('end');
  const seen = (await said(reader)) as Sightings;
  assert.deepEqual(seen.faults, []);
  assert.deepEqual(
    seen.documents.filter((document) => !published.has(document)),
    [],
  );
  // It must have looked while they were replaced, or all this shows nothing.
  assert.ok(seen.documents.length > 10, `it saw only ${seen.documents.length} documents`);
});

test('whenever a publisher is killed, the documents are whole and fit together', async (t) => {
  // Side by side, for it is the start of processes that takes the time.
  await Promise.all([1, 2].map((seed) => killPublishers(t, { times: 25, seed })));
});

async function killPublishers(t: TestContext, options: { times: number; seed: number }) {
  const { streamsDir, publisher, generations } = await setUp(t);
  const random = seeded(options.seed);
  await publisher.publish(generations(0));
  for (let left = options.times; left > 0; left--) {
    const child = startChild('publish', streamsDir);
    try {
      await said(child);
      await sleep(random() * 60);
    } finally {
      await kill(child);
    }
    await assertFit(streamsDir);
  }
  const last = generationOf(await readFile(join(streamsDir, 'images.json'), 'utf8'));
  assert.ok(last > 0, 'nothing was published before the kills');
  await publisher.publish(generations(last));
  assert.deepEqual((await readdir(streamsDir)).sort(), names);
  await assertIs(streamsDir, generations(last));
}

/** Index and compressed forms are of the same generation as images.json, or of the one beside it. */
async function assertFit(streamsDir: string): Promise<void> {
  const texts = names.map(async (name) => {
    const bytes = await readFile(join(streamsDir, name));
    return (name.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8');
  });
  const documents = await Promise.all(texts);
  const generations = createGenerations();
  for (const [at, document] of documents.entries()) {
    const { images, index } = generations(generationOf(document));
    assert.equal(document, (at < 2 ? Buffer.concat(images) : index).toString('utf8'));
  }
  const [images = 0, packedImages = 0, index = 0, packedIndex = 0] = documents.map(generationOf);
  // The order in which they get their names; each kill in between leaves the later ones further behind.
  assert.ok(packedImages >= images, `images.json is ${images - packedImages} ahead of its .gz`);
  assert.ok(images >= packedIndex, `index.json.gz is ${packedIndex - images} ahead of images.json`);
  assert.ok(packedIndex >= index, `index.json is ${index - packedIndex} ahead of its .gz`);
}

describe('on a full disk', needsRoot('mount', 'umount'), () => {
  test('all documents stay as they are, nothing is left over, and room is all it takes', async (t) => {
    const streamsDir = await smallDisk(t, '128k');
    const { log } = memoryLog();
    const publisher = createPublisher({ streamsDir, gzip: true, log });
    const generations = createGenerations();
    await publisher.publish(generations(3));
    const before = await contentOf(streamsDir);
    await writeFile(join(streamsDir, 'ballast'), Buffer.alloc(40_000));
    // Its .gz fits, the document does not.
    const large = generations(300);
    await assert.rejects(publisher.publish(large), isDiskFull(join(streamsDir, 'images.json')));
    await rm(join(streamsDir, 'ballast'));
    assert.deepEqual(await contentOf(streamsDir), before);

    await run('mount', ['-o', 'remount,size=1m', streamsDir]);
    assert.deepEqual(await publisher.publish(large), [
      'images.json.gz',
      'images.json',
      'index.json.gz',
      'index.json',
    ]);
    await assertIs(streamsDir, large);
  });

  test('where only the index does not fit, images.json stays as it is too', async (t) => {
    const streamsDir = await smallDisk(t, '64k');
    const { log } = memoryLog();
    const publisher = createPublisher({ streamsDir, gzip: true, log });
    await publisher.publish(createGenerations()(3));
    const before = await contentOf(streamsDir);
    const index = noiseOf(100_000, 1);
    const documents = { images: createGenerations()(4).images, index };
    await assert.rejects(
      publisher.publish(documents),
      isDiskFull(join(streamsDir, 'index.json.gz')),
    );
    assert.deepEqual(await contentOf(streamsDir), before);
  });
});

function isDiskFull(path: string): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof ServerError);
    assert.equal(error.code, 'DISK_FULL');
    assert.equal(error.message, `Cannot write ${path}: no space left on the disk`);
    return true;
  };
}

/** A file system of its own of `size`, in memory. */
async function smallDisk(t: TestContext, size: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'small-disk-'));
  await run('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder]);
  t.after(async () => {
    await run('umount', [folder]);
    await rm(folder, { recursive: true });
  });
  return folder;
}

test('tells that it may not write where it may not', needsRoot('mount', 'umount'), async (t) => {
  const streamsDir = await smallDisk(t, '1m');
  const { log } = memoryLog();
  const publisher = createPublisher({ streamsDir, gzip: true, log });
  const generations = createGenerations();
  await publisher.publish(generations(1));
  const before = await contentOf(streamsDir);
  await run('mount', ['-o', 'remount,ro', streamsDir]);
  await assert.rejects(publisher.publish(generations(2)), {
    name: 'ServerError',
    code: 'DENIED',
    message: `Cannot write ${join(streamsDir, 'images.json.gz')}: the file system is read-only`,
  });
  assert.deepEqual(await contentOf(streamsDir), before);
});

test('tells of something in the way of a document as an error of the disk', async (t) => {
  const { streamsDir, publisher, generations } = await setUp(t);
  await mkdir(join(streamsDir, 'images.json'), { recursive: true });
  await assert.rejects(publisher.publish(generations(1)), { name: 'ServerError', code: 'IO' });
  assert.deepEqual(await readdir(streamsDir), ['images.json']);
});
