/** Images for the tests of the API, of random bytes. */
import { randomBytes } from 'node:crypto';
import type { MemoryImage } from './memory-library.js';

export function splitImage(): MemoryImage {
  return {
    release: 'debian/12',
    aliases: ['debian/12', 'd12'],
    properties: { os: 'Debian', description: 'Debian 12' },
    files: { 'incus.tar.xz': randomBytes(1000), 'rootfs.squashfs': randomBytes(300_000) },
  };
}

export function vmImage(): MemoryImage {
  return {
    release: 'debian/14',
    type: 'virtual-machine',
    files: { 'lxd.tar.xz': randomBytes(1000), 'disk.qcow2': randomBytes(200_000) },
  };
}
