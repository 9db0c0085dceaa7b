import assert from 'node:assert/strict';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { flagPath, keepFlag } from '../../src/server/redirect-flag.js';
import { temporaryFolder } from '../support/temporary.js';

async function flagIn(t: TestContext, { enabled = true } = {}) {
  const runDir = await temporaryFolder(t);
  const wish = { enabled };
  const flag = keepFlag({ runDir, enabled: () => wish.enabled });
  return { runDir, wish, flag, files: () => readdir(runDir) };
}

test('the flag is there while clients are redirected', async (t) => {
  const { wish, flag, files } = await flagIn(t);
  assert.deepEqual(await files(), []);
  await flag.refresh();
  assert.deepEqual(await files(), ['redirect']);
  wish.enabled = false;
  await flag.refresh();
  assert.deepEqual(await files(), []);
  wish.enabled = true;
  await flag.refresh();
  await flag.refresh();
  assert.deepEqual(await files(), ['redirect']);
  await flag.close();
  assert.deepEqual(await files(), []);
});

test('what a crash left goes where clients are not redirected, and stays where they are', async (t) => {
  for (const enabled of [false, true]) {
    const { runDir, flag, files } = await flagIn(t, { enabled });
    await writeFile(flagPath(runDir), '');
    await flag.refresh();
    assert.deepEqual(await files(), enabled ? ['redirect'] : []);
    await flag.close();
    assert.deepEqual(await files(), []);
  }
});

test('nothing puts it back once it has been closed', async (t) => {
  const { flag, files } = await flagIn(t);
  const asked = [flag.refresh(), flag.close(), flag.refresh()];
  await Promise.all(asked);
  await flag.refresh();
  assert.deepEqual(await files(), []);
});

test('a wish that comes while the last is being done is done after it', async (t) => {
  const { wish, flag, files } = await flagIn(t);
  for (let round = 0; round < 50; round++) {
    const last = round % 2 === 0;
    wish.enabled = !last;
    const doing = flag.refresh();
    // By then it has looked, and not done yet what it is to do.
    await Promise.resolve();
    wish.enabled = last;
    await Promise.all([doing, flag.refresh()]);
    assert.deepEqual(await files(), last ? ['redirect'] : []);
  }
});

test('it says so where the file cannot be written or removed, and does better the next time', async (t) => {
  const { runDir, wish, flag, files } = await flagIn(t);
  await mkdir(join(runDir, 'redirect'));
  const message = new RegExp(`^Cannot write ${runDir}/redirect, .*: `);
  await assert.rejects(flag.refresh(), { name: 'ServerError', code: 'IO', message });
  wish.enabled = false;
  await assert.rejects(flag.refresh(), { code: 'IO', message: /^Cannot remove / });
  await rm(join(runDir, 'redirect'), { recursive: true });
  wish.enabled = true;
  await flag.refresh();
  assert.deepEqual(await files(), ['redirect']);
});
