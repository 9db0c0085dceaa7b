/**
 * A process that changes images is killed between any two steps. CRASH_ALL=1 kills it at each call of the system
 * that matters; otherwise at some of them.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { createPool } from '../../src/disk/pool.js';
import { verifyTree } from '../../src/verify.js';
import {
  type LibrarySite,
  librarySite,
  splitParts,
  staged,
  treeOf,
  upload,
} from '../support/library-site.js';
import { needs } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

const child = fileURLToPath(new URL('../support/library-child.js', import.meta.url));
const every = process.env.CRASH_ALL === '1';

/** Calls, and at which of them to kill where not at every one. */
const calls: Record<string, number[]> = {
  rename: [5, 6, 7, 11, 16, 21, 26, 29],
  mkdir: [3, 6, 17],
  fsync: [9, 14, 16, 24, 38, 62],
  chmod: [9, 12],
  rmdir: [1],
  unlink: [16],
};

/** Runs the child until it ends or is killed. @returns whether it was killed */
async function runChild(root: string, call: string, count: number): Promise<boolean> {
  const inject = `inject=${call}:signal=SIGKILL:when=${count}`;
  const trace = ['-D', '-f', '-o', '/dev/null', '-e', `trace=${call}`, '-e', inject];
  const running = spawn('strace', [...trace, process.execPath, child, root], {
    stdio: ['ignore', 'ignore', 'inherit'],
    // Calls are counted by thread.
    env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
  });
  const [code, signal] = await once(running, 'exit');
  assert.ok(code === 0 || signal === 'SIGKILL', `${call} ${count}: ${code ?? signal}`);
  return signal === 'SIGKILL';
}

/** What is published is there and whole. */
async function assertWhole({ config, root }: Pick<LibrarySite, 'config' | 'root'>): Promise<void> {
  const published = await readFile(join(root, 'streams/v1/images.json')).catch(() => undefined);
  if (published === undefined) return;
  const pool = createPool({ threads: 1 });
  try {
    const { damage } = await verifyTree({ paths: config.paths, pool });
    // Killed between the two, an index may be older than the document that it leads to.
    assert.deepEqual(
      damage.filter(({ path }) => !path.endsWith('index.json')),
      [],
    );
  } finally {
    await pool.close();
  }
}

async function assertRight(t: TestContext, root: string): Promise<void> {
  const site = await librarySite(t, { root, settle: 0 });
  await assertWhole(site);
  await site.library.sweep();
  assert.deepEqual(await staged(site), []);
  const { problems } = await site.runner.update({ passing: true });
  assert.deepEqual(problems, []);
  await assertWhole(site);
  const tree = await treeOf(site);
  for (const image of await site.library.images()) {
    assert.equal(image.files.length, 2);
    assert.ok(tree.includes(`${image.product}/${image.version}/.properties.json`), tree.join('\n'));
  }
  const documents = await readFile(join(root, 'streams/v1/images.json'), 'utf8');
  await site.runner.update({ rebuild: true, passing: true });
  assert.equal(await readFile(join(root, 'streams/v1/images.json'), 'utf8'), documents);
  const seed = `after ${Math.random()}`;
  const { fingerprint } = await upload(
    site,
    await splitParts(seed, { os: 'after', release: 'x' }),
    { aliases: ['after'] },
  );
  assert.ok(
    (await site.library.aliases()).some(
      ({ name, image }) => name === 'after' && image.fingerprint === fingerprint,
    ),
  );
  await site.close();
}

for (const [call, some] of Object.entries(calls)) {
  test(
    `a kill at ${call} leaves a tree and documents that are right`,
    needs('strace'),
    async (t) => {
      let kills = 0;
      const counts = every ? Array.from({ length: 1000 }, (_unused, at) => at + 1) : some;
      for (const count of counts) {
        const root = await temporaryFolder(t);
        await mkdir(join(root, 'images'));
        if (!(await runChild(root, call, count))) break;
        kills++;
        await assertRight(t, root);
      }
      t.diagnostic(`${kills} kills`);
      assert.ok(kills > 0);
    },
  );
}
