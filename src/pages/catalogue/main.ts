/**
 * The catalogue page: reads the simplestreams documents of the server that it comes from, and lists what they hold.
 * Works on a master and on a mirror alike, at whatever path.
 */

import { find, make } from '../dom.js';
import { counted } from '../figures.js';
import { serverOf, suggestedRemote } from './commands.js';
import { createFilters } from './filters.js';
import { formatTime } from './format.js';
import { createList } from './list.js';
import { type Fault, LoadError, loadCatalogue } from './load.js';
import { createRemoteHelp } from './remote.js';
import type { Choice } from './rows.js';
import { readFragment, type State, writeFragment } from './state.js';
import { makeStock, type Stock, search } from './stock.js';

/** How long after the last change the address follows, in milliseconds: browsers allow few changes in a row. */
const addressMs = 250;

const server = serverOf(location);
const suggested = suggestedRemote(location.hostname);
const page = new URL(location.href.replace(/[?#].*$/, ''));
const message = find('message', HTMLDivElement);
const count = find('count', HTMLParagraphElement);

let state = readFragment(location.hash);
const choice = (): Choice => ({ client: state.client, remote: state.remote || suggested });

document.title = `Images on ${location.host}`;
find('server', HTMLElement).textContent = server.url;
// The fragment of the address is for what is looked for.
find('skip', HTMLAnchorElement).addEventListener('click', (event) => {
  event.preventDefault();
  find('results', HTMLElement).focus();
});

const list = createList(choice);
const remote = createRemoteHelp({
  server,
  suggested,
  choice: choice(),
  onChange: ({ client, remote }) => {
    state = { ...state, client, remote: remote === suggested ? '' : remote };
    list.refresh();
    writeAddress();
  },
});
void start();

async function start(): Promise<void> {
  message.replaceChildren();
  count.textContent = 'Loading the list of images …';
  try {
    const catalogue = await loadCatalogue(page.href, {
      onArrival: () => performance.mark('documents-arrived'),
    });
    showStock(makeStock(catalogue));
  } catch (error) {
    if (!(error instanceof LoadError)) throw error;
    showFault(error.fault);
  }
}

function showStock(stock: Stock): void {
  const { entries, leftOut, updated } = stock;
  const note = find('note', HTMLParagraphElement);
  note.hidden = leftOut === 0;
  note.textContent = `${counted(leftOut, 'product')} with nothing that LXD or Incus could start ${leftOut === 1 ? 'is' : 'are'} left out.`;
  if (updated > 0)
    find('updated', HTMLElement).textContent = `Newest content of ${formatTime(updated)}. `;
  if (entries.length === 0) {
    count.textContent = 'No images';
    message.replaceChildren(...emptyTexts());
    return;
  }
  const filters = createFilters(stock, (change) => {
    state = { ...state, ...change };
    show();
    writeAddress();
  });
  addEventListener('hashchange', () => {
    state = readFragment(location.hash);
    remote.show(choice());
    list.refresh();
    show();
  });
  show();

  function show(): void {
    performance.mark('filter-started');
    filters.show(state);
    const found = search(stock, state);
    const versions = found.reduce((sum, { product }) => sum + product.versions.length, 0);
    const shown =
      found.length === entries.length ? '' : ` of ${counted(entries.length, 'product')}`;
    count.textContent = `${counted(found.length, 'product')}${shown}, ${counted(versions, 'version')}`;
    message.replaceChildren(
      ...(found.length === 0 ? [make('p', {}, 'No product fits all of this.')] : []),
    );
    find('columns', HTMLDivElement).hidden = found.length === 0;
    list.show(found);
    markPaint();
  }
}

/** Marks when what is shown now is on the screen. */
function markPaint(): void {
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => performance.mark('painted');
    port2.postMessage(undefined);
  });
}

let addressTimer: ReturnType<typeof setTimeout> | undefined;

function writeAddress(): void {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => {
    const address = `${location.pathname}${location.search}${writeFragment(withoutSuggested(state))}`;
    history.replaceState(null, '', address);
  }, addressMs);
}

function withoutSuggested(shown: State): State {
  return shown.remote === suggested ? { ...shown, remote: '' } : shown;
}

function showFault({ title, text, cure }: Fault): void {
  const again = make('button', { type: 'button', class: 'primary' }, 'Try again');
  again.addEventListener('click', start);
  count.textContent = '';
  const box = make(
    'div',
    { class: 'notice bad', role: 'alert' },
    make('h3', {}, title),
    make('p', {}, text),
    make('p', {}, make('strong', {}, 'For the administrator: '), cure),
    again,
  );
  message.replaceChildren(box);
}

function emptyTexts(): HTMLElement[] {
  const code = (text: string) => make('code', {}, text);
  return [
    make('h3', {}, 'This server has no images yet'),
    make(
      'p',
      {},
      'To publish one on the master, copy its files into ',
      code('images/SYSTEM/RELEASE/ARCHITECTURE/default/VERSION/'),
      ' below the root of the server, for example with rsync: the daemon publishes it when it is complete.',
    ),
    make(
      'p',
      {},
      'Or let a client upload: ',
      code('lxd-image-server trust add NAME'),
      ' prints a token, with which ',
      code('lxc remote add hub TOKEN'),
      ' and ',
      code('lxc image copy IMAGE hub:'),
      ' do the rest; the same with ',
      code('incus'),
      '.',
    ),
  ];
}
