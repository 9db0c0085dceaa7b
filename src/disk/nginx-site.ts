/** Puts the production site among nginx's, without touching what an administrator has there. */
import { randomUUID } from 'node:crypto';
import { link, open, readFile, rm, stat, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { ServerError, systemCode, systemText } from '../errors.js';

const siteName = 'lxd-image-server';

export interface NginxSiteOptions {
  /** nginx's configuration, in Debian's layout: `/etc/nginx`. */
  nginxDir: string;
  /** The published tree. */
  root: string;
  certFile: string;
  keyFile: string;
  /** Where the daemon answers the API. */
  socketFile: string;
  /** The site with `@ROOT@`, `@CERT@`, `@KEY@` and `@SOCKET@` in it: nginx/lxd-image-server.conf of this project. */
  templateFile: string;
}

/**
 * - `installed`: the site was written and enabled; nginx must be reloaded to serve it
 * - `present`: a site of that name was there and is as it was, enabled or not
 * - `no-nginx`: there is no folder for sites, so nothing was done
 */
export type NginxSiteResult = 'installed' | 'present' | 'no-nginx';

/**
 * Writes `sites-available/lxd-image-server` and links it in `sites-enabled`.
 *
 * @throws {ServerError} CONFIG, for a path that nginx could not be told; IO, where the site cannot be written
 */
export async function installNginxSite(options: NginxSiteOptions): Promise<NginxSiteResult> {
  const available = join(options.nginxDir, 'sites-available');
  const enabled = join(options.nginxDir, 'sites-enabled');
  if (!(await isFolder(available)) || !(await isFolder(enabled))) return 'no-nginx';
  const site = await filledIn(options);
  try {
    if (!(await unlessPresent(createFile(join(available, siteName), site)))) return 'present';
    await unlessPresent(symlink(join('..', 'sites-available', siteName), join(enabled, siteName)));
    return 'installed';
  } catch (cause) {
    const message = `Cannot write the nginx site ${join(available, siteName)}: ${systemText(cause)}`;
    throw new ServerError('IO', message, {
      hint: `run it as a user that may write to ${options.nginxDir}`,
      cause,
    });
  }
}

async function filledIn(options: NginxSiteOptions): Promise<string> {
  const { root: ROOT, certFile: CERT, keyFile: KEY, socketFile: SOCKET } = options;
  const values = { ROOT, CERT, KEY, SOCKET };
  for (const path of Object.values(values)) checkPath(path);
  if (SOCKET.includes(':')) throw unspeakable(SOCKET);
  const template = await readFile(options.templateFile, 'utf8');
  const place = /@(ROOT|CERT|KEY|SOCKET)@/g;
  return template.replace(place, (_mark, name: keyof typeof values) => values[name]);
}

/** nginx reads variables and escapes even between quotes, and knows no way to write them literally. */
function checkPath(path: string): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what it looks for
  if (/["\\$\u0000-\u001f]/.test(path)) throw unspeakable(path);
}

function unspeakable(path: string): ServerError {
  return new ServerError('CONFIG', `nginx cannot be told the path ${JSON.stringify(path)}`, {
    hint: 'choose a path without quotes, backslashes, dollar signs and line breaks; for paths.run, without colons',
  });
}

const isFolder = (path: string) =>
  stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );

/** Whether the work was done; not where something was there already. */
const unlessPresent = (work: Promise<void>) =>
  work.then(
    () => true,
    (error) => {
      if (systemCode(error) === 'EEXIST') return false;
      throw error;
    },
  );

/** Puts a complete file at `path`; fails with EEXIST where something is there. */
async function createFile(path: string, content: string): Promise<void> {
  const temporary = join(path, '..', `.${siteName}.${randomUUID()}.tmp`);
  try {
    const file = await open(temporary, 'wx', 0o644);
    await file
      .writeFile(content)
      .then(() => file.sync())
      .finally(() => file.close());
    await link(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
