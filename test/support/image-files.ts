/**
 * The content of small LXD/Incus images, as tar archives made in memory: nothing but Node is needed.
 * Format: LXD's "Image format", https://documentation.ubuntu.com/lxd/en/latest/reference/image_format/
 */
import { buffer } from 'node:stream/consumers';
import { dump } from 'js-yaml';
import { pack } from 'tar-stream';

/** One file, folder or symbolic link of an archive; owned by root. */
export type ArchiveEntry =
  | { name: string; type: 'directory'; mode?: number }
  | { name: string; type: 'symlink'; linkname: string }
  | { name: string; type: 'file'; content: string | Uint8Array; mode?: number };

export interface ImageDescription {
  /** Seconds since 1970. */
  creationDate: number;
  /** What `lxc image info` shows under Properties. */
  properties: Record<string, string>;
}

/** This machine's architecture, as folders of an image tree and as metadata.yaml call it. */
export const machine = machineNames(process.arch);

function machineNames(arch: string): { folder: string; metadata: string } {
  const names: Record<string, { folder: string; metadata: string }> = {
    x64: { folder: 'amd64', metadata: 'x86_64' },
    arm64: { folder: 'arm64', metadata: 'aarch64' },
  };
  return names[arch] ?? { folder: arch, metadata: arch };
}

/** The entries that describe an image: metadata.yaml, and the template that names a container's host. */
export function metadataEntries({ creationDate, properties }: ImageDescription): ArchiveEntry[] {
  const metadata = {
    architecture: machine.metadata,
    creation_date: creationDate,
    properties: { architecture: machine.metadata, ...properties },
    templates: {
      '/etc/hostname': { when: ['create', 'copy'], template: 'hostname.tpl' },
    },
  };
  return [
    { name: 'metadata.yaml', type: 'file', content: dump(metadata) },
    { name: 'templates', type: 'directory' },
    { name: 'templates/hostname.tpl', type: 'file', content: '{{ container.name }}\n' },
  ];
}

const systemFolders = ['bin', 'dev', 'etc', 'proc', 'root', 'run', 'sbin', 'sys', 'tmp', 'var'];
const applets = ['cat', 'echo', 'hostname', 'ls', 'sh', 'sha256sum', 'uname'];

/** The root file system of a container whose every program is the static `busybox`. */
export function busyboxRoot(
  busybox: Uint8Array,
  files: Readonly<Record<string, string>> = {},
): ArchiveEntry[] {
  return [
    ...skeleton(),
    { name: 'bin/busybox', type: 'file', content: busybox, mode: 0o755 },
    ...applets.map((name) => symlink(`bin/${name}`, 'busybox')),
    symlink('sbin/init', '../bin/busybox'),
    textFile('etc/inittab', '::sysinit:/bin/busybox true\n::ctrlaltdel:/bin/busybox poweroff\n'),
    ...Object.entries(files).map(([name, content]) => textFile(name, content)),
  ];
}

/** The root file system of a container that has one program: `init`. */
export function initOnlyRoot(init: Uint8Array): ArchiveEntry[] {
  return [...skeleton(), { name: 'sbin/init', type: 'file', content: init, mode: 0o755 }];
}

function skeleton(): ArchiveEntry[] {
  return [
    ...systemFolders.map((name): ArchiveEntry => ({ name, type: 'directory' })),
    textFile('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n'),
    textFile('etc/group', 'root:x:0:\n'),
  ];
}

function textFile(name: string, content: string): ArchiveEntry {
  return { name, type: 'file', content };
}

function symlink(name: string, linkname: string): ArchiveEntry {
  return { name, type: 'symlink', linkname };
}

/** `entries` as they stand below a folder `rootfs`, where a unified image has its root file system. */
export function underRootfs(entries: readonly ArchiveEntry[]): ArchiveEntry[] {
  const moved = entries.map((entry) => ({ ...entry, name: `rootfs/${entry.name}` }));
  return [{ name: 'rootfs', type: 'directory' }, ...moved];
}

/** An uncompressed tar archive of `entries`, all from `mtime`: the same entries give the same bytes. */
export function archive(entries: readonly ArchiveEntry[], mtime = new Date(0)): Promise<Buffer> {
  const tar = pack();
  for (const entry of entries) {
    if (entry.type === 'file') {
      const { name, mode = 0o644, content } = entry;
      tar.entry({ name, mode, mtime }, Buffer.from(content as Uint8Array));
    } else {
      tar.entry({ mode: entry.type === 'symlink' ? 0o777 : 0o755, ...entry, mtime });
    }
  }
  tar.finalize();
  return buffer(tar);
}
