/** The form above the list: it shows a state, and tells when the reader changes it. */
import { find, make } from './dom.js';
import { formatCount } from './format.js';
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
  const selects = facets.map((facet) => ({ facet, select: find(facet, HTMLSelectElement) }));
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
      for (const { facet, select } of selects) {
        if (system === undefined || (facet === 'release' && system !== state.os)) {
          select.replaceChildren(...optionsOf(stock, facet, state.os));
        }
        setValue(select, state[facet]);
      }
      system = state.os;
    },
  };
}

function optionsOf(stock: Stock, facet: Facet, os: string): HTMLOptionElement[] {
  const values = [...choices(stock, facet, os)];
  const names: Record<string, string> = facet === 'kind' ? kindNames : {};
  const options = values.map(([value, count]) =>
    make('option', { value }, `${names[value] ?? value} (${formatCount(count)})`),
  );
  return [make('option', { value: '' }, 'All'), ...options];
}

/** Chooses a value, also one from a shared address that there is none of any more. */
function setValue(select: HTMLSelectElement, value: string): void {
  const isThere = [...select.options].some((option) => option.value === value);
  if (!isThere) select.append(make('option', { value }, `${value} (0)`));
  select.value = value;
}
