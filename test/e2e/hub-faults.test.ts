import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { publishedVersions } from '../support/cli.js';
import { missingPrograms } from '../support/command.js';
import { eventually } from '../support/eventually.js';
import { createOwnHub, type HubOptions, type OwnHub, standIn } from '../support/hub.js';
import { type Manager, managerKinds, startManager } from '../support/managers.js';
import { filesBelow } from '../support/mirrored.js';
import { mounting } from '../support/mounting.js';
import {
  makeLargeSample,
  makeSample,
  type Sample,
  samplePrograms,
} from '../support/sample-images.js';
import { temporaryFolder } from '../support/temporary.js';
import { createValve, type Valve } from '../support/valve.js';

const mebibyte = 1024 * 1024;

for (const kind of managerKinds) {
  const missing = (await kind.missing()) || missingPrograms(...samplePrograms, 'timeout');
  const skip = (standIn && 'these faults are the server’s own') || missing;
  describe(`Uploads by ${kind.title} that go wrong`, { skip }, () => {
    let manager: Manager;
    before(async () => {
      manager = await startManager(kind);
    });
    after(() => manager.close());

    interface Scene extends OwnHub {
      /** What `image import` ends with. */
      imports(image: Sample): ReturnType<Manager['outcome']>;
    }

    let hubs = 0;
    /** The remote `name` of the client, which is trusted there. */
    async function setUp(
      t: TestContext,
      options: HubOptions = {},
    ): Promise<Scene & { name: string }> {
      const hub = await createOwnHub(t, options);
      hubs += 1;
      const name = `hub${hubs}`;
      await manager.run('remote', 'add', name, await hub.token('me'));
      const imports = (image: Sample) =>
        manager.outcome('image', 'import', ...image.files, `${name}:`);
      return { ...hub, name, imports };
    }

    /** A large image in the client's own daemon. */
    async function local(t: TestContext, alias: string): Promise<Sample> {
      const image = await makeLargeSample(await temporaryFolder(t), { bytes: 48 * mebibyte });
      await manager.run('image', 'import', ...image.files, '--alias', alias);
      return image;
    }

    /** Has the client reach the hub through a valve that shuts in the middle of the image. */
    async function throughValve(
      t: TestContext,
      { site, name }: Scene & { name: string },
    ): Promise<Valve> {
      const target = Number(site.address.split(':')[1]);
      const valve = await createValve({ target, bytes: 16 * mebibyte });
      t.after(() => valve.close());
      await manager.run('remote', 'set-url', name, `https://127.0.0.1:${valve.port}`);
      return valve;
    }

    const isUnderWay = ({ leftovers }: OwnHub) =>
      eventually('the upload is under way', async () => (await leftovers()).length > 0);

    /** Nothing of an upload is anywhere; waits for what the hub clears away. */
    async function assertNothingLeft({ site, published, leftovers }: OwnHub): Promise<void> {
      await eventually('the hub clears away', async () => (await leftovers()).length === 0);
      assert.deepEqual([...(await published()).keys()], []);
      assert.deepEqual(await filesBelow(site.root), []);
    }

    async function assertGoesWell(scene: Scene, image: Sample): Promise<void> {
      const { code, stderr } = await scene.imports(image);
      assert.deepEqual([code, stderr], [0, '']);
      assert.deepEqual([...(await scene.published()).keys()], [image.fingerprint]);
      assert.equal((await publishedVersions(scene.site.root)).length, 1);
    }

    test('the client is killed in the middle of a relay: nothing of it stays', async (t) => {
      const scene = await setUp(t);
      const image = await local(t, 'killed');
      const valve = await throughValve(t, scene);
      const line = ['image', 'copy', 'killed', `${scene.name}:`, '--mode=relay'];
      const client = spawn(kind.client, line, { env: { ...process.env, ...manager.env } });
      await valve.shut;
      await isUnderWay(scene);
      // It sends no more, and what it has sent goes through, as its end will.
      client.kill('SIGSTOP');
      valve.open();
      client.kill('SIGKILL');
      await once(client, 'exit');
      await assertNothingLeft(scene);
      await assertGoesWell(scene, image);
    });

    test('the connection is cut in the middle of an import: nothing of it stays', async (t) => {
      const scene = await setUp(t);
      const image = await makeLargeSample(await temporaryFolder(t), { bytes: 48 * mebibyte });
      const valve = await throughValve(t, scene);
      const importing = scene.imports(image);
      await valve.shut;
      await isUnderWay(scene);
      valve.cut();
      assert.equal((await importing).code, 1);
      await assertNothingLeft(scene);
      valve.open();
      await assertGoesWell(scene, image);
    });

    /** A large image on another server, of which the hub gets only the first part. */
    async function setUpSource(t: TestContext) {
      const source = await startManager(kind);
      t.after(() => source.close());
      const image = await makeLargeSample(await temporaryFolder(t), { bytes: 48 * mebibyte });
      await source.run('image', 'import', ...image.files, '--alias', 'far');
      const target = Number(new URL(source.url).port);
      const valve = await createValve({ target, bytes: 16 * mebibyte, from: 'server' });
      t.after(() => valve.close());
      const name = `source${hubs}`;
      await manager.run('remote', 'add', name, await source.token('me'));
      await manager.run('remote', 'set-url', name, `https://127.0.0.1:${valve.port}`);
      return { image, valve, line: ['image', 'copy', `${name}:far`] };
    }

    test('the user interrupts a pull: nothing of it stays', async (t) => {
      const scene = await setUp(t);
      const { valve, line } = await setUpSource(t);
      const env = { ...process.env, ...manager.env };
      const client = spawn(kind.client, [...line, `${scene.name}:`], { env });
      await valve.shut;
      await isUnderWay(scene);
      client.kill('SIGINT');
      const [code] = await once(client, 'exit');
      assert.equal(code, 1);
      await assertNothingLeft(scene);
    });

    test('the source of a pull goes away in the middle: nothing of it stays', async (t) => {
      const scene = await setUp(t);
      const { image, valve, line } = await setUpSource(t);
      const copying = manager.outcome(...line, `${scene.name}:`);
      await valve.shut;
      await isUnderWay(scene);
      valve.cut();
      const { code, stderr } = await copying;
      assert.equal(code, 1);
      assert.notEqual(stderr, '');
      await assertNothingLeft(scene);
      valve.open();
      await assertGoesWell(scene, image);
    });

    test('the server is killed in the middle: it starts with nothing left of it', async (t) => {
      const scene = await setUp(t);
      const image = await makeLargeSample(await temporaryFolder(t), { bytes: 48 * mebibyte });
      const valve = await throughValve(t, scene);
      const importing = scene.imports(image);
      await valve.shut;
      await isUnderWay(scene);
      assert.equal(await scene.daemon.end('SIGKILL'), 'SIGKILL');
      assert.equal((await importing).code, 1);
      assert.notDeepEqual(await scene.leftovers(), []);
      await scene.restart();
      assert.deepEqual(await scene.leftovers(), []);
      await assertNothingLeft(scene);
      valve.open();
      await assertGoesWell(scene, image);
    });

    test('the disk is full in the middle: the client is told so, and what fits still goes in', async (t) => {
      const mount = mounting(t);
      const root = await temporaryFolder(t);
      // 64 MiB are left to the system.
      await mount(root, { size: '96m' });
      const scene = await setUp(t, { root });
      const image = await makeLargeSample(await temporaryFolder(t), { bytes: 48 * mebibyte });
      const { code, stderr } = await scene.imports(image);
      assert.equal(code, 1);
      assert.match(stderr, /not enough room/);
      await assertNothingLeft(scene);
      const small = await makeSample(await temporaryFolder(t), { shape: 'split' });
      await assertGoesWell(scene, small);
    });

    test('the image is larger than the configuration allows', async (t) => {
      const scene = await setUp(t, { config: 'uploads.max_size = "4MiB"' });
      const image = await makeLargeSample(await temporaryFolder(t), { bytes: 8 * mebibyte });
      const { code, stderr } = await scene.imports(image);
      assert.equal(code, 1);
      assert.match(stderr, /larger than 4MiB: .*uploads\.max_size/);
      await assertNothingLeft(scene);
      await assertGoesWell(scene, await makeSample(await temporaryFolder(t), { shape: 'split' }));
    });

    test('uploads are turned off', async (t) => {
      const scene = await setUp(t, { config: 'uploads.enabled = false' });
      const image = await makeSample(await temporaryFolder(t), { shape: 'split' });
      const { code, stderr } = await scene.imports(image);
      assert.equal(code, 1);
      assert.match(stderr, /uploads/);
      await assertNothingLeft(scene);
    });

    test('the same image comes twice at once: one goes in', async (t) => {
      const scene = await setUp(t);
      const image = await makeLargeSample(await temporaryFolder(t), { bytes: 16 * mebibyte });
      const results = await Promise.all([scene.imports(image), scene.imports(image)]);
      const [failed] = results.filter(({ code }) => code !== 0);
      assert.deepEqual(results.map(({ code }) => code).sort(), [0, 1]);
      assert.match(failed?.stderr ?? '', /Image with same fingerprint already exists/);
      assert.deepEqual([...(await scene.published()).keys()], [image.fingerprint]);
      assert.deepEqual(await readdir(join(scene.site.root, '.staging')), []);
    });
  });
}
