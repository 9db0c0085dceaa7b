/** The server that redirects, for redirect.ts: a process that is told what to do. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { createNearest } from '../../src/catalog/nearest.js';
import { createLogger } from '../../src/log.js';
import { createDocuments, publishedFile } from '../../src/server/documents.js';
import { createImageRedirects } from '../../src/server/image-redirects.js';
import { createLocalServer } from '../../src/server/local.js';
import type { Redirects, WantedFile } from '../../src/server/redirects.js';
import { createImageServer } from '../../src/server/server.js';
import { createTestCertificate } from '../support/tls.js';
import { requestsOf } from './redirect.js';

export interface RedirectServerOptions {
  /** Absolute; empty. */
  folder: string;
  mirrors: number;
  versions: number;
}

export interface Ready {
  url: string;
  /** The path of the socket for nginx. */
  socket: string;
  /** Of the files that mirrors have. */
  paths: string[];
}

export interface Report {
  lagMs: number;
  /** Since the last reset. */
  redirected: number;
  /** Processor time since then, in microseconds. */
  cpuUs: number;
  /** A second. */
  decisions: number;
}

/** How often the lag is looked at, in milliseconds; what is measured has it in it. */
const resolution = 1;

process.once('message', (options: RedirectServerOptions) => void run(options));

async function run({ folder, mirrors, versions }: RedirectServerOptions): Promise<void> {
  const files = makeDocuments(folder, versions);
  const { redirects, counts } = makeRedirects(files, mirrors);
  const [imagesDir, streamsDir] = [join(folder, 'images'), join(folder, 'streams/v1')];
  const log = createLogger({ level: 'info', format: 'text' });
  const documents = createDocuments({ dir: streamsDir, log });
  const server = await createImageServer({
    ...{ listen: '127.0.0.1:0', root: folder, imagesDir, streamsDir, documents, log, redirects },
    certificate: await createTestCertificate(),
    trustedProxies: () => proxies,
  });
  const service = createImageRedirects({ root: folder, imagesDir, documents, redirects });
  const local = await createLocalServer({ runDir: folder, services: [service], log });
  await publishedFile(documents, 'images');
  const lag = monitorEventLoopDelay({ resolution });
  lag.enable();
  let used = process.cpuUsage();
  const paths = files.map(({ path }) => path);
  const answers: Record<string, () => Partial<Report>> = {
    reset() {
      lag.reset();
      counts.redirected = 0;
      used = process.cpuUsage();
      return {};
    },
    report() {
      const { user, system } = process.cpuUsage(used);
      const lagMs = Math.max(0, lag.percentile(99) / 1e6 - resolution);
      return { ...counts, lagMs, cpuUs: user + system };
    },
    decide: () => ({ decisions: decisionsPerSecond(redirects, files) }),
  };
  process.on('message', (what: string) => process.send?.(answers[what]?.() ?? {}));
  process.send?.({ url: server.url, socket: local.path, paths } satisfies Ready);
}

const proxies = ['127.0.0.0/8'];

/** Two files for each version, none of which is there: who redirects does not look. */
function makeDocuments(folder: string, versions: number): WantedFile[] {
  const files: WantedFile[] = [];
  const products: Record<string, unknown> = {};
  for (let number = 0; number < versions; number++) {
    const path = `images/bench/${number}/amd64/default/20260103_12:00`;
    const item = (name: string, ftype: string) => {
      const sha256 = randomBytes(32).toString('hex');
      const file = { path: `${path}/${name}`, sha256, size: 1_000_000 + number };
      files.push(file);
      return { ftype, ...file };
    };
    const items = {
      'lxd.tar.xz': item('lxd.tar.xz', 'lxd.tar.xz'),
      'root.squashfs': item('root.squashfs', 'squashfs'),
    };
    products[`bench:${number}:amd64:default`] = { versions: { '20260103_12:00': { items } } };
  }
  mkdirSync(join(folder, 'images'));
  mkdirSync(join(folder, 'streams/v1'), { recursive: true });
  const text = JSON.stringify({ format: 'products:1.0', products });
  writeFileSync(join(folder, 'streams/v1/images.json'), text);
  return files;
}

/** Mirrors with what each is known to have, as the daemon knows it: one file in twenty is not there yet. */
function makeRedirects(files: readonly WantedFile[], count: number) {
  const places = Array.from({ length: count }, (_, number) => ({
    name: `mirror${number}`,
    url: `https://mirror${number}.images.example.org:8443`,
    weight: 1 + (number % 3),
    networks: [
      `10.${number}.0.0/16`,
      `172.${16 + (number % 16)}.0.0/${12 + (number % 12)}`,
      `2001:db8:${number.toString(16)}::/48`,
    ],
    present: new Map(
      files
        .filter((_, index) => (index + number) % 20 !== 0)
        .map(({ path, sha256 }) => [path, sha256] as const),
    ),
  }));
  const nearest = createNearest(places);
  const counts = { redirected: 0 };
  const redirects: Redirects = {
    enabled: () => true,
    locate({ path, sha256 }, client) {
      const place = nearest.choose(client, ({ present }) => present.get(path) === sha256);
      if (place === undefined) return undefined;
      counts.redirected += 1;
      return `${place.url}/${path}`;
    },
  };
  return { redirects, counts };
}

function decisionsPerSecond(redirects: Redirects, files: readonly WantedFile[]): number {
  const byPath = new Map(files.map((file) => [`/${file.path}`, file]));
  const wanted = requestsOf([...byPath.keys()].map((path) => path.slice(1)));
  let started = performance.now();
  const rounds = 20;
  // The first round is not counted.
  for (let round = 0; round <= rounds; round++) {
    if (round === 1) started = performance.now();
    for (const { path, client } of wanted) {
      const file = byPath.get(path);
      if (file === undefined || redirects.locate(file, client) === undefined) {
        throw new Error(`Not redirected: ${path}`);
      }
    }
  }
  return (rounds * wanted.length * 1000) / (performance.now() - started);
}
