/** `status`: what the daemon does, what is published, and what is held back. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import picocolors from 'picocolors';
import type { DaemonStatus, JobStatus, MirrorStatus } from '../daemon/status.js';
import { exitCodes, ServerError } from '../errors.js';
import { callDaemon } from '../server/control-client.js';
import type { Command } from './command.js';
import { counted, formatAge, formatBytes, formatDuration, wrap } from './format.js';
import { describe, readImages } from './list.js';
import { aboutWork, failureText, lagText, servingText } from './mirror-text.js';

interface Catalogue {
  products: number;
  versions: number;
  /** Of the published files. */
  bytes: number;
}

/** The documents of the root that the command line and its configuration name. */
interface Documents {
  root: string;
  /** When `images.json` was written, ISO 8601. */
  written: string;
}

interface Status {
  daemon: DaemonStatus | null;
  /** What the documents hold; null where there are none, which only a daemon makes up for. */
  catalogue: Catalogue | null;
  documents: Documents | null;
}

/** Prints how things stand. @throws ServerError NOT_INITIALISED where there are neither daemon nor documents */
export async function status({ config, json, print, colour, signal }: Command): Promise<number> {
  const { paths } = config;
  const answer = await callDaemon<DaemonStatus>({ runDir: paths.run, command: 'status', signal });
  const daemon = answer?.result ?? null;
  const found: Status = { daemon, ...(await readStock(paths, { optional: daemon !== null })) };
  const options = { now: Date.now(), colors: picocolors.createColors(colour), root: paths.root };
  print(json ? JSON.stringify(found) : statusText(found, options));
  return exitCodes.done;
}

async function readStock(
  { root, streams }: { root: string; streams: string },
  { optional }: { optional: boolean },
): Promise<Omit<Status, 'daemon'>> {
  try {
    const versions = describe(await readImages(streams));
    const written = (await stat(join(streams, 'images.json'))).mtime.toISOString();
    return { catalogue: count(versions), documents: { root, written } };
  } catch (error) {
    // Of a daemon there is enough to tell.
    if (optional && error instanceof ServerError) return { catalogue: null, documents: null };
    throw error;
  }
}

function count(products: ReturnType<typeof describe>): Catalogue {
  const versions = products.flatMap((product) => product.versions);
  const bytes = versions.reduce((sum, { size }) => sum + size, 0);
  return { products: products.length, versions: versions.length, bytes };
}

export interface StatusTextOptions {
  /** Milliseconds since 1970. */
  now: number;
  colors: ReturnType<typeof picocolors.createColors>;
  /** That of the command line; a daemon may work on another. */
  root: string;
}

const width = 80;
/** Where the second column begins. */
const indent = 12;

/** All that `found` says, for people: two columns, of 80 characters. */
export function statusText(found: Status, options: StatusTextOptions): string {
  const { daemon } = found;
  return (daemon === null ? alone(found, options) : withDaemon(daemon, found, options)).join('\n');
}

function alone({ catalogue, documents }: Status, { now, colors, root }: StatusTextOptions) {
  const cure = 'start it with "systemctl start lxd-image-server", or "lxd-image-server watch"';
  return [
    row('daemon', `${colors.yellow('not running')}; ${cure}`),
    row('root', root),
    ...(catalogue === null ? [] : [row('published', stockText(catalogue))]),
    ...(documents === null ? [] : [row('written', formatAge(documents.written, now))]),
  ];
}

function withDaemon(
  daemon: DaemonStatus,
  found: Status,
  { now, colors, root }: StatusTextOptions,
): string[] {
  const { version, pid, started, process: used, published, watching, server } = daemon;
  const memory = `${formatBytes(used.memory)}, longest pause ${formatDuration(used.longestPauseMs)}`;
  return [
    row('daemon', `running since ${formatAge(started, now)}, version ${version}, process ${pid}`),
    row('root', daemon.root),
    ...(daemon.root === root ? [] : otherRoot(root, found, colors)),
    row('now', activityText(daemon.activity, now)),
    row('published', stockText(daemon.catalogue)),
    row(
      'written',
      published
        ? `${formatAge(published.at, now)}, in ${formatDuration(published.ms)}`
        : 'nothing new since the start',
    ),
    row('watching', watchingText(watching)),
    row('server', 'url' in server ? server.url : `none: ${server.reason}`),
    ...daemon.jobs.map((job, index) => row(index === 0 ? 'jobs' : '', jobText(job, now))),
    ...mirrorRows(daemon.mirrors, { now, colors }),
    row('memory', memory),
    ...heldText(daemon, { now, colors }),
  ];
}

/** That the daemon is none of the root asked for, and what is published there. */
function otherRoot(
  root: string,
  { catalogue }: Status,
  { yellow }: StatusTextOptions['colors'],
): string[] {
  const stock = catalogue === null ? 'nothing is published there' : stockText(catalogue);
  return [row('', `${yellow('not the one asked for')}: ${root} has no daemon here; ${stock}`)];
}

function activityText({ doing, detail, bytes, since }: DaemonStatus['activity'], now: number) {
  const parts = [doing, detail, bytes && bytesText(bytes)].filter(Boolean).join(': ');
  return `${parts}, since ${formatAge(since, now)}`;
}

function bytesText({ done, total }: { done: number; total: number }): string {
  const percent = total === 0 ? 100 : Math.floor((100 * done) / total);
  return `${formatBytes(done)} of ${formatBytes(total)} (${percent}%)`;
}

function stockText({ products, versions, bytes }: Catalogue): string {
  return `${counted(products, 'product')}, ${counted(versions, 'version')}, ${formatBytes(bytes)}`;
}

function watchingText({ mode, folders, reason }: DaemonStatus['watching']): string {
  if (mode === 'events') return counted(folders, 'folder');
  const why = reason === undefined ? '' : `: ${reason}`;
  return `on a timer, with ${counted(folders, 'folder')} watched${why}`;
}

function jobText({ name, schedule, state, next, last, missed }: JobStatus, now: number): string {
  const parts = [
    state === 'idle' ? '' : state,
    schedule === '' ? 'never' : next && `next ${formatAge(next, now)}`,
    last && `last ${formatAge(last.at, now)}, in ${formatDuration(last.ms)}`,
    last?.failure && `failed: ${last.failure}`,
    missed > 0 && `missed ${missed === 1 ? 'once' : `${missed} times`}`,
  ];
  return `${name}: ${parts.filter(Boolean).join('; ')}`;
}

function mirrorRows(
  mirrors: readonly MirrorStatus[],
  { now, colors }: Pick<StatusTextOptions, 'now' | 'colors'>,
): string[] {
  const lines = mirrors.flatMap((mirror) => {
    const { name, state, synced, work, failure, next, serving } = mirror;
    const parts = [
      state,
      state !== 'synced' && state !== 'unknown' && `behind: ${lagText(mirror)}`,
      synced !== undefined && `in sync ${formatAge(synced, now)}`,
      work && `${work.stage}: ${aboutWork(work)}`,
      next !== undefined && `next try ${formatAge(next, now)}`,
    ];
    const text = `${name}: ${parts.filter(Boolean).join('; ')}`;
    const faults = [failure && failureText(failure), servingText(serving)].filter(Boolean);
    return [text, ...faults.map((fault) => colors.yellow(String(fault)))];
  });
  return lines.map((line, index) => row(index === 0 ? 'mirrors' : '', line));
}

/** What is held back: the first of it, for a terminal is no place for a thousand. */
const mostShown = 20;

function heldText(
  { held, heldCount }: DaemonStatus,
  { now, colors }: Pick<StatusTextOptions, 'now' | 'colors'>,
): string[] {
  if (heldCount === 0) return [row('held back', 'nothing')];
  const lines = held.slice(0, mostShown).flatMap(({ path, reason, cure, until }) => {
    const when = until === undefined ? '' : `; looked at again ${formatAge(until, now)}`;
    const text = wrap(`${reason}; ${cure}${when}`, width - 4).map((line) => `    ${line}`);
    return [`  ${path}`, ...text];
  });
  const more = heldCount - Math.min(held.length, mostShown);
  const listed = held.length < heldCount ? `the first ${held.length}` : 'them all';
  return [
    row('held back', colors.yellow(counted(heldCount, 'problem'))),
    ...lines,
    ...(more > 0 ? [`  … and ${more} more; --json lists ${listed}`] : []),
  ];
}

function row(name: string, text: string): string {
  const lines = wrap(text, width - indent);
  return `${name.padEnd(indent)}${lines.join(`\n${' '.repeat(indent)}`)}`;
}
