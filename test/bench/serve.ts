/**
 * The embedded server beside nginx: the same files on tmpfs, the same certificate, the same clients,
 * round by round in turn.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { createLogger } from '../../src/log.js';
import { createImageServer } from '../../src/server/server.js';
import { createTestCertificate, type TestCertificate } from '../support/tls.js';
import { mebibytesPerSecond, type RequestLoad, requestsPerSecond } from './serve-load.js';

/** One line of the table: medians, and ours as a part of the peer's. */
export interface ServeRow {
  name: string;
  unit: 'requests/s' | 'MiB/s';
  ours: number;
  /** nginx. */
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
const target = 0.4;

/** Measures the embedded server against nginx; needs `nginx`, `wrk` and `curl`. */
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
  ours: string;
  peer: string;
}

async function withServers<T>(
  root: string,
  certificate: TestCertificate,
  use: (urls: Urls) => Promise<T>,
): Promise<T> {
  const nginx = await startNginx(root, certificate);
  const ours = await createImageServer({
    listen: '127.0.0.1:0',
    root,
    imagesDir: join(root, 'images'),
    streamsDir: join(root, 'streams/v1'),
    certificate,
    log: createLogger({ level: 'info', format: 'text' }),
  });
  try {
    return await use({ ours: ours.url, peer: nginx.url });
  } finally {
    await ours.close();
    nginx.process.kill();
    await once(nginx.process, 'exit');
  }
}

async function measureAll(
  urls: Urls,
  { rounds = 5, seconds = 2 }: ServeBenchOptions,
): Promise<ServeRow[]> {
  const rows: ServeRow[] = [];
  for (const clients of [1, 2, 4]) {
    const name = `image of 128 MiB, ${clients} client${clients > 1 ? 's' : ''}`;
    const measure = (url: string) => mebibytesPerSecond(`${url}/${imagePath}`, clients);
    rows.push({ name, unit: 'MiB/s', ...(await compare(urls, rounds, measure)) });
  }
  for (const { name, path, ...load } of documentLoads) {
    const measure = (url: string) =>
      requestsPerSecond({ url: `${url}/streams/v1/${path}`, connections: 8, seconds, ...load });
    rows.push({ name, unit: 'requests/s', ...(await compare(urls, rounds, measure)) });
  }
  return rows;
}

type DocumentLoad = Pick<RequestLoad, 'fresh' | 'gzip'> & { name: string; path: string };

const documentLoads: DocumentLoad[] = [
  { name: 'index.json, keep-alive', path: 'index.json', fresh: false, gzip: true },
  { name: 'index.json, new connections', path: 'index.json', fresh: true, gzip: true },
  { name: 'images.json of 10 MB, gzip', path: 'images.json', fresh: false, gzip: true },
  { name: 'images.json, gzip, new connections', path: 'images.json', fresh: true, gzip: true },
  { name: 'images.json of 10 MB, plain', path: 'images.json', fresh: false, gzip: false },
];

/** A first round warms both up (ours compiles while it runs) and is not counted. */
async function compare(
  urls: Urls,
  rounds: number,
  measure: (url: string) => Promise<number>,
): Promise<Pick<ServeRow, 'ours' | 'peer' | 'ratio' | 'target'>> {
  const ours: number[] = [];
  const peer: number[] = [];
  for (let round = 0; round <= rounds; round += 1) {
    ours.push(await measure(urls.ours));
    peer.push(await measure(urls.peer));
  }
  for (const rates of [ours, peer]) rates.shift();
  return { ours: median(ours), peer: median(peer), ratio: median(ours) / median(peer), target };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
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

/** nginx as Debian sets it up, with what a careful administrator would turn on for static files. */
async function startNginx(
  root: string,
  { key, cert }: TestCertificate,
): Promise<{ process: ChildProcess; url: string }> {
  const port = await freePort();
  await writeFile(join(root, 'key.pem'), key);
  await writeFile(join(root, 'cert.pem'), cert);
  await writeFile(join(root, 'nginx.conf'), nginxConfiguration(root, port));
  const nginx = spawn('nginx', ['-p', root, '-c', join(root, 'nginx.conf')], { stdio: 'inherit' });
  await untilListening(nginx, port);
  return { process: nginx, url: `https://127.0.0.1:${port}` };
}

function nginxConfiguration(root: string, port: number): string {
  return `daemon off;
${process.getuid?.() === 0 ? 'user root;' : ''}
worker_processes auto;
pid ${root}/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  gzip_static on;
  keepalive_requests 1000000;
  client_body_temp_path ${root}/body;
  server {
    listen 127.0.0.1:${port} ssl;
    ssl_certificate ${root}/cert.pem;
    ssl_certificate_key ${root}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:SSL:10m;
    root ${root};
  }
}
`;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
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
