/**
 * Puts the production site among nginx's, without touching what an administrator has there, and the rules for files
 * that it includes, which are ours.
 */
import { randomUUID } from 'node:crypto';
import { link, mkdir, open, readFile, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ServerError, systemCode, systemText } from '../errors.js';

const siteName = 'lxd-image-server';
const rulesName = 'lxd-image-server-files.conf';

export interface NginxSiteOptions {
  /** nginx's configuration, in Debian's layout: `/etc/nginx`. */
  nginxDir: string;
  /** The published tree. */
  root: string;
  certFile: string;
  keyFile: string;
  /** Where the daemon answers the API. */
  socketFile: string;
  /** It is there while the daemon wants to be asked for image files. */
  redirectFile: string;
  /**
   * nginx/ of this project: `lxd-image-server.conf`, the site with `@ROOT@`, `@CERT@`, `@KEY@`, `@SOCKET@` and
   * `@REDIRECT@` in it, and `lxd-image-server-files.conf`, which it includes.
   */
  templateDir: string;
}

/**
 * - `installed`: the site was written and enabled; nginx must be reloaded to serve it
 * - `present`: a site of that name was there and is as it was, enabled or not
 * - `no-nginx`: there is no folder for sites, so nothing was done
 */
export type NginxSiteResult = 'installed' | 'present' | 'no-nginx';

/**
 * Writes `sites-available/lxd-image-server` and links it in `sites-enabled`; and brings what it includes,
 * `snippets/lxd-image-server-files.conf`, up to date, also for a site that is there already.
 *
 * @throws {ServerError} CONFIG, for a path that nginx could not be told; IO, where the site cannot be written
 */
export async function installNginxSite(options: NginxSiteOptions): Promise<NginxSiteResult> {
  const available = join(options.nginxDir, 'sites-available');
  const enabled = join(options.nginxDir, 'sites-enabled');
  if (!(await isFolder(available)) || !(await isFolder(enabled))) return 'no-nginx';
  const site = await filledIn(options);
  const rules = await readFile(join(options.templateDir, rulesName), 'utf8');
  try {
    await writeRules(join(options.nginxDir, 'snippets', rulesName), rules);
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
  const { root: ROOT, certFile: CERT, keyFile: KEY } = options;
  const { socketFile: SOCKET, redirectFile: REDIRECT } = options;
  const values = { ROOT, CERT, KEY, SOCKET, REDIRECT };
  for (const path of Object.values(values)) checkPath(path);
  if (SOCKET.includes(':')) throw unspeakable(SOCKET);
  const template = await readFile(join(options.templateDir, `${siteName}.conf`), 'utf8');
  const place = /@(ROOT|CERT|KEY|SOCKET|REDIRECT)@/g;
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

/** Replaces the rules at `path`, unless they are these. */
async function writeRules(path: string, rules: string): Promise<void> {
  const present = await readFile(path, 'utf8').catch((error: unknown) => {
    if (systemCode(error) !== 'ENOENT') throw error;
  });
  if (present === rules) return;
  await mkdir(dirname(path), { recursive: true });
  await writeWhole(path, { content: rules, putInPlace: rename });
}

/** Puts a complete file at `path`; fails with EEXIST where something is there. */
const createFile = (path: string, content: string) =>
  writeWhole(path, { content, putInPlace: link });

/** Writes under another name; `putInPlace` then gives it its own. */
async function writeWhole(
  path: string,
  file: { content: string; putInPlace: (from: string, to: string) => Promise<void> },
): Promise<void> {
  const temporary = join(dirname(path), `.${siteName}.${randomUUID()}.tmp`);
  try {
    const opened = await open(temporary, 'wx', 0o644);
    await opened
      .writeFile(file.content)
      .then(() => opened.sync())
      .finally(() => opened.close());
    await file.putInPlace(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
