/** What root makes in a tree that belongs to someone else. */
import assert from 'node:assert/strict';
import { chown, lstat, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { acquireLock } from '../../src/disk/lock.js';
import { fingerprintOf, librarySite, splitParts, upload } from '../support/library-site.js';
import { needsRoot } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';

test(
  'root leaves all that it makes in a tree to the owner of the folders',
  needsRoot(),
  async (t) => {
    const root = await temporaryFolder(t);
    const [uid, gid] = [1234, 2345];
    for (const folder of ['', 'images', 'streams', 'state']) {
      await mkdir(join(root, folder), { recursive: true });
      await chown(join(root, folder), uid, gid);
    }
    const lock = await acquireLock(root);
    const site = await librarySite(t, { root });
    const parts = await splitParts();
    const { fingerprint } = await upload(site, parts, { aliases: ['mine'] });
    assert.equal(fingerprint, fingerprintOf(parts));
    await site.close();
    await lock.release();
    const names = await readdir(root, { recursive: true });
    const product = 'images/demo/box/amd64/default';
    const made = [
      ...['.lxd-image-server/lock.1', '.staging', 'streams/v1/images.json'],
      ...[`${product}/product.yaml`, `${product}/20260101_00:00/rootfs.squashfs`],
    ];
    for (const name of made) assert.ok(names.includes(name), `${name} is not there`);
    for (const name of names) {
      const found = await lstat(join(root, name));
      assert.deepEqual([found.uid, found.gid], [uid, gid], name);
    }
  },
);
