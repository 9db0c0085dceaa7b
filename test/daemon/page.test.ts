/** The catalogue page with the real daemon, and on real mirrors. */
import assert from 'node:assert/strict';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { DaemonStatus } from '../../src/daemon/status.js';
import { runCli } from '../support/cli.js';
import { type Daemon, emptyRoot, startDaemon } from '../support/daemon.js';
import { addVersion } from '../support/image-tree.js';
import { assertMirrored, mirrorTable } from '../support/mirrored.js';
import { needs } from '../support/programs.js';
import { createSftpServer } from '../support/sftp-mirror.js';
import { uploadPrograms } from '../support/slow-upload.js';

const packaged = join(import.meta.dirname, '../../pages/index.html');
const foreign = '<!doctype html><title>Our own</title>';
const first = 'a/x/amd64/default/20260101';

/** How long a mirror may take, in milliseconds. */
const patience = 30_000;

/** What commands to a daemon name the tree by. */
const treeOf = (root: string) => ({ root, images: join(root, 'images') });
const read = (root: string) => readFile(join(root, 'index.html'), 'utf8').catch(() => undefined);

test('the daemon puts the page in place, and keeps it up to date, but not an administrator’s own', async (t) => {
  const root = await emptyRoot(t);
  const file = join(root, 'index.html');
  const ours = await readFile(packaged, 'utf8');
  await writeFile(file, ours.replace('</body>', '<p>older</p></body>'));
  await addVersion(root, first);
  const daemon = await startDaemon(t, root, { settle: '0s' });
  await daemon.until(async () => (await daemon.status()).catalogue.versions === 1);
  assert.equal(await read(root), ours);
  await writeFile(file, foreign);
  await addVersion(root, 'a/x/amd64/default/20260102');
  await daemon.until(async () => (await daemon.status()).catalogue.versions === 2);
  assert.equal(await read(root), foreign);
  await rm(file);
  await daemon.call('update', { ...treeOf(root), rebuild: false });
  assert.equal(await read(root), ours);
  await daemon.end();
});

test('update without any state gives the same page, and does not touch it again', async (t) => {
  const root = await emptyRoot(t);
  await addVersion(root, first);
  const config = join(root, 'config.toml');
  const paths = { root, state: join(root, 'state') };
  const lines = Object.entries(paths).map(
    ([key, path]) => `paths.${key} = ${JSON.stringify(path)}`,
  );
  await writeFile(config, `${lines.join('\n')}\npublish.settle = "0s"\n`);
  const update = async () => {
    const { code, stdout, stderr } = await runCli(['--json', 'update', '--config', config]);
    assert.equal(code, 0, stderr);
    return (JSON.parse(stdout) as { published: string[] }).published;
  };
  assert.equal((await update())[0], 'index.html');
  const { ino, mtimeMs } = await stat(join(root, 'index.html'));
  assert.deepEqual(await update(), []);
  await rm(paths.state, { recursive: true });
  assert.deepEqual(await update(), []);
  const now = await stat(join(root, 'index.html'));
  assert.deepEqual([now.ino, now.mtimeMs], [ino, mtimeMs]);
  // Nothing of the images has changed: the page alone is missed, and comes back.
  await rm(join(root, 'index.html'));
  assert.deepEqual(await update(), ['index.html']);
});

describe('a mirror', needs(...uploadPrograms), () => {
  async function synced(
    { daemon, root }: { daemon: Daemon; root: string },
    isTrue: () => Promise<boolean>,
  ): Promise<void> {
    const isSynced = async () =>
      (await daemon.call<DaemonStatus>('status')).mirrors.every(({ state }) => state === 'synced');
    const end = performance.now() + patience;
    while (!((await isSynced()) && (await isTrue()))) {
      assert.ok(performance.now() < end, 'the mirror does not become what the master is');
      await daemon.call('mirror-sync', { ...treeOf(root), names: [] });
    }
  }

  test('gets the page, keeps it while images change, and gets another one with the same images', async (t) => {
    const root = await emptyRoot(t);
    // They end before the server does, which waits for their sessions.
    const started: Daemon[] = [];
    t.after(() => Promise.all(started.map((each) => each.end('SIGKILL'))));
    const start = async () => {
      const daemon = await startDaemon(t, root, options);
      started.push(daemon);
      return daemon;
    };
    const { config, folder } = await createSftpServer(t);
    await addVersion(root, first);
    const options = { settle: '0s', config: mirrorTable(config) };
    const daemon = await start();
    const ours = await readFile(packaged, 'utf8');
    await synced({ daemon, root }, async () => (await read(folder)) === ours);
    await assertMirrored(root, folder);

    // Lost there: an inspection mends it.
    await rm(join(folder, 'index.html'));
    await daemon.call('mirror-sync', { ...treeOf(root), names: [] });
    assert.equal(await read(folder), ours);

    const images = await readFile(join(folder, 'streams/v1/images.json'), 'utf8');
    await daemon.end();
    await writeFile(join(root, 'index.html'), foreign);
    const second = await start();
    await synced({ daemon: second, root }, async () => (await read(folder)) === foreign);
    assert.equal(await readFile(join(folder, 'streams/v1/images.json'), 'utf8'), images);
    await assertMirrored(root, folder);

    // While the daemon runs: the next run sees it.
    await writeFile(join(root, 'index.html'), `${foreign}<p>changed</p>`);
    await second.call('update', { ...treeOf(root), rebuild: false });
    await synced(
      { daemon: second, root },
      async () => (await read(folder)) === `${foreign}<p>changed</p>`,
    );
    await second.end();
  });
});
