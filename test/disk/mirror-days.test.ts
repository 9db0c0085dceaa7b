import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { createMirrorDays } from '../../src/disk/mirror-days.js';
import { memoryLog } from '../support/memory-log.js';
import { temporaryFolder } from '../support/temporary.js';

const day = { name: 'eu', first: 2_945_000, bytes: [1, 0], lag: [null, 3] };

test('days of mirrors are there for the next process', async (t) => {
  const stateDir = join(await temporaryFolder(t), 'state');
  const { log, events } = memoryLog('debug');
  const days = createMirrorDays({ stateDir, log });
  assert.deepEqual(await days.load(), []);
  await days.save([day]);
  assert.deepEqual(await createMirrorDays({ stateDir, log }).load(), [day]);
  assert.deepEqual(events, []);
});

for (const [kind, days] of Object.entries({
  'cut short': '{"days":[',
  'with steps of one kind alone': JSON.stringify({ days: [{ ...day, lag: [] }] }),
  'with more than a day': JSON.stringify({
    days: [{ ...day, bytes: Array(145).fill(0), lag: Array(145).fill(0) }],
  }),
  'with what is no number': JSON.stringify({ days: [{ ...day, bytes: [1, '<b>'] }] }),
})) {
  test(`a file of days that is ${kind} is as good as none`, async (t) => {
    const stateDir = await temporaryFolder(t);
    await writeFile(join(stateDir, 'mirror-days.json'), days);
    assert.deepEqual(await createMirrorDays({ stateDir, log: memoryLog().log }).load(), []);
  });
}

test('a state folder that cannot be written is told of, with a cure', async (t) => {
  const file = join(await temporaryFolder(t), 'file');
  await writeFile(file, '');
  const { log, events } = memoryLog();
  await createMirrorDays({ stateDir: join(file, 'state'), log }).save([day]);
  assert.deepEqual(
    events.map(({ msg }) => msg),
    ['the last day of mirrors cannot be kept'],
  );
});
