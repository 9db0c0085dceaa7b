/**
 * A real nginx of its own on the loopback addresses, with the site that `init` installs, or a mirror's.
 */
import { copyFile, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findProgram, type KeptServer, run, startServer } from './command.js';
import { freePort } from './ports.js';
import { type Site, succeed } from './site.js';

/** nginx/ of this project. */
export const templateDir = fileURLToPath(new URL('../../../nginx', import.meta.url));

/** A running nginx. */
export interface Nginx {
  url: string;
  /** Ends it, workers included. */
  close(): Promise<void>;
}

/** Serves the tree of `site` over HTTPS, with its certificate; what nginx needs goes to `folder`. */
export async function startNginx(
  site: Pick<Site, 'config' | 'sslDir'>,
  folder: string,
): Promise<Nginx> {
  const port = await freePort();
  await makeNginxFolder(folder);
  await succeed(site, 'init', '--nginx-dir', folder, '--ssl-dir', site.sslDir);
  await moveSite(folder, { https: port });
  const server = await runNginx(folder);
  return { url: `https://127.0.0.1:${port}`, close: async () => void (await server.stop()) };
}

/** Makes a folder in the layout of Debian's /etc/nginx, without any site. */
export async function makeNginxFolder(folder: string): Promise<void> {
  await mkdir(join(folder, 'sites-available'), { recursive: true });
  await mkdir(join(folder, 'sites-enabled'), { recursive: true });
}

export interface SitePorts {
  https: number;
  /** Default: none, as with the two lines removed that the site speaks of. */
  http?: number;
}

/** Has the installed site listen on other ports, of the loopback addresses alone. */
export async function moveSite(folder: string, ports: SitePorts): Promise<void> {
  const path = join(folder, 'sites-available/lxd-image-server');
  await writeFile(path, moveListeners(await readFile(path, 'utf8'), ports));
}

/** A site's text with other ports, of the loopback addresses alone. */
export function moveListeners(site: string, { http, https }: SitePorts): string {
  const line = /^ *listen (\[::\]:)?(80|443)( .*)?;\n/gm;
  return site.replace(line, (_line, v6: string | undefined, port: string, rest = '') => {
    const other = port === '80' ? http : https;
    if (other === undefined || (v6 !== undefined && !hasIpv6())) return '';
    return `    listen ${v6 === undefined ? '127.0.0.1' : '[::1]'}:${other}${rest};\n`;
  });
}

export function hasIpv6(): boolean {
  return Object.values(networkInterfaces()).some((entries) =>
    entries?.some(({ address }) => address === '::1'),
  );
}

export interface MirrorPaths {
  root: string;
  certFile: string;
  keyFile: string;
}

/** Installs the site of a mirror as the README says: two files copied, three paths edited. */
export async function installMirrorSite(
  folder: string,
  { root, certFile, keyFile }: MirrorPaths,
): Promise<void> {
  const rules = 'lxd-image-server-files.conf';
  await mkdir(join(folder, 'snippets'), { recursive: true });
  await copyFile(join(templateDir, rules), join(folder, 'snippets', rules));
  const template = await readFile(join(templateDir, 'lxd-image-server-mirror.conf'), 'utf8');
  const site = template
    .replace('"/var/www/simplestreams"', `"${root}"`)
    .replace('"/etc/nginx/ssl/nginx.crt"', `"${certFile}"`)
    .replace('"/etc/nginx/ssl/nginx.key"', `"${keyFile}"`);
  await writeFile(join(folder, 'sites-available/lxd-image-server'), site);
  const enabled = join(folder, 'sites-enabled/lxd-image-server');
  await symlink('../sites-available/lxd-image-server', enabled);
}

/** Runs nginx with the sites that are enabled in `folder`, once it accepts its configuration. */
export async function runNginx(folder: string): Promise<KeptServer> {
  const config = join(folder, 'nginx.conf');
  await writeFile(config, configuration(folder));
  const program = findProgram('nginx') ?? 'nginx';
  const line = [program, '-p', folder, '-c', config, '-e', 'stderr'] as const;
  await run(program, [...line.slice(1), '-t']);
  return startServer(line, { isReady: (said) => said.includes('start worker process') });
}

function configuration(folder: string): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path "${folder}/${name}";`)
    .join('\n  ');
  const user = process.getuid?.() === 0 ? 'user root;' : '';
  return `${user}
daemon off;
worker_processes 1;
pid "${folder}/nginx.pid";
# Among the notices is that it is ready.
error_log stderr notice;
events { worker_connections 1024; }
http {
  ${temporary}
  access_log "${folder}/access.log";
  include "${folder}/sites-enabled/*";
}
`;
}
