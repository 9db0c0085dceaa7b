/** The web server of a mirror: a real nginx that shows a folder, with no process of ours behind it. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { findProgram, startServer } from './command.js';
import { freePort } from './ports.js';
import { temporaryFolder } from './temporary.js';
import type { TestCertificate } from './tls.js';

export interface MirrorWebOptions {
  /** What it shows. */
  folder: string;
  /** Default: none, and plain HTTP. */
  certificate?: TestCertificate;
  /** As clients name it. Default: 127.0.0.1. */
  host?: string;
}

export interface MirrorWeb {
  url: string;
  /** What was asked of it and how it answered, in order: `GET /streams/v1/index.json 200 AGENT`. */
  requests(): Promise<string[]>;
  stop(): Promise<void>;
  /** Starts it again, on the same port. */
  start(): Promise<void>;
}

/** Runs until the end of the test. */
export async function startMirrorWeb(
  t: Pick<TestContext, 'after'>,
  { folder, certificate, host = '127.0.0.1' }: MirrorWebOptions,
): Promise<MirrorWeb> {
  const home = await temporaryFolder(t);
  const port = await freePort();
  const config = join(home, 'nginx.conf');
  const log = join(home, 'access.log');
  await mkdir(join(home, 'temporary'));
  if (certificate !== undefined) {
    await writeFile(join(home, 'cert.pem'), certificate.cert);
    await writeFile(join(home, 'key.pem'), certificate.key);
  }
  await writeFile(config, configuration({ home, folder, port, log, isSecure: !!certificate }));
  const program = findProgram('nginx') ?? 'nginx';
  const begin = () =>
    startServer([program, '-p', home, '-c', config, '-e', 'stderr'], {
      isReady: (said) => said.includes('start worker process'),
    });
  let server: Awaited<ReturnType<typeof begin>> | undefined = await begin();
  const stop = async () => {
    await server?.stop();
    server = undefined;
  };
  t.after(stop);
  return {
    url: `${certificate ? 'https' : 'http'}://${host}:${port}`,
    async requests() {
      if (!existsSync(log)) return [];
      return (await readFile(log, 'utf8')).split('\n').filter(Boolean);
    },
    stop,
    async start() {
      server ??= await begin();
    },
  };
}

function configuration(site: {
  home: string;
  folder: string;
  port: number;
  log: string;
  isSecure: boolean;
}): string {
  const { home, folder, port, log, isSecure } = site;
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${home}/temporary/${name};`)
    .join('\n  ');
  // LXD and Incus ask for 1.3.
  const tls = `ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate ${home}/cert.pem; ssl_certificate_key ${home}/key.pem;`;
  return `${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off;
worker_processes 1;
pid ${home}/nginx.pid;
error_log stderr notice;
events {}
http {
  ${temporary}
  log_format asked '$request_method $request_uri $status $http_user_agent';
  access_log ${log} asked;
  server {
    listen 127.0.0.1:${port}${isSecure ? ' ssl' : ''};
    ${isSecure ? tls : ''}
    root ${folder};
    location ~ /\\. { return 404; }
  }
}
`;
}
