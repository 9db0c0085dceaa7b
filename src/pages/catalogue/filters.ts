/** The form above the list: it shows a state, and tells when the reader changes it. */
import { find, make } from '../dom.js';
import { formatCount } from '../figures.js';
import { kindNames } from './rows.js';
import type { State } from './state.js';
import { choices, type Facet, type Filter, type Sorting, type Stock } from './stock.js';

export interface Filters {
  /** Shows a state, with what there is to choose from. */
  show(state: State): void;
}

const facets: readonly Facet[] = ['os', 'release', 'arch', 'kind'];
const nothing = { query: '', os: '', release: '', arch: '', kind: '' };

export function createFilters(stock: Stock, onChange: (change: Partial<Filter>) => void): Filters {
  const form = find('filters', HTMLFormElement);
  const query = find('query', HTMLInputElement);
  const sorting = find('sorting', HTMLSelectElement);
  const selects = facets.map(
    (facet): Choice => ({ facet, select: find(facet, HTMLSelectElement), values: new Set() }),
  );
  /** The system whose releases there are to choose from. */
  let system: string | undefined;

  form.addEventListener('submit', (event) => event.preventDefault());
  query.addEventListener('input', () => onChange({ query: query.value }));
  query.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' || event.isComposing || query.value === '') return;
    event.preventDefault();
    query.value = '';
    onChange({ query: '' });
  });
  for (const { facet, select } of selects) {
    // The releases of one system are not those of another.
    const rest = facet === 'os' ? { release: '' } : {};
    select.addEventListener('change', () => onChange({ [facet]: select.value, ...rest }));
  }
  sorting.addEventListener('change', () => onChange({ sorting: sorting.value as Sorting }));
  find('clear', HTMLButtonElement).addEventListener('click', () => {
    onChange(nothing);
    query.focus();
  });
  form.hidden = false;

  return {
    show(state) {
      if (query.value !== state.query) query.value = state.query;
      sorting.value = state.sorting;
      for (const choice of selects) {
        if (system === undefined || (choice.facet === 'release' && system !== state.os)) {
          fill(choice, choices(stock, choice.facet, state.os));
        }
        setValue(choice, state[choice.facet]);
      }
      system = state.os;
    },
  };
}

interface Choice {
  facet: Facet;
  select: HTMLSelectElement;
  /** What there is to choose from. */
  values: Set<string>;
}

/** More than anyone chooses from, and more than a browser shows at once. */
const mostOptions = 400;

function fill({ facet, select, values }: Choice, counts: ReadonlyMap<string, number>): void {
  const tooMany = counts.size > mostOptions;
  const names: Record<string, string> = facet === 'kind' ? kindNames : {};
  const options = tooMany
    ? []
    : [...counts].map(([value, count]) =>
        make('option', { value }, `${names[value] ?? value} (${formatCount(count)})`),
      );
  const first = tooMany && facet === 'release' ? 'All; choose a system' : 'All';
  select.replaceChildren(make('option', { value: '' }, first), ...options);
  values.clear();
  for (const { value } of select.options) values.add(value);
}

/** Chooses a value, also one from a shared address that there is none of any more. */
function setValue({ select, values }: Choice, value: string): void {
  if (!values.has(value)) {
    select.append(make('option', { value }, value));
    values.add(value);
  }
  if (select.value !== value) select.value = value;
}
