/** Images and aliases as clients of the API see them. */
import { createHash } from 'node:crypto';
import { posix } from 'node:path';
import { lxdArchitecture } from '../../catalog/architectures.js';
import type { LibraryAlias, LibraryImage } from './contract.js';

export function imageUrl(fingerprint: string): string {
  return `/1.0/images/${fingerprint}`;
}

export function aliasUrl(name: string): string {
  return `/1.0/images/aliases/${encodeURIComponent(name)}`;
}

export function imageView(image: LibraryImage) {
  return {
    ...editableView(image),
    aliases: image.aliases.map((name) => ({ name, description: '' })),
    architecture: lxdArchitecture(image.arch),
    cached: false,
    filename: fileNames(image)[0] ?? '',
    fingerprint: image.fingerprint,
    size: image.size,
    type: image.type,
    created_at: time(image.created),
    last_used_at: time(0),
    uploaded_at: time(image.published),
    project: 'default',
  };
}

/** What clients send back when they edit an image. */
function editableView(image: LibraryImage) {
  return {
    auto_update: false,
    properties: image.properties,
    public: true,
    expires_at: time(image.expires),
    profiles: ['default'],
  };
}

/** Changes with whatever of an image can be edited. */
export function imageEtag(image: LibraryImage): string {
  const properties = Object.entries(image.properties).sort(([a], [b]) => (a < b ? -1 : 1));
  const text = JSON.stringify([image.fingerprint, properties, image.expires]);
  return `"${createHash('sha256').update(text).digest('hex')}"`;
}

export function aliasView({ name, image }: LibraryAlias) {
  return { name, description: '', target: image.fingerprint, type: image.type };
}

export function aliasEtag(alias: LibraryAlias): string {
  const text = JSON.stringify(aliasView(alias));
  return `"${createHash('sha256').update(text).digest('hex')}"`;
}

/** What the files of an image are called where they are exported: metadata and root, or the one there is. */
export function fileNames({ fingerprint, files }: LibraryImage): string[] {
  return files.map(({ path }, index) => {
    const prefix = files.length > 1 && index === 0 ? 'meta-' : '';
    return `${prefix}${fingerprint}${ending(posix.basename(path))}`;
  });
}

const disk = /\.(?:qcow2|img)$/;

/** As LXD names files by their content: `.tar.xz`, `.squashfs`, `.qcow2`. */
function ending(name: string): string {
  if (disk.test(name)) return '.qcow2';
  return /\.tar(?:\.\w+)?$|\.\w+$/.exec(name)?.[0] ?? '';
}

/** The last moment that clients can read: one later year, and they take none of the list. */
const latest = Date.UTC(9999, 11, 31, 23, 59, 59);

/** A time as JSON has it; clients take 1970 for never. */
function time(ms: number): string {
  return new Date(Math.min(ms, latest)).toISOString();
}
