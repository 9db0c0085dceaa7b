/** Fetches the documents, and says what is wrong where that fails. */
import { type Catalogue, joinCatalogues, readIndex, readProducts } from './documents.js';

/** Why there is no list. */
export interface Fault {
  title: string;
  /** For whoever reads the page. */
  text: string;
  /** For whoever runs the server. */
  cure: string;
}

/** A {@link Fault} on its way. */
export class LoadError extends Error {
  readonly fault: Fault;

  constructor(fault: Fault) {
    super(fault.title);
    this.fault = fault;
  }
}

/** How long a server may take until it answers, in milliseconds. */
const answerMs = 30_000;
const indexPath = 'streams/v1/index.json';

/**
 * Reads the documents of the server whose page is at `page`.
 *
 * @param options.onArrival is called when all documents are here and none has been read.
 * @throws LoadError
 */
export async function loadCatalogue(
  page: string,
  { onArrival }: { onArrival: () => void },
): Promise<Catalogue> {
  const paths = readIndex(parse(await fetchText(indexPath, page), indexPath));
  if (paths === undefined) throw wrongDocument(indexPath, 'it is no simplestreams index');
  if (paths.length === 0) throw wrongDocument(indexPath, 'it names no list of images');
  const texts = await Promise.all(paths.map((path) => fetchText(path, page)));
  onArrival();
  const catalogues = texts.map((text, at) => {
    const path = paths[at] ?? '';
    const catalogue = readProducts(parse(text, path));
    if (catalogue === undefined)
      throw wrongDocument(path, 'it is no simplestreams list of products');
    return catalogue;
  });
  return joinCatalogues(catalogues);
}

async function fetchText(path: string, page: string): Promise<string> {
  const patience = new AbortController();
  const timer = setTimeout(() => patience.abort(), answerMs);
  try {
    const response = await fetch(new URL(path, page), {
      cache: 'no-cache',
      signal: patience.signal,
    });
    clearTimeout(timer);
    if (!response.ok) throw refused(path, response.status);
    return await response.text();
  } catch (error) {
    throw error instanceof LoadError ? error : unreachable(path, patience.signal.aborted);
  } finally {
    clearTimeout(timer);
  }
}

function parse(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw wrongDocument(
      path,
      text.trim() === '' ? 'it is empty' : 'it is not JSON, or it is cut short',
    );
  }
}

const update = 'Run "lxd-image-server update" on the master';

function refused(path: string, status: number): LoadError {
  if (status === 404 || status === 410) {
    return new LoadError({
      title: 'Nothing is published here yet',
      text: `The server has no ${path}.`,
      cure: `${update}; on a mirror, wait for its first replication, or start it with "lxd-image-server mirror sync" on the master.`,
    });
  }
  return new LoadError({
    title: 'The server does not hand out the list of images',
    text: `It answers ${status} when asked for ${path}.`,
    cure:
      status === 401 || status === 403
        ? `See that the web server may read ${path}, and lets everyone read it.`
        : `See the log of the web server. ${update} if the document is damaged.`,
  });
}

function unreachable(path: string, isLate: boolean): LoadError {
  if (new URL(document.baseURI).protocol === 'file:') {
    return new LoadError({
      title: 'This page works only when it comes from a server',
      text: 'It was opened as a file, and browsers let files read no others.',
      cure: 'Open it through the web server that serves the images.',
    });
  }
  return new LoadError({
    title: 'The server cannot be reached',
    text: isLate
      ? `It did not answer for ${answerMs / 1000} seconds when asked for ${path}.`
      : `The connection failed when asked for ${path}. See whether this device is online.`,
    cure: 'See that the web server runs, and that its certificate has not run out.',
  });
}

function wrongDocument(path: string, what: string): LoadError {
  return new LoadError({
    title: 'The list of images cannot be read',
    text: `Something is wrong with ${path}: ${what}.`,
    cure: `${update}: it writes the document anew.`,
  });
}
