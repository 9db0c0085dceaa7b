import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { outcome } from '../support/command.js';
import { standIn } from '../support/hub.js';
import { describeWithHub, type Stage } from '../support/hub-stage.js';
import { startManager } from '../support/managers.js';
import { fingerprintOf, type Sample } from '../support/sample-images.js';

/** Uploads a new image to the hub under `alias`. */
async function uploaded(
  { manager, sample }: Stage,
  alias: string,
  properties: Record<string, string> = {},
): Promise<Sample> {
  const image = await sample('split', properties);
  await manager.run('image', 'import', ...image.files, 'hub:', '--alias', alias, '--public');
  return image;
}

/** The fingerprint that `alias` stands for, by the hub's answer to `image info`. */
async function fingerprintBy({ manager }: Stage, alias: string): Promise<string | undefined> {
  const info = await manager.run('image', 'info', `hub:${alias}`);
  return /^Fingerprint: (.*)$/m.exec(info)?.[1];
}

/** Every alias that the hub lists, with the fingerprint. */
async function aliases({ manager }: Stage): Promise<Map<string, string>> {
  const csv = await manager.run('image', 'alias', 'list', 'hub:', '--format', 'csv');
  const rows = csv.trim().split('\n');
  return new Map(
    rows.map((row) => row.split(',')).map(([name = '', target = '']) => [name, target]),
  );
}

/** What a client says where it fails. */
async function refusal({ manager }: Stage, ...args: string[]): Promise<string> {
  const { code, stderr } = await manager.outcome(...args);
  assert.equal(code, 1, `${args.join(' ')} did not fail`);
  return stderr.trim();
}

await describeWithHub('what is there', (stage) => {
  test('image list, info, show and alias list tell of an image', async () => {
    const image = await uploaded(stage, 'told/of', { description: 'Told of' });
    const { run } = stage.manager;
    const row = await run('image', 'list', 'hub:told/of', '--format', 'csv', '--columns', 'Fpdt');
    assert.equal(row, `${image.fingerprint},yes,Told of,CONTAINER\n`);
    assert.equal(await fingerprintBy(stage, 'told/of'), image.fingerprint);
    assert.equal(await fingerprintBy(stage, image.fingerprint.slice(0, 12)), image.fingerprint);
    const shown = await run('image', 'show', 'hub:told/of');
    assert.match(shown, /^ {2}description: Told of$/m);
    assert.match(shown, /^public: true$/m);
    assert.equal((await aliases(stage)).get('told/of'), image.fingerprint.slice(0, 12));
  });

  test('image list shows what a filter asks for', async () => {
    const image = await uploaded(stage, 'filtered/a', { wanted: 'yes' });
    await uploaded(stage, 'filtered/b', { wanted: 'no' });
    const list = (filter: string) =>
      stage.manager.run('image', 'list', 'hub:', filter, '--format', 'csv', '--columns', 'F');
    assert.equal(await list('wanted=yes'), `${image.fingerprint}\n`);
  });

  test('image copy from the hub, with its aliases', async () => {
    const image = await uploaded(stage, 'to/copy');
    const { run } = stage.manager;
    await run('image', 'copy', 'hub:to/copy', 'local:', '--copy-aliases', '--alias', 'copied');
    const info = await run('image', 'info', 'copied');
    assert.equal(/^Fingerprint: (.*)$/m.exec(info)?.[1], image.fingerprint);
    assert.match(await run('image', 'info', 'to/copy'), new RegExp(image.fingerprint));
  });

  for (const mode of ['pull', 'relay']) {
    test(`image copy --mode=${mode} from the hub to a third server`, async () => {
      const image = await uploaded(stage, `onwards/${mode}`);
      const third = await startManager(stage.kind);
      try {
        const { run } = stage.manager;
        const remote = `third-${mode}`;
        await run('remote', 'add', remote, await third.token('me'));
        const words = [`--mode=${mode}`, '--alias', 'arrived'];
        // Clients that relay a public image do not look up its alias.
        const name = mode === 'relay' ? image.fingerprint : `onwards/${mode}`;
        await run('image', 'copy', `hub:${name}`, `${remote}:`, ...words);
        const info = await third.run('image', 'info', image.fingerprint);
        assert.match(info, /^ {4}- arrived$/m);
      } finally {
        await third.close();
      }
    });
  }

  test('what an image server has not got says that it is one', { skip: standIn }, async () => {
    await uploaded(stage, 'not/here');
    for (const line of [
      ['launch', 'hub:not/here', 'hub:container'],
      ['query', 'hub:/1.0/networks'],
    ]) {
      assert.match(await refusal(stage, ...line), /image server/);
    }
  });

  test('info tells of the server', async () => {
    const said = await stage.manager.run('info', 'hub:');
    assert.match(said, /^auth: trusted$/m);
    assert.match(said, /^public: false$/m);
  });

  test('launch from the hub', async () => {
    const image = await stage.sample('split');
    const { run } = stage.manager;
    await run('image', 'import', ...image.files, 'hub:', '--alias', 'to/launch');
    await run('launch', 'hub:to/launch', 'launched');
    assert.equal(await run('file', 'pull', 'launched/etc/hostname', '-'), 'launched\n');
    await run('delete', '--force', 'launched');
  });

  test('launch of a unified image from the hub', async () => {
    const image = await stage.sample('unified, xz');
    const { run } = stage.manager;
    await run('image', 'import', ...image.files, 'hub:', '--alias', 'whole/launch');
    await run('launch', 'hub:whole/launch', 'whole');
    assert.equal(await run('file', 'pull', 'whole/etc/hostname', '-'), 'whole\n');
    await run('delete', '--force', 'whole');
  });

  test('a copy that is kept up to date follows the alias to the next upload', async () => {
    const properties = { os: 'Followed', release: 'one' };
    await uploaded(stage, 'followed', properties);
    const { run } = stage.manager;
    await run('image', 'copy', 'hub:followed', 'local:', '--alias', 'mine', '--auto-update');
    const next = await stage.sample('split', properties);
    await run('image', 'import', ...next.files, 'hub:', '--public');
    const target = (await aliases(stage)).get('followed');
    if (target !== next.fingerprint.slice(0, 12)) {
      await run('image', 'alias', 'delete', 'hub:followed');
      await run('image', 'alias', 'create', 'hub:followed', next.fingerprint);
    }
    assert.match(await run('image', 'refresh', 'mine'), /refreshed successfully/);
    assert.match(await run('image', 'info', 'mine'), new RegExp(next.fingerprint));
  });

  test('image export gives the files', async () => {
    const image = await uploaded(stage, 'to/export');
    const folder = await stage.folder();
    await stage.manager.run('image', 'export', 'hub:to/export', `${folder}/out`);
    const names = (await readdir(folder)).sort();
    assert.deepEqual(names, ['out', 'out.root']);
    const files = names.map((name) => join(folder, name));
    assert.equal(await fingerprintOf(files), image.fingerprint);
  });

  // A stand-in knows of no source for it, and fails.
  test('image refresh says that it is up to date', { skip: standIn }, async () => {
    await uploaded(stage, 'to/refresh');
    const said = await stage.manager.run('image', 'refresh', 'hub:to/refresh');
    assert.match(said, /Image already up to date/);
  });

  test('image set-property, get-property and unset-property', async () => {
    const image = await uploaded(stage, 'with/properties');
    const { run } = stage.manager;
    await run('image', 'set-property', 'hub:with/properties', 'description', 'Set by hand');
    const get = ['image', 'get-property', 'hub:with/properties', 'description'];
    assert.equal(await run(...get), 'Set by hand\n');
    await run('image', 'unset-property', 'hub:with/properties', 'description');
    assert.match(await refusal(stage, ...get), /Property not found/);
    assert.ok((await stage.hub.published()).has(image.fingerprint));
  });

  test('image edit from standard input', async () => {
    await uploaded(stage, 'to/edit');
    const { env, run } = stage.manager;
    const before = await run('image', 'show', 'hub:to/edit');
    const after = before.replace(/^ {2}serial: .*$/m, '  serial: edited');
    const line = ['image', 'edit', 'hub:to/edit'];
    const { code, stderr } = await outcome(stage.kind.client, line, { env, input: after });
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(await run('image', 'show', 'hub:to/edit'), /^ {2}serial: edited$/m);
  });

  test('image alias create, rename and delete', async () => {
    const image = await uploaded(stage, 'first/name');
    const { run } = stage.manager;
    const short = image.fingerprint.slice(0, 12);
    await run('image', 'alias', 'create', 'hub:second/name', image.fingerprint);
    assert.equal((await aliases(stage)).get('second/name'), short);
    await run('image', 'alias', 'rename', 'hub:second/name', 'third');
    assert.equal((await aliases(stage)).get('third'), short);
    assert.equal((await aliases(stage)).has('second/name'), false);
    assert.equal(await fingerprintBy(stage, 'third'), image.fingerprint);
    await run('image', 'alias', 'delete', 'hub:third');
    assert.equal((await aliases(stage)).has('third'), false);
    assert.equal(await fingerprintBy(stage, 'first/name'), image.fingerprint);
  });

  test('aliases that are taken or unknown are refused', async () => {
    const taken = /already exists|belongs to .* already/i;
    await uploaded(stage, 'taken');
    const other = await uploaded(stage, 'other');
    const create = ['image', 'alias', 'create', 'hub:taken', other.fingerprint];
    assert.match(await refusal(stage, ...create), taken);
    const rename = ['image', 'alias', 'rename', 'hub:other', 'taken'];
    assert.match(await refusal(stage, ...rename), taken);
    assert.match(await refusal(stage, 'image', 'alias', 'delete', 'hub:nowhere'), /not found/i);
    assert.match(await refusal(stage, 'image', 'info', 'hub:nowhere'), /not found/i);
    const unknown = 'a'.repeat(64);
    const lost = ['image', 'alias', 'create', 'hub:lost', unknown];
    assert.match(await refusal(stage, ...lost), /not found/i);
  });

  test('image delete takes the image out of the list', async () => {
    const image = await uploaded(stage, 'to/delete');
    await stage.manager.run('image', 'delete', 'hub:to/delete');
    assert.equal((await stage.hub.published()).has(image.fingerprint), false);
    assert.equal((await aliases(stage)).has('to/delete'), false);
    assert.match(await refusal(stage, 'image', 'info', 'hub:to/delete'), /not found/i);
    const again = await stage.manager.outcome('image', 'import', ...image.files, 'hub:');
    assert.equal(again.code, 0, again.stderr);
    assert.ok((await stage.hub.published()).has(image.fingerprint));
  });
});
