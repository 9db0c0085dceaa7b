import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { watch } from 'node:fs';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { needs } from './programs.js';
import {
  createSshServer,
  startRsync,
  startScp,
  startSftp,
  type UploadOptions,
  uploadPrograms,
} from './slow-upload.js';
import { temporaryFolder } from './temporary.js';

const starters = { rsync: startRsync, scp: startScp, sftp: startSftp };

describe('uploads', { ...needs(...uploadPrograms), timeout: 120_000 }, () => {
  const size = 1024 * 1024;

  /** A server, and a product folder to upload. */
  async function setUp(t: TestContext) {
    const folder = await temporaryFolder(t);
    const server = await createSshServer(join(folder, 'sshd'));
    t.after(() => server.close());
    const from = join(folder, 'default');
    await mkdir(join(from, '20260101'), { recursive: true });
    await writeFile(join(from, '20260101/rootfs.squashfs'), randomBytes(size));
    await writeFile(join(from, '20260101/lxd.tar.xz'), randomBytes(100));
    const to = join(folder, 'uploaded');
    return { server, from, to };
  }

  async function assertCopied(from: string, to: string) {
    const copy = join(to, 'default');
    const names = await readdir(join(copy, '20260101'));
    assert.deepEqual(names.sort(), ['lxd.tar.xz', 'rootfs.squashfs']);
    for (const name of names) {
      const [there, here] = [join(copy, '20260101', name), join(from, '20260101', name)];
      assert.ok((await readFile(there)).equals(await readFile(here)), name);
    }
  }

  for (const [name, start] of Object.entries(starters)) {
    test(`with ${name} copy a folder`, async (t) => {
      const { server, from, to } = await setUp(t);
      await mkdir(to);
      const { code, stderr } = await start(server, { from, to }).ended;
      assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
      await assertCopied(from, to);
    });

    test(`with ${name} can be slow, be killed half-way, and go on`, async (t) => {
      const { server, from, to } = await setUp(t);
      await mkdir(join(to, 'default/20260101'), { recursive: true });
      const target = join(to, 'default/20260101/rootfs.squashfs');
      const args = name === 'rsync' ? ['--inplace'] : [];
      const options: UploadOptions = { from, to, args };
      const slow = start(server, { ...options, limit: 128 });
      await untilGrown(target);
      slow.kill();
      assert.equal((await slow.ended).code, -1);
      const { size: half } = await stat(target);
      assert.ok(half > 0 && half < size, `${half} bytes`);
      const { code, stderr } = await start(server, options).ended;
      assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
      await assertCopied(from, to);
    });
  }
});

/** Waits until there is something in `file`, whose folder is there. */
async function untilGrown(file: string): Promise<void> {
  const watcher = watch(join(file, '..'));
  try {
    for (;;) {
      const change = once(watcher, 'change');
      const found = await stat(file).catch(() => undefined);
      if (found !== undefined && found.size > 0) return;
      await change;
    }
  } finally {
    watcher.close();
  }
}
