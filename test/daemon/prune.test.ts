/** What retention does not keep is taken out at its hour. */
import assert from 'node:assert/strict';
import { mkdir, readdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { daemonConfig, emptyRoot, shows, startDaemon } from '../support/daemon.js';
import { addVersion } from '../support/image-tree.js';

const everySecond = 'schedule.prune = "* * * * * *"';

test('at its hour all but what the rules keep leaves the index, and its files go later', async (t) => {
  const root = await emptyRoot(t);
  const images = join(root, 'images');
  for (const name of ['20260101', '20260102', '20260103']) {
    await addVersion(root, `demo/one/amd64/default/${name}`);
  }
  await addVersion(root, 'demo/two/amd64/default/20200101');
  // By its link it is the newest version of another product.
  await mkdir(join(images, 'demo/three/amd64/default'), { recursive: true });
  const link = join(images, 'demo/three/amd64/default/20260102');
  await symlink('../../../one/amd64/default/20260102', link);
  const daemon = await startDaemon(t, root, {
    settle: '0s',
    config: `${everySecond}\nretention.keep = 1\npublish.removal_grace = "8h"`,
  });
  const left = [
    'demo:one:amd64:default/20260102',
    'demo:one:amd64:default/20260103',
    'demo:three:amd64:default/20260102',
    'demo:two:amd64:default/20200101',
  ];
  await daemon.until(shows(root, ...left));
  await daemon.event('pruned');
  const product = join(images, 'demo/one/amd64/default');
  assert.deepEqual((await readdir(product)).sort(), ['20260101', '20260102', '20260103']);
  await daemonConfig(root, { settle: '0s', config: 'publish.removal_grace = "0s"' });
  await daemon.call('reload');
  const { version } = await daemon.event('deleted');
  assert.equal(version, 'demo/one/amd64/default/20260101');
  assert.deepEqual((await readdir(product)).sort(), ['20260102', '20260103']);
  assert.ok(await shows(root, ...left)());
  assert.equal(await daemon.end(), 0);
});

test('without a rule nothing is taken out, and the status says so; a reload brings rules', async (t) => {
  const root = await emptyRoot(t);
  await addVersion(root, 'demo/one/amd64/default/20260101');
  await addVersion(root, 'demo/one/amd64/default/20260102');
  const daemon = await startDaemon(t, root, { settle: '0s', config: everySecond });
  const failure = async () =>
    (await daemon.status()).jobs.find(({ name }) => name === 'prune')?.last?.failure;
  while ((await failure()) === undefined);
  assert.equal(await failure(), 'There are no rules to prune by');
  const both = ['demo:one:amd64:default/20260101', 'demo:one:amd64:default/20260102'];
  assert.ok(await shows(root, ...both)());
  await daemonConfig(root, { settle: '0s', config: `${everySecond}\nretention.days = 1` });
  await daemon.call('reload');
  await daemon.until(shows(root, 'demo:one:amd64:default/20260102'));
});
