/** The list of products: the first rows at once, others when there is time, and beyond a limit when asked for. */
import { find } from '../dom.js';
import { formatCount } from '../figures.js';
import { type Choice, createRow, type Row } from './rows.js';
import type { Entry } from './stock.js';

/** Rows that are there at once: more than a window shows. */
const firstRows = 30;
/** Rows that are made at a time after that. */
const laterRows = 100;
/** Rows that are made unasked: so many the browser can search, and no list is too long to be replaced at once. */
const page = 400;

export interface List {
  /** Shows these, in this order; rows that were opened stay open. */
  show(entries: readonly Entry[]): void;
  /** Writes the lines in open rows anew. */
  refresh(): void;
}

export function createList(choice: () => Choice): List {
  const list = find('products', HTMLUListElement);
  const more = find('more', HTMLButtonElement);
  const rows = new Map<Entry, Row>();
  let shown: readonly Entry[] = [];
  let limit = page;
  let waiting: number | undefined;

  const rowOf = (entry: Entry) => {
    const row = rows.get(entry) ?? createRow(entry, choice);
    rows.set(entry, row);
    return row.element;
  };
  const append = (count: number) => {
    const start = list.children.length;
    list.append(...shown.slice(start, Math.min(start + count, limit)).map(rowOf));
    const left = shown.length - list.children.length;
    if (left > 0 && list.children.length < limit) waiting = whenIdle(() => append(laterRows));
    more.hidden = left === 0 || list.children.length < limit;
    more.textContent = `Show ${formatCount(Math.min(left, page))} more of ${formatCount(shown.length)}`;
  };
  more.addEventListener('click', () => {
    const next = list.children.length;
    limit += page;
    append(firstRows);
    list.children[next]?.querySelector('summary')?.focus();
  });
  return {
    show(entries) {
      if (waiting !== undefined) notWhenIdle(waiting);
      waiting = undefined;
      shown = entries;
      limit = page;
      list.replaceChildren();
      append(firstRows);
    },
    refresh() {
      for (const row of rows.values()) row.refresh();
    },
  };
}

/** Safari has no idle callbacks. */
const hasIdle = 'requestIdleCallback' in window;

function whenIdle(work: () => void): number {
  return hasIdle ? requestIdleCallback(work, { timeout: 500 }) : window.setTimeout(work, 50);
}

function notWhenIdle(handle: number): void {
  if (hasIdle) cancelIdleCallback(handle);
  else clearTimeout(handle);
}
