/** One of the two sites in a real nginx, over a small tree, with curl to ask it. */
import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { installNginxSite } from '../../src/disk/nginx-site.js';
import { ensureCertificate } from '../../src/server/certificate.js';
import { run } from './command.js';
import {
  installMirrorSite,
  makeNginxFolder,
  moveSite,
  runNginx,
  type SitePorts,
  templateDir,
} from './nginx.js';
import { freePort } from './ports.js';

export const siteKinds = ['master', 'mirror'] as const;
export type SiteKind = (typeof siteKinds)[number];

export type Scheme = 'http' | 'https';

/** What curl says of an answer. */
export interface Answer {
  status: number;
  /** Of HTTP: `1.1`, `2`. */
  version: string;
  /** Lower-case names; the first of each. */
  headers: Record<string, string | undefined>;
  body: string;
}

export interface ServedSite {
  /** Has a space in it. */
  root: string;
  certFile: string;
  /** Where the master's site looks for the daemon. */
  socketFile: string;
  redirectFile: string;
  ports: Required<SitePorts>;
  /** Asks with curl, whose further arguments are `flags`; paths go out as they are. */
  get(scheme: Scheme, path: string, ...flags: string[]): Promise<Answer>;
  close(): Promise<void>;
}

export interface ServedSiteOptions {
  /** Further sites of the same nginx. They come after it: who comes by address meets the first. */
  other?: (site: Pick<ServedSite, 'ports'> & { folder: string }) => string | Promise<string>;
  /** Whether port 80 is served. Default: true. */
  plainHttp?: boolean;
}

export const imageVersion = 'images/ubuntu/noble/amd64/default/20260103_12:00';
export const indexText = '{"format":"index:1.0"}';

/** Serves a tree with a page, documents, an image, and things that are nobody's business. */
export async function startServedSite(
  kind: SiteKind,
  options: ServedSiteOptions = {},
): Promise<ServedSite> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), 'nginx-site-')));
  const tls = { certFile: join(folder, 'tls/c.crt'), keyFile: join(folder, 'tls/c.key') };
  const root = join(folder, 'a tree');
  const daemon = {
    socketFile: join(folder, 'a run/http.sock'),
    redirectFile: join(folder, 'a run/redirect'),
  };
  const ports = { http: await freePort(), https: await freePort() };
  await mkdir(dirname(daemon.socketFile));
  await writeTree(root);
  await ensureCertificate(tls);
  await makeNginxFolder(folder);
  if (kind === 'mirror') await installMirrorSite(folder, { root, ...tls });
  else await installNginxSite({ nginxDir: folder, root, ...tls, ...daemon, templateDir });
  await moveSite(folder, options.plainHttp === false ? { https: ports.https } : ports);
  const other = await options.other?.({ folder, ports });
  if (other !== undefined) await writeFile(join(folder, 'sites-enabled/other'), other);
  const nginx = await runNginx(folder);
  return {
    ...{ root, certFile: tls.certFile, ...daemon, ports },
    get: (scheme, path, ...flags) => {
      const url = `${scheme}://127.0.0.1:${ports[scheme]}${path}`;
      return askWithCurl(['--cacert', tls.certFile, url, ...flags]);
    },
    close: async () => {
      await nginx.stop();
      await rm(folder, { recursive: true });
    },
  };
}

async function writeTree(root: string): Promise<void> {
  const write = async (path: string, content: string | Buffer) => {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), content);
  };
  const packed = gzipSync(indexText);
  await write('index.html', '<!doctype html>');
  await write('secret.txt', 'secret');
  await write('config.toml', 'secret');
  for (const name of ['.staging/upload', '.lxd-image-server/manifest.json']) await write(name, '');
  for (const name of ['index.json', 'images.json', '.hidden.json', 'other.json']) {
    await write(`streams/v1/${name}`, indexText);
    await write(`streams/v1/${name}.gz`, packed);
  }
  await write(`${dirname(imageVersion)}/product.yaml`, 'os: Ubuntu');
  const unfinished = ['.part', '.filepart', '.tmp', '~'].map((end) => `rootfs.squashfs${end}`);
  for (const name of ['rootfs.squashfs', ...unfinished, '.hidden']) {
    await write(`${imageVersion}/${name}`, 'root');
  }
  await write(`${imageVersion}/disk.qcow2`, Buffer.alloc(8 * 1024 * 1024, 'disk'));
  await write(`${imageVersion}/folder/file`, 'file');
}

/** Runs curl, without the proxies of this machine. */
export async function askWithCurl(args: readonly string[]): Promise<Answer> {
  const format = '\n%{http_code} %{http_version} %{header_json}';
  const fixed = ['-sS', '--noproxy', '*', '--path-as-is', '--max-time', '60', '-w', format];
  const said = await run('curl', [...fixed, ...args]);
  const [, body = '', status, version = '', heads = ''] =
    /^([\s\S]*)\n(\d{3}) ([\d.]+) (\{[\s\S]*\})\s*$/.exec(said) ?? [];
  const headers: Record<string, string[]> = JSON.parse(heads);
  return {
    ...{ status: Number(status), version, body },
    headers: Object.fromEntries(Object.entries(headers).map(([name, [value]]) => [name, value])),
  };
}
