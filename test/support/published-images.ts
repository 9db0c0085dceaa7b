/**
 * A published site with BusyBox images, for tests with real clients.
 */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BusyboxImageOptions, makeSplitImage, makeUnifiedImage } from './busybox-image.js';
import { machine } from './image-files.js';
import { freePort } from './ports.js';
import { initialise, makeSite, type Served, type Site, serve } from './site.js';

/** One client-visible image: under which alias, with which fingerprint. */
export interface PublishedImage {
  alias: string;
  /** SHA-256 over metadata, then root; of a unified image over its one file. */
  fingerprint: string;
}

/** `demo/busybox`, a split image, and `demo/unified`, being served. */
export interface PublishedImages {
  site: Site;
  server: Served;
  split: PublishedImage;
  unified: PublishedImage;
  /** Puts a further version of the split image into the tree; `update` publishes it. */
  addSplitVersion(version: string, image: BusyboxImageOptions): Promise<PublishedImage>;
  /** Ends the server and removes everything. */
  close(): Promise<void>;
}

/** Makes the images, publishes them with the real command, and serves them on a free port. */
export async function publishImages(): Promise<PublishedImages> {
  const folder = await mkdtemp(join(tmpdir(), 'published-images-'));
  const site = await makeSite(folder, { address: `127.0.0.1:${await freePort()}` });
  const addSplitVersion = async (version: string, image: BusyboxImageOptions) => {
    const { metadata, root } = await makeSplitImage(
      await versionFolder(site, 'busybox', version),
      image,
    );
    return { alias: 'demo/busybox', fingerprint: await sha256(metadata, root) };
  };
  const split = await addSplitVersion('20260101_00:00', { files: { 'etc/motd': 'first\n' } });
  const file = await makeUnifiedImage(await versionFolder(site, 'unified', '20260101_00:00'), {
    files: { 'etc/motd': 'unified\n' },
  });
  const unified = { alias: 'demo/unified', fingerprint: await sha256(file) };
  await initialise(site);
  const server = await serve(site);
  const close = async () => {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  };
  return { site, server, split, unified, addSplitVersion, close };
}

async function versionFolder({ root }: Site, release: string, version: string): Promise<string> {
  const folder = join(root, 'images/demo', release, machine.folder, 'default', version);
  await mkdir(folder, { recursive: true });
  return folder;
}

async function sha256(...files: readonly string[]): Promise<string> {
  const hash = createHash('sha256');
  for (const file of files) hash.update(await readFile(file));
  return hash.digest('hex');
}
