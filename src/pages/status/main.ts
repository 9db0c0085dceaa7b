/** The status page: what the daemon tells, as it changes. */

import { find, make } from '../dom.js';
import { formatCount } from '../figures.js';
import { chartOf } from './chart.js';
import { type Connection, follow, type Source } from './live.js';
import { show } from './patch.js';
import type { Day, Mirror, Status } from './status.js';
import {
  aboutOf,
  dayOf,
  doingOf,
  heldOf,
  jobOf,
  mirrorOf,
  publicationsOf,
  tilesOf,
} from './view.js';
import { isFailing, verdictOf } from './words.js';

/** How often the days are read, in milliseconds: that is the length of their steps. */
const daysMs = 600_000;
/** How often ages are written anew, in milliseconds. */
const agesMs = 5000;
/** Between two things that are said to readers of screens, in milliseconds. */
const sayMs = 10_000;
/** How many held versions are shown until all are asked for. */
const fewHeld = 20;
/** From how many mirrors on they can be filtered. */
const manyMirrors = 8;

const part = (id: string) => find(id, HTMLElement);
const query = find('query', HTMLInputElement);
const which = find('which', HTMLSelectElement);
const heldMore = find('held-more', HTMLButtonElement);

let status: Status | undefined;
let connection: Connection = 'connecting';
/** What the server's clock is ahead of ours, in milliseconds. */
let ahead = 0;
let allHeld = false;
/** By mirror. */
let charts = new Map<string, Element>();
/** What the line of each mirror was made of: of hundreds few change. */
let lines = new Map<string, string>();

part('server').textContent = location.host;

function render(): void {
  if (status === undefined) return;
  const now = Date.now() + ahead;
  part('content').hidden = false;
  const verdict = verdictOf(status);
  const notice = part('verdict');
  notice.hidden = false;
  notice.className = `notice ${verdict.mood}`;
  if (notice.textContent !== verdict.text) notice.textContent = verdict.text;
  document.title = `${verdict.mood === 'bad' ? '(!) ' : ''}Status of ${location.host}`;
  show(part('tiles'), ...tilesOf(status, now));
  show(part('doing'), ...doingOf(status));
  renderMirrors(status, now);
  renderHeld(status, now);
  show(part('publications'), publicationsOf(status.publications, now));
  show(part('jobs'), ...status.jobs.map((job) => jobOf(job, now)));
  show(part('about'), ...aboutOf(status, now));
}

function renderMirrors({ mirrors, at }: Status, now: number): void {
  const shown = mirrors.filter(isWanted);
  const times = { at: Date.parse(at), now };
  part('filter').hidden = mirrors.length < manyMirrors;
  part('legend').hidden = charts.size === 0 || mirrors.length === 0;
  const count = shown.length < mirrors.length ? `${shown.length} of ${mirrors.length} shown` : '';
  part('mirrors-count').textContent = mirrors.length === 0 ? 'None are configured.' : count;
  const before = lines;
  lines = new Map(shown.map((mirror) => [mirror.name, JSON.stringify([mirror, ageStep(now)])]));
  const lineOf = (mirror: Mirror) =>
    before.get(mirror.name) === lines.get(mirror.name)
      ? make('li', { 'data-key': mirror.name, 'data-keep': '' })
      : mirrorOf(mirror, times);
  show(part('mirrors'), ...shown.map(lineOf));
  [...part('mirrors').children].forEach((line, index) => {
    const chart = charts.get(shown[index]?.name ?? '');
    const place = line.querySelector('.day');
    if (place?.firstChild !== (chart ?? null)) place?.replaceChildren(...(chart ? [chart] : []));
  });
}

/** Ages that are written now are those of the same step. */
const ageStep = (now: number) => Math.floor(now / agesMs);

function isWanted(mirror: Mirror): boolean {
  if (part('filter').hidden) return true;
  if (!mirror.name.toLowerCase().includes(query.value.trim().toLowerCase())) return false;
  if (which.value === 'failing') return isFailing(mirror);
  return which.value === 'all' || mirror.state !== 'synced';
}

function renderHeld({ held, heldCount }: Status, now: number): void {
  const shown = allHeld ? held : held.slice(0, fewHeld);
  const listed =
    held.length < heldCount ? `, the first ${formatCount(held.length)} of them listed` : '';
  part('held-count').textContent =
    heldCount === 0 ? 'Nothing.' : `${formatCount(heldCount)}${listed}`;
  show(part('held'), ...shown.map((problem) => heldOf(problem, now)));
  heldMore.hidden = held.length <= fewHeld;
  heldMore.textContent = allHeld ? 'Show fewer' : `Show all ${formatCount(held.length)}`;
}

/** Reads all, with the days of the mirrors. */
async function readAll(): Promise<void> {
  try {
    const response = await fetch('status.json', { cache: 'no-store' });
    if (!response.ok) throw new Error(await response.text());
    const date = Date.parse(response.headers.get('date') ?? '');
    if (!Number.isNaN(date)) {
      const offset = date - Date.now();
      // The header has whole seconds.
      ahead = Math.abs(offset) < 2000 ? 0 : offset;
    }
    const { days, ...rest } = (await response.json()) as Status & { days: Day[] };
    takeDays(days);
    // What came by the connection is newer.
    if (connection !== 'live') status = rest;
    render();
  } catch (error) {
    // The connection says that it is lost; why is told by whoever refuses.
    refusal = error instanceof Error && !(error instanceof TypeError) ? error.message : '';
    showConnection();
  }
}

let refusal = '';

function takeDays(days: readonly Day[]): void {
  const before = charts;
  charts = new Map(days.map((day) => [day.name, dayOf(day, chartOf(day))]));
  // What the reader has opened stays open.
  for (const [name, chart] of charts) {
    const isOpen = before.get(name)?.querySelector('details')?.open === true;
    chart.querySelector('details')?.toggleAttribute('open', isOpen);
  }
}

const words: Record<Connection, string> = {
  connecting: 'Connecting …',
  live: 'Live',
  lost: 'Connection lost; what is shown may be out of date. Trying again …',
  paused: 'Paused while nobody looks',
};

function showConnection(): void {
  part('connection').className = `connection ${connection}`;
  const why = connection === 'live' || refusal === '' ? '' : ` ${refusal}`;
  part('connection-text').textContent = `${words[connection]}${why}`;
}

let said = { text: '', at: 0 };
let saying: ReturnType<typeof setTimeout> | undefined;

/** Says how all is when that has become otherwise, and not all the time. */
function say(): void {
  if (saying !== undefined || status === undefined) return;
  const text = verdictOf(status).text;
  if (said.text === text) return;
  saying = setTimeout(
    () => {
      saying = undefined;
      if (status === undefined) return;
      const next = verdictOf(status).text;
      if (said.text !== '' && next !== said.text) part('said').textContent = next;
      said = { text: next, at: Date.now() };
    },
    Math.max(0, said.at + sayMs - Date.now()),
  );
}

const following = follow({
  open: () => new EventSource('status/events') as Source,
  onStatus(next) {
    status = next;
    render();
    say();
  },
  onConnection(next) {
    connection = next;
    if (next === 'live') refusal = '';
    // What was missed is in the days; and whoever refuses a connection says why.
    if (next === 'live' || next === 'lost') void readAll();
    showConnection();
  },
});

heldMore.addEventListener('click', () => {
  allHeld = !allHeld;
  render();
});
part('filter').addEventListener('submit', (event) => event.preventDefault());
query.addEventListener('input', render);
which.addEventListener('change', render);
document.addEventListener('visibilitychange', () => following.look(!document.hidden));
addEventListener('online', () => following.restart());
setInterval(() => void readAll(), daysMs);
setInterval(() => {
  if (!document.hidden) render();
}, agesMs);
