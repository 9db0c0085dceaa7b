import assert from 'node:assert/strict';
import { mkdir, readdir, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { createListCache } from '../../src/disk/list-cache.js';
import { memoryLog } from '../support/memory-log.js';
import { temporaryFolder } from '../support/temporary.js';

const bytes = Buffer.from('[]');

test('lists of files are kept for the next process', async (t) => {
  const stateDir = join(await temporaryFolder(t), 'state');
  const { log } = memoryLog();
  const cache = createListCache({ stateDir, log });
  assert.equal(await cache.get('a'), undefined);
  await cache.set('a', bytes);
  const next = createListCache({ stateDir, log });
  assert.deepEqual(await next.get('a'), bytes);
});

test('of the lists of files those used last are kept', async (t) => {
  const stateDir = join(await temporaryFolder(t), 'state');
  const cache = createListCache({ stateDir, most: 3, log: memoryLog().log });
  const folder = join(stateDir, 'mirror-lists');
  for (const [index, name] of ['a', 'b', 'c'].entries()) {
    await cache.set(name, bytes);
    await utimes(join(folder, name), index, index);
  }
  await cache.get('a');
  await cache.set('d', bytes);
  assert.deepEqual((await readdir(folder)).sort(), ['a', 'c', 'd']);
});

test('a list of files that cannot be kept is a warning, and no failure', async (t) => {
  const stateDir = join(await temporaryFolder(t), 'state');
  await mkdir(stateDir);
  await writeFile(join(stateDir, 'mirror-lists'), 'in the way');
  const { log, events } = memoryLog();
  const cache = createListCache({ stateDir, log });
  await cache.set('a', bytes);
  assert.equal(await cache.get('a'), undefined);
  assert.deepEqual(
    events.map(({ msg }) => msg),
    ['a list of files cannot be kept; it is read from the mirror again'],
  );
});
