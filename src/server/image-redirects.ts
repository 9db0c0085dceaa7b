/**
 * Redirects to mirrors: what is sent to a client that gets a file elsewhere, and the service that nginx asks for each
 * image while clients are redirected. nginx sends what no mirror does: it is told the file (X-Accel-Redirect).
 */
import type { IncomingMessage } from 'node:http';
import { relative, sep } from 'node:path';
import { isNotModified } from './conditions.js';
import { type Documents, publishedFile } from './documents.js';
import type { Redirects } from './redirects.js';
import { isBelow, parseRequestPath } from './request-path.js';
import { type Exchange, sendText } from './responses.js';
import type { HttpService, Visit } from './service.js';

/** Below this nginx has an internal location with the files of the root. */
export const filesPrefix = '/.files/';

export interface ImageRedirectsOptions {
  /** Absolute. */
  root: string;
  /** Absolute, in the root. */
  imagesDir: string;
  documents: Documents;
  redirects: Redirects;
}

/**
 * The service for the nginx of this machine: GET and HEAD of whatever lies below the images folder. It believes that
 * whoever asks sends the files itself, so it is none for a listener that anyone can reach.
 */
export function createImageRedirects(options: ImageRedirectsOptions): HttpService {
  const { root, imagesDir, documents, redirects } = options;
  const prefix = relative(root, imagesDir).split(sep);
  return {
    claims: ({ method, url = '' }) =>
      (method === 'GET' || method === 'HEAD') && isBelow(url, prefix),
    async answer(visit) {
      const wanted = parseRequestPath(visit.request.url ?? '', prefix);
      if (wanted?.kind !== 'image') {
        return sendText(visit, { status: 404, text: 'Nothing is published here.' });
      }
      const path = [...prefix, wanted.path].join('/');
      const { address: client } = visit.visitor;
      const place = await locate({ path, client }, { documents, redirects });
      if (place === undefined) passOn(visit, path);
      else sendRedirect(visit, place.url);
    },
    refuse: (exchange, { status, text }) =>
      sendText(exchange, { status, text, headers: { Connection: 'close' } }),
  };
}

/** Where a client is to get a file. */
export interface Elsewhere {
  url: string;
  /** Of the file, as `images.json` names it. */
  sha256: string;
}

/**
 * Where `client` is to get the file at `path`, which is relative to the root.
 * @returns `undefined` where this server sends it, or has no such file
 */
export async function locate(
  { path, client }: { path: string; client: string },
  { documents, redirects }: { documents: Documents; redirects: Redirects },
): Promise<Elsewhere | undefined> {
  if (!redirects.enabled()) return undefined;
  const file = await publishedFile(documents, path);
  const url = file && redirects.locate({ path, ...file }, client);
  return file && url !== undefined ? { url, sha256: file.sha256 } : undefined;
}

/**
 * Whether the client says that it has the file with this hash. A date says less: that of the same file on a mirror is
 * another one.
 */
export function hasFile({ headers }: Pick<IncomingMessage, 'headers'>, sha256: string): boolean {
  // No date fits one that is none.
  return isNotModified(headers, { etag: `"${sha256}"`, lastModified: '' });
}

/** Sends the client to `url`, an absolute one. Which mirror that is changes with its health, and with who asks. */
export function sendRedirect(exchange: Exchange, url: string): void {
  // Nothing but a URL gets into the head.
  const location = new URL(url).href;
  const headers = { Location: location, 'Cache-Control': 'no-store' };
  sendText(exchange, { status: 302, text: `This file is at ${location}`, headers });
}

/** Without a head of its own: nginx has one for files, and keeps what it is given. */
function passOn({ response }: Visit, path: string): void {
  const escaped = path.split('/').map(encodeURIComponent).join('/');
  response.writeHead(200, { 'X-Accel-Redirect': `${filesPrefix}${escaped}`, 'Content-Length': 0 });
  response.end();
}
