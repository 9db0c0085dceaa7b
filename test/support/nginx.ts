/**
 * A real nginx of its own on the loopback address, with the site that `init` installs.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findProgram, startServer } from './command.js';
import { freePort } from './ports.js';
import { type Site, succeed } from './site.js';

/** A running nginx. */
export interface Nginx {
  url: string;
  /** Ends it, workers included. */
  close(): Promise<void>;
}

/** Serves the tree of `site` over HTTPS, with its certificate; what nginx needs goes to `folder`. */
export async function startNginx(site: Site, folder: string): Promise<Nginx> {
  const port = await freePort();
  await installSite(site, { folder, listen: `127.0.0.1:${port} ssl http2` });
  const config = join(folder, 'nginx.conf');
  await writeFile(config, configuration(folder));
  const program = findProgram('nginx') ?? 'nginx';
  const line = [program, '-p', folder, '-c', config, '-e', 'stderr'] as const;
  const server = await startServer(line, {
    isReady: (said) => said.includes('start worker process'),
  });
  return { url: `https://127.0.0.1:${port}`, close: async () => void (await server.stop()) };
}

/** Has `init` install the site in a folder like Debian's /etc/nginx, and moves it to another address. */
async function installSite(
  site: Site,
  { folder, listen }: { folder: string; listen: string },
): Promise<void> {
  await mkdir(join(folder, 'sites-available'), { recursive: true });
  await mkdir(join(folder, 'sites-enabled'));
  await succeed(site, 'init', '--nginx-dir', folder, '--ssl-dir', site.sslDir);
  const path = join(folder, 'sites-available/lxd-image-server');
  const [before, ...after] = (await readFile(path, 'utf8')).split(/^ *listen .*;\n/m);
  await writeFile(path, `${before}    listen ${listen};\n${after.join('')}`);
}

function configuration(folder: string): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${folder}/${name};`)
    .join('\n  ');
  const user = process.getuid?.() === 0 ? 'user root;' : '';
  return `${user}
daemon off;
worker_processes 1;
pid ${folder}/nginx.pid;
# Among the notices is that it is ready.
error_log stderr notice;
events {}
http {
  ${temporary}
  access_log off;
  include ${folder}/sites-enabled/*;
}
`;
}
