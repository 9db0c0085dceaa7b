/** The groups of this host. */
import { readFile } from 'node:fs/promises';

/**
 * The number of the group `name`, which may be a number itself. Groups that only a directory service knows are not
 * found: Node has no way to ask for them.
 *
 * @param file of the form of group(5). Default: /etc/group.
 * @returns `undefined` where there is no such group
 */
export async function groupNumber(name: string, file = '/etc/group'): Promise<number | undefined> {
  if (/^\d{1,9}$/.test(name)) return Number(name);
  const lines = (await readFile(file, 'utf8').catch(() => '')).split('\n');
  const fields = lines.map((line) => line.split(':')).find(([first]) => first === name);
  return fields?.[2] !== undefined && /^\d{1,9}$/.test(fields[2]) ? Number(fields[2]) : undefined;
}
