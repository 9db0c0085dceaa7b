/**
 * A cluster as its administrator makes it: Debian hosts, the packages, and the lines of the README, word for word. What
 * the README has for a person's eyes, such as a key that was printed elsewhere, is put in by name.
 */
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { MirrorStatus } from '../../src/daemon/status.js';
import { resumeWindow } from '../../src/mirror/mirror.js';
import { closeAll } from '../support/close-all.js';
import { run } from '../support/command.js';
import {
  type DebianHost,
  type DebianHosts,
  hostPrograms,
  startHosts,
} from '../support/debian-hosts.js';
import { debianImagePrograms } from '../support/debian-image.js';
import {
  asVersion,
  buildPackages,
  type Packages,
  packagePrograms,
} from '../support/debian-packages.js';
import { eventually } from '../support/eventually.js';
import { codeBlocks, readProjectFile } from '../support/manual.js';
import { needsRoot } from '../support/programs.js';
import { makeSample, type Sample, samplePrograms } from '../support/sample-images.js';
import { temporaryFolder } from '../support/temporary.js';

const programs = [...hostPrograms, ...debianImagePrograms, ...packagePrograms, ...samplePrograms];
const settings = '/etc/lxd-image-server';

/** As {@link makeSample}, with a place in the tree. */
async function makeVersion(folder: string, name: string): Promise<Sample> {
  const properties = { os: 'debian', release: 'trixie', description: name };
  return makeSample(join(folder, name), { shape: 'split', properties });
}

describe('A cluster made of the packages', needsRoot(...programs), () => {
  const endings: (() => unknown)[] = [];
  const t = { after: (ending: () => unknown) => void endings.unshift(ending) };
  let folder: string;
  let hosts: DebianHosts;
  let master: DebianHost;
  let mirrors: Record<'eu' | 'us', DebianHost>;
  let packages: Packages;
  let blocks: string[];
  let first: Sample;

  before(async () => {
    folder = await temporaryFolder(t);
    blocks = codeBlocks(await readProjectFile('README.md'), {
      section: 'A cluster in ten minutes',
    });
    const built = join(folder, 'packages');
    await mkdir(built);
    packages = await buildPackages(built);
    hosts = await startHosts();
    const [one, eu, us] = await Promise.all(
      ['master', 'eu', 'us'].map((name) => hosts.launch(name)),
    );
    assert.ok(one && eu && us);
    [master, mirrors] = [one, { eu, us }];
    await master.push(packages.master);
    for (const mirror of [eu, us]) await mirror.push(packages.mirror);
    first = await makeVersion(folder, 'first');
  });
  after(async () => {
    await closeAll(hosts?.manager);
    for (const end of endings) await end();
  });

  /** The block that begins with `start`, and must be there. */
  function block(start: string): string {
    const found = blocks.find((each) => each.startsWith(start));
    assert.ok(found, `the README has no block that begins with ${start}`);
    return found;
  }

  /** Runs a block as somebody does who has logged in as root. */
  const asRoot = (host: DebianHost, text: string) =>
    host.run(`cd /root; export DEBIAN_FRONTEND=noninteractive; set -e\n${text}`);

  /** The mirror has what the master has published, says the master. */
  async function inSync(): Promise<void> {
    await eventually('both mirrors are in sync', async () => {
      const said = await master.run('lxd-image-server --json mirror list');
      const states = JSON.parse(said) as { state: string }[];
      return states.length === 2 && states.every(({ state }) => state === 'synced');
    });
  }

  /** What a mirror serves, seen from this machine. */
  async function served(host: DebianHost): Promise<string> {
    const url = `https://${host.address}/streams/v1/images.json`;
    return await run('curl', ['--silent', '--show-error', '--fail', '--insecure', url]);
  }

  /** Uploads a version by SFTP from the master host itself, with a key that was let in. */
  async function upload(sample: Sample, version: string): Promise<void> {
    await master.run('rm -rf /root/upload; mkdir /root/upload');
    for (const file of sample.files) await master.push(file, `/root/upload/${basename(file)}`);
    const root = sample.files.map((file) => basename(file)).find((name) => name !== 'lxd.tar.xz');
    const text = block('mkdir -p images/')
      .replaceAll('20260103', version)
      .replace('rootfs.squashfs', root ?? '');
    await asRoot(master, `cd upload\n${text}`);
  }

  test('the packages are installed with apt, and answer at once', async () => {
    const [line = '', show = ''] = block('apt install ./lxd-image-server_').split('\n');
    await asRoot(master, line.replace('apt install', 'apt install --yes --no-install-recommends'));
    const key = (await asRoot(master, show)).trim();
    assert.match(key, /^ssh-ed25519 [A-Za-z\d+/=]+ lxd-image-server@master$/);
    for (const mirror of Object.values(mirrors)) {
      const [install = '', add = ''] = block('apt install ./lxd-image-server-mirror_').split('\n');
      await asRoot(
        mirror,
        install.replace('apt install', 'apt install --yes --no-install-recommends'),
      );
      await asRoot(mirror, add.replace(/'.*'/, `'${key}'`));
    }
    assert.match(
      await run('curl', ['-sSfk', `https://${master.address}/streams/v1/index.json`]),
      /index:1\.0/,
    );
    const api = JSON.parse(await run('curl', ['-sSfk', `https://${master.address}/1.0`]));
    assert.equal(api.metadata.auth, 'untrusted');
  });

  test('the mirrors are told to the master, and their host keys compared', async () => {
    const tables = block('[mirrors.eu]');
    await writeFile(join(folder, 'tables'), `\n${tables}\n`);
    await master.push(join(folder, 'tables'));
    await master.run(`cat /root/tables >> ${settings}/config.toml`);
    const [reload = '', ...others] = block('lxd-image-server reload').split('\n');
    assert.match(await asRoot(master, reload), /mirrors/);
    const fingerprint = block('apt install ./lxd-image-server-mirror_').split('\n').at(-1) ?? '';
    for (const line of others.slice(0, -1)) {
      const name = line.split(' ').at(-1) as 'eu' | 'us';
      const [, wanted = ''] = (await asRoot(mirrors[name], fingerprint)).split(' ');
      const shown = await asRoot(
        master,
        `echo yes | script --quiet --return --command '${line}' /dev/null`,
      );
      assert.ok(shown.includes(wanted), `${line} shows ${shown}, not ${wanted}`);
    }
    await inSync();
    assert.match(await asRoot(master, others.at(-1) ?? ''), /^eu +synced/m);
  });

  test('an upload by SFTP is on both mirrors, and nothing else can be done with that key', async () => {
    await master.run(`ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
      cat /root/.ssh/id_ed25519.pub >> ${settings}/authorized_keys
      ssh-keyscan -t ed25519 master.example.org 2>/dev/null >> /root/.ssh/known_hosts`);
    await upload(first, '20260103');
    for (const mirror of Object.values(mirrors)) {
      await eventually(`${mirror.name} has it`, async () =>
        (await served(mirror)).includes(first.fingerprint),
      );
    }
    const shell = await master.outcome('ssh lxdadm@master.example.org id');
    assert.notEqual(shell.code, 0);
    assert.doesNotMatch(shell.stdout, /uid=/);
    const outside = await master.outcome(
      `echo 'get /etc/passwd' | sftp -b - lxdadm@master.example.org`,
    );
    assert.notEqual(outside.code, 0);
    const forward = await master.outcome(
      'timeout 10 ssh -o ExitOnForwardFailure=yes -N -L 7000:127.0.0.1:22 lxdadm@master.example.org & sleep 2; curl -s telnet://127.0.0.1:7000 </dev/null | head -c 4; kill %1',
    );
    assert.doesNotMatch(forward.stdout, /SSH-/);
  });

  test('a client launches it from each mirror', async () => {
    const [certificate = '', add = '', launch = ''] = block('openssl s_client').split('\n');
    const { folder: clientFolder } = hosts.manager;
    for (const [name, mirror] of Object.entries(mirrors)) {
      const own = (line: string) =>
        line
          .replaceAll('eu.example.org', mirror.address)
          .replaceAll(/\beu\b/g, name)
          .replace('~/.config/lxc', clientFolder)
          .replace(/ n1$/, ` from-${name}`);
      await run('sh', ['-c', own(certificate)]);
      const words = (line: string) => own(line).split(' ').slice(1);
      await hosts.manager.run(...words(add));
      await hosts.manager.run(...words(launch));
      assert.match(
        await hosts.manager.run('list', `from-${name}`, '--format=csv', '-cs'),
        /RUNNING/,
      );
    }
  });

  test('a client that pins the master’s certificate as the README says launches from there', async () => {
    const { manager } = hosts;
    const readme = await readProjectFile('README.md');
    const own = (line: string) =>
      line
        .replaceAll('images.example.org', master.address)
        .replaceAll('~/.config/lxc', manager.folder)
        .replaceAll('hub.crt', join(folder, 'hub.crt'))
        .replace(/\/$/, '/hub.crt');
    const pinning = codeBlocks(readme, { section: 'Clients' }).find((each) =>
      each.startsWith('openssl s_client'),
    );
    const shown: string[] = [];
    for (const line of (pinning ?? '').split('\n').map(own)) {
      if (line.startsWith('lxc ')) await manager.run(...line.split(' ').slice(1));
      else shown.push(await run('sh', ['-c', line]));
    }
    const [told = ''] = /openssl x509 -noout [^`]*nginx\.crt/.exec(readme) ?? [];
    assert.equal(shown[1], await master.run(told));
    await manager.run('remote', 'remove', 'hub');
  });

  test('lxc image copy brings an image of one’s own to both mirrors', async () => {
    const { manager, gateway } = hosts;
    await manager.run('config', 'set', 'core.https_address', `${gateway}:0`);
    const said = await master.run('lxd-image-server trust add alice --address master.example.org');
    const token = /remote add \S+ (\S+)/.exec(said)?.[1] ?? said.trim().split('\n')[0] ?? '';
    const own = JSON.parse(Buffer.from(token, 'base64').toString());
    const reachable = Buffer.from(JSON.stringify({ ...own, addresses: [`${master.address}:443`] }));
    await manager.run('remote', 'add', 'hub', reachable.toString('base64'));
    const sample = await makeSample(join(folder, 'own'), {
      shape: 'split',
      properties: { os: 'mine', release: 'one', description: 'one of mine' },
    });
    await manager.run('image', 'import', ...sample.files, '--alias', 'mine');
    await manager.run('image', 'copy', 'mine', 'hub:', '--mode=relay', '--public');
    for (const mirror of Object.values(mirrors)) {
      await eventually(`${mirror.name} has it`, async () =>
        (await served(mirror)).includes(sample.fingerprint),
      );
    }
  });

  test('a mirror that was away catches up with what was published meanwhile', async () => {
    await mirrors.us.stop();
    const second = await makeVersion(folder, 'second');
    await upload(second, '20260104');
    await eventually('eu has it', async () =>
      (await served(mirrors.eu)).includes(second.fingerprint),
    );
    const state = await master.run('lxd-image-server --json mirror list');
    assert.match(state, /"name":"us"/);
    await mirrors.us.start();
    await eventually('us has it', async () =>
      (await served(mirrors.us).catch(() => '')).includes(second.fingerprint),
    );
  });

  test('a master whose plug was pulled comes back, and goes on', async () => {
    await master.stop();
    const before = await served(mirrors.eu);
    await master.start();
    await eventually('the daemon is there', async () => {
      const { code } = await master.outcome('lxd-image-server status');
      return code === 0;
    });
    const third = await makeVersion(folder, 'third');
    await upload(third, '20260105');
    await eventually('eu has it', async () =>
      (await served(mirrors.eu)).includes(third.fingerprint),
    );
    await inSync();
    assert.notEqual(await served(mirrors.eu), before);
    assert.equal(await served(mirrors.us), await served(mirrors.eu));
  });

  test('an upgrade of both ends while a version is on its way sends the rest, and no more', async () => {
    const newer = { version: '99.0.0', folder };
    const upgrade = async (host: DebianHost, file: string) => {
      const next = await asVersion(file, newer);
      await host.push(next);
      await asRoot(host, `apt-get install --yes --quiet /root/${basename(next)} </dev/null 2>&1`);
    };
    const us = async () => {
      const all = await master.run('lxd-image-server --json mirror list');
      return (JSON.parse(all) as MirrorStatus[]).find(({ name }) => name === 'us');
    };
    const under = '/var/www/simplestreams/images/debian/trixie/amd64/default';
    const bytes = 96 * 2 ** 20;
    const limit = 'bandwidth = "2MiB"';
    await master.run(`sed -i 's|^url = "https://us\\..*|&\\n${limit}|' ${settings}/config.toml
      cp -r ${under}/20260103 /root/20260106 && cd /root/20260106
      head -c ${bytes} /dev/urandom > $(echo *.squashfs) && sha256sum *.* > SHA256SUMS
      chown -R lxdadm:www-data . && lxd-image-server reload && mv /root/20260106 ${under}/`);
    let sentBefore = 0;
    await eventually('a third of it is there', async () => {
      sentBefore = (await us())?.work?.bytes.done ?? 0;
      return sentBefore > bytes / 3;
    });
    const pid = () => master.run('systemctl show -P MainPID lxd-image-server');
    const old = await pid();
    await upgrade(mirrors.us, packages.mirror);
    await upgrade(master, packages.master);
    assert.notEqual(await pid(), old);
    assert.ok(!(await served(mirrors.us)).includes('20260106'), 'it was all there too soon');
    await master.run(`sed -i '/^${limit}$/d' ${settings}/config.toml && lxd-image-server reload`);
    await inSync();
    assert.ok((await served(mirrors.us)).includes('20260106'));
    const again = (await us())?.counts?.bytes ?? 0;
    assert.ok(again > 0 && again <= bytes - sentBefore + resumeWindow, `${again} bytes`);
    const digests = `cd ${under}/20260106 && sha256sum *.squashfs`;
    assert.equal(await mirrors.us.run(digests), await master.run(digests));
  });
});
