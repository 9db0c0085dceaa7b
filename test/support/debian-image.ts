/**
 * Debian as a system container: systemd, a network, and what the packages of this project depend on. It is put
 * together once, with debootstrap, and kept in .cache of the project.
 */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.js';
import { debianArchive } from './debian-archive.js';

const cache = join(import.meta.dirname, '../../../.cache');

export const debianImagePrograms = ['debootstrap', 'mksquashfs', 'tar', 'chroot'] as const;

const packages = [
  // What a host is.
  ...['systemd', 'systemd-sysv', 'dbus', 'udev', 'iproute2', 'ca-certificates', 'procps'],
  // What the packages of this project depend on and recommend, so that their installation fetches nothing.
  ...['nodejs', 'adduser', 'nginx-light', 'openssh-server', 'openssh-client', 'openssl'],
  // What an administrator has at hand.
  ...['curl', 'xz-utils', 'squashfs-tools', 'rsync'],
];

/** Where the new system has the packages of nginx, for a test that removes it and has it come back. */
export const nginxPackages = '/usr/local/share/nginx';

/** Run in the new system: a host asks for its address, and makes its host keys when it starts for the first time. */
const setUp = `set -e
mkdir ${nginxPackages}
cp /var/cache/apt/archives/*nginx*.deb ${nginxPackages}
apt-get clean
rm -f /etc/ssh/ssh_host_*
printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/eth0.network
printf '[Unit]\\nBefore=ssh.service\\n[Service]\\nType=oneshot\\nExecStart=/usr/bin/ssh-keygen -A\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/host-keys.service
systemctl --quiet enable systemd-networkd host-keys
systemctl --quiet mask systemd-modules-load systemd-networkd-wait-online
rm -f /etc/machine-id /etc/hostname
touch /etc/machine-id
`;

export interface DebianImage {
  /** For `lxc image import`. */
  metadata: string;
  root: string;
}

/** Debian 13 and 12. The latter has an older Node.js than the package takes. */
export type DebianSuite = 'trixie' | 'bookworm';

/** Makes the image, unless it is there. Throws with all that was said where that fails. */
export async function debianImage(suite: DebianSuite = 'trixie'): Promise<DebianImage> {
  const recipe = createHash('sha256').update([suite, ...packages, setUp].join('\n'));
  const folder = join(cache, `${suite}-${recipe.digest('hex').slice(0, 12)}`);
  const image = { metadata: join(folder, 'metadata.tar'), root: join(folder, 'root.squashfs') };
  if (existsSync(folder)) return image;
  await mkdir(cache, { recursive: true });
  const work = await mkdtemp(join(cache, `.${suite}-`));
  try {
    await build(work, suite);
    await rename(join(work, 'image'), folder).catch((error: unknown) => {
      // Another test was quicker.
      if (!existsSync(folder)) throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return image;
}

async function build(work: string, suite: string): Promise<void> {
  const system = join(work, 'system');
  const image = join(work, 'image');
  await mkdir(image);
  const chosen = ['--variant=minbase', `--include=${packages.join(',')}`];
  await run('debootstrap', [...chosen, suite, system, await debianArchive()]);
  await run('chroot', [system, 'sh', '-c', setUp]);
  const metadata = {
    architecture: process.arch === 'arm64' ? 'aarch64' : 'x86_64',
    creation_date: Math.floor(Date.now() / 1000),
    properties: { os: 'debian', release: suite, description: `Debian ${suite}` },
  };
  await writeFile(join(work, 'metadata.yaml'), JSON.stringify(metadata));
  await run('tar', ['-C', work, '-cf', join(image, 'metadata.tar'), 'metadata.yaml']);
  // Quick rather than small: it is unpacked on this machine.
  const quick = [
    '-noappend',
    '-no-progress',
    '-quiet',
    '-comp',
    'zstd',
    '-Xcompression-level',
    '1',
  ];
  await run('mksquashfs', [system, join(image, 'root.squashfs'), ...quick]);
}
