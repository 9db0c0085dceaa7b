/** Mirrors of a daemon's: their tables in its configuration, and whether they have what it published. */
import assert from 'node:assert/strict';
import { type Dirent, existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseImages, versionsOf } from '../../src/catalog/published.js';
import { systemCode } from '../../src/errors.js';
import type { SftpMirrorConfig } from '../../src/mirror/sftp.js';
import { sha256 } from './image-tree.js';

export interface MirrorTableOptions {
  name?: string;
  root?: string;
  /** Default: one at which nobody answers. */
  url?: string;
  more?: readonly string[];
}

/** The table of a mirror, as the configuration file has it; `more` are further lines. */
export function mirrorTable(config: SftpMirrorConfig, options: MirrorTableOptions = {}): string {
  const { name = config.name, root = config.root, more = [] } = options;
  const { url = `https://${name}.example.org` } = options;
  const { user, remote, keyPath, knownHosts, connections } = config;
  const keys = {
    url,
    user,
    remote: `${remote.host}:${remote.port}`,
    key_path: keyPath,
    root,
    ...(knownHosts !== undefined && { known_hosts: knownHosts }),
  };
  const lines = Object.entries(keys).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
  return [`[mirrors.${name}]`, ...lines, `connections = ${connections}`, ...more, ''].join('\n');
}

const streams = 'streams/v1';

/** Whether the documents on the mirror are those of the master, byte for byte. */
export async function hasDocuments(root: string, mirror: string): Promise<boolean> {
  const names = (await readdir(join(root, streams))).filter((name) => !name.startsWith('.'));
  const there = await readdir(join(mirror, streams)).catch(() => []);
  if (there.filter((name) => !name.startsWith('.')).length !== names.length) return false;
  const same = names.map(async (name) => {
    const [ours, theirs] = await Promise.all(
      [root, mirror].map((folder) => readFile(join(folder, streams, name)).catch(() => undefined)),
    );
    return ours !== undefined && theirs?.equals(ours) === true;
  });
  return (await Promise.all(same)).every(Boolean);
}

/** Every file below the images of `root` that is not hidden, sorted. */
export async function filesBelow(root: string): Promise<string[]> {
  const images = join(root, 'images');
  const read = async (): Promise<Dirent[]> => {
    try {
      return await readdir(images, { recursive: true, withFileTypes: true });
    } catch (error) {
      // A folder below has just been removed.
      if (systemCode(error) === 'ENOENT' && existsSync(images)) return await read();
      throw error;
    }
  };
  return (await read())
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => relative(root, join(parentPath, name)))
    .sort();
}

/** How long a mirror may take to become what it should be, in milliseconds: after many failures it waits for long. */
const patience = 90_000;

/** Waits until the mirror has the documents of the master, and just as many files as they name. */
export async function becomesMirrored(root: string, mirror: string): Promise<void> {
  const end = performance.now() + patience;
  for (;;) {
    const isDone =
      (await hasDocuments(root, mirror)) &&
      (await filesBelow(mirror)).length === (await namedFiles(root)).size;
    if (isDone) return;
    assert.ok(performance.now() < end, 'the mirror does not become what the master is');
    await sleep(20);
  }
}

/** What the documents of `root` name, by path. */
async function namedFiles(root: string) {
  const { products } = parseImages(await readFile(join(root, streams, 'images.json'), 'utf8'));
  const items = Object.values(products)
    .flatMap(versionsOf)
    .flatMap((version) => version.items);
  return new Map(items.map((item) => [item.path, item]));
}

/** The mirror has the documents of the master, and just the files that they name, with the content that they say. */
export async function assertMirrored(root: string, mirror: string): Promise<void> {
  assert.ok(await hasDocuments(root, mirror), 'the documents of the mirror are not the master’s');
  const named = await namedFiles(root);
  assert.deepEqual(await filesBelow(mirror), [...named.keys()].sort());
  for (const [path, { size, sha256: digest }] of named) {
    assert.equal((await stat(join(mirror, path))).size, size, path);
    assert.equal(sha256(await readFile(join(mirror, path))), digest, path);
  }
}
