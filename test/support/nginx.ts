/**
 * A real nginx of its own on the loopback address, in front of a published tree.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findProgram, startServer } from './command.js';
import { freePort } from './ports.js';
import type { Site } from './site.js';

/** A running nginx. */
export interface Nginx {
  url: string;
  /** Ends it, workers included. */
  close(): Promise<void>;
}

/** Serves the tree of `site` over HTTPS, with its certificate; what nginx needs goes to `folder`. */
export async function startNginx(site: Site, folder: string): Promise<Nginx> {
  const port = await freePort();
  await mkdir(folder, { recursive: true });
  const config = join(folder, 'nginx.conf');
  await writeFile(config, configuration(site, { folder, port }));
  const line = [
    findProgram('nginx') ?? 'nginx',
    '-p',
    folder,
    '-c',
    config,
    '-e',
    'stderr',
  ] as const;
  const server = await startServer(line, {
    isReady: (said) => said.includes('start worker process'),
  });
  return { url: `https://127.0.0.1:${port}`, close: async () => void (await server.stop()) };
}

function configuration({ root, sslDir }: Site, options: { folder: string; port: number }): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${options.folder}/${name};`)
    .join('\n  ');
  const user = process.getuid?.() === 0 ? 'user root;' : '';
  return `${user}
daemon off;
worker_processes 1;
# Among the notices is that it is ready.
error_log stderr notice;
pid ${options.folder}/nginx.pid;
events {}
http {
  ${temporary}
  access_log off;
  server {
    listen 127.0.0.1:${options.port} ssl;
    # LXD's daemon speaks TLS 1.3 alone, which this nginx does not offer unless told to.
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate ${sslDir}/nginx.crt;
    ssl_certificate_key ${sslDir}/nginx.key;
    root ${root};
  }
}
`;
}
