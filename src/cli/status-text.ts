/** What `status` shows: facts in two columns, then lists, as many lines of them as there is room for. */
import type picocolors from 'picocolors';
import { printable } from '../catalog/tree.js';
import type {
  DaemonStatus,
  HeldBack,
  JobStatus,
  MirrorStatus,
  Publication,
} from '../daemon/status.js';
import { counted, formatAge, formatBytes, formatDuration, formatTable, wrap } from './format.js';
import { failureText, lagText } from './mirror-text.js';

export interface Catalogue {
  products: number;
  versions: number;
  /** Of the published files. */
  bytes: number;
}

/** The documents of the root that the command line and its configuration name. */
export interface Documents {
  root: string;
  /** When `images.json` was written, ISO 8601. */
  written: string;
}

export interface Status {
  daemon: DaemonStatus | null;
  /** What the documents hold; null where there are none, which only a daemon makes up for. */
  catalogue: Catalogue | null;
  documents: Documents | null;
  /** Why there is neither, while it is watched. */
  failure?: string;
}

export interface StatusTextOptions {
  /** Milliseconds since 1970. */
  now: number;
  colors: ReturnType<typeof picocolors.createColors>;
  /** That of the command line; a daemon may work on another. */
  root: string;
  /** The screen that it has to fit on. Default: none, lines are of 80 characters and as many as it takes. */
  screen?: { columns: number; rows: number } | undefined;
}

type Paint = (text: string) => string;

/** A line, of which `text` is painted; what does not fit on the screen is cut before. */
interface Line {
  before: string;
  text: string;
  paint?: Paint | undefined;
}

interface Page {
  now: number;
  colors: StatusTextOptions['colors'];
  width: number;
}

/** Where the second column begins. */
const indent = 12;
/** A screen of fewer rows scrolls, and on a larger one nobody wants to read more than this at a glance. */
const rows = { least: 24, most: 50 };
const narrowest = 30;
/** Of each list, where there is no screen to fit on: for more there is --json. */
const mostShown = 20;
const mostPublications = 3;

/** All that `found` says, for people. What it was told by others cannot do anything to a terminal. */
export function statusText(found: Status, options: StatusTextOptions): string {
  const { now, colors, root, screen } = options;
  const page = { now, colors, width: Math.max(narrowest, screen?.columns ?? 80) };
  const { daemon, ...rest } = harmless(found);
  const room = screen && Math.min(Math.max(screen.rows, rows.least), rows.most) - 1;
  const lines =
    daemon === null
      ? alone({ daemon, ...rest }, { page, root })
      : withDaemon(daemon, { found: { daemon, ...rest }, page, root, room });
  return lines.map((line) => paintedLine(line, screen && page.width)).join('\n');
}

/** `value` with every text in it fit to be printed: a name could tell a terminal what to do. */
function harmless<T>(value: T): T {
  if (typeof value === 'string') return printable(value) as T;
  if (Array.isArray(value)) return value.map(harmless) as T;
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [key, harmless(inner)]),
  ) as T;
}

function paintedLine({ before, text, paint }: Line, width: number | undefined): string {
  const whole = before + text;
  const cut = width !== undefined && whole.length > width ? `${whole.slice(0, width - 1)}…` : whole;
  const shown = cut.slice(before.length);
  return paint === undefined || shown === '' ? cut : cut.slice(0, before.length) + paint(shown);
}

function alone(
  { catalogue, documents, failure }: Status,
  { page, root }: { page: Page; root: string },
): Line[] {
  const { now, colors } = page;
  const cure = 'start it with "systemctl start lxd-image-server", or "lxd-image-server watch"';
  return [
    ...row('daemon', `not running; ${cure}`, page, colors.yellow),
    ...row('root', root, page),
    ...(failure === undefined ? [] : row('failure', failure, page, colors.red)),
    ...(catalogue === null ? [] : row('published', stockText(catalogue), page)),
    ...(documents === null ? [] : row('written', formatAge(documents.written, now), page)),
  ];
}

function withDaemon(
  daemon: DaemonStatus,
  {
    found,
    page,
    root,
    room,
  }: { found: Status; page: Page; root: string; room?: number | undefined },
): Line[] {
  const facts = factLines(daemon, { found, page, root });
  const { mirrors, publications, held, heldCount } = daemon;
  const lists = {
    publications: (most: number) => publicationLines(publications, most, page),
    mirrors: (most: number) => mirrorLines(mirrors, most, page),
    held: (most: number) => heldLines({ held, heldCount }, most, page),
  };
  if (room === undefined) {
    return [
      ...facts,
      ...lists.publications(Infinity),
      ...lists.mirrors(Infinity),
      ...heldInFull({ held, heldCount }, page),
    ];
  }
  const all = (name: keyof typeof lists) => lists[name](Infinity).length;
  // None is left out; what is not in order is worth more lines than what is.
  let left = room - facts.length;
  const forPublications = Math.min(all('publications'), Math.max(1, left - 8));
  left -= forPublications;
  const forHeld = Math.min(all('held'), Math.max(2, left - all('mirrors'), Math.floor(left / 2)));
  const forMirrors = Math.max(3, left - forHeld);
  return [
    ...facts,
    ...lists.publications(forPublications),
    ...lists.mirrors(forMirrors),
    ...lists.held(forHeld),
  ];
}

function factLines(
  daemon: DaemonStatus,
  { found, page, root }: { found: Status; page: Page; root: string },
): Line[] {
  const { version, pid, started, process: used, watching, server, health } = daemon;
  const [published] = daemon.publications;
  const { now, colors } = page;
  const memory = `${formatBytes(used.memory)}, longest pause ${formatDuration(used.longestPauseMs)}`;
  const written = published
    ? `${formatAge(published.at, now)}, in ${formatDuration(published.ms)}`
    : 'nothing new since the start';
  const isWaiting = daemon.activity.doing === 'waiting';
  return [
    ...row(
      'daemon',
      `running since ${formatAge(started, now)}, version ${version}, process ${pid}`,
      page,
    ),
    ...row('root', daemon.root, page),
    ...(daemon.root === root ? [] : otherRoot(root, found, page)),
    ...healthLines(health, page),
    ...row('now', activityText(daemon.activity, now), page, isWaiting ? colors.red : undefined),
    ...row('published', stockText(daemon.catalogue), page),
    ...row('written', written, page),
    ...row(
      'watching',
      watchingText(watching),
      page,
      watching.mode === 'timer' ? colors.yellow : undefined,
    ),
    ...row('server', 'url' in server ? server.url : `none: ${server.reason}`, page),
    ...daemon.jobs.flatMap((job, index) =>
      row(
        index === 0 ? 'jobs' : '',
        jobText(job, now),
        page,
        job.last?.failure === undefined ? undefined : colors.yellow,
      ),
    ),
    ...row('memory', memory, page),
  ];
}

function healthLines(health: DaemonStatus['health'], page: Page): Line[] {
  if (health === undefined || health.ok) return [];
  const { reason, detail } = health;
  const text = ['not well', reason, detail].filter(Boolean).join(': ');
  return row('health', text, page, page.colors.red);
}

/** That the daemon is none of the root asked for, and what is published there. */
function otherRoot(root: string, { catalogue }: Status, page: Page): Line[] {
  const stock = catalogue === null ? 'nothing is published there' : stockText(catalogue);
  const text = `not the one asked for: ${root} has no daemon here; ${stock}`;
  return row('', text, page, page.colors.yellow);
}

function activityText({ doing, detail, bytes, since }: DaemonStatus['activity'], now: number) {
  const parts = [doing, detail, bytes && bytesText(bytes)].filter(Boolean).join(': ');
  return `${parts}, since ${formatAge(since, now)}`;
}

function bytesText({ done, total }: { done: number; total: number }): string {
  return `${formatBytes(done)} of ${formatBytes(total)} (${percent({ done, total })})`;
}

function percent({ done, total }: { done: number; total: number }): string {
  return `${total === 0 ? 100 : Math.floor((100 * done) / total)}%`;
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

function publicationLines(publications: readonly Publication[], most: number, page: Page): Line[] {
  const shown = publications.slice(0, Math.min(most, mostPublications));
  return shown.flatMap(({ at, ms, versions, bytes }, index) => {
    const read = bytes > 0 ? `, ${formatBytes(bytes)} read` : '';
    const text = `${formatAge(at, page.now)}: ${counted(versions, 'version')}${read}, in ${formatDuration(ms)}`;
    // Of one line each, so that they can be counted.
    return [{ before: column(index === 0 ? 'lately' : ''), text }];
  });
}

/** The worst first: where not all have room those that are in order go. */
const states: readonly MirrorStatus['state'][] = [
  ...(['stopped', 'waiting', 'behind', 'syncing', 'verifying', 'unknown', 'synced'] as const),
];

function paintOf({ state, serving }: MirrorStatus, { colors }: Page): Paint | undefined {
  if (state === 'stopped') return colors.red;
  if (state === 'waiting' || serving?.state === 'failing') return colors.yellow;
  if (state === 'synced') return colors.green;
  return state === 'syncing' || state === 'verifying' ? colors.cyan : undefined;
}

function mirrorLines(mirrors: readonly MirrorStatus[], most: number, page: Page): Line[] {
  if (mirrors.length === 0) return [];
  const count = (state: string) => mirrors.filter((each) => each.state === state).length;
  const summary = states
    .filter((state) => count(state) > 0)
    .map((state) => `${count(state)} ${state}`)
    .join(', ');
  const isWhole = mirrors.length + failuresIn(mirrors) + 2 <= most;
  const sorted = isWhole ? [...mirrors] : mirrors.toSorted(byState);
  const [head = '', ...table] = mirrorTable(sorted, page);
  const entries = sorted.map((mirror, at): Line[] => [
    { before: '', text: table[at] ?? '', paint: paintOf(mirror, page) },
    ...failureLines(mirror, page),
  ]);
  // The summary, the heads of the columns, and what there is more.
  const { shown, more } = firstOf(entries, { most: most - 2 });
  return [
    { before: column('mirrors'), text: summary },
    { before: '', text: head, paint: page.colors.bold },
    ...shown,
    ...(more > 0 ? [{ before: '  ', text: `… and ${more} more` }] : []),
  ];
}

const byState = (a: MirrorStatus, b: MirrorStatus) =>
  states.indexOf(a.state) - states.indexOf(b.state);

function failuresIn(mirrors: readonly MirrorStatus[]): number {
  return mirrors.filter(({ failure }) => failure !== undefined).length;
}

function failureLines({ failure, serving }: MirrorStatus, { colors }: Page): Line[] {
  const ofServing = serving?.state === 'failing' ? serving.failure : undefined;
  const told = failure ?? ofServing;
  return told === undefined
    ? []
    : [{ before: '    ', text: failureText(told), paint: colors.yellow }];
}

/** As lines that belong to `mirrors`, with that of the heads before them. Narrow screens have fewer columns. */
function mirrorTable(mirrors: readonly MirrorStatus[], { now, width }: Page): string[] {
  const isServing = mirrors.some(({ serving }) => serving !== undefined);
  const columns: { head: string; cell: (mirror: MirrorStatus) => string; from: number }[] = [
    { head: '  MIRROR', cell: ({ name }) => `  ${name}`, from: 0 },
    { head: 'STATE', cell: ({ state }) => state, from: 0 },
    { head: 'BEHIND', cell: lagText, from: 0 },
    {
      head: 'IN SYNC',
      cell: ({ synced }) => (synced === undefined ? 'never' : formatAge(synced, now)),
      from: 60,
    },
    ...(isServing ? [{ head: 'CLIENTS', cell: servingText, from: 60 }] : []),
    { head: 'NOW', cell: (mirror) => nowText(mirror, now), from: 50 },
  ];
  const shown = columns.filter(({ from }) => width >= from);
  const table = mirrors.map((mirror) => shown.map(({ cell }) => cell(mirror)));
  return formatTable([shown.map(({ head }) => head), ...table]).split('\n');
}

function servingText({ serving }: MirrorStatus): string {
  if (serving === undefined) return '';
  const { state, ms } = serving;
  return state === 'healthy' && ms !== undefined ? `healthy, ${formatDuration(ms)}` : state;
}

/** What it is at, and how far; or when it goes on. */
function nowText({ work, next }: MirrorStatus, now: number): string {
  if (work === undefined) return next === undefined ? '' : `next try ${formatAge(next, now)}`;
  const { stage, files, bytes, rate, secondsLeft } = work;
  const parts = [
    files.total > 0 && `${percent(bytes.total > 0 ? bytes : files)} of ${files.total} files`,
    rate !== undefined && rate > 0 && `${formatBytes(rate)}/s`,
    secondsLeft !== undefined && secondsLeft > 0 && `${formatDuration(secondsLeft * 1000)} left`,
  ].filter(Boolean);
  return parts.length === 0 ? stage : `${stage} ${parts.join(', ')}`;
}

type Held = Pick<DaemonStatus, 'held' | 'heldCount'>;

/** What is held back, a line each for the path and one for the reason. */
function heldLines({ held, heldCount }: Held, most: number, page: Page): Line[] {
  if (heldCount === 0) return nothingHeld(page);
  const entries = held.slice(0, mostShown).map((each): Line[] => [
    { before: '  ', text: each.path },
    { before: '    ', text: reasonText(each, page) },
  ]);
  const { shown, more } = firstOf(entries, { most: most - 1, count: heldCount });
  return [
    heldHead(heldCount, page),
    ...shown,
    ...(more > 0 ? [{ before: '  ', text: `… and ${more} more; --json lists them` }] : []),
  ];
}

/** The same without a screen to fit on: every word of the first of it. */
function heldInFull({ held, heldCount }: Held, page: Page): Line[] {
  if (heldCount === 0) return nothingHeld(page);
  const lines = held
    .slice(0, mostShown)
    .flatMap((each): Line[] => [
      { before: '  ', text: each.path },
      ...wrap(reasonText(each, page), page.width - 4).map((text) => ({ before: '    ', text })),
    ]);
  const more = heldCount - Math.min(held.length, mostShown);
  const listed = held.length < heldCount ? `the first ${held.length}` : 'them all';
  const rest = { before: '  ', text: `… and ${more} more; --json lists ${listed}` };
  return [heldHead(heldCount, page), ...lines, ...(more > 0 ? [rest] : [])];
}

function nothingHeld(page: Page): Line[] {
  return row('held back', 'nothing', page);
}

function heldHead(count: number, { colors }: Page): Line {
  return { before: column('held back'), text: counted(count, 'problem'), paint: colors.yellow };
}

function reasonText({ reason, cure, until }: HeldBack, { now }: Page): string {
  const when = until === undefined ? '' : `; looked at again ${formatAge(until, now)}`;
  return `${reason}; ${cure}${when}`;
}

/** So many of `entries`, each of some lines, as have room in `most` lines with one that tells how many more there are. */
function firstOf(
  entries: readonly Line[][],
  { most, count = entries.length }: { most: number; count?: number },
): { shown: Line[]; more: number } {
  const total = entries.reduce((sum, lines) => sum + lines.length, 0);
  const room = count === entries.length && total <= most ? most : most - 1;
  const shown: Line[] = [];
  let number = 0;
  for (const lines of entries) {
    if (shown.length + lines.length > room) break;
    shown.push(...lines);
    number += 1;
  }
  return { shown, more: count - number };
}

function row(name: string, text: string, { width }: Page, paint?: Paint): Line[] {
  return wrap(text, width - indent).map((part, at) => ({
    before: column(at === 0 ? name : ''),
    text: part,
    paint,
  }));
}

function column(name: string): string {
  return name.padEnd(indent);
}
