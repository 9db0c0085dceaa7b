/**
 * The embedded server, and nginx with our site, beside nginx with the least that serves the same: the same files on
 * tmpfs, the same certificate, the same clients, round by round in turn.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { installNginxSite } from '../../src/disk/nginx-site.js';
import { createLogger } from '../../src/log.js';
import { createImageServer } from '../../src/server/server.js';
import { makeNginxFolder, moveSite, templateDir } from '../support/nginx.js';
import { freePort } from '../support/ports.js';
import { createTestCertificate, type TestCertificate } from '../support/tls.js';
import { inTurn, median } from './measure.js';
import { mebibytesPerSecond, type RequestLoad, requestsPerSecond } from './serve-load.js';

/** One line of the table: medians, and ours as a part of the peer's. */
export interface ServeRow {
  name: string;
  unit: 'requests/s' | 'MiB/s';
  ours: number;
  /** nginx without our site. */
  peer: number;
  ratio: number;
  /** The least that the ratio should be. */
  target: number;
}

export interface ServeBenchOptions {
  /** Measurements of each server. Default: 5. */
  rounds?: number;
  /** Length of one measurement with many requests, in seconds. Default: 2. */
  seconds?: number;
}

const imagePath = 'images/bench/24.04/amd64/default/20260103_12:00/root.squashfs';
const imageBytes = 128 * 1024 * 1024;
/** What the ratios should be at the least. */
const targets = { embedded: 0.4, site: 0.95 };

/** Measures both our ways to serve against nginx; needs `nginx`, `wrk` and `curl`. */
export async function benchServe(options: ServeBenchOptions = {}): Promise<ServeRow[]> {
  const root = await mkdtemp('/dev/shm/lxd-image-server-bench-');
  try {
    const certificate = await createTestCertificate();
    await makeTree(root);
    return await withServers(root, certificate, (urls) => measureAll(urls, options));
  } finally {
    await rm(root, { recursive: true });
  }
}

interface Urls {
  /** The embedded server. */
  embedded: string;
  /** nginx with our site. */
  site: string;
  peer: string;
}

async function withServers<T>(
  root: string,
  certificate: TestCertificate,
  use: (urls: Urls) => Promise<T>,
): Promise<T> {
  const nginx = await startNginx(root, certificate);
  const embedded = await createImageServer({
    listen: '127.0.0.1:0',
    root,
    imagesDir: join(root, 'images'),
    streamsDir: join(root, 'streams/v1'),
    certificate,
    log: createLogger({ level: 'info', format: 'text' }),
  });
  try {
    return await use({ embedded: embedded.url, site: nginx.site, peer: nginx.peer });
  } finally {
    await embedded.close();
    nginx.process.kill();
    await once(nginx.process, 'exit');
  }
}

async function measureAll(
  urls: Urls,
  { rounds = 5, seconds = 2 }: ServeBenchOptions,
): Promise<ServeRow[]> {
  const rows: { embedded: ServeRow[]; site: ServeRow[] } = { embedded: [], site: [] };
  const compare = async (load: Pick<ServeRow, 'name' | 'unit'>, measure: Measure) => {
    const { embedded, site, peer } = await medians(urls, { rounds, measure });
    const row = (ours: number, target: number) => ({ ours, peer, ratio: ours / peer, target });
    rows.embedded.push({ ...load, ...row(embedded, targets.embedded) });
    const name = `through our nginx site: ${load.name}`;
    rows.site.push({ ...load, name, ...row(site, targets.site) });
  };
  for (const clients of [1, 2, 4]) {
    const name = `image of 128 MiB, ${clients} client${clients > 1 ? 's' : ''}`;
    await compare({ name, unit: 'MiB/s' }, (url) =>
      mebibytesPerSecond(`${url}/${imagePath}`, { clients }),
    );
  }
  for (const { name, path, ...load } of documentLoads) {
    await compare({ name, unit: 'requests/s' }, (url) =>
      requestsPerSecond({ url: `${url}/streams/v1/${path}`, connections: 8, seconds, ...load }),
    );
  }
  return [...rows.embedded, ...rows.site, await http2Row(urls, rounds)];
}

/** Browsers speak it; the embedded server does not. */
async function http2Row({ site, peer }: Urls, rounds: number): Promise<ServeRow> {
  const measure = (url: string) =>
    mebibytesPerSecond(`${url}/${imagePath}`, { clients: 2, http: '2' });
  const rates = await medians({ site, peer }, { rounds, measure });
  const name = 'through our nginx site: the same image over HTTP/2, 2 clients';
  const ratio = rates.site / rates.peer;
  return { name, unit: 'MiB/s', ours: rates.site, peer: rates.peer, ratio, target: targets.site };
}

type DocumentLoad = Pick<RequestLoad, 'fresh' | 'gzip'> & { name: string; path: string };

const documentLoads: DocumentLoad[] = [
  { name: 'index.json, keep-alive', path: 'index.json', fresh: false, gzip: true },
  { name: 'index.json, new connections', path: 'index.json', fresh: true, gzip: true },
  { name: 'images.json of 10 MB, gzip', path: 'images.json', fresh: false, gzip: true },
  { name: 'images.json, gzip, new connections', path: 'images.json', fresh: true, gzip: true },
  { name: 'images.json of 10 MB, plain', path: 'images.json', fresh: false, gzip: false },
];

type Measure = (url: string) => Promise<number>;

/** A first round warms them up (ours compiles while it runs) and is not counted. */
async function medians<Name extends string>(
  urls: Record<Name, string>,
  { rounds, measure }: { rounds: number; measure: Measure },
): Promise<Record<Name, number>> {
  const servers = Object.entries<string>(urls);
  const rates = await inTurn(
    rounds + 1,
    servers.map(
      ([, url]) =>
        () =>
          measure(url),
    ),
  );
  const found = servers.map(([name], index) => [name, median((rates[index] ?? []).slice(1))]);
  return Object.fromEntries(found) as Record<Name, number>;
}

async function makeTree(root: string): Promise<void> {
  const image = join(root, imagePath);
  await mkdir(join(image, '..'), { recursive: true });
  await mkdir(join(root, 'streams/v1'), { recursive: true });
  await writeFile(image, randomBytes(imageBytes));
  const products = manyProducts();
  const index = { format: 'index:1.0', index: { images: { products: ['bench:24.04:amd64'] } } };
  await writeDocument(join(root, 'streams/v1/images.json'), { format: 'products:1.0', products });
  await writeDocument(join(root, 'streams/v1/index.json'), index);
}

/** About 10 MB of products, with hashes that compress as badly as real ones do. */
function manyProducts(): Record<string, unknown> {
  const products = Array.from({ length: 12_000 }, (_, number) => {
    const folder = `images/bench/${number}/amd64/default/20260103`;
    const item = (name: string, ftype: string) => ({
      ftype,
      path: `${folder}/${name}`,
      sha256: randomBytes(32).toString('hex'),
      combined_squashfs_sha256: randomBytes(32).toString('hex'),
      size: 1_000_000 + number,
    });
    const items = {
      'lxd.tar.xz': item('lxd.tar.xz', 'lxd.tar.xz'),
      'incus.tar.xz': item('lxd.tar.xz', 'incus.tar.xz'),
      'root.squashfs': item('root.squashfs', 'squashfs'),
    };
    return [`bench:${number}:amd64:default`, { versions: { '20260103': { items } } }];
  });
  return Object.fromEntries(products) as Record<string, unknown>;
}

async function writeDocument(path: string, document: unknown): Promise<void> {
  const text = JSON.stringify(document);
  await writeFile(path, text);
  await writeFile(`${path}.gz`, await promisify(gzip)(text));
}

interface BenchNginx {
  process: ChildProcess;
  site: string;
  peer: string;
}

/**
 * nginx as Debian sets it up, with what a careful administrator would turn on for static files, and with our site as
 * `init` fills it in.
 */
async function startNginx(root: string, { key, cert }: TestCertificate): Promise<BenchNginx> {
  const folder = join(root, 'nginx');
  const ports = { site: await freePort(), peer: await freePort() };
  const tls = { certFile: join(folder, 'cert.pem'), keyFile: join(folder, 'key.pem') };
  const daemon = {
    socketFile: join(folder, 'http.sock'),
    redirectFile: join(folder, 'redirect'),
  };
  await makeNginxFolder(folder);
  await writeFile(tls.keyFile, key);
  await writeFile(tls.certFile, cert);
  await installNginxSite({ nginxDir: folder, root, ...tls, ...daemon, templateDir });
  await moveSite(folder, { https: ports.site });
  const config = join(folder, 'nginx.conf');
  await writeFile(config, nginxConfiguration({ root, folder, port: ports.peer }));
  const nginx = spawn('nginx', ['-p', folder, '-c', config], { stdio: 'inherit' });
  await untilListening(nginx, ports.peer);
  const [site, peer] = [ports.site, ports.peer].map((port) => `https://127.0.0.1:${port}`);
  return { process: nginx, site: site ?? '', peer: peer ?? '' };
}

function nginxConfiguration(options: { root: string; folder: string; port: number }): string {
  const { root, folder, port } = options;
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${folder}/${name};`)
    .join('\n  ');
  return `daemon off;
${process.getuid?.() === 0 ? 'user root;' : ''}
worker_processes auto;
pid ${folder}/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 1000000;
  ${temporary}
  include ${folder}/sites-enabled/*;
  server {
    listen 127.0.0.1:${port} ssl http2;
    ssl_certificate ${folder}/cert.pem;
    ssl_certificate_key ${folder}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:SSL:10m;
    sendfile on;
    tcp_nopush on;
    gzip_static on;
    root ${root};
  }
}
`;
}

/** There is no event for it: tries to connect until it works or nginx has gone. */
async function untilListening(nginx: ChildProcess, port: number): Promise<void> {
  while (nginx.exitCode === null) {
    const socket = connect(port, '127.0.0.1');
    const connected = await once(socket, 'connect').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (connected) return;
    await setTimeout(20);
  }
  throw new Error(`nginx exited with code ${nginx.exitCode}`);
}
