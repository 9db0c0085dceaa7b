import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { closeAll } from '../support/close-all.js';
import { missingPrograms } from '../support/command.js';
import { createOwnHub, type OwnHub, standIn, ways } from '../support/hub.js';
import { type Manager, managerKinds, startManager } from '../support/managers.js';
import { assertMirrored, becomesMirrored, mirrorTable } from '../support/mirrored.js';
import { freePort } from '../support/ports.js';
import { type PublishedImages, publishImages } from '../support/published-images.js';
import { samplePrograms } from '../support/sample-images.js';
import { createSftpServer, type SftpServer } from '../support/sftp-mirror.js';
import { makeSite, type Served, serve } from '../support/site.js';

const programs = [...samplePrograms, 'timeout', 'sshd', 'ssh-keygen', 'nginx'];

for (const kind of managerKinds) {
  const missing = (await kind.missing()) || missingPrograms(...programs);
  const skip = (standIn && 'only the server itself has mirrors') || missing;
  for (const way of ways) {
    describe(`The way of an image from ${kind.title} to the world, hub met ${way}`, {
      skip,
    }, () => {
      const endings: (() => unknown)[] = [];
      const t = { after: (ending: () => unknown) => void endings.unshift(ending) };
      let elsewhere: PublishedImages;
      let here: Manager;
      let there: Manager;
      let sftp: SftpServer;
      let hub: OwnHub;
      let mirror: Served;
      let mirrorUrl: string;

      before(async () => {
        elsewhere = await publishImages();
        [here, there] = await Promise.all([startManager(kind), startManager(kind)]);
        // BusyBox is told in its own way to shut down.
        const halt = ['raw.lxc', 'lxc.signal.halt=SIGUSR2'];
        await here.run('profile', 'set', 'default', ...halt);
        sftp = await createSftpServer(t);
        hub = await createOwnHub(t, { way, config: mirrorTable(sftp.config) });
        // Its tree is the folder that the hub writes to, with the certificate of the hub.
        const address = `127.0.0.1:${await freePort()}`;
        const site = await makeSite(sftp.home, { address, sslDir: hub.site.sslDir });
        assert.equal(site.root, sftp.folder);
        mirror = await serve(site);
        mirrorUrl = site.url;
        const { certificate } = elsewhere.server;
        await here.addRemote('elsewhere', { url: elsewhere.site.url, certificate });
      });
      after(async () => {
        await closeAll(here, there, elsewhere);
        await mirror?.stop();
        for (const end of endings) await end();
      });

      test('launch, change, publish, copy to the hub, launch from its mirror', async () => {
        const { run } = here;
        await run('remote', 'add', 'hub', await hub.token('me'));
        await run('launch', 'elsewhere:demo/busybox', 'n1');
        const install = 'echo "echo smile" > /bin/vim; busybox chmod +x /bin/vim';
        await run('exec', 'n1', '--', 'sh', '-c', install);
        await run('stop', 'n1');
        await run('publish', '--public', 'n1', '--alias', 'bionic-vim');
        await run('image', 'copy', 'bionic-vim', 'hub:', '--copy-aliases');

        const info = await run('image', 'info', 'bionic-vim');
        const fingerprint = /^Fingerprint: (.*)$/m.exec(info)?.[1] ?? '';
        assert.equal((await hub.published()).get(fingerprint), 'container');
        await becomesMirrored(hub.site.root, sftp.folder);
        await assertMirrored(hub.site.root, sftp.folder);

        await there.addRemote('mirror', { url: mirrorUrl, certificate: mirror.certificate });
        await there.run('launch', 'mirror:bionic-vim', 'ntest');
        // What a command says does not always reach a busy client in full; what it writes is there.
        await there.run('exec', 'ntest', '--', 'sh', '-c', '/bin/vim > /root/said');
        assert.equal(await there.run('file', 'pull', 'ntest/root/said', '-'), 'smile\n');
        assert.deepEqual(await hub.leftovers(), []);
      });
    });
  }
}
