/** Large trees for benchmarks, as small as their files can be. */

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { buffer } from 'node:stream/consumers';
import { dump } from 'js-yaml';
import { pack } from 'tar-stream';

/** How many different metadata archives a tree has; they repeat. */
const metadataVariants = 50;

/** Makes `versions` split images below `root`, ten in each product, each of two small files. */
export async function makeManyVersions(root: string, versions: number): Promise<void> {
  const archives = await Promise.all(
    Array.from({ length: metadataVariants }, (_unused, index) => metadataArchive(index)),
  );
  for (let index = 0; index < versions; index++) {
    const folder = `${root}/images/${versionPath(index)}`;
    mkdirSync(folder, { recursive: true });
    writeFileSync(`${folder}/lxd.tar.xz`, archives[index % metadataVariants] as Buffer);
    writeFileSync(`${folder}/rootfs.squashfs`, squashfs(index, 1000));
  }
}

/** Where version number `index` of {@link makeManyVersions} lies below the images folder. */
export function versionPath(index: number): string {
  const product = Math.floor(index / 10);
  const [env, release] = [Math.floor(product / 200), Math.floor(product / 20) % 10];
  const [arch, type] = [Math.floor(product / 5) % 4, product % 5];
  const day = String((index % 10) + 10);
  return `env${env}/release${release}/arch${arch}/type${type}/202601${day}_12:00`;
}

/** Makes `count` split images with a root of `size` bytes each below `root`. */
export async function makeLargeVersions(root: string, count: number, size: number): Promise<void> {
  for (let index = 0; index < count; index++) {
    const folder = `${root}/images/large/release/amd64/type${index}/20260101_12:00`;
    mkdirSync(folder, { recursive: true });
    writeFileSync(`${folder}/lxd.tar.xz`, await metadataArchive(index));
    writeLarge(`${folder}/rootfs.squashfs`, size, index);
  }
}

function writeLarge(path: string, size: number, seed: number): void {
  const step = 1024 * 1024;
  const fd = openSync(path, 'w');
  const block = Buffer.alloc(step, createHash('sha512').update(String(seed)).digest());
  superblock(block, size);
  for (let written = 0; written < size; written += step) writeSync(fd, block);
  closeSync(fd);
}

function squashfs(seed: number, size: number): Buffer {
  const content = Buffer.alloc(size, createHash('sha512').update(String(seed)).digest());
  superblock(content, size);
  return content;
}

/** The start of a squashfs that says that it has `size` bytes. */
function superblock(block: Buffer, size: number): void {
  block.write('hsqs', 0, 'latin1');
  block.writeBigUInt64LE(BigInt(size), 40);
}

async function metadataArchive(index: number): Promise<Buffer> {
  const archive = pack();
  const metadata = {
    architecture: 'x86_64',
    creation_date: 1_767_225_600 + index,
    properties: {
      architecture: 'amd64',
      description: `Ubuntu noble amd64 (${index})`,
      os: 'Ubuntu',
      release: 'noble',
    },
    templates: { '/etc/hostname': { template: 'hostname.tpl', when: ['create', 'copy'] } },
  };
  archive.entry({ name: 'metadata.yaml' }, dump(metadata));
  archive.entry({ name: 'templates/hostname.tpl' }, '{{ container.name }}\n');
  archive.finalize();
  return xz(await buffer(archive));
}

async function xz(content: Buffer): Promise<Buffer> {
  const child = spawn('xz', ['--stdout'], { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin.end(content);
  return buffer(child.stdout);
}
