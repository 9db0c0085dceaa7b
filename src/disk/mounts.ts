/** What is mounted where a folder lies: told from the kernel's own table, so that no program is needed. */
import { readFile, realpath, stat } from 'node:fs/promises';
import { systemCode } from '../errors.js';

export interface PlaceOptions {
  /** Where this process's mounts are listed; proc(5) describes the lines. Default: `/proc/self/mountinfo`. */
  mountinfo?: string;
}

/**
 * A text that stays equal as long as `folder` is the same inode, with the same file systems mounted at,
 * above and below it; for comparing only. It tells of a missing folder as well, and without `/proc` of the
 * inode alone.
 *
 * A file system that is unmounted and mounted again can get all its numbers back.
 */
export async function placeOf(
  folder: string,
  { mountinfo = '/proc/self/mountinfo' }: PlaceOptions = {},
): Promise<string> {
  const path = await realpath(folder).catch(() => folder);
  const [inode, mounts] = await Promise.all([inodeOf(path), mountsAround(path, mountinfo)]);
  return [inode, ...mounts].join('\n');
}

async function inodeOf(path: string): Promise<string> {
  try {
    const { dev, ino } = await stat(path, { bigint: true });
    return `inode ${dev}:${ino}`;
  } catch (error) {
    return `none: ${systemCode(error) ?? error}`;
  }
}

async function mountsAround(path: string, mountinfo: string): Promise<string[]> {
  // Names are bytes; a name in Latin-1 is as good as any other.
  const table = await readFile(mountinfo, 'latin1').catch(() => '');
  const bytes = Buffer.from(path).toString('latin1');
  return table.split('\n').flatMap((line) => {
    const [id, , device, root, point] = line.split(' ');
    if (point === undefined || !isOnOneWay(unescaped(point), bytes)) return [];
    return [`mount ${id} ${device} ${root} ${point}`];
  });
}

/** Whether one of the two paths lies at or below the other. */
function isOnOneWay(one: string, other: string): boolean {
  return isAtOrBelow(one, other) || isAtOrBelow(other, one);
}

function isAtOrBelow(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
}

/** The kernel writes blanks, line ends and backslashes of names as `\040` and the like. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}
