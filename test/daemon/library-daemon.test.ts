/** The images as the real daemon keeps them: what earlier uploads and removals have left is seen to. */
import assert from 'node:assert/strict';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { removedMark } from '../../src/catalog/tree.js';
import { emptyRoot, startDaemon } from '../support/daemon.js';
import { addVersion } from '../support/image-tree.js';
import { publishedPaths } from '../support/library-site.js';

test('a daemon removes what uploads have left, and deletes what was taken out in its time', async (t) => {
  const root = await emptyRoot(t);
  await mkdir(join(root, '.staging/0123'), { recursive: true });
  await writeFile(join(root, '.staging/0123/rootfs'), 'half');
  const [one, other, kept] = ['one', 'other', 'kept'].map(
    (name) => `demo/${name}/amd64/default/20260101`,
  );
  for (const path of [one, other, kept] as string[]) await addVersion(root, path);
  for (const path of [one, other] as string[])
    await writeFile(join(root, 'images', path, removedMark), '');
  const daemon = await startDaemon(t, root, {
    settle: '0s',
    config: 'publish.removal_grace = "8h"',
  });
  const paths = ['lxd.tar.xz', 'rootfs.squashfs'].map((name) => `images/${kept}/${name}`);
  assert.deepEqual(await publishedPaths({ root }), paths);
  const all = await readdir(root, { recursive: true });
  assert.deepEqual(
    all.filter((path) => path.startsWith('.staging/')),
    [],
  );
  for (const path of [one, other]) await stat(join(root, 'images', String(path), 'lxd.tar.xz'));
  // A configuration that is read while it runs counts as well.
  await writeFile(
    join(root, 'config.toml'),
    [
      ...['root', 'state', 'run'].map(
        (key) => `paths.${key} = ${JSON.stringify(key === 'root' ? root : join(root, key))}`,
      ),
      'server.listen = ""\npublish.settle = "0s"\npublish.removal_grace = "0s"',
    ].join('\n'),
  );
  daemon.signal('SIGHUP');
  await daemon.event('deleted');
  await daemon.event('deleted');
  assert.deepEqual(await readdir(join(root, 'images/demo')), ['kept']);
  assert.equal(await daemon.end(), 0);
});
