/**
 * The configuration: read once into one typed value, below which everyone receives only the fields they use.
 * Every error names the file, the line, the key, what was expected and the nearest known key.
 */
import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import * as v from 'valibot';
import {
  dotted,
  type Problem,
  problemOf,
  problemsError,
  shown,
  type Table,
} from './config/problems.js';
import { configSchema, type FileConfig } from './config/schema.js';
import { sortOut } from './config/sort-out.js';
import { ServerError, systemCode, systemText } from './errors.js';
import type { LogLevel } from './log.js';
import type { HostPort } from './units.js';

export const defaultConfigFile = '/etc/lxd-image-server/config.toml';
const maxBytes = 2 ** 20;

/** Everything that can be set, with defaults applied. Durations are milliseconds, sizes bytes, paths absolute. */
export interface Config {
  /** `images` and `streams` follow `root` unless {@link withPaths} moves them. */
  paths: { root: string; images: string; streams: string; state: string; run: string };
  publish: { settle: number; gzip: boolean; removalGrace: number };
  /** Cron expressions; '' is never. */
  schedule: { rescan: string; verify: string; prune: string };
  mirrors: MirrorConfig[];
  server: {
    listen: string;
    /** `host` or `host:port`, as clients reach the server; empty: as this host knows itself. */
    addresses: string[];
    tlsCert: string;
    tlsKey: string;
    /** The group of nginx, which may use the daemon's socket for it; '' is the daemon's own. */
    socketGroup: string;
    /** Whether clients that ask for an image file are sent to a mirror that has it. */
    redirect: boolean;
    /** How often mirrors are tried that clients are sent to. */
    probeInterval: number;
    /** Networks (CIDR) of proxies that are believed whom they ask for. */
    trustedProxies: string[];
    /** Networks (CIDR) from which `/status` and `/metrics` may be read. */
    statusFrom: string[];
  };
  uploads: { enabled: boolean; maxSize: number };
  /** 0 is no limit. */
  retention: { keep: number; days: number };
  /** `file` '' is standard error. */
  logging: { level: LogLevel; file: string };
}

export interface MirrorConfig {
  name: string;
  /** Whom the mirror's SSH server knows us as. */
  user: string;
  /** Where clients reach the mirror. */
  url: string;
  /** The mirror's SSH server. */
  remote: HostPort;
  /** File with the private key that logs in. */
  keyPath: string;
  /** The SSH server's key, `SHA256:…` as `ssh-keygen -l` prints it. */
  hostKey?: string;
  /** File in the form of ssh's known_hosts. */
  knownHosts?: string;
  /** The tree's root on the mirror. */
  root: string;
  /** How many connections send at once. */
  connections: number;
  /** Bytes a second over all connections; `undefined` is no limit. */
  bandwidth: number | undefined;
  /** When it is brought up to date, a cron expression; '' is at once. */
  schedule: string;
  /** Its share of redirected clients, against the other mirrors'. */
  weight: number;
  /** Clients in these networks (CIDR) are redirected here first. */
  networks: string[];
  /** File with certificates (PEM) that vouch for the mirror's web server, beside those that this host trusts. */
  tlsCa?: string;
}

export interface LoadedConfig {
  config: Config;
  /** The file that was read; `undefined` where the default one is not there. */
  file: string | undefined;
  /** What was passed over, each a sentence that names the file. */
  warnings: string[];
}

export interface LoadOptions {
  /** The file that `--config` names; beats the environment. */
  file?: string | undefined;
  /** Default: the environment of this process. */
  env?: NodeJS.ProcessEnv;
}

/**
 * Reads the configuration from `options.file`, else from the file that `LXD_IMAGE_SERVER_CONFIG` names, else
 * from {@link defaultConfigFile}, which alone may be missing.
 *
 * @throws {ServerError} CONFIG, for a file that cannot be read or says something wrong
 */
export async function loadConfig(options: LoadOptions = {}): Promise<LoadedConfig> {
  const named = namedFile(options);
  const file = resolve(named ?? defaultConfigFile);
  const text = await readText(file, { optional: named === undefined });
  if (text !== undefined) return parseConfig(text, { file });
  return { ...parseConfig('', { file }), file: undefined };
}

/**
 * What stands in for a configuration that says something wrong, for a command that has only to find the daemon:
 * the defaults, with the `paths.run` that the file seems to name.
 */
export async function standInConfig(options: LoadOptions = {}): Promise<Config> {
  const file = namedFile(options) ?? defaultConfigFile;
  const text = await readFile(file, 'latin1').catch(() => '');
  const [, run] = /^\s*(?:paths\s*\.\s*)?run\s*=\s*["']([^"'\n]+)["']/m.exec(text) ?? [];
  const { config } = parseConfig('', { file });
  if (run === undefined || !isAbsolute(run)) return config;
  return { ...config, paths: { ...config.paths, run: resolve(run) } };
}

function namedFile({ file, env = process.env }: LoadOptions): string | undefined {
  return file ?? (env.LXD_IMAGE_SERVER_CONFIG || undefined);
}

async function readText(file: string, options: { optional: boolean }): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of createReadStream(file, { end: maxBytes })) chunks.push(chunk);
  } catch (cause) {
    if (options.optional && systemCode(cause) === 'ENOENT') return undefined;
    throw unreadable(file, systemText(cause), cause);
  }
  return decode(file, Buffer.concat(chunks));
}

function decode(file: string, bytes: Buffer): string {
  if (bytes.length > maxBytes) throw unreadable(file, 'it is larger than 1 MiB');
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw unreadable(file, 'it is not UTF-8 text', cause);
  }
}

function unreadable(file: string, reason: string, cause?: unknown): ServerError {
  return new ServerError('CONFIG', `Cannot read the configuration ${file}: ${reason}`, {
    hint: 'name a TOML file with --config or LXD_IMAGE_SERVER_CONFIG',
    cause,
  });
}

/**
 * The configuration that a TOML text describes. Pure.
 *
 * @param options.file the name that errors and warnings give the text
 * @throws {ServerError} CONFIG, with every problem of the text, a line for each
 */
export function parseConfig(text: string, options: { file: string }): LoadedConfig {
  const { file } = options;
  const { input, problems, mirrorPaths, oldLogging } = sortOut(parseToml(text, file));
  const result = v.safeParse(configSchema, input);
  problems.push(...(result.issues ?? []).map((issue) => problemOf(issue, mirrorPaths)));
  if (problems.length > 0 || !result.success) throw problemsError(file, text, problems);
  const warnings = oldLogging.length > 0 ? [loggingWarning(file, oldLogging)] : [];
  const config = toConfig(result.output);
  const same = sameMirrors(config.mirrors, mirrorPaths);
  if (same.length > 0) throw problemsError(file, text, same);
  return { config, file, warnings };
}

/** Mirrors that are one under several names: each would take what the others send for its own. */
function sameMirrors(mirrors: readonly MirrorConfig[], paths: string[][]): Problem[] {
  const names = new Map<string, string>();
  return mirrors.flatMap(({ name, user, remote: { host, port }, root }, at) => {
    const place = JSON.stringify([user, host.toLowerCase(), port, root.replace(/\/+$/, '')]);
    const first = names.get(place);
    if (first === undefined) names.set(place, name);
    if (first === undefined) return [];
    const text = `mirror ${shown(name)} is the same as ${shown(first)}: user, remote and root`;
    return [
      { path: paths[at] ?? [], text, hint: 'drop one of them, or give it a root of its own' },
    ];
  });
}

function loggingWarning(file: string, keys: string[]): string {
  const list = keys.map((key) => dotted(['logging', key])).join(', ');
  return `${file}: passed over the earlier server's ${list}; set level and file in [logging] instead`;
}

function parseToml(text: string, file: string): Table {
  try {
    return parse(text);
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    const reason = cause.message.split('\n', 1)[0]?.replace(/^Invalid TOML document: /, '');
    const line = text.split('\n')[cause.line - 1]?.trim() ?? '';
    throw new ServerError('CONFIG', `${file}:${cause.line}: not valid TOML: ${reason}`, {
      hint: `mend the line ${shown(line)}`,
      cause,
    });
  }
}

function toConfig(file: FileConfig): Config {
  const { root, state, run } = file.paths;
  const { tls_cert: tlsCert, tls_key: tlsKey, ...server } = file.server;
  const { listen, addresses, redirect } = server;
  return {
    paths: { ...treePaths(root), state, run },
    publish: {
      settle: file.publish.settle,
      gzip: file.publish.gzip,
      removalGrace: file.publish.removal_grace,
    },
    schedule: file.schedule,
    mirrors: file.mirrors.map(toMirror),
    server: {
      ...{ listen, addresses, tlsCert, tlsKey, redirect },
      socketGroup: server.socket_group,
      probeInterval: server.probe_interval,
      trustedProxies: server.trusted_proxies,
      statusFrom: server.status_from,
    },
    uploads: { enabled: file.uploads.enabled, maxSize: file.uploads.max_size },
    retention: file.retention,
    logging: file.logging,
  };
}

function toMirror(mirror: FileConfig['mirrors'][number]): MirrorConfig {
  const { key_path, host_key, known_hosts, remote, bandwidth, tls_ca, ...same } = mirror;
  return {
    ...same,
    remote: remote ?? { host: new URL(mirror.url).hostname.replace(/^\[|\]$/g, ''), port: 22 },
    keyPath: key_path,
    ...(host_key === undefined ? {} : { hostKey: host_key }),
    ...(known_hosts === undefined ? {} : { knownHosts: known_hosts }),
    bandwidth: bandwidth ?? undefined,
    ...(tls_ca === '' ? {} : { tlsCa: tls_ca }),
  };
}

function treePaths(root: string) {
  return { root, images: join(root, 'images'), streams: join(root, 'streams', 'v1') };
}

/** Folders given on the command line, absolute or relative to the working directory. */
export interface PathOverrides {
  /** `--root-dir` */
  root?: string | undefined;
  /** `--img-dir` */
  images?: string | undefined;
  /** `--streams-dir` */
  streams?: string | undefined;
  /** `--ssl-dir`, which holds nginx.crt and nginx.key */
  ssl?: string | undefined;
}

/**
 * `config` with the folders of the command line.
 *
 * The root is `root`; else two folders above `streams` where that ends in `streams/v1`; else, with `images`
 * alone, the folder that holds it where it is called `images`; else the configured one. Images and streams
 * stand in that root unless they are given.
 *
 * @throws {ServerError} USAGE, where the images would lie outside the root
 */
export function withPaths(config: Config, overrides: PathOverrides): Config {
  const images = absolute(overrides.images);
  const streams = absolute(overrides.streams);
  const root = absolute(overrides.root) ?? impliedRoot({ images, streams });
  const paths = {
    ...config.paths,
    ...(root === undefined ? {} : treePaths(root)),
    ...(images === undefined ? {} : { images }),
    ...(streams === undefined ? {} : { streams }),
  };
  if (!isInside(paths.images, paths.root)) throw outsideRoot(paths);
  if (relative(paths.root, paths.streams) !== join('streams', 'v1')) throw otherStreams(paths);
  const ssl = absolute(overrides.ssl);
  const tls =
    ssl === undefined ? {} : { tlsCert: join(ssl, 'nginx.crt'), tlsKey: join(ssl, 'nginx.key') };
  return { ...config, paths, server: { ...config.server, ...tls } };
}

const absolute = (path: string | undefined) => (path === undefined ? undefined : resolve(path));

function impliedRoot(given: { images: string | undefined; streams: string | undefined }) {
  const { images, streams } = given;
  if (streams?.endsWith('/streams/v1')) return resolve(streams, '../..');
  if (streams === undefined && images !== undefined && basename(images) === 'images') {
    return dirname(images);
  }
  return undefined;
}

function isInside(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way);
}

/** Clients ask for streams/v1/index.json and nothing else. */
function otherStreams({ root, streams }: Config['paths']): ServerError {
  return new ServerError(
    'USAGE',
    `The documents ${streams} are not in streams/v1 of the root ${root}`,
    {
      hint: 'name a folder that ends in streams/v1 with --streams-dir, or its root with --root-dir',
    },
  );
}

function outsideRoot(paths: Config['paths']): ServerError {
  return new ServerError('USAGE', `The images ${paths.images} lie outside the root ${paths.root}`, {
    hint: 'name the folder that holds both images and streams with --root-dir',
  });
}
