/** The real clients, with the API as a remote of their own kind. */
import assert from 'node:assert/strict';
import { mkdir, open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { requireTrust } from '../../src/server/lxd/who.js';
import { type ApiServer, serveApi } from '../support/api.js';
import { serveBehindNginx } from '../support/api-behind-nginx.js';
import { splitImage, vmImage } from '../support/api-images.js';
import { missingPrograms, outcome, run } from '../support/command.js';
import { incusMissing, incusTools } from '../support/incus.js';
import type { MemoryImage } from '../support/memory-library.js';
import { temporaryFolder } from '../support/temporary.js';

interface Client {
  /** Runs the client; throws with all that it said where it fails. */
  run: (...args: string[]) => Promise<string>;
  /** What it says when it fails. */
  fails: (...args: string[]) => Promise<string>;
}

type Start = (t: TestContext) => Promise<Client>;

const startLxc: Start = async (t) => {
  const env = { LXD_CONF: await temporaryFolder(t) };
  const fails = async (...args: string[]) => {
    const { code, stderr } = await outcome('lxc', args, { env });
    assert.notEqual(code, 0, `lxc ${args.join(' ')}`);
    return stderr;
  };
  return { run: (...args) => run('lxc', args, { env }), fails };
};

const startIncus: Start = async (t) => {
  const { incus, close } = await incusTools();
  t.after(() => close());
  const fails = (...args: string[]) =>
    incus(...args).then(
      () => assert.fail(`incus ${args.join(' ')}`),
      (error: Error) => error.message,
    );
  return { run: incus, fails };
};

const clients: { name: string; start: Start; skip: string | false }[] = [
  { name: 'lxc', start: startLxc, skip: missingPrograms('lxc') },
  { name: 'incus', start: startIncus, skip: await incusMissing() },
];

/** Refuses whoever is not trusted, as uploads do, without reading what comes. */
const uploads: Parameters<typeof serveBehindNginx>[1] = {
  uploads: {
    post: async ({ caller }) => ({ kind: 'sync', metadata: requireTrust(caller).name }),
  },
};

const places: { place: string; serve: (t: TestContext) => Promise<ApiServer>; needs: string[] }[] =
  [
    { place: 'over TLS', serve: (t) => serveApi(t, { api: uploads }), needs: [] },
    { place: 'behind nginx', serve: (t) => serveBehindNginx(t, uploads), needs: ['nginx'] },
  ];

const unified = (): MemoryImage => ({
  ...{ release: 'debian/13', aliases: ['debian/13'] },
  files: { 'lxd_combined.tar.gz': Buffer.alloc(300_000, 7) },
});

async function addRemote(client: Client, { port, callers, server }: ApiServer): Promise<void> {
  const token = callers.token('me', { port, serverCertificate: server.der });
  await client.run('remote', 'add', 'hub', token);
}

for (const { name, start, skip } of clients) {
  for (const { place, serve, needs } of places) {
    describe(`${name}, ${place}`, { skip: skip || missingPrograms(...needs) }, () => {
      test('adds the server with a token, once', async (t) => {
        const server = await serve(t);
        const client = await start(t);
        await addRemote(client, server);
        assert.match(await client.run('remote', 'list', '--format', 'csv'), /^hub,/m);
        const again = server.callers.token('me', {
          ...{ port: server.port, serverCertificate: server.server.der },
        });
        await client.run('remote', 'add', 'hub2', again);
        const wrong = await start(t);
        const said = await wrong.fails('remote', 'add', 'hub', again.replace(/.{8}$/, ''));
        assert.doesNotMatch(said, /panic/);
        assert.deepEqual(server.events, []);
      });

      test('lists, shows and exports images', async (t) => {
        const server = await serve(t);
        const client = await start(t);
        await addRemote(client, server);
        const split = splitImage();
        const { fingerprint } = await server.library.add(split);
        const vm = await server.library.add(vmImage());
        const one = await server.library.add(unified());
        const list = JSON.parse(await client.run('image', 'list', 'hub:', '--format', 'json'));
        const shown = (list as { fingerprint: string; type: string; public: boolean }[]).map(
          (each) => [each.fingerprint, each.type, each.public],
        );
        const expected = [
          [fingerprint, 'container', true],
          [vm.fingerprint, 'virtual-machine', true],
          [one.fingerprint, 'container', true],
        ];
        const order = (a: unknown[], b: unknown[]) => (String(a[0]) < String(b[0]) ? -1 : 1);
        assert.deepEqual(shown.sort(order), expected.sort(order));
        const info = await client.run('image', 'info', 'hub:debian/12');
        assert.match(info, new RegExp(`^Fingerprint: ${fingerprint}$`, 'm'));
        assert.match(info, /^ {4}description: Debian 12$/m);
        const aliases = await client.run('image', 'alias', 'list', 'hub:', '--format', 'csv');
        const names = aliases.split('\n').map((line) => line.split(',')[0]);
        assert.deepEqual(names.filter(Boolean), ['d12', 'debian/12', 'debian/13']);
        const folder = await temporaryFolder(t);
        for (const [index, image] of ['debian/12', 'debian/13'].entries()) {
          await mkdir(join(folder, String(index)));
          await client.run('image', 'export', `hub:${image}`, join(folder, String(index)));
        }
        await client.run('image', 'export', `hub:${vm.fingerprint}`, folder, '--vm');
        const files = [
          [`0/meta-${fingerprint}.tar.xz`, split.files['incus.tar.xz']],
          [`0/${fingerprint}.squashfs`, split.files['rootfs.squashfs']],
          [`1/${one.fingerprint}.tar.gz`, unified().files['lxd_combined.tar.gz']],
        ] as const;
        for (const [path, bytes] of files) {
          assert.deepEqual(await readFile(join(folder, path)), bytes);
        }
        assert.ok((await readdir(folder)).includes(`${vm.fingerprint}.qcow2`));
        assert.deepEqual(server.events, []);
      });

      test('edits, names, refreshes and deletes images', async (t) => {
        const server = await serve(t);
        const client = await start(t);
        await addRemote(client, server);
        const { fingerprint } = await server.library.add(splitImage());
        const image = async () => (await server.library.images())[0];
        await client.run('image', 'set-property', 'hub:d12', 'colour', 'red');
        assert.equal((await image())?.properties.colour, 'red');
        await client.run('image', 'unset-property', 'hub:d12', 'colour');
        assert.equal((await image())?.properties.colour, undefined);
        await client.run('image', 'alias', 'create', 'hub:my/own', fingerprint);
        await client.run('image', 'alias', 'rename', 'hub:my/own', 'our/own');
        assert.deepEqual((await image())?.aliases, ['debian/12', 'd12', 'our/own']);
        await client.run('image', 'alias', 'delete', 'hub:our/own');
        assert.deepEqual((await image())?.aliases, ['debian/12', 'd12']);
        assert.match(await client.run('image', 'refresh', 'hub:d12'), /already up to date/);
        await client.run('image', 'delete', 'hub:d12');
        assert.equal(await image(), undefined);
        assert.match(await client.fails('image', 'info', 'hub:d12'), /There is no image "d12"/);
        assert.match(await client.fails('launch', 'hub:x', 'hub:y'), /There is no image "x"/);
        assert.deepEqual(server.events, []);
      });

      test('says what we say when it is not trusted, also after a large import', async (t) => {
        const server = await serve(t);
        const client = await start(t);
        await addRemote(client, server);
        await server.library.add(splitImage());
        server.callers.forgetAll();
        assert.match(await client.run('image', 'list', 'hub:', '--format', 'csv'), /^d12/m);
        const folder = await temporaryFolder(t);
        const large = join(folder, 'large.tar.gz');
        const file = await open(large, 'w');
        await file.truncate(256 * 1024 * 1024);
        await file.close();
        for (const args of [
          ['image', 'delete', 'hub:d12'],
          ['image', 'alias', 'delete', 'hub:d12'],
          ['image', 'import', large, 'hub:'],
        ]) {
          const said = await client.fails(...args);
          assert.match(said, /Nobody trusts you: ask for a token/, args.join(' '));
        }
        assert.deepEqual(server.events, []);
      });
    });
  }
}
