/**
 * Makes a clone ready to run: npm packages, compiled code and, with --system, the programs of the tests.
 * Needs nothing but Node and npm, and does only what is missing.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync } from 'node:fs';
import { chmod, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';

const root = join(import.meta.dirname, '..');
const executable = join(root, 'dist/src/main.js');

/** Programs that tests run, and the Debian packages that have them. */
const systemPrograms = [
  { program: 'lxd', packageName: 'lxd' },
  { program: 'lxc', packageName: 'lxd-client' },
  { program: 'busybox', packageName: 'busybox-static' },
  { program: 'mksquashfs', packageName: 'squashfs-tools' },
  { program: 'nginx', packageName: 'nginx-light' },
  { program: 'xz', packageName: 'xz-utils' },
  { program: 'openssl', packageName: 'openssl' },
  { program: 'curl', packageName: 'curl' },
  { program: 'zstd', packageName: 'zstd' },
  { program: 'bzip2', packageName: 'bzip2' },
  { program: 'strace', packageName: 'strace' },
  { program: 'wrk', packageName: 'wrk' },
  { program: 'systemd-notify', packageName: 'systemd' },
  { program: 'perl', packageName: 'perl-base' },
  { program: 'sshd', packageName: 'openssh-server' },
  { program: 'ssh', packageName: 'openssh-client' },
  { program: 'rsync', packageName: 'rsync' },
  { program: 'faketime', packageName: 'faketime' },
  { program: 'script', packageName: 'bsdutils' },
  { program: 'mount', packageName: 'mount' },
  { program: 'chromium', packageName: 'chromium' },
  { program: 'debootstrap', packageName: 'debootstrap' },
  { program: 'dnsmasq', packageName: 'dnsmasq-base' },
  { program: 'nft', packageName: 'nftables' },
  { program: 'dpkg-buildpackage', packageName: 'dpkg-dev' },
  { program: 'dh', packageName: 'debhelper' },
  { program: 'lintian', packageName: 'lintian' },
];

/** What this script has to say, on standard error: the output of the tests comes on the other. */
function say(text) {
  process.stderr.write(`prepare: ${text}\n`);
}

/** Runs a program silently; where it fails, tells all that it said and ends this process. */
function run(command, args, { env = {}, cwd = root } = {}) {
  const { status, error, stdout, stderr } = spawnSync(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 256 * 1024 * 1024,
  });
  if (status === 0) return stdout.toString();
  process.stderr.write(`${stdout ?? ''}${stderr ?? ''}`);
  say(`failed: ${command} ${args.join(' ')}${error ? ` (${error.message})` : ''}`);
  return process.exit(1);
}

/** Installs exactly what package-lock.json names, unless that is what the last install was made from. */
async function installPackages() {
  const record = join(root, 'node_modules/.lock-sha256');
  const lock = await readFile(join(root, 'package-lock.json'));
  const wanted = createHash('sha256').update(lock).digest('hex');
  const present = await readFile(record, 'utf8').catch(() => '');
  if (present === wanted) return;
  say('installing npm packages');
  run('npm', ['ci', '--include=dev', '--no-audit', '--no-fund']);
  await writeFile(record, wanted);
}

/** Compiles everything into dist/, and removes from there what has lost its source. */
async function compile() {
  const tsc = 'node_modules/typescript/bin/tsc';
  run(process.execPath, [tsc, '-p', 'tsconfig.json']);
  run(process.execPath, [tsc, '-p', 'src/pages/tsconfig.json']);
  run(process.execPath, ['src/pages/build.mjs']);
  await Promise.all(['src', 'test'].map(removeStaleOutput));
  if (existsSync(executable)) await chmod(executable, 0o755);
}

async function removeStaleOutput(folder) {
  const compiled = await readdir(join(root, 'dist', folder), { recursive: true }).catch(() => []);
  for (const name of compiled) {
    const source = name.replace(/\.js(\.map)?$/, '.ts');
    if (source === name || existsSync(join(root, folder, source))) continue;
    await rm(join(root, 'dist', folder, name));
  }
}

/** Whether `program` is in one of the folders that this user's or an administrator's shell searches. */
function isInstalled(program) {
  const folders = (process.env.PATH ?? '').split(delimiter).concat('/usr/sbin', '/sbin');
  return folders.some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Installs the programs of the tests where this is root on Debian; elsewhere says what is missing. */
function installSystemPrograms() {
  const missing = systemPrograms.filter(({ program }) => !isInstalled(program));
  if (missing.length === 0) return;
  if (process.getuid?.() === 0 && existsSync('/etc/debian_version')) {
    installDebianPackages(missing.map(({ packageName }) => packageName));
  }
  const left = systemPrograms.filter(({ program }) => !isInstalled(program));
  if (left.length === 0) return;
  const names = left.map(({ program }) => program).join(', ');
  say(`not installed: ${names}; the tests that need them will be skipped`);
}

function installDebianPackages(names) {
  say(`installing Debian packages: ${names.join(' ')}`);
  // In run level 1 no service of a new package starts; systemd does not look at that.
  const env = { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  run('apt-get', ['update', '-q'], { env });
  const known = names.filter(hasCandidate);
  if (known.length === 0) return;
  run('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...known], { env });
  if (existsSync('/run/systemd/system')) stopServices(known);
}

/** Whether the package sources of this machine have the package (Debian 13 has no `lxd`). */
function hasCandidate(name) {
  return spawnSync('apt-cache', ['show', '--no-all-versions', name]).status === 0;
}

function stopServices(names) {
  const files = run('dpkg', ['-L', ...names]).split('\n');
  const units = files
    .filter((file) => /\/systemd\/system\/[^/@]+\.(service|socket)$/.test(file))
    .map((file) => file.slice(file.lastIndexOf('/') + 1));
  if (units.length > 0) run('systemctl', ['disable', '--now', ...units]);
}

await installPackages();
await compile();
if (process.argv.includes('--system')) installSystemPrograms();
