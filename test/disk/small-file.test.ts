import assert from 'node:assert/strict';
import { mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { largestText } from '../../src/catalog/metadata.js';
import { readSmallFile } from '../../src/disk/small-file.js';
import { stampOf } from '../../src/disk/stamp.js';
import { run } from '../support/command.js';
import { needs } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

describe('a small file', () => {
  test('is read with its stamp, up to the largest', async (t) => {
    const path = join(await temporaryFolder(t), 'file');
    for (const text of ['', '\ufeffä\r\n', 'a'.repeat(largestText)]) {
      await writeFile(path, text);
      const stamp = stampOf(await stat(path, { bigint: true }));
      assert.deepEqual(await readSmallFile(path), { text, stamp });
    }
  });

  test('that is not there is none', async (t) => {
    const folder = await temporaryFolder(t);
    assert.equal(await readSmallFile(join(folder, 'file')), undefined);
    await writeFile(join(folder, 'file'), '');
    assert.equal(await readSmallFile(join(folder, 'file/file')), undefined);
  });

  const cases: [string, RegExp, (path: string, t: { after(f: () => void): void }) => unknown][] = [
    ['a folder', /is not a file/, (path) => mkdir(path)],
    ['a link', /is a symbolic link/, (path) => symlink('/etc/hostname', path)],
    ['a link to a device', /is a symbolic link/, (path) => symlink('/dev/zero', path)],
    [
      'a socket',
      /is not a file/,
      (path, t) => {
        const server = createServer();
        t.after(() => server.close());
        return new Promise<void>((resolve) => {
          server.listen(path, resolve);
        });
      },
    ],
    ['too large', /larger than 1 MiB/, (path) => writeFile(path, 'a'.repeat(largestText + 1))],
    ['not UTF-8', /is not UTF-8/, (path) => writeFile(path, Buffer.from([0x61, 0xe4]))],
  ];
  for (const [name, reason, make] of cases) {
    test(`that is ${name} is a fault`, async (t) => {
      const path = join(await temporaryFolder(t), 'file');
      await make(path, t);
      const read = await readSmallFile(path);
      assert.ok(read !== undefined && 'fault' in read);
      assert.match(read.fault.reason, reason);
    });
  }

  test('that is a FIFO is a fault, at once', { ...needs('mkfifo'), timeout: 20_000 }, async (t) => {
    const path = join(await temporaryFolder(t), 'file');
    await run('mkfifo', [path]);
    assert.ok('fault' in ((await readSmallFile(path)) ?? {}));
  });
});
