import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { installNginxSite } from '../../src/disk/nginx-site.js';
import { templateDir } from '../support/nginx.js';

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'nginx-site-')));
after(() => rmSync(folder, { recursive: true }));

/** Options for a fresh folder in the layout of Debian's /etc/nginx. */
function debianLayout(name: string) {
  const nginxDir = join(folder, name);
  for (const sites of ['sites-available', 'sites-enabled']) {
    mkdirSync(join(nginxDir, sites), { recursive: true });
  }
  const [root, certFile, keyFile] = ['/srv/a tree', '/tls/c.crt', '/tls/k.key'];
  const daemon = { socketFile: '/run/a b/http.sock', redirectFile: '/run/a b/redirect' };
  return { nginxDir, root, certFile, keyFile, ...daemon, templateDir };
}

const rulesName = 'lxd-image-server-files.conf';
const rules = readFileSync(join(templateDir, rulesName), 'utf8');
const rulesOf = ({ nginxDir }: { nginxDir: string }) => join(nginxDir, 'snippets', rulesName);

describe('installing the site', () => {
  test('fills in the paths and enables it', async () => {
    const options = debianLayout('fresh');
    assert.equal(await installNginxSite(options), 'installed');
    const site = readFileSync(join(options.nginxDir, 'sites-enabled/lxd-image-server'), 'utf8');
    assert.match(site, /^ {4}root "\/srv\/a tree";$/m);
    assert.match(site, /^ {4}ssl_certificate "\/tls\/c\.crt";$/m);
    assert.match(site, /^ {4}ssl_certificate_key "\/tls\/k\.key";$/m);
    assert.match(site, /^ {4}server "unix:\/run\/a b\/http\.sock";$/m);
    assert.match(site, /^ {8}if \(-e "\/run\/a b\/redirect"\) \{$/m);
    assert.doesNotMatch(site, /@[A-Z]+@/);
    const link = readlinkSync(join(options.nginxDir, 'sites-enabled/lxd-image-server'));
    assert.equal(link, '../sites-available/lxd-image-server');
    assert.deepEqual(readdirSync(join(options.nginxDir, 'sites-available')), ['lxd-image-server']);
    assert.equal(readFileSync(rulesOf(options), 'utf8'), rules);
    assert.equal(statSync(rulesOf(options)).mode & 0o777, 0o644);
  });

  test('replaces rules for files that are not its own, and leaves its own untouched', async () => {
    const options = debianLayout('rules');
    await installNginxSite(options);
    const inode = statSync(rulesOf(options)).ino;
    assert.equal(await installNginxSite(options), 'present');
    assert.equal(statSync(rulesOf(options)).ino, inode);
    writeFileSync(rulesOf(options), '# of an older release');
    assert.equal(await installNginxSite(options), 'present');
    assert.equal(readFileSync(rulesOf(options), 'utf8'), rules);
    assert.deepEqual(readdirSync(join(options.nginxDir, 'snippets')), [rulesName]);
  });

  test('leaves a site alone that is there, and one that was disabled disabled', async () => {
    const options = debianLayout('present');
    const path = join(options.nginxDir, 'sites-available/lxd-image-server');
    writeFileSync(path, '# mine');
    assert.equal(await installNginxSite(options), 'present');
    assert.equal(readFileSync(path, 'utf8'), '# mine');
    assert.deepEqual(readdirSync(join(options.nginxDir, 'sites-enabled')), []);
  });

  test('leaves a link alone that is there', async () => {
    const options = debianLayout('linked');
    const link = join(options.nginxDir, 'sites-enabled/lxd-image-server');
    symlinkSync('/dev/null', link);
    assert.equal(await installNginxSite(options), 'installed');
    assert.equal(readlinkSync(link), '/dev/null');
  });

  test('does nothing without a folder for sites', async () => {
    const options = debianLayout('other');
    rmSync(join(options.nginxDir, 'sites-enabled'), { recursive: true });
    assert.equal(await installNginxSite(options), 'no-nginx');
    assert.deepEqual(readdirSync(join(options.nginxDir, 'sites-available')), []);
    const nginxDir = join(folder, 'none');
    assert.equal(await installNginxSite({ ...options, nginxDir }), 'no-nginx');
  });

  test('refuses paths that nginx would read as something else', async () => {
    const options = debianLayout('paths');
    for (const root of ['/a"b', '/a\\b', '/a$b', '/a\nb']) {
      await assert.rejects(installNginxSite({ ...options, root }), {
        code: 'CONFIG',
        message: `nginx cannot be told the path ${JSON.stringify(root)}`,
      });
    }
    const socketFile = '/run/a:b/http.sock';
    await assert.rejects(installNginxSite({ ...options, socketFile }), {
      code: 'CONFIG',
      message: 'nginx cannot be told the path "/run/a:b/http.sock"',
    });
    assert.deepEqual(readdirSync(join(options.nginxDir, 'sites-available')), []);
  });
});
