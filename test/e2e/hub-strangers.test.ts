import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { standIn } from '../support/hub.js';
import { describeWithHub } from '../support/hub-stage.js';
import type { Client } from '../support/managers.js';
import type { Sample } from '../support/sample-images.js';

/** Where a client is refused: what it is told to do about it. A stand-in says only that it is refused. */
const cure = standIn ? /not authorized|Forbidden/i : /lxd-image-server trust add/;

/** What a client says where it fails. */
async function refusal(client: Client, ...args: string[]): Promise<string> {
  const { code, stderr } = await client.outcome(...args);
  assert.notEqual(code, 0, `${args.join(' ')} did not fail`);
  return stderr.trim();
}

/** The names of the remotes that a client knows. */
async function remotes(client: Client): Promise<string[]> {
  return Object.keys(JSON.parse(await client.run('remote', 'list', '--format', 'json')));
}

/** A token that differs in one field. */
function changed(token: string, fields: object): string {
  const content: object = JSON.parse(Buffer.from(token, 'base64').toString('utf8'));
  return Buffer.from(JSON.stringify({ ...content, ...fields })).toString('base64');
}

await describeWithHub('strangers', (stage) => {
  let clients = 0;
  /** Somebody whom the hub has never met. */
  const stranger = () => {
    clients += 1;
    return stage.manager.newClient(`stranger-${clients}`);
  };

  describe('tokens', () => {
    test('one lets a client in, and it can upload', async () => {
      const client = await stranger();
      await client.run('remote', 'add', 'hub', await stage.hub.token('with-token'));
      const image = await stage.sample('split');
      await client.run('image', 'import', ...image.files, 'hub:');
      assert.ok((await stage.hub.published()).has(image.fingerprint));
    });

    // A stand-in fails here: whoever pastes the line twice is told that it went wrong.
    test('whoever is trusted may add the server again', { skip: standIn }, async () => {
      const client = await stranger();
      await client.run('remote', 'add', 'hub', await stage.hub.token('again-1'));
      await client.run('remote', 'add', 'same', await stage.hub.token('again-2'));
      const image = await stage.sample('split');
      await client.run('image', 'import', ...image.files, 'same:');
      assert.ok((await stage.hub.published()).has(image.fingerprint));
    });

    test('one that is used up lets nobody else in', async () => {
      const token = await stage.hub.token('once');
      await (await stranger()).run('remote', 'add', 'hub', token);
      const second = await stranger();
      const said = await refusal(second, 'remote', 'add', 'hub', token);
      if (!standIn) assert.match(said, cure);
      assert.deepEqual((await remotes(second)).includes('hub'), false);
    });

    test('one with a wrong secret lets nobody in', async () => {
      const token = changed(await stage.hub.token('guessed'), { secret: 'f'.repeat(64) });
      const said = await refusal(await stranger(), 'remote', 'add', 'hub', token);
      if (!standIn) assert.match(said, cure);
    });

    test('one of another server is refused by the client itself', async () => {
      const token = changed(await stage.hub.token('foreign'), { fingerprint: 'a'.repeat(64) });
      const said = await refusal(await stranger(), 'remote', 'add', 'hub', token);
      assert.match(said, /fingerprint mismatch/i);
    });

    test('one that has expired lets nobody in', { skip: standIn }, async () => {
      const token = await stage.hub.token('late', '--expires', '1s');
      // It is good for the whole of that second; what is awaited is the clock.
      await sleep(1_100);
      const said = await refusal(await stranger(), 'remote', 'add', 'hub', token);
      assert.match(said, /expired/);
      assert.match(said, cure);
    });
  });

  describe('a client that is not trusted any more', () => {
    let client: Client;
    let image: Sample;
    let local: Sample;

    before(async () => {
      client = await stranger();
      await client.run('remote', 'add', 'hub', await stage.hub.token('gone'));
      await stage.hub.distrust('gone');
      image = await stage.sample('split');
      const words = ['--alias', 'for/all', '--public'];
      await stage.manager.run('image', 'import', ...image.files, 'hub:', ...words);
      local = await stage.local('split', 'not-wanted');
    });

    /** The client fails with the cure, and the hub has nothing new. */
    const isRefused = async (...args: string[]) => {
      assert.match(await refusal(client, ...args), cure);
      await nothingNew();
    };
    const nothingNew = async () => {
      const published = await stage.hub.published();
      assert.equal(published.has(local.fingerprint), false);
      assert.equal(published.get(image.fingerprint), 'container');
      assert.deepEqual(await stage.hub.leftovers(), []);
    };

    test('lists and shows images', async () => {
      const list = await client.run('image', 'list', 'hub:for/all', '-f', 'csv', '-c', 'F');
      assert.equal(list, `${image.fingerprint}\n`);
      assert.match(await client.run('image', 'info', 'hub:for/all'), /^Public: yes$/m);
    });

    test('launches one', async () => {
      await client.run('launch', 'hub:for/all', 'from-afar');
      assert.equal(await client.run('file', 'pull', 'from-afar/etc/hostname', '-'), 'from-afar\n');
      await client.run('delete', '--force', 'from-afar');
    });

    for (const mode of ['pull', 'push']) {
      test(`copies none there: --mode=${mode}`, () =>
        isRefused('image', 'copy', 'not-wanted', 'hub:', `--mode=${mode}`));
    }

    test('copies none there: --mode=relay, whatever the client says', async () => {
      // The client takes no notice of the answer.
      await client.outcome('image', 'copy', 'not-wanted', 'hub:', '--mode=relay');
      await nothingNew();
    });

    test('imports none', () => isRefused('image', 'import', ...local.files, 'hub:'));

    test('publishes no container', async () => {
      await stage.manager.run('init', 'not-wanted', 'not-published');
      await isRefused('publish', 'not-published', 'hub:', '--alias', 'no');
      await stage.manager.run('delete', 'not-published');
    });

    test('deletes none', () => isRefused('image', 'delete', 'hub:for/all'));

    test('gives none another name', () =>
      isRefused('image', 'alias', 'create', 'hub:mine', image.fingerprint));

    test('takes no name from one', () => isRefused('image', 'alias', 'delete', 'hub:for/all'));

    test('changes no property', () =>
      isRefused('image', 'set-property', 'hub:for/all', 'description', 'Mine'));

    test('is let in again by another token', async () => {
      await client.run('remote', 'remove', 'hub');
      await client.run('remote', 'add', 'hub', await stage.hub.token('back'));
      await client.run('image', 'copy', 'not-wanted', 'hub:');
      assert.ok((await stage.hub.published()).has(local.fingerprint));
    });
  });

  describe('a client that adds the server as a public one', () => {
    test('lists and launches images, and is told that it may not upload', async () => {
      const image = await stage.sample('split');
      const words = ['--alias', 'to/everyone', '--public'];
      await stage.manager.run('image', 'import', ...image.files, 'hub:', ...words);
      const client = await stranger();
      await client.run('remote', 'add', 'hub', stage.hub.url, '--public', '--accept-certificate');
      const list = await client.run('image', 'list', 'hub:to/everyone', '-f', 'csv', '-c', 'F');
      assert.equal(list, `${image.fingerprint}\n`);
      await client.run('launch', 'hub:to/everyone', 'public-one');
      await client.run('delete', '--force', 'public-one');
      assert.match(await refusal(client, 'image', 'import', ...image.files, 'hub:'), /private/);
    });
  });
});
