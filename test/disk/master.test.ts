import assert from 'node:assert/strict';
import { symlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { masterOf } from '../../src/disk/master.js';
import { temporaryFolder } from '../support/temporary.js';

test('a master is the same by whatever path its root is reached, and another for another root', async (t) => {
  const [one, two] = [await temporaryFolder(t), await temporaryFolder(t)];
  const { id, host } = await masterOf(one);
  assert.match(id, /^[0-9a-f]{32}$/);
  assert.equal(host, hostname());
  await symlink(one, join(two, 'link'));
  assert.deepEqual(await masterOf(join(two, 'link')), { id, host });
  assert.notEqual((await masterOf(two)).id, id);
});
