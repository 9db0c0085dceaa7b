/** Where Debian's packages come from. */
import { run } from './command.js';

/** The address from which this machine gets Debian itself; other suites and its backports are there too. */
export async function debianArchive(): Promise<string> {
  const uris = await run('apt-get', ['update', '--print-uris']);
  const repositories = [...uris.matchAll(/^'(\S+)\/dists\/([^/\s]+)\/InRelease' /gm)];
  const updates = repositories.find(([, , name]) => name?.endsWith('-updates'));
  const address = (updates ?? repositories[0])?.[1];
  if (address === undefined) throw new Error('apt has no Debian archive among its sources');
  return address;
}
