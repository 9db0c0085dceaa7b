/** A small published tree in a temporary folder, with a server on it, for the tests of the server. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { TestContext } from 'node:test';
import { gzipSync } from 'node:zlib';
import { pino } from 'pino';
import {
  createImageServer,
  type ImageServer,
  type ImageServerOptions,
} from '../../src/server/server.js';
import { createTestCertificate } from './tls.js';

export const version = 'images/ubuntu/24.04/amd64/default/20260103_12:00';

export interface ServedTree {
  root: string;
  server: ImageServer;
  port: number;
  /** What the server has logged so far. */
  events: Record<string, unknown>[];
}

export function sha256(bytes: Buffer | string): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** Writes a file below the root, with its folders. */
export async function writeUnder(
  root: string,
  path: string,
  content: Buffer | string,
): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true });
  await writeFile(join(root, path), content);
}

/** Puts a document in place as the publisher does: under another name, then renamed. */
export async function publishDocument(
  root: string,
  name: string,
  { text, gzip = true }: { text: string; gzip?: boolean },
): Promise<void> {
  const path = `streams/v1/${name}`;
  if (gzip) await writeUnder(root, `${path}.gz`, gzipSync(text));
  await writeUnder(root, `${path}.new`, text);
  await rename(join(root, `${path}.new`), join(root, path));
}

/** An `images.json` that names these files. */
export function imagesDocument(files: Record<string, Buffer | string>): string {
  const items = Object.fromEntries(
    Object.entries(files).map(([path, content]) => [
      path,
      { path, sha256: sha256(content), size: Buffer.byteLength(content), ftype: 'squashfs' },
    ]),
  );
  return JSON.stringify({
    format: 'products:1.0',
    products: { 'ubuntu:24.04:amd64:default': { versions: { '20260103_12:00': { items } } } },
  });
}

/** Serves a new root with these files, all of them named in `images.json`, until the test is over. */
export async function serveTree(
  t: TestContext,
  files: Record<string, Buffer | string> = {},
  options: Partial<ImageServerOptions> = {},
): Promise<ServedTree> {
  const root = await mkdtemp(join(tmpdir(), 'served-tree-'));
  await mkdir(join(root, 'images'));
  for (const [path, content] of Object.entries(files)) await writeUnder(root, path, content);
  await publishDocument(root, 'images.json', { text: imagesDocument(files) });
  await publishDocument(root, 'index.json', { text: '{"format":"index:1.0"}' });
  const served = await serve(root, options);
  t.after(async () => {
    await served.server.close({ graceMs: 0 });
    await rm(root, { recursive: true });
  });
  return served;
}

async function serve(root: string, options: Partial<ImageServerOptions>): Promise<ServedTree> {
  const events: Record<string, unknown>[] = [];
  const write = (line: string) => void events.push(JSON.parse(line) as Record<string, unknown>);
  const server = await createImageServer({
    listen: '127.0.0.1:0',
    root,
    imagesDir: join(root, 'images'),
    streamsDir: join(root, 'streams/v1'),
    certificate: await createTestCertificate(),
    log: pino({ level: 'debug' }, { write }),
    ...options,
  });
  return { root, server, port: server.address.port, events };
}
