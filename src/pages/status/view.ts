/** The parts of the page, made of a status. */

import { draw, foreign, make } from '../dom.js';
import { counted, formatCount, formatSize } from '../figures.js';
import { type Chart, chartHeight, chartWidth, hoursOf } from './chart.js';
import type { Day, Failure, Held, Job, Mirror, Publication, Status } from './status.js';
import {
  activityOf,
  formatAge,
  formatDuration,
  formatTime,
  isFailing,
  jobText,
  lagText,
  type Mood,
  servingOf,
  stageText,
  stateOf,
  type Times,
  workText,
} from './words.js';

/** When something is, in words that change as time goes by; the whole moment where the pointer rests. */
function ageOf(time: string, now: number): HTMLElement {
  return make('time', { datetime: time, title: formatTime(time) }, formatAge(time, now));
}

function tile(
  name: string,
  value: string,
  { mood = 'plain' as Mood, about = [] as (Node | string)[] },
) {
  const figure = make('dd', { class: `figure ${mood}` }, value);
  const more = make('dd', { class: 'muted small' }, ...about);
  return make('div', { class: 'tile', 'data-key': name }, make('dt', {}, name), figure, more);
}

/** What is to be seen at a glance. */
export function tilesOf(status: Status, now: number): HTMLElement[] {
  const { activity, catalogue, mirrors, heldCount, publications } = status;
  const { text, mood } = activityOf(status);
  const synced = mirrors.filter(({ state }) => state === 'synced').length;
  const failing = mirrors.filter(isFailing).length;
  const [last] = publications;
  return [
    tile('Daemon', text, { mood, about: ['since ', ageOf(activity.since, now)] }),
    tile('Published', counted(catalogue.versions, 'version'), {
      about: [`${counted(catalogue.products, 'product')}, ${formatSize(catalogue.bytes)}`],
    }),
    tile('Mirrors in sync', mirrors.length === 0 ? 'None' : `${synced} of ${mirrors.length}`, {
      mood: failing > 0 ? 'bad' : synced === mirrors.length && synced > 0 ? 'good' : 'plain',
      about: [
        failing > 0
          ? `${failing} failing`
          : mirrors.length === 0
            ? 'none configured'
            : 'none failing',
      ],
    }),
    tile('Held back', heldCount === 0 ? 'Nothing' : formatCount(heldCount), {
      mood: heldCount === 0 ? 'good' : 'warn',
      about: [heldCount === 0 ? 'all that is complete is published' : 'not published, see below'],
    }),
    tile('Last publication', last === undefined ? 'None' : formatAge(last.at, now), {
      about: [last === undefined ? 'since the daemon started' : `took ${formatDuration(last.ms)}`],
    }),
  ];
}

/** What the daemon is at, where that takes long or goes wrong. */
export function doingOf({ activity }: Status): HTMLElement[] {
  const { doing, detail, bytes } = activity;
  if (doing === 'waiting') {
    return [
      make(
        'p',
        { class: 'notice bad' },
        make('strong', {}, 'Cannot publish: '),
        foreign(detail ?? ''),
      ),
    ];
  }
  if (bytes === undefined || bytes.total === 0) return [];
  const text = `Reading ${formatSize(bytes.done)} of ${formatSize(bytes.total)}`;
  return [
    make(
      'div',
      { class: 'work' },
      progressOf('Reading', bytes),
      make('p', { class: 'small' }, text),
    ),
  ];
}

function progressOf(label: string, { done, total }: { done: number; total: number }): HTMLElement {
  const value = Math.min(done, total);
  return make('progress', {
    'aria-label': label,
    max: String(Math.max(1, total)),
    value: String(value),
  });
}

function tagOf({ text, mood }: { text: string; mood: Mood }): HTMLElement {
  return make('span', { class: `tag ${mood}` }, text);
}

function failureOf({ message, hint }: Failure, more: (Node | string)[] = []): HTMLElement {
  const cure = hint === undefined ? [] : [make('br'), 'What to do: ', foreign(hint), '.'];
  return make('p', { class: 'notice bad small' }, foreign(message), ...more, ...cure);
}

/** A mirror in a line of its own, with an empty place for its day. */
export function mirrorOf(mirror: Mirror, times: Times): HTMLElement {
  const { name, url, synced, work, failure, next, serving, remote, counts } = mirror;
  const state = stateOf(mirror);
  const lag = lagText(mirror, times);
  const { now } = times;
  const when = [
    lag !== '' && make('span', { class: 'warn' }, `behind by ${lag}`),
    synced !== undefined && make('span', {}, 'in sync ', ageOf(synced, now)),
    next !== undefined &&
      make('span', {}, mirror.state === 'behind' ? 'due ' : 'next try ', ageOf(next, now)),
    counts !== undefined &&
      counts.bytes > 0 &&
      make('span', {}, `${formatSize(counts.bytes)} sent since the start`),
  ];
  const facts = make('p', { class: 'facts-line small muted' }, ...when);
  const working = work && [
    make(
      'div',
      { class: 'work' },
      progressOf(`${name}: ${stageText(work)}`, work.bytes.total > 0 ? work.bytes : work.files),
      make('p', { class: 'small' }, `${stageText(work)}: ${workText(work)}`),
    ),
  ];
  const isWeb = /^https?:\/\//i.test(url);
  const address = isWeb ? make('a', { href: url, rel: 'noreferrer' }, foreign(url)) : foreign(url);
  const served = serving && servingOf(serving);
  return make(
    'li',
    { class: 'mirror', 'data-key': name },
    make(
      'div',
      { class: 'who' },
      make('h3', {}, foreign(name), ' ', tagOf(state)),
      make('p', { class: 'small muted' }, address, make('br'), foreign(remote)),
    ),
    make(
      'div',
      { class: 'how' },
      facts,
      ...(working ?? []),
      failure && failureOf(failure, [' (', ageOf(failure.at, now), ')']),
      served &&
        make('p', { class: `small ${served.mood === 'bad' ? 'bad' : 'muted'}` }, served.text),
      serving?.failure && failureOf(serving.failure),
    ),
    make('div', { class: 'day', 'data-own': '' }),
  );
}

/** A day as a picture with its figures below, which are written when they are asked for. */
export function dayOf(day: Day, { bars, line, gaps, summary }: Chart): HTMLElement {
  const box = `0 0 ${chartWidth} ${chartHeight}`;
  const picture = draw(
    'svg',
    { class: 'chart', viewBox: box, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    draw('path', { class: 'gap', d: gaps }),
    draw('path', { class: 'bar', d: bars }),
    draw('path', { class: 'line', d: line, 'vector-effect': 'non-scaling-stroke' }),
  );
  const title = make('summary', { class: 'small' }, summary);
  title.prepend(make('span', { class: 'unseen' }, `${day.name}, last 24 hours: `));
  const figures = make('details', {}, title);
  figures.addEventListener('toggle', () => {
    if (figures.open && figures.children.length === 1) figures.append(tableOf(day));
  });
  return make('div', { class: 'day-body' }, picture, figures);
}

function tableOf(day: Day): HTMLElement {
  const rows = hoursOf(day).map(({ time, sent, lag }) => [time, sent, lag]);
  return scrolling(`The last 24 hours of ${day.name}`, {
    heads: ['Hour (UTC)', 'Sent', 'Longest lag'],
    rows,
  });
}

type Cell = string | Node;

function scrolling(
  name: string,
  { heads, rows }: { heads: string[]; rows: Cell[][] },
): HTMLElement {
  const classOf = (index: number) => (index > 0 ? 'number' : undefined);
  const head = heads.map((text, index) =>
    make('th', { scope: 'col', class: classOf(index) }, text),
  );
  const body = rows.map((cells) =>
    make('tr', {}, ...cells.map((cell, index) => make('td', { class: classOf(index) }, cell))),
  );
  const table = make(
    'table',
    { class: 'small' },
    make('thead', {}, make('tr', {}, ...head)),
    make('tbody', {}, ...body),
  );
  return make(
    'div',
    { class: 'scrolls', tabindex: '0', role: 'region', 'aria-label': name },
    table,
  );
}

export function publicationsOf(publications: readonly Publication[], now: number): HTMLElement {
  if (publications.length === 0) {
    return make('p', { class: 'muted' }, 'Nothing has changed since the daemon started.');
  }
  const rows = publications.map(({ at, ms, products, versions, bytes }) => [
    ageOf(at, now),
    formatCount(products),
    formatCount(versions),
    formatSize(bytes),
    formatDuration(ms),
  ]);
  const heads = ['When', 'Products', 'Versions', 'Read', 'Took'];
  return scrolling('Last publications', { heads, rows });
}

export function heldOf({ path, reason, cure, until }: Held, now: number): HTMLElement {
  return make(
    'li',
    {},
    make('p', { class: 'mono' }, foreign(path)),
    make('p', {}, foreign(reason)),
    make(
      'p',
      { class: 'muted' },
      'What to do: ',
      foreign(cure),
      ...(until === undefined ? [] : ['; looked at again ', ageOf(until, now)]),
    ),
  );
}

export function jobOf(job: Job, now: number): HTMLElement {
  const failure = job.last?.failure;
  return make(
    'div',
    { 'data-key': job.name },
    make('dt', {}, foreign(job.name)),
    make('dd', {}, jobText(job, now)),
    ...(failure === undefined ? [] : [make('dd', { class: 'bad' }, 'Failed: ', foreign(failure))]),
  );
}

export function aboutOf(status: Status, now: number): HTMLElement[] {
  const { version, started, root, watching, server, pid, process } = status;
  const fact = (name: string, ...value: Cell[]) =>
    make('div', { 'data-key': name }, make('dt', {}, name), make('dd', {}, ...value));
  const folders = counted(watching.folders, 'folder');
  const why = watching.reason === undefined ? '' : `: ${watching.reason}`;
  return [
    fact('Version', foreign(version)),
    fact('Started', ageOf(started, now), ` as process ${pid}`),
    fact('Root', make('span', { class: 'mono' }, foreign(root))),
    fact('HTTPS', foreign('url' in server ? server.url : `does not listen: ${server.reason}`)),
    fact('Watching', watching.mode === 'events' ? folders : `on a timer, with ${folders}${why}`),
    fact('Memory', formatSize(process.memory)),
    fact('Longest pause', formatDuration(process.longestPauseMs)),
  ];
}
