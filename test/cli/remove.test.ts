/** `remove` and `prune`, by the daemon and without one. */
import assert from 'node:assert/strict';
import { mkdir, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { publishedVersions, runCli } from '../support/cli.js';
import { daemonConfig, emptyRoot, shows, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { addVersion } from '../support/image-tree.js';

const product = 'demo/one/amd64/default';

interface Site {
  root: string;
  /** Runs the command with these words. */
  call(...words: string[]): ReturnType<typeof runCli>;
}

const ways: Record<string, (t: TestContext, root: string, config: string) => Promise<unknown>> = {
  'by the daemon': (t, root, config) => startDaemon(t, root, { settle: '0s', config }),
  'without a daemon': async (_t, root, config) => {
    const file = await daemonConfig(root, { settle: '0s', config });
    assert.equal((await runCli(['update', '--config', file])).code, 0);
  },
};

for (const [way, start] of Object.entries(ways)) {
  /** With two versions of one product, and one of another. */
  async function makeSite(t: TestContext, config = ''): Promise<Site> {
    const root = await emptyRoot(t);
    await addVersion(root, `${product}/20260101`);
    await addVersion(root, `${product}/20260102`);
    await addVersion(root, 'demo/two/amd64/default/20200101');
    await start(t, root, config);
    assert.deepEqual(await publishedVersions(root), all);
    return { root, call: (...words) => runCli([...words, '--config', join(root, 'config.toml')]) };
  }

  const all = [
    'demo:one:amd64:default/20260101',
    'demo:one:amd64:default/20260102',
    'demo:two:amd64:default/20200101',
  ];

  describe(`remove, ${way},`, () => {
    test('takes a version out of the documents, and leaves its files for the grace time', async (t) => {
      const { root, call } = await makeSite(t);
      const { code, stdout } = await call('remove', `images/${product}/20260101/`);
      assert.equal(stdout, `${product}/20260101\n1 version taken out; the files go after 2.0 h\n`);
      assert.equal(code, 0);
      assert.deepEqual(await publishedVersions(root), all.slice(1));
      const files = await readdir(join(root, 'images', product, '20260101'));
      assert.deepEqual(files.sort(), ['.removed', 'lxd.tar.xz', 'rootfs.squashfs']);
      await rm(join(root, 'images', product, '20260101/.removed'));
      assert.equal((await call('update')).code, 0);
      assert.deepEqual(await publishedVersions(root), all);
    });

    test('takes all of a product, with what is held back and with its aliases', async (t) => {
      const { root, call } = await makeSite(t);
      const folder = join(root, 'images', product);
      await writeFile(join(folder, 'product.yaml'), 'aliases:\n  - mine\n');
      await addVersion(root, `${product}/20260103`, { 'lxd.tar.xz': 'none' });
      await call('update');
      const { stdout } = await call('remove', 'demo:one:amd64:default', '--json');
      const versions = ['20260101', '20260102', '20260103'].map((name) => `${product}/${name}`);
      assert.deepEqual(JSON.parse(stdout), { versions });
      assert.deepEqual(await publishedVersions(root), all.slice(2));
      assert.ok(!(await readdir(folder)).includes('product.yaml'));
      const { problems } = JSON.parse((await call('update', '--json')).stdout);
      assert.deepEqual(problems, []);
    });

    test('takes what a fingerprint names, wherever it is', async (t) => {
      const { root, call } = await makeSite(t);
      const [one] = JSON.parse((await call('list', '--json')).stdout);
      const [fingerprint] = one.versions[0].fingerprints;
      const { stdout } = await call('remove', fingerprint.slice(0, 12));
      assert.match(stdout, /^demo\/one\/amd64\/default\/20260101\n/);
      assert.deepEqual(await publishedVersions(root), all.slice(1));
    });

    test('does nothing at all where one of the names is wrong', async (t) => {
      const { root, call } = await makeSite(t);
      const names = [`${product}/20260109`, `${product}/../default/20260101`, 'f'.repeat(64), ''];
      for (const name of names) {
        const { code, stderr, stdout } = await call('remove', `${product}/20260101`, name);
        assert.deepEqual([code, stdout], [1, ''], name);
        assert.match(stderr, /^error: There is no product or version ".*"; name env\/release/);
      }
      assert.deepEqual(await publishedVersions(root), all);
      assert.equal((await call('remove')).code, 2);
    });

    test('refuses a link, and takes links out with the version that they lead to', async (t) => {
      const { root, call } = await makeSite(t);
      const parent = join(root, 'images/demo/three/amd64/default');
      await mkdir(parent, { recursive: true });
      await symlink('../../../one/amd64/default/20260101', join(parent, '20260101'));
      await call('update');
      for (const name of ['demo/three/amd64/default/20260101', 'demo/three/amd64/default']) {
        const { code, stderr } = await call('remove', name);
        assert.equal(code, 1);
        assert.match(stderr, /demo\/three\/amd64\/default\/20260101 is a symbolic link/);
      }
      assert.equal((await publishedVersions(root)).length, 4);
      const { stdout } = await call('remove', `${product}/20260101`);
      assert.match(
        stdout,
        /^demo\/one.*\ndemo\/three\/amd64\/default\/20260101\n2 versions taken out/,
      );
      assert.deepEqual(await publishedVersions(root), all.slice(1));
    });

    test('leaves no files where there is no grace time', async (t) => {
      const { root, call } = await makeSite(t, 'publish.removal_grace = "0s"');
      const { stdout } = await call('remove', 'demo/two/amd64/default');
      assert.match(stdout, /1 version taken out; the files go at once\n$/);
      await eventually('its folders are gone', async () => {
        return !(await readdir(join(root, 'images/demo'))).includes('two');
      });
      assert.deepEqual(await publishedVersions(root), all.slice(0, 2));
    });
  });

  describe(`prune, ${way},`, () => {
    test('takes out what the rules do not keep, and tells it beforehand', async (t) => {
      const { root, call } = await makeSite(t, 'retention.keep = 1');
      const told = await call('prune', '--dry-run');
      assert.equal(told.stdout, `${product}/20260101\n1 version to take out\n`);
      assert.deepEqual(await publishedVersions(root), all);
      const { code, stdout } = await call('prune', '--json');
      assert.deepEqual([code, JSON.parse(stdout)], [0, { versions: [`${product}/20260101`] }]);
      assert.deepEqual(await publishedVersions(root), all.slice(1));
      assert.equal((await call('prune')).stdout, 'nothing taken out\n');
    });

    test('says which key to set where there are no rules', async (t) => {
      const { root, call } = await makeSite(t);
      const { code, stderr } = await call('prune');
      assert.equal(code, 2);
      assert.match(stderr, /^error: There are no rules to prune by; set retention\.keep/);
      assert.deepEqual(await publishedVersions(root), all);
    });
  });
}

test('what was taken out without a daemon is deleted by a later command, once it is due', async (t) => {
  const root = await emptyRoot(t);
  await addVersion(root, `${product}/20260101`);
  await addVersion(root, `${product}/20260102`);
  const file = await daemonConfig(root, { settle: '0s', config: 'retention.keep = 5' });
  assert.equal((await runCli(['remove', '--config', file, `${product}/20260101`])).code, 0);
  const versions = () => readdir(join(root, 'images', product));
  assert.deepEqual((await versions()).sort(), ['20260101', '20260102']);
  await daemonConfig(root, {
    settle: '0s',
    config: 'retention.keep = 5\npublish.removal_grace = "0s"',
  });
  assert.equal((await runCli(['prune', '--config', file])).code, 0);
  assert.deepEqual(await versions(), ['20260102']);
});

test('a daemon of another tree does nothing of it', async (t) => {
  const [root, other] = [await emptyRoot(t), await emptyRoot(t)];
  await addVersion(root, `${product}/20260101`);
  const daemon = await startDaemon(t, root, { settle: '0s' });
  await daemon.until(shows(root, 'demo:one:amd64:default/20260101'));
  await addVersion(other, `${product}/20260101`);
  const words = ['--config', join(root, 'config.toml'), '--root-dir', other];
  const { stdout } = await runCli(['remove', ...words, `${product}/20260101`]);
  assert.match(stdout, /1 version taken out/);
  assert.deepEqual(await publishedVersions(other), []);
  assert.deepEqual(await publishedVersions(root), ['demo:one:amd64:default/20260101']);
});
