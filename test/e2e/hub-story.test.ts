import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { closeAll } from '../support/close-all.js';
import { missingPrograms } from '../support/command.js';
import { createOwnHub, type OwnHub, standIn, ways } from '../support/hub.js';
import { type Manager, managerKinds, startManager } from '../support/managers.js';
import { readProjectFile } from '../support/manual.js';
import { assertMirrored, becomesMirrored, mirrorTable } from '../support/mirrored.js';
import { freePort } from '../support/ports.js';
import { type PublishedImages, publishImages } from '../support/published-images.js';
import { samplePrograms } from '../support/sample-images.js';
import { createSftpServer, type SftpServer } from '../support/sftp-mirror.js';
import { makeSite, type Served, serve } from '../support/site.js';

const programs = [...samplePrograms, 'timeout', 'sshd', 'ssh-keygen', 'nginx'];

/** What stands for the lines of the manual that need the world outside; all others are run word for word. */
const standingFor = new Map([
  ['launch ubuntu:bionic n1', ['launch', 'elsewhere:demo/busybox', 'n1']],
  [
    'exec n1 -- apt install -y vim',
    ['exec', 'n1', '--', 'sh', '-c', 'echo "echo smile" > /bin/vim; busybox chmod +x /bin/vim'],
  ],
  // What a command says does not always reach a busy client in full; what it writes is there.
  ['exec ntest -- vim --version', ['exec', 'ntest', '--', 'sh', '-c', '/bin/vim > /root/said']],
]);

/** The words after `lxc` on the lines that a section of the README has for it; `incus` takes the same. */
async function manual(section: string): Promise<string[]> {
  const readme = await readProjectFile('README.md');
  const text = readme.split(/^## /m).find((part) => part.startsWith(`${section}\n`)) ?? '';
  const lines = text.split('\n').flatMap((line) => /^ {4}lxc (.*)$/.exec(line)?.[1] ?? []);
  assert.ok(lines.length >= 8, `the README has ${lines.length} lines`);
  for (const line of standingFor.keys()) assert.ok(lines.includes(line), `no "${line}" there`);
  return lines;
}

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
        await here.run('remote', 'add', 'hub', await hub.token('me'));
        const { certificate } = mirror;
        await there.addRemote('mirror', { url: mirrorUrl, certificate });
        for (const line of await manual('Uploading')) {
          if (line.startsWith('remote add mirror ')) continue;
          const isFar = /\b(?:mirror:|ntest\b)/.test(line);
          if (isFar) await becomesMirrored(hub.site.root, sftp.folder);
          await (isFar ? there : here).run(...(standingFor.get(line) ?? line.split(' ')));
          if (line.startsWith('image copy ')) await assertPublished();
        }
        assert.equal(await there.run('file', 'pull', 'ntest/root/said', '-'), 'smile\n');
        await assertMirrored(hub.site.root, sftp.folder);
        assert.deepEqual(await hub.leftovers(), []);
      });

      async function assertPublished(): Promise<void> {
        const info = await here.run('image', 'info', 'bionic-vim');
        const fingerprint = /^Fingerprint: (.*)$/m.exec(info)?.[1] ?? '';
        assert.equal((await hub.published()).get(fingerprint), 'container');
      }
    });
  }
}
