import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import type { DigestJob } from '../../src/catalog/completeness.js';
import type { ProductFolder } from '../../src/catalog/tree.js';
import type { DigestResult } from '../../src/disk/digest.js';
import { createPool, type Pool } from '../../src/disk/pool.js';
import type { ProductAddress } from '../../src/disk/scan.js';
import { kill, said, startChild } from '../support/children.js';
import { addVersion, sha256 } from '../support/image-tree.js';
import { temporaryFolder } from '../support/temporary.js';

const mebibyte = 1024 * 1024;

async function setUp(t: TestContext): Promise<{ root: string; imagesDir: string; pool: Pool }> {
  const root = await temporaryFolder(t);
  const imagesDir = join(root, 'images');
  await mkdir(imagesDir);
  const pool = createPool({ threads: 2 });
  t.after(() => pool.close());
  return { root, imagesDir, pool };
}

/** A file of `size` zero bytes that take no room, and the job to read it. */
async function emptyFile(imagesDir: string, name: string, size: number): Promise<DigestJob> {
  await writeFile(join(imagesDir, name), '');
  await truncate(join(imagesDir, name), size);
  return { path: '.', files: [{ name, size, read: 'plain' }] };
}

async function addProducts(imagesDir: string, count: number): Promise<ProductAddress[]> {
  const addresses = Array.from({ length: count }, (_, number): ProductAddress => {
    return ['env', `r${number}`, 'amd64', 'default'];
  });
  for (const address of addresses) {
    await mkdir(join(imagesDir, ...address, '20260101'), { recursive: true });
  }
  return addresses;
}

describe('a scan', () => {
  test('gives products in the order in which they were asked for', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    const addresses = (await addProducts(imagesDir, 300)).reverse();
    const scanned = await pool.scan(
      imagesDir,
      addresses.map((address) => ({ address })),
    );
    assert.deepEqual(
      scanned.map(({ path }) => path),
      addresses.map((address) => address.join('/')),
    );
  });

  test('packs up only folders that are not as they were known', async (t) => {
    const { root, imagesDir, pool } = await setUp(t);
    const addresses = await addProducts(imagesDir, 3);
    const before = await pool.scan(
      imagesDir,
      addresses.map((address) => ({ address })),
    );
    const [first, second, third] = before.map(({ fingerprint }) => fingerprint);
    assert.equal(new Set([first, second, third]).size, 1, 'folders of the same content');
    await addVersion(root, `${addresses[1]?.join('/')}/20260102`);
    const again = await pool.scan(
      imagesDir,
      addresses.map((address) => ({ address, known: first })),
    );
    assert.deepEqual(
      again.map(({ folder }) => folder !== undefined),
      [false, true, false],
    );
    assert.equal(again[0]?.fingerprint, first);
    assert.notEqual(again[1]?.fingerprint, first);
    const folder = JSON.parse(again[1]?.folder ?? '') as ProductFolder;
    assert.deepEqual(
      folder.versions.map(({ name, files }) => [name, files.map((file) => file.name)]),
      [
        ['20260101', []],
        ['20260102', ['lxd.tar.xz', 'rootfs.squashfs']],
      ],
    );
  });

  test('of nothing is nothing', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    assert.deepEqual(await pool.scan(imagesDir, []), []);
    assert.deepEqual(await pool.listProducts(imagesDir), { products: [], problems: [] });
  });

  test('that fails leaves no thread at work, whose results the next task would get', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    const [first, second] = (await addProducts(imagesDir, 2)) as [ProductAddress, ProductAddress];
    const others = Array.from({ length: 2000 }, () => ({ address: first }));
    const wrong = [null as never, ...others];
    await assert.rejects(pool.scan(imagesDir, wrong), TypeError);
    const requests = Array.from({ length: 200 }, () => ({ address: second }));
    const scanned = await pool.scan(imagesDir, requests);
    assert.equal(scanned.length, 200);
    assert.deepEqual([...new Set(scanned.map(({ path }) => path))], [second.join('/')]);
  });
});

for (const { what, code, make } of [
  { what: 'is missing', code: 'ENOENT', make: () => Promise.resolve() },
  { what: 'is a file', code: 'ENOTDIR', make: (path: string) => writeFile(path, '') },
]) {
  test(`a folder that ${what} is told by the code of the system, ${code}`, async (t) => {
    const { root, pool } = await setUp(t);
    const path = join(root, 'other');
    await make(path);
    await assert.rejects(pool.listProducts(path), { code });
    // The thread that had to say so goes on.
    assert.deepEqual((await pool.listProducts(join(root, 'images'))).products, []);
  });
}

describe('digests', () => {
  test('of all jobs are handed over, and every byte is counted', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    const contents = new Map(Array.from({ length: 500 }, (_, at) => [`f${at}`, `content ${at}`]));
    const jobs: DigestJob[] = [];
    for (const [name, content] of contents) {
      await writeFile(join(imagesDir, name), content);
      jobs.push({ path: '.', files: [{ name, size: content.length, read: 'plain' }] });
    }
    const digests = new Map<string, string | undefined>();
    const onResults = (results: DigestResult[]) => {
      for (const { files } of results) {
        for (const { name, digest } of files) digests.set(name, digest?.sha256);
      }
    };
    await pool.digest(imagesDir, jobs, { onResults });
    assert.equal(digests.size, contents.size);
    for (const [name, content] of contents) assert.equal(digests.get(name), sha256(content));
    const total = [...contents.values()].reduce((sum, content) => sum + content.length, 0);
    assert.equal(pool.bytesRead(), total);
  });

  test('that are done when the work is ended are handed over, and hardly more is read', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    const size = 32 * mebibyte;
    const names = Array.from({ length: 10 }, (_, at) => `f${at}`);
    const jobs = await Promise.all(names.map((name) => emptyFile(imagesDir, name, size)));
    const abort = new AbortController();
    const done: DigestResult[] = [];
    await pool.digest(imagesDir, jobs, {
      signal: abort.signal,
      onResults: (results) => {
        done.push(...results);
        abort.abort();
      },
    });
    // One by each of the two threads, and one that the faster of them had begun.
    const whole = done.flatMap(({ files }) => files.filter(({ digest }) => digest !== undefined));
    assert.ok(whole.length >= 1 && whole.length <= 3, `${whole.length} files were read`);
    assert.ok(pool.bytesRead() <= 3 * size, `${pool.bytesRead()} bytes were read`);
    const expected = sha256(Buffer.alloc(size));
    for (const { digest } of whole) assert.equal(digest?.sha256, expected);
  });

  test('end in the middle of a large file, and the pool is there for the next', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    const large = await emptyFile(imagesDir, 'large', 64 * 1024 * mebibyte);
    const abort = new AbortController();
    const ended = pool.digest(imagesDir, [large], {
      signal: abort.signal,
      onResults: (results) => {
        const digests = results.flatMap(({ files }) => files.flatMap(({ digest }) => digest ?? []));
        assert.deepEqual(digests, []);
      },
    });
    while (pool.bytesRead() === 0) await new Promise(setImmediate);
    abort.abort();
    await ended;
    const small = await emptyFile(imagesDir, 'small', 10);
    const results: DigestResult[] = [];
    await pool.digest(imagesDir, [small], { onResults: (more) => results.push(...more) });
    assert.equal(results[0]?.files[0]?.digest?.sha256, sha256(Buffer.alloc(10)));
  });

  test('are not begun where the work was ended before', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    const job = await emptyFile(imagesDir, 'file', 10);
    const onResults = () => assert.fail('something was read');
    await pool.digest(imagesDir, [job], { signal: AbortSignal.abort(), onResults });
    assert.equal(pool.bytesRead(), 0);
  });
});

describe('a pool that is closed', () => {
  test('gives up what it is doing, with an error', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    const large = await emptyFile(imagesDir, 'large', 64 * 1024 * mebibyte);
    const refused = assert.rejects(
      pool.digest(imagesDir, [large], { onResults: () => {} }),
      /a worker thread has ended/,
    );
    while (pool.bytesRead() === 0) await new Promise(setImmediate);
    await pool.close();
    await refused;
  });

  test('works again when it is asked to', async (t) => {
    const { imagesDir, pool } = await setUp(t);
    const [address] = await addProducts(imagesDir, 1);
    for (let turn = 0; turn < 3; turn++) {
      await pool.close();
      assert.deepEqual((await pool.listProducts(imagesDir)).products, [address]);
    }
    await pool.close();
    await pool.close();
  });

  test('leaves nothing that keeps the process running', async (t) => {
    const { imagesDir } = await setUp(t);
    await addProducts(imagesDir, 2);
    const child = startChild('pool', imagesDir);
    t.after(() => kill(child));
    const ended = once(child, 'exit');
    assert.equal(await said(child), 2);
    assert.deepEqual(await ended, [0, null]);
  });
});
