/** A product as a row, and what it holds once it is opened. */

import { foreign, make } from '../dom.js';
import { counted, formatCount, formatSize } from '../figures.js';
import {
  type Client,
  isPlain,
  type LaunchOptions,
  launchByAlias,
  launchByFingerprint,
} from './commands.js';
import { commandLine, copyButton } from './copy.js';
import type { Image, Kind, Version } from './documents.js';
import { versionDate } from './format.js';
import type { Entry } from './stock.js';

export const kindNames: Record<Kind, string> = {
  container: 'Container',
  'virtual-machine': 'Virtual machine',
  unified: 'Unified',
};
const shortKindNames: Record<Kind, string> = { ...kindNames, 'virtual-machine': 'VM' };

/** What the lines of a shell depend on. */
export interface Choice {
  client: Client;
  remote: string;
}

export interface Row {
  element: HTMLLIElement;
  /** Writes the lines anew, where they are shown. */
  refresh(): void;
}

/** The row of a product. What is in it is made when it is opened. */
export function createRow(entry: Entry, choice: () => Choice): Row {
  const details = make('details', {}, make('summary', {}, summaryOf(entry)));
  let body: HTMLElement | undefined;
  const refresh = () => {
    body?.remove();
    body = details.open ? detailOf(entry, choice()) : undefined;
    if (body !== undefined) details.append(body);
  };
  details.addEventListener('toggle', () => {
    if (details.open !== (body !== undefined)) refresh();
  });
  return { element: make('li', {}, details), refresh };
}

function summaryOf({ product, name, kinds, size }: Entry): HTMLElement {
  const [newest] = product.versions;
  const count = product.versions.length;
  return make(
    'div',
    { class: 'row' },
    make(
      'span',
      { class: 'name' },
      make('strong', {}, foreign(name)),
      descriptionOf(product, name),
    ),
    make('span', { class: 'arch' }, foreign(product.arch)),
    make('span', { class: 'kinds' }, ...kinds.flatMap((kind) => [' ', kindTag(kind)])),
    make(
      'span',
      { class: 'number' },
      formatCount(count),
      make('span', { class: 'noun' }, count === 1 ? ' version' : ' versions'),
    ),
    make('span', { class: 'newest' }, newest === undefined ? '' : dateOf(newest)),
    make('span', { class: 'number' }, formatSize(size)),
  );
}

/** System, release and variant, and the other names. */
function descriptionOf(
  { os, title, variant, aliases }: Entry['product'],
  name: string,
): HTMLElement {
  const words = [os, title, variant === 'default' ? '' : variant].filter((word) => word !== '');
  const others = aliases.filter((alias) => alias !== name);
  const parts = words.flatMap((word, at) => (at === 0 ? [foreign(word)] : [' · ', foreign(word)]));
  const also = others.flatMap((alias, at) => [at === 0 ? ' — also ' : ', ', foreign(alias)]);
  return make('span', { class: 'description' }, ...parts, ...also);
}

function kindTag(kind: Kind): HTMLElement {
  return make('span', { class: 'tag' }, shortKindNames[kind]);
}

function dateOf({ name }: Version): HTMLElement {
  const date = versionDate(name);
  return date === undefined ? foreign(name) : make('time', { datetime: date.machine }, date.text);
}

function detailOf(entry: Entry, choice: Choice): HTMLElement {
  const { product } = entry;
  const names = product.aliases.length > 0 ? [namesOf(product.aliases)] : [];
  return make(
    'div',
    { class: 'detail' },
    launchOf(entry, choice),
    ...names,
    versionsOf(entry, choice),
  );
}

/** How to start the newest version, by its best alias and by its fingerprint. */
function launchOf({ product, name }: Entry, choice: Choice): HTMLElement {
  const images = product.versions[0]?.images ?? [];
  const lines = images.flatMap((image) => {
    const options = optionsOf(image, choice);
    const kind = images.length > 1 ? `${kindNames[image.kind]}, ` : '';
    const byAlias = product.aliases.length > 0 ? launchByAlias(name, options) : undefined;
    const what = `the line that launches ${product.aliases.length > 0 ? name : product.id}`;
    return [
      ...(byAlias === undefined
        ? []
        : [
            label(`${kind}always the newest`),
            commandLine(byAlias, `${what}, ${kind}always the newest`),
          ]),
      label(`${kind}this very version`),
      commandLine(
        launchByFingerprint(image.fingerprint, options),
        `${what}, ${kind}this very version`,
      ),
    ];
  });
  return make(
    'section',
    {},
    make('h3', {}, 'Launch'),
    make('div', { class: 'commands' }, ...lines),
  );
}

function label(text: string): HTMLElement {
  const capital = text.slice(0, 1).toUpperCase() + text.slice(1);
  return make('span', { class: 'small' }, capital);
}

function optionsOf({ kind }: Image, choice: Choice): LaunchOptions {
  return { ...choice, isVirtualMachine: kind === 'virtual-machine' };
}

function namesOf(aliases: readonly string[]): HTMLElement {
  const items = aliases.map((alias) => {
    const odd = isPlain(alias)
      ? []
      : [' ', make('span', { class: 'warn small' }, '(has characters that do not show)')];
    return make('li', {}, make('code', {}, foreign(alias)), ...odd);
  });
  return make('section', {}, make('h3', {}, 'Aliases'), make('ul', { class: 'names' }, ...items));
}

/** Versions that are shown at once. */
const firstVersions = 20;

function versionsOf({ product, name }: Entry, choice: Choice): HTMLElement {
  const { versions } = product;
  const rows = (some: readonly Version[]) =>
    some.flatMap((version) =>
      version.images.map((image) => versionRow({ version, image, name }, choice)),
    );
  const body = make('tbody', { role: 'rowgroup' }, ...rows(versions.slice(0, firstVersions)));
  // On a phone the table is laid out as something else, and would no longer count as one without the roles.
  const heads = ['Version', 'Date (UTC)', 'Type', 'Size', 'Fingerprint', ''].map((text) =>
    make(
      'th',
      { scope: 'col', role: 'columnheader' },
      text === '' ? make('span', { class: 'unseen' }, 'Copy') : text,
    ),
  );
  const head = make('thead', { role: 'rowgroup' }, make('tr', { role: 'row' }, ...heads));
  const table = make(
    'table',
    { class: 'versions', role: 'table', 'aria-label': `Versions of ${name}` },
    head,
    body,
  );
  const section = make('section', {}, make('h3', {}, 'Versions'), table);
  if (versions.length > firstVersions) {
    const button = make(
      'button',
      { type: 'button' },
      `Show all ${counted(versions.length, 'version')}`,
    );
    button.addEventListener('click', () => {
      const before = body.rows.length;
      body.append(...rows(versions.slice(firstVersions)));
      button.remove();
      body.rows[before]?.querySelector('button')?.focus();
    });
    section.append(button);
  }
  return section;
}

function versionRow(
  { version, image, name }: { version: Version; image: Image; name: string },
  choice: Choice,
): HTMLElement {
  const line = launchByFingerprint(image.fingerprint, optionsOf(image, choice));
  const kind = kindNames[image.kind];
  const what = `line that launches ${name} ${version.name}, ${kind.toLowerCase()}`;
  const date = versionDate(version.name);
  const cells = [
    make('td', {}, foreign(version.name)),
    make('td', {}, date === undefined ? '' : make('time', { datetime: date.machine }, date.text)),
    make('td', {}, kind),
    make('td', { class: 'size' }, formatSize(image.size)),
    make('td', { class: 'fingerprint' }, make('code', { class: 'mono' }, image.fingerprint)),
    make('td', {}, copyButton(line, { what, label: 'Copy' })),
  ];
  for (const cell of cells) cell.setAttribute('role', 'cell');
  return make('tr', { role: 'row' }, ...cells);
}
