import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { createMirrorStates } from '../../src/disk/mirror-states.js';
import { memoryLog } from '../support/memory-log.js';
import { temporaryFolder } from '../support/temporary.js';

const at = '2026-01-01T00:00:00.000Z';

test('how far mirrors were is there for the next process', async (t) => {
  const stateDir = join(await temporaryFolder(t), 'state');
  const states = createMirrorStates({ stateDir, log: memoryLog().log });
  assert.deepEqual(await states.load(), new Map());
  const known = new Map([
    ['eu', { generation: 'a'.repeat(64), synced: at }],
    ['us', { behind: at }],
  ]);
  await states.save(known);
  assert.deepEqual(await createMirrorStates({ stateDir }).load(), known);
});

for (const [kind, text] of [
  ['cut short', '{"mirrors":'],
  ['of another form', '{"mirrors":{"eu":{"synced":"yesterday"}}}'],
]) {
  test(`a file of states that is ${kind} is as good as none`, async (t) => {
    const stateDir = await temporaryFolder(t);
    await writeFile(join(stateDir, 'mirrors.json'), text as string);
    assert.deepEqual(await createMirrorStates({ stateDir }).load(), new Map());
  });
}
