/** What a reader has chosen, and how it stands in the fragment of the URL, so that a search can be shared. No DOM. */
import { type Client, cleanRemote } from './commands.js';
import type { Filter, Sorting } from './stock.js';

export interface State extends Filter {
  client: Client;
  /** '': as suggested. */
  remote: string;
}

export const initialState: State = {
  query: '',
  os: '',
  release: '',
  arch: '',
  kind: '',
  sorting: 'name',
  client: 'lxc',
  remote: '',
};

const keys: Record<keyof State, string> = {
  query: 'q',
  os: 'system',
  release: 'release',
  arch: 'arch',
  kind: 'type',
  sorting: 'sort',
  client: 'client',
  remote: 'remote',
};

const sortings: readonly Sorting[] = ['name', 'newest', 'size', 'versions'];

/** The longest text that is taken from a fragment. */
const longest = 500;

/** The state in a fragment, with or without its `#`; what makes no sense is as at the beginning. */
export function readFragment(fragment: string): State {
  const values = new URLSearchParams(fragment.replace(/^#/, ''));
  const text = (name: keyof State) => (values.get(keys[name]) ?? '').slice(0, longest);
  return {
    query: text('query'),
    os: text('os'),
    release: text('release'),
    arch: text('arch'),
    kind: text('kind'),
    sorting: sortings.find((each) => each === text('sorting')) ?? initialState.sorting,
    client: text('client') === 'incus' ? 'incus' : initialState.client,
    remote: cleanRemote(text('remote')),
  };
}

/** The fragment of a state, with its `#`; '' for that at the beginning. */
export function writeFragment(state: State): string {
  const values = new URLSearchParams();
  for (const name of Object.keys(keys) as (keyof State)[]) {
    if (state[name] !== initialState[name]) values.set(keys[name], state[name]);
  }
  const text = values.toString();
  return text === '' ? '' : `#${text}`;
}
