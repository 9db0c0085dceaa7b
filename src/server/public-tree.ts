/**
 * What anyone may read: the two documents, the image files and the catalogue page.
 */
import type { IncomingMessage } from 'node:http';
import { relative, sep } from 'node:path';
import { ServerError } from '../errors.js';
import { acceptsGzip } from './conditions.js';
import {
  type Documents,
  type PublishedFile,
  publishedFile,
  type StreamDocument,
} from './documents.js';
import { type OpenFile, openInside } from './image-files.js';
import { hasFile, locate, sendRedirect } from './image-redirects.js';
import type { OpenFiles } from './open-files.js';
import type { Redirects } from './redirects.js';
import { type DocumentName, parseRequestPath } from './request-path.js';
import {
  type Content,
  createContent,
  type Exchange,
  sendBytes,
  sendFile,
  sendText,
} from './responses.js';

export interface PublicTreeOptions {
  /** Absolute; holds `index.html`. */
  root: string;
  /** Absolute; in `root`, so that `images.json` can name what lies in it. */
  imagesDir: string;
  documents: Documents;
  files: OpenFiles;
  /** Where clients are sent for image files. Default: nowhere. */
  redirects?: Redirects | undefined;
  /** The IP address of whoever asks; '' where it is not known. */
  clientOf: (request: IncomingMessage) => string;
}

/** Answers one GET or HEAD. */
export type PublicTree = (exchange: Exchange) => Promise<void>;

/**
 * Makes the handler of all requests for published things.
 *
 * @throws ServerError CONFIG if the images lie outside of the root
 */
export function createPublicTree(options: PublicTreeOptions): PublicTree {
  const tree: Tree = { ...options, imagesPrefix: imagesPrefixOf(options) };
  return (exchange) => {
    const wanted = parseRequestPath(exchange.request.url ?? '', tree.imagesPrefix);
    switch (wanted?.kind) {
      case 'page':
        return answerPage(tree, exchange, wanted.home);
      case 'document':
        return answerDocument(tree, exchange, wanted);
      case 'image':
        return answerImage(tree, exchange, wanted.path);
      default:
        return notFound(exchange);
    }
  };
}

interface Tree extends PublicTreeOptions {
  imagesPrefix: readonly string[];
}

function imagesPrefixOf({ root, imagesDir }: PublicTreeOptions): readonly string[] {
  const prefix = relative(root, imagesDir).split(sep);
  if (prefix.every((segment) => segment !== '' && !segment.startsWith('.'))) return prefix;
  throw new ServerError('CONFIG', `The images folder ${imagesDir} is not inside the root ${root}`, {
    hint: 'choose a folder below the root, with no name on the way that starts with a dot',
  });
}

async function notFound(exchange: Exchange): Promise<void> {
  sendText(exchange, { status: 404, text: 'Nothing is published here.' });
}

async function answerPage(tree: Tree, exchange: Exchange, home: boolean): Promise<void> {
  await withFile(tree, exchange, { dir: tree.root, path: 'index.html' }, async (file) => {
    if (file !== undefined)
      return sendFile(exchange, { ...file, content: unlistedContent(file, pageHeaders) });
    if (home) return sendText(exchange, { status: 200, text: welcome });
    return notFound(exchange);
  });
}

const welcome = `This is a simplestreams image server for LXD and Incus. To use it, add it as a remote:

  lxc remote add NAME https://THIS-HOST --protocol simplestreams
  incus remote add NAME https://THIS-HOST --protocol simplestreams`;

const fileHeaders = { 'Accept-Ranges': 'bytes', 'X-Content-Type-Options': 'nosniff' };
const pageHeaders = {
  ...fileHeaders,
  'Content-Type': 'text/html; charset=utf-8',
  // The page's own policy, in a meta element, cannot say who may frame it.
  'Content-Security-Policy': "frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
};

async function answerDocument(
  { documents }: Tree,
  exchange: Exchange,
  { name, gz }: { name: DocumentName; gz: boolean },
): Promise<void> {
  const document = await documents.get(name);
  if (typeof document === 'string') return sendText(exchange, absentDocuments[document]);
  const form = gz ? 'gz' : acceptsGzip(acceptEncoding(exchange)) ? 'gzip' : 'plain';
  const bytes = form === 'plain' ? document.bytes : await document.gzip();
  await sendBytes(exchange, { bytes, content: documentContent(document, form, bytes.length) });
}

function acceptEncoding({ request }: Exchange): string | undefined {
  return request.headers['accept-encoding']?.toString();
}

const cure = 'run "lxd-image-server update" on it.';
const absentDocuments = {
  missing: { status: 404, text: `This server has published nothing yet: ${cure}` },
  damaged: { status: 503, text: `This server cannot read what it published: ${cure}` },
};

/** `gz` is the compressed file itself, `gzip` the document sent compressed. */
type DocumentForm = 'plain' | 'gzip' | 'gz';

const documentHeaders: Record<DocumentForm, Record<string, string>> = {
  plain: { 'Content-Type': 'application/json', Vary: 'Accept-Encoding' },
  gzip: {
    'Content-Type': 'application/json',
    'Content-Encoding': 'gzip',
    Vary: 'Accept-Encoding',
  },
  gz: { 'Content-Type': 'application/gzip' },
};

const documentContents = new WeakMap<StreamDocument, Partial<Record<DocumentForm, Content>>>();

/** The same for every answer with this document, so it is made once. */
function documentContent(document: StreamDocument, form: DocumentForm, size: number): Content {
  const made = documentContents.get(document) ?? {};
  documentContents.set(document, made);
  made[form] ??= createContent(
    {
      size,
      etag: form === 'plain' ? `"${document.sha256}"` : `"${document.sha256}-gzip"`,
      lastModified: document.lastModified,
    },
    { ...documentHeaders[form], 'Cache-Control': 'no-cache' },
  );
  return made[form];
}

async function answerImage(tree: Tree, exchange: Exchange, path: string): Promise<void> {
  if (await redirected(tree, exchange, [...tree.imagesPrefix, path].join('/'))) return;
  await withFile(tree, exchange, { dir: tree.imagesDir, path }, async (file) => {
    if (file === undefined) return notFound(exchange);
    const published = await publishedFile(tree.documents, [...tree.imagesPrefix, path].join('/'));
    return sendFile(exchange, { ...file, content: imageContent(file, published) });
  });
}

/** Whether the client was sent to a mirror. One that has the file already is told so here. */
async function redirected(tree: Tree, exchange: Exchange, path: string): Promise<boolean> {
  const { documents, redirects, clientOf } = tree;
  if (redirects === undefined) return false;
  const { request } = exchange;
  const place = await locate({ path, client: clientOf(request) }, { documents, redirects });
  if (place === undefined || hasFile(request, place.sha256)) return false;
  sendRedirect(exchange, place.url);
  return true;
}

const imageHeaders = { ...fileHeaders, 'Content-Type': 'application/octet-stream' };

/** A file is the one that `images.json` names only if it has that size; then it never changes. */
function imageContent(file: OpenFile, published: PublishedFile | undefined): Content {
  if (published?.size !== file.size) return unlistedContent(file, imageHeaders);
  const lastModified = file.modified.toUTCString();
  return createContent(
    { size: file.size, etag: `"${published.sha256}"`, lastModified },
    { ...imageHeaders, 'Cache-Control': 'public, max-age=31536000, immutable' },
  );
}

function unlistedContent({ size, modified }: OpenFile, headers: Record<string, string>): Content {
  const etag = `W/"${size.toString(16)}-${modified.getTime().toString(16)}"`;
  return createContent(
    { size, etag, lastModified: modified.toUTCString() },
    { ...headers, 'Cache-Control': 'no-cache' },
  );
}

/** Opens a file for as long as `use` runs, within the number of files that may be open. */
async function withFile(
  { files }: Tree,
  exchange: Exchange,
  { dir, path }: { dir: string; path: string },
  use: (file: OpenFile | undefined) => void | Promise<void>,
): Promise<void> {
  try {
    await files.hold(1, async () => use(await openInside(dir, path)));
  } catch (error) {
    if (!(error instanceof ServerError && error.code === 'BUSY')) throw error;
    tooBusy(exchange);
  }
}

function tooBusy(exchange: Exchange): void {
  sendText(exchange, {
    status: 503,
    text: 'Too many downloads at once: try again in a minute.',
    headers: { 'Retry-After': '60' },
  });
}
