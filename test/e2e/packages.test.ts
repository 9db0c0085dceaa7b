/** The life of the Debian packages on real Debian hosts: from the first installation to the purge. */
import assert from 'node:assert/strict';
import { copyFile, mkdir, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { closeAll } from '../support/close-all.js';
import { outcome, run } from '../support/command.js';
import {
  type DebianHost,
  type DebianHosts,
  hostPrograms,
  startHosts,
} from '../support/debian-hosts.js';
import { debianImage, debianImagePrograms, nginxPackages } from '../support/debian-image.js';
import {
  asVersion,
  buildPackages,
  nodePackage,
  type Packages,
  packagePrograms,
} from '../support/debian-packages.js';
import { eventually } from '../support/eventually.js';
import { codeBlocks, readProjectFile } from '../support/manual.js';
import { needsRoot } from '../support/programs.js';
import { buildPythonPackage } from '../support/python-package.js';
import { makeSample, type Sample, samplePrograms } from '../support/sample-images.js';
import { temporaryFolder } from '../support/temporary.js';

const programs = [
  ...[...hostPrograms, ...debianImagePrograms, ...packagePrograms, ...samplePrograms],
  ...['lintian', 'unsquashfs', 'unshare', 'dpkg-deb', 'curl'],
];

const settings = '/etc/lxd-image-server';
const tree = '/var/www/simplestreams';
const site = '/etc/nginx/sites-available/lxd-image-server';
const product = 'images/debian/trixie/amd64/default';
const apt =
  'DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet --no-install-recommends -o Dpkg::Use-Pty=0';

describe('The Debian packages', needsRoot(...programs), () => {
  const endings: (() => unknown)[] = [];
  const t = { after: (ending: () => unknown) => void endings.unshift(ending) };
  let folder: string;
  let packages: Packages;
  let next: string;
  let hosts: DebianHosts;
  let host: DebianHost;
  let other: DebianHost;
  let sample: Sample;

  before(async () => {
    folder = await temporaryFolder(t);
    const built = join(folder, 'packages');
    await mkdir(built);
    packages = await buildPackages(built);
    next = await asVersion(packages.master, { version: '99.0.0', folder });
    hosts = await startHosts();
    const [one, two] = await Promise.all(['one', 'two'].map((name) => hosts.launch(name)));
    assert.ok(one && two);
    [host, other] = [one, two];
    for (const each of [one, two]) await each.run("echo '127.0.0.1 localhost' > /etc/hosts");
    const properties = { os: 'debian', release: 'trixie', description: 'sample' };
    sample = await makeSample(join(folder, 'sample'), { shape: 'split', properties });
  });
  after(async () => {
    await closeAll(hosts?.manager);
    for (const end of endings) await end();
  });

  /** Installs the package in `file` with apt, without a question; gives what was said, and how long it took. */
  async function install(on: DebianHost, file: string, options = ''): Promise<string> {
    await on.push(file);
    const start = performance.now();
    const said = await on.run(
      `${apt} install ${options} /root/${basename(file)} </dev/null 2>&1 && rm /root/${basename(file)}`,
    );
    return `${said}\n${((performance.now() - start) / 1000).toFixed(1)} s`;
  }

  /** Puts the sample into the tree of a host, as an upload does. */
  async function addVersion(on: DebianHost, version: string): Promise<void> {
    await on.run(`rm -rf /root/new && mkdir -p /root/new`);
    for (const file of sample.files) await on.push(file, `/root/new/${basename(file)}`);
    await on.run(`cd ${tree} && mkdir -p ${product} && cp -r /root/new ${product}/${version} &&
      chown -R lxdadm:www-data images`);
  }

  const ask = (on: DebianHost, path: string, port = 443) =>
    run('curl', ['-sSfk', '--max-time', '20', `https://${on.address}:${port}${path}`]);

  async function becomesServed(on: DebianHost, version: string, port = 443): Promise<void> {
    await eventually(`${on.name} serves ${version}`, async () =>
      (await ask(on, '/streams/v1/images.json', port).catch(() => '')).includes(`"${version}"`),
    );
  }

  /** Lines of `MODE OWNER:GROUP PATH`, as they are there. */
  async function modes(on: DebianHost, wanted: string): Promise<void> {
    const lines = wanted.trim().split(/\n\s*/);
    const paths = lines.map((line) => line.split(' ')[2]).join(' ');
    const found = await on.run(`stat -c '%a %U:%G %n' ${paths}`);
    assert.deepEqual(found.trim().split('\n'), lines);
  }

  const hostsFile = (on: DebianHost) => on.run('sha256sum /etc/hosts; stat -c %Y /etc/hosts');
  const pid = (on: DebianHost) => on.run('systemctl show -P MainPID lxd-image-server');

  /** What the packages could have left behind, but for the account and the tree. */
  const remains = async (on: DebianHost) => {
    const found = await on.run(
      `find /etc /home /run /usr /var -xdev '(' -path /var/log/apt -o -path /var/cache -o -path ${tree} ')' -prune -o ` +
        `'(' -name '*lxd-image-server*' -o -name '*lxdadm*' -o -name 'simplestreams.conf*' ')' -print`,
    );
    return found.trim();
  };

  test('are small, and lintian finds nothing', async (t: TestContext) => {
    for (const file of [packages.master, packages.mirror]) {
      const { size } = await stat(file);
      t.diagnostic(`${basename(file)}: ${(size / 1e6).toFixed(2)} MB`);
      assert.ok(size < 3e6, `${file} has ${size} bytes`);
    }
    const { code, stdout } = await outcome('lintian', [
      ...['--fail-on', 'error,warning', '--display-level', '>=warning'],
      ...['--no-tag-display-limit', '--show-overrides', packages.changes],
    ]);
    assert.equal(stdout, '');
    assert.equal(code, 0);
  });

  test('an installation asks nothing, and gives a service that nobody else can meddle with', async (t: TestContext) => {
    const before = await hostsFile(host);
    const [block = ''] = codeBlocks(await readProjectFile('README.md'), { section: 'Install' });
    const [line = '', status = ''] = block.split('\n');
    assert.match(line, /^apt install \.\/lxd-image-server_[\d.]+_all\.deb$/);
    t.diagnostic(`installation: ${(await install(host, packages.master)).split('\n').at(-1)}`);
    assert.match(await host.run(status), /^daemon +running since/m);
    await host.run('systemctl is-enabled lxd-image-server lxd-image-server-sftp');
    await host.run('systemctl is-active lxd-image-server lxd-image-server-sftp nginx ssh');
    await modes(
      host,
      `755 lxdadm:www-data ${tree}
       755 lxdadm:www-data ${tree}/images
       755 lxdadm:www-data ${tree}/streams/v1
       750 lxdadm:lxdadm /var/lib/lxd-image-server
       750 lxdadm:lxdadm /var/log/lxd-image-server
       750 lxdadm:www-data /var/lib/lxdadm
       755 lxdadm:lxdadm /run/lxd-image-server
       660 lxdadm:lxdadm /run/lxd-image-server/control.sock
       660 lxdadm:www-data /run/lxd-image-server/http.sock
       644 root:root ${settings}/config.toml
       644 root:root ${settings}/authorized_keys
       600 lxdadm:lxdadm ${settings}/mirror.key
       640 root:lxdadm /etc/nginx/ssl/nginx.key
       644 root:root /etc/nginx/ssl/nginx.crt`,
    );
    assert.equal(
      await host.run('getent passwd lxdadm | cut -d: -f6,7; getent shadow lxdadm | cut -d: -f2'),
      '/var/lib/lxdadm:/usr/sbin/nologin\n*\n',
    );
    assert.match(await ask(host, '/streams/v1/index.json'), /index:1\.0/);
    assert.match(await ask(host, '/1.0'), /untrusted/);
    await host.run('nginx -t -q && sshd -t && man -w lxd-image-server 2>/dev/null || true');
    assert.equal(await hostsFile(host), before);
  });

  test('the service is confined, starts at once, and is small', async (t: TestContext) => {
    const exposure = await host.run('systemd-analyze security --no-pager lxd-image-server');
    const [, level = ''] = /Overall exposure level.*: ([\d.]+)/.exec(exposure) ?? [];
    t.diagnostic(`exposure: ${level}`);
    assert.ok(Number(level) <= 2 && level !== '', exposure);
    const seconds = await host.run(`systemctl stop lxd-image-server
      start=$(date +%s%N); systemctl start lxd-image-server; end=$(date +%s%N)
      echo $(( (end - start) / 1000000 ))`);
    t.diagnostic(`from systemctl start to ready: ${seconds.trim()} ms`);
    const daemon = (await pid(host)).trim();
    const resident = async () => Number(await host.run(`ps -o rss= -p ${daemon}`)) / 1024;
    t.diagnostic(`resident, just started: ${(await resident()).toFixed(0)} MiB`);
    // It ends its threads, and collects what starting has left.
    await eventually('it takes less than 90 MiB at rest', async () => (await resident()) < 90);
    t.diagnostic(`resident, at rest: ${(await resident()).toFixed(0)} MiB`);
  });

  test('a reinstallation keeps what an administrator has changed', async () => {
    await host.run(`echo '# mine' >> ${settings}/config.toml
      echo '# mine' >> ${site}
      echo '# mine' >> /etc/nginx/snippets/lxd-image-server-files.conf
      echo '# mine' >> ${settings}/authorized_keys
      echo '# mine' >> /etc/ssh/sshd_config.d/lxd-image-server.conf
      chmod 0700 ${tree}/images && chmod 0755 ${tree}/images
      usermod --password secret lxdadm
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=mine -keyout /etc/nginx/ssl/nginx.key -out /etc/nginx/ssl/nginx.crt 2>/dev/null
      chown www-data:lxdadm /etc/nginx/ssl/nginx.key && chmod 0440 /etc/nginx/ssl/nginx.key
      systemctl reload nginx && lxd-image-server reload`);
    const state = () =>
      host.run(`find /etc/lxd-image-server /etc/nginx /etc/ssh /etc/hosts -type f -exec sha256sum {} + -exec stat -c '%a %U:%G %Y %n' {} + | sort
        find /etc/nginx/sites-enabled -type l | sort; getent shadow lxdadm; getent passwd lxdadm; id lxdadm`);
    const before = await state();
    await install(host, packages.master, '--reinstall');
    assert.equal(await state(), before);
    assert.match(await ask(host, '/streams/v1/index.json'), /index:1\.0/);
    await host.run(`usermod --password '*' lxdadm`);
  });

  test('an upgrade during an upload loses nothing, and no client notices', async () => {
    await addVersion(host, '20260101');
    await becomesServed(host, '20260101');
    const file = `${product}/20260101/${basename(sample.files[1] ?? '')}`;
    await host.run(`mkdir -p /root/.ssh
      ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 && cat /root/.ssh/id_ed25519.pub >> ${settings}/authorized_keys
      mkdir -p /root/upload/20260102 && cd /root/upload/20260102 && cp /root/new/lxd.tar.xz . &&
      head -c 20000000 /dev/urandom > rootfs.squashfs && sha256sum * > SHA256SUMS
      systemd-run --quiet --collect --unit=polls sh -c 'until test -e /root/enough; do
        curl --silent --insecure --max-time 10 -o /dev/null https://127.0.0.1/streams/v1/images.json -o /dev/null https://127.0.0.1/${file} -w "%{http_code}\\n" >> /root/polls; done'
      echo 'put -r 20260102 ${product}/' > /root/batch
      systemd-run --quiet --unit=upload --property=RemainAfterExit=yes --working-directory=/root/upload sftp -l 80000 -o StrictHostKeyChecking=no -b /root/batch lxdadm@127.0.0.1`);
    const arrived = async () =>
      Number(await host.run(`cat ${tree}/${product}/20260102/rootfs.squashfs 2>/dev/null | wc -c`));
    await eventually('the upload is under way', async () => (await arrived()) > 100_000);
    // It shall not be done before the upgrade is, however long that takes here.
    await host.run('systemctl kill --signal=STOP upload');
    const [old, before] = [await pid(host), await arrived()];
    assert.ok(before < 20_000_000, 'the upload was too quick');
    await install(host, next);
    await host.run('systemctl kill --signal=CONT upload');
    assert.notEqual(await pid(host), old);
    assert.match(await host.run('dpkg -s lxd-image-server'), /^Version: 99\.0\.0$/m);
    await eventually('the upload is done', async () => {
      assert.equal(await host.run('systemctl show -P Result upload'), 'success\n');
      return (await host.run('systemctl show -P SubState upload')) === 'exited\n';
    });
    await becomesServed(host, '20260102');
    await host.run(`cd ${tree}/${product}/20260102 && sha256sum --check --quiet SHA256SUMS`);
    await host.run(
      'touch /root/enough; while systemctl is-active --quiet polls; do sleep 0.1; done',
    );
    const polls = (await host.run('sort /root/polls | uniq -c')).trim();
    assert.match(polls, /^\d+ 200$/);
  });

  test('a removal leaves the site, which serves on; a purge leaves the images', async () => {
    await host.run(`${apt} remove lxd-image-server 2>&1`);
    const images = JSON.parse(await ask(host, '/streams/v1/images.json')) as {
      products: Record<
        string,
        { versions: Record<string, { items: Record<string, { path: string }> }> }
      >;
    };
    const versions = images.products['debian:trixie:amd64:default']?.versions ?? {};
    assert.deepEqual(Object.keys(versions).sort(), ['20260101', '20260102']);
    for (const { path } of Object.values(versions['20260101']?.items ?? {})) {
      await run('curl', ['-sSfk', '-o', '/dev/null', `https://${host.address}/${path}`]);
    }
    assert.equal(await host.run('systemctl is-active nginx ssh'), 'active\nactive\n');
    const before = await hostsFile(host);
    await host.run(`${apt} purge lxd-image-server 2>&1`);
    assert.equal(await remains(host), '');
    // Not the pair that was made here.
    await host.run('test -e /etc/nginx/ssl/nginx.key');
    await host.run(`nginx -t -q && sshd -t && test -e ${tree}/${file20260102}`);
    assert.equal(await host.run(`find ${tree} -name '.*'`), '');
    assert.equal(await hostsFile(host), before);
  });

  test('the tree may be on a disk of its own, and a purge that is told so takes the images', async () => {
    await host.run(`mount -t tmpfs -o mode=0755 tmpfs ${tree}`);
    await install(host, packages.master);
    await modes(host, `755 lxdadm:www-data ${tree}`);
    await addVersion(host, '20260103');
    await becomesServed(host, '20260103');
    const view = await host.run(
      `echo 'ls ${product}' | sftp -b - -o StrictHostKeyChecking=no lxdadm@127.0.0.1 2>&1 || true
       cat /root/.ssh/id_ed25519.pub >> ${settings}/authorized_keys
       echo 'ls ${product}' | sftp -b - -o StrictHostKeyChecking=no lxdadm@127.0.0.1`,
    );
    assert.match(view, /Permission denied[\s\S]*20260103/);
    await host.run(`LXD_IMAGE_SERVER_PURGE_IMAGES=yes ${apt} purge lxd-image-server 2>&1`);
    assert.equal(await host.run(`ls -A ${tree}`), '');
    await host.run(`umount ${tree} && test -e ${tree}/${file20260102}`);
    assert.equal(await remains(host), '');
  });

  test('in place of the Python server it serves the same images on the same port, by the same configuration', async () => {
    const [before] = [await hostsFile(other)];
    await install(other, await buildPythonPackage(folder));
    await addVersion(other, '20180716_12:00');
    // As an administrator has it who knew nothing of the table of tables.
    await other.run(`cat > /root/mirror <<'END'

[mirror1]
user = "lxdadm"
url = "https://mirror1.example.org:8443"
key_path = "/etc/lxd-image-server/id_rsa"
END
      cat /root/mirror >> ${settings}/config.toml
      cp ${settings}/config.toml /root/config.before
      echo '# mine' >> /etc/nginx/sites-available/simplestreams.conf
      sha256sum /etc/nginx/ssl/* > /root/ssl.before
      echo '{"old":true}' > ${tree}/streams/v1/images.json; chown lxdadm:www-data ${tree}/streams/v1/images.json`);
    assert.match(await ask(other, '/streams/v1/images.json', 8443), /old/);

    await install(other, packages.master);
    await becomesServed(other, '20180716_12:00', 8443);
    await becomesServed(other, '20180716_12:00');
    assert.match(await ask(other, '/1.0', 8443), /untrusted/);
    const config = await other.run(`cat ${settings}/config.toml`);
    assert.ok(config.startsWith(await other.run('cat /root/config.before')), config);
    assert.match(config, /\n\[server\]\nlisten = ""\n$/);
    const mirrors = await other.run('lxd-image-server --json mirror list || true');
    assert.match(mirrors, /"mirror1"/);
    await other.run('sha256sum --check --quiet /root/ssl.before && nginx -t -q');
    await modes(
      other,
      `640 root:lxdadm /etc/nginx/ssl/nginx.key
       755 lxdadm:www-data ${tree}
       750 lxdadm:lxdadm /var/lib/lxd-image-server`,
    );
    assert.equal(await other.run('ls /etc/nginx/sites-enabled'), 'default\nlxd-image-server\n');
    assert.equal(
      await other.run('ls /etc/nginx/sites-available'),
      'default\nlxd-image-server\nsimplestreams.conf.dpkg-bak\n',
    );
    await other.run(
      'test ! -e /etc/nginx/lxd-image-server && test ! -e /etc/logrotate.d/lxd-image-server',
    );
    await other.run(
      'curl -sSf --unix-socket /run/lxd-image-server/http.sock http://localhost/healthz',
    );
    // Whichever of both is first: the other finds its ports.
    await other.run(
      'systemctl stop nginx lxd-image-server && systemctl start lxd-image-server && systemctl start nginx',
    );
    await becomesServed(other, '20180716_12:00', 8443);
    assert.equal(await hostsFile(other), before);
    await other.run(`LXD_IMAGE_SERVER_PURGE_IMAGES=yes ${apt} purge lxd-image-server 2>&1`);
    assert.equal(await remains(other), '/home/lxdadm');
    await other.run(
      `test ! -e ${tree} && nginx -t -q && userdel --remove lxdadm 2>/dev/null; groupdel lxdadm || true`,
    );
  });

  test('nginx may come later, and finds its site then', async () => {
    await other.run(`rm -rf /etc/nginx/ssl; ${apt} purge 'nginx*' 'libnginx*' 2>&1`);
    await install(other, packages.master);
    await other.run(`curl -sSfk https://127.0.0.1:8443/streams/v1/index.json | grep -q index:1.0`);
    assert.equal((await other.outcome(`test -e ${site}`)).code, 1);
    await servesWithout(other);
    await other.run(`DEBIAN_FRONTEND=noninteractive dpkg -i ${nginxPackages}/*.deb 2>&1`);
    assert.match(await ask(other, '/streams/v1/index.json'), /index:1\.0/);
    assert.match(await ask(other, '/1.0'), /untrusted/);
    await other.run(`${apt} purge lxd-image-server 2>&1`);
    assert.equal(await remains(other), '');
    await other.run('test ! -e /etc/nginx/ssl');
  });

  /** The embedded server, on the port that clients try first, with the lines of the manual; then all is as before. */
  async function servesWithout(on: DebianHost): Promise<void> {
    const blocks = codeBlocks(await readProjectFile('debian/doc/configuration.md'));
    const rights = blocks.find((each) => each.startsWith('# systemctl edit lxd-image-server'));
    const folder = '/etc/systemd/system/lxd-image-server.service.d';
    await on.run(`mkdir ${folder} && cat > ${folder}/override.conf <<'END'
${rights}
END
      cp -p ${settings}/config.toml /root/config && sed -i 's/^listen = .*/listen = ":443"/' ${settings}/config.toml
      systemctl daemon-reload && systemctl restart lxd-image-server`);
    assert.match(await ask(on, '/streams/v1/index.json'), /index:1\.0/);
    await on.run(`rm -r ${folder} && cp -p /root/config ${settings}/config.toml
      systemctl daemon-reload && systemctl restart lxd-image-server`);
  }

  test('a mirror is installed and purged the same way', async () => {
    const before = await hostsFile(other);
    await install(other, packages.mirror);
    await modes(
      other,
      `755 lxdadm:www-data ${tree}
       750 lxdadm:www-data /var/lib/lxdadm
       600 root:root /etc/nginx/ssl/nginx.key
       644 root:root ${settings}/authorized_keys`,
    );
    assert.match(await ask(other, '/1.0').catch(String), /404/);
    await other.run(`${apt} purge lxd-image-server-mirror 2>&1`);
    assert.equal(await remains(other), '');
    await other.run(`nginx -t -q && sshd -t && test -d ${tree}/images && test ! -e /etc/nginx/ssl`);
    assert.equal(await hostsFile(other), before);
  });

  test('Debian 12 takes them with a newer Node.js than it has', async () => {
    const old = await hosts.launch('old', 'bookworm');
    await old.run("echo '127.0.0.1 localhost' > /etc/hosts");
    await old.push(packages.master, '/root/master.deb');
    const refused = await old.outcome(`${apt} install /root/master.deb </dev/null 2>&1`);
    assert.match(refused.stdout, /Depends: nodejs \(>= 20\.19\)/);
    await install(old, await nodePackage(folder));
    await install(old, packages.master);
    await old.run('systemctl is-active lxd-image-server lxd-image-server-sftp nginx ssh');
    assert.match(await ask(old, '/1.0'), /untrusted/);
    for (const file of sample.files) await old.push(file);
    await old.run(`mkdir -p /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
      cat /root/.ssh/id_ed25519.pub >> ${settings}/authorized_keys
      cd /root && mkdir -p up/${product}/20260101 && cd up && cp ${sample.files.map((file) => `/root/${basename(file)}`).join(' ')} ${product}/20260101
      echo 'put -r images' | sftp -b - -o StrictHostKeyChecking=no lxdadm@127.0.0.1`);
    await becomesServed(old, '20260101');
    await old.run(`LXD_IMAGE_SERVER_PURGE_IMAGES=yes ${apt} purge lxd-image-server 2>&1`);
    assert.equal(await remains(old), '');
    await install(old, packages.mirror);
    assert.match(await ask(old, '/1.0').catch(String), /404/);
  });

  test('the image of a container can be made with them, where no service runs', async () => {
    const root = join(folder, 'image');
    await run('unsquashfs', ['-quiet', '-no-progress', '-dest', root, (await debianImage()).root]);
    await writeFile(join(root, 'usr/sbin/policy-rc.d'), '#!/bin/sh\nexit 101\n', { mode: 0o755 });
    await copyFile(packages.master, join(root, 'package.deb'));
    const inside = (line: string) =>
      outcome('unshare', [
        ...['--mount', '--pid', '--fork', '--kill-child', 'sh', '-c'],
        `mount -t proc proc ${root}/proc && PATH=/usr/sbin:/usr/bin exec chroot ${root} sh -c '${line}'`,
      ]);
    const installed = await inside(`${apt} install /package.deb </dev/null`);
    assert.equal(installed.code, 0, installed.stderr);
    assert.doesNotMatch(`${installed.stdout}${installed.stderr}`, /error|cannot|failed|no such/i);
    const found = await inside(`set -e
      ls ${tree}/streams/v1/index.json /etc/nginx/sites-enabled/lxd-image-server
      readlink /etc/systemd/system/multi-user.target.wants/lxd-image-server.service
      stat -c %U ${tree}/streams/v1/index.json; nginx -t -q`);
    assert.equal(found.code, 0, found.stderr);
    assert.match(found.stdout, /\nlxdadm\n$/);
    const purged = await inside(`${apt} purge lxd-image-server && ls -d /etc/lxd-image-server`);
    assert.match(purged.stderr, /'\/etc\/lxd-image-server'/);
  });
});

const file20260102 = `${product}/20260102/rootfs.squashfs`;
