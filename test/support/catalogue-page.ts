/** The catalogue page in a real browser, over documents that a test makes up. */
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';

export const digestOf = (text: string) => createHash('sha256').update(text).digest('hex');

interface MadeItem {
  ftype: string;
  path: string;
  sha256: string;
  size: number;
  [combined: string]: unknown;
}

export interface MadeProduct {
  aliases: string;
  arch: string;
  os: string;
  release: string;
  release_title: string;
  variant: string;
  versions: Record<string, { items: Record<string, MadeItem> }>;
}

export interface Naming {
  os: string;
  release: string;
  arch?: string;
  variant?: string;
}

/** A product with versions of these names, which are containers and, if asked for, virtual machines too. */
export function makeProduct(
  { os, release, arch = 'amd64', variant = 'default' }: Naming,
  { versions, isMachine = false }: { versions: readonly string[]; isMachine?: boolean },
): MadeProduct {
  const place = `${os}/${release}/${arch}/${variant}`;
  const item = (name: string, ftype: string, size: number): MadeItem => {
    const path = `images/${place}/${name}`;
    return { ftype, path, sha256: digestOf(path), size };
  };
  const itemsOf = (version: string): Record<string, MadeItem> => ({
    'lxd.tar.xz': {
      ...item(`${version}/lxd.tar.xz`, 'lxd.tar.xz', 1000),
      combined_squashfs_sha256: digestOf(`container ${place}/${version}`),
      ...(isMachine && { 'combined_disk-kvm-img_sha256': digestOf(`machine ${place}/${version}`) }),
    },
    'root.squashfs': item(`${version}/root.squashfs`, 'squashfs', 100 * 2 ** 20),
    ...(isMachine && {
      'disk.qcow2': item(`${version}/disk.qcow2`, 'disk-kvm.img', 300 * 2 ** 20),
    }),
  });
  return {
    aliases: [place, `${os}/${release}`].join(','),
    arch,
    os,
    release,
    release_title: release,
    variant,
    versions: Object.fromEntries(versions.map((name) => [name, { items: itemsOf(name) }])),
  };
}

/** As many products as asked for, like those of a real server, with so many versions each. */
export function makeMany(products: number, versions: number): Record<string, MadeProduct> {
  const arches = ['amd64', 'arm64', 'armhf', 'riscv64'];
  const variants = ['default', 'cloud'];
  const names = Array.from(
    { length: versions },
    (_, at) => `202607${String(at + 1).padStart(2, '0')}_07:42`,
  );
  const made = Array.from({ length: products }, (_, at) => {
    const naming = {
      os: `system${at % 40}`,
      release: String(1 + (Math.floor(at / 320) % 40)),
      arch: arches[Math.floor(at / 40) % 4] ?? '',
      variant: variants[Math.floor(at / 160) % 2] ?? '',
    };
    const id = `${naming.os}:${naming.release}:${naming.arch}:${naming.variant}`;
    return [id, makeProduct(naming, { versions: names, isMachine: at % 2 === 0 })] as const;
  });
  return Object.fromEntries(made);
}

/** The two documents, as texts. */
export function documentsOf(products: object): Record<'index.json' | 'images.json', string> {
  const updated = 'Tue, 28 Jul 2026 07:42:00 +0000';
  const common = { datatype: 'image-downloads', format: 'products:1.0', updated };
  const path = 'streams/v1/images.json';
  const index = { images: { ...common, path, products: Object.keys(products) } };
  return {
    'index.json': JSON.stringify({ format: 'index:1.0', index, updated }),
    'images.json': JSON.stringify({ content_id: 'images', ...common, products }),
  };
}

/** Puts documents below `root` as they are. */
export async function putDocuments(
  root: string,
  documents: Partial<Record<'index.json' | 'images.json', string>>,
): Promise<void> {
  const folder = join(root, 'streams/v1');
  await mkdir(folder, { recursive: true });
  for (const [name, text] of Object.entries(documents)) await writeFile(join(folder, name), text);
}

/** A page of its own, and all that went wrong in it. */
export interface Opened {
  page: Page;
  /** Errors that nobody caught, and what the browser complains of. */
  errors: string[];
}

/** Opens `url`, and waits until the page has the documents or says why not. */
export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<Opened> {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
  const page = await context.newPage();
  const errors: string[] = [];
  page.on('pageerror', ({ message }) => errors.push(message));
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(message.text());
  });
  await page.goto(url);
  if (options.javaScriptEnabled !== false) await isLoaded(page);
  return { page, errors };
}

/** Waits until the page no longer says that it loads. */
export async function isLoaded(page: Page): Promise<void> {
  await page.locator('#count').filter({ hasNotText: 'Loading' }).waitFor({ state: 'attached' });
}
