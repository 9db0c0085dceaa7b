/**
 * The server as a hub for `lxc` and `incus`: the real daemon, to which they upload. With HUB=stand-in it is a
 * daemon of LXD's or Incus's own, so that a scenario can be shown to hold where the clients' makers define it.
 */
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type PublishedItem, parseImages, versionsOf } from '../../src/catalog/published.js';
import { type Daemon, daemonConfig, startDaemon } from './daemon.js';
import { type ManagerKind, startManager } from './managers.js';
import { startNginx } from './nginx.js';
import { freePort } from './ports.js';
import { type Site, succeed } from './site.js';
import { temporaryFolder } from './temporary.js';

export const standIn = process.env.HUB === 'stand-in';

export type ImageType = 'container' | 'virtual-machine';

/** How clients reach it. */
export const ways = standIn ? (['directly'] as const) : (['directly', 'behind nginx'] as const);

export type Way = 'directly' | 'behind nginx';

export interface Hub {
  /** Where clients meet it. */
  readonly url: string;
  /** What they see there, PEM. */
  readonly certificate: string;
  /** A token for a client to be; `more` are further words for the command that makes it. */
  token(name: string, ...more: string[]): Promise<string>;
  /** Takes back what a token gave. */
  distrust(name: string): Promise<void>;
  /** The fingerprints that clients can ask for at this moment, and what they stand for. */
  published(): Promise<Map<string, ImageType>>;
  /** What uploads have left in the tree that is no part of an image. */
  leftovers(): Promise<string[]>;
}

/** The server itself, with what only a test of it asks for. */
export interface OwnHub extends Hub {
  daemon: Daemon;
  site: Site;
  /** Starts the daemon again where it has ended. */
  restart(): Promise<Daemon>;
}

export interface HubOptions {
  way?: Way;
  /** Further lines of its configuration. */
  config?: string;
  /** Where the tree is. Default: in a folder of its own. */
  root?: string;
}

type Ending = Pick<TestContext, 'after'>;

/** A hub that ends with the test. */
export async function createHub(
  t: Ending,
  { kind, ...options }: HubOptions & { kind: ManagerKind },
): Promise<Hub> {
  return standIn ? createStandIn(t, kind) : createOwnHub(t, options);
}

/** The real daemon, on its own or behind nginx. */
export async function createOwnHub(t: Ending, options: HubOptions = {}): Promise<OwnHub> {
  const { way = 'directly', config: more = '' } = options;
  const home = await temporaryFolder(t);
  const root = options.root ?? join(home, 'root');
  await mkdir(join(root, 'images'), { recursive: true });
  const site = siteIn(home, { root, address: `127.0.0.1:${await freePort()}` });
  const settings = { home, config: `${serverTable(site)}\n${more}` };
  await daemonConfig(root, settings);
  await succeed(site, 'init', '--nginx-skip', '--ssl-dir', site.sslDir);
  const daemon = await startDaemon(t, root, settings);
  const nginx = way === 'behind nginx' ? await startNginx(site, join(home, 'nginx')) : undefined;
  if (nginx !== undefined) t.after(() => nginx.close());
  const url = nginx?.url ?? site.url;
  return {
    daemon,
    site,
    restart: () => startDaemon(t, root, settings),
    url,
    certificate: await readFile(site.certificate, 'utf8'),
    token: async (name, ...words) => {
      const { host } = new URL(url);
      return tokenIn(await succeed(site, 'trust', 'add', name, '--address', host, ...words));
    },
    distrust: async (name) => void (await succeed(site, 'trust', 'remove', name)),
    published: () => publishedImages(root),
    leftovers: () => readdir(join(root, '.staging')).catch(() => []),
  };
}

function siteIn(home: string, { root, address }: { root: string; address: string }): Site {
  const sslDir = join(home, 'ssl');
  return {
    root,
    config: join(home, 'config.toml'),
    sslDir,
    certificate: join(sslDir, 'nginx.crt'),
    address,
    url: `https://${address}`,
  };
}

function serverTable({ address, certificate, sslDir }: Site): string {
  const keys = {
    listen: address,
    tls_cert: certificate,
    tls_key: join(sslDir, 'nginx.key'),
  };
  const lines = Object.entries(keys).map(([key, value]) => [key, JSON.stringify(value)]);
  return lines.map(([key, value]) => `server.${key} = ${value}`).join('\n');
}

/** The one word of what a command says that is long enough to be a token. */
export function tokenIn(said: string): string {
  const token = said.split(/\s+/).find((word) => /^[\w+/=-]{100,}$/.test(word));
  if (token === undefined) throw new Error(`no token in: ${said}`);
  return token;
}

/** What `images.json` names now, by the fingerprint that clients compute. */
async function publishedImages(root: string): Promise<Map<string, ImageType>> {
  const { products } = parseImages(await readFile(join(root, 'streams/v1/images.json'), 'utf8'));
  const items = Object.values(products)
    .flatMap(versionsOf)
    .flatMap((version) => version.items);
  return new Map(items.flatMap(fingerprintsOf));
}

const combined = /^combined_(.+)_sha256$/;

function fingerprintsOf(item: PublishedItem): [string, ImageType][] {
  if (item.ftype === 'lxd_combined.tar.gz') return [[item.sha256, 'container']];
  if (item.ftype !== 'lxd.tar.xz') return [];
  return Object.entries(item).flatMap(([key, value]): [string, ImageType][] => {
    const root = combined.exec(key)?.[1];
    if (root === undefined) return [];
    return [[String(value), root.endsWith('img') ? 'virtual-machine' : 'container']];
  });
}

async function createStandIn(t: Ending, kind: ManagerKind): Promise<Hub> {
  const hub = await startManager(kind);
  t.after(() => hub.close());
  const list = async <T>(...words: string[]): Promise<T[]> =>
    JSON.parse(await hub.run(...words, '--format', 'json')) as T[];
  return {
    url: hub.url,
    certificate: await readFile(join(hub.daemonFolder, 'server.crt'), 'utf8'),
    token: (name) => hub.token(name),
    distrust: async (name) => {
      const known = await list<{ name: string; fingerprint: string }>('config', 'trust', 'list');
      const client = known.find((one) => one.name === name);
      await hub.run('config', 'trust', 'remove', client?.fingerprint ?? name);
    },
    published: async () => {
      const images = await list<{ fingerprint: string; type: ImageType }>('image', 'list');
      return new Map(images.map(({ fingerprint, type }) => [fingerprint, type]));
    },
    leftovers: async () => [],
  };
}
