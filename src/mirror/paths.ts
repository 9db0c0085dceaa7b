/** Paths below a mirror's root. Pure. */
import { posix } from 'node:path';
import { ServerError } from '../errors.js';

/**
 * `path` as the far side knows it, below `root`; '' is the root itself.
 * @throws ServerError MIRROR_DAMAGED where it would leave the root, or is not in its plainest form
 */
export function remotePath(root: string, path: string): string {
  if (path === '') return root;
  const parts = path.split('/');
  const plain = parts.every((part) => part !== '' && part !== '.' && part !== '..');
  if (!plain || path.includes('\0')) {
    throw new ServerError('MIRROR_DAMAGED', `The path ${JSON.stringify(path)} leaves the mirror`, {
      hint: 'have the mirror listed anew: its manifest names a path that no mirror has',
    });
  }
  return posix.join(root, path);
}

/** The folder that `path` stands in; '' for what stands in the root. */
export function folderOf(path: string): string {
  const end = path.lastIndexOf('/');
  return end === -1 ? '' : path.slice(0, end);
}

/** A hidden name beside `path`, which ends in `.tmp`, as nothing that is published does. */
export function besideAs(path: string, word: string): string {
  const folder = folderOf(path);
  const name = path.slice(folder === '' ? 0 : folder.length + 1);
  return `${folder === '' ? '' : `${folder}/`}.${name}.${word}.tmp`;
}
