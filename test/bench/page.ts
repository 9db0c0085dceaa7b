/** The catalogue page in Chromium: how soon the list is on the screen once the documents are here, and a filter's result. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { startBrowser } from '../support/browser.js';
import { documentsOf, makeMany, openPage, putDocuments } from '../support/catalogue-page.js';
import { median, type Row } from './measure.js';

const pagesDir = join(import.meta.dirname, '../../pages');

export interface PageBenchOptions {
  rounds: number;
  /** Products, and versions of each. */
  sizes: readonly (readonly [products: number, versions: number])[];
}

/** What people type, letter by letter, and what finds nothing. */
const queries = [
  's',
  'sy',
  'sys',
  'system7',
  'system7 arm64',
  '',
  '2026',
  '20260701',
  'no such thing',
  '',
];

export async function benchPage({ rounds, sizes }: PageBenchOptions): Promise<Row[]> {
  const browser = await startBrowser();
  try {
    const rows: Row[] = [];
    for (const [products, versions] of sizes) {
      rows.push(...(await measure(browser, { products, versions, rounds })));
    }
    return rows;
  } finally {
    await browser.close();
  }
}

async function measure(
  browser: Browser,
  { products, versions, rounds }: { products: number; versions: number; rounds: number },
): Promise<Row[]> {
  const root = await mkdtemp(join(tmpdir(), 'bench-page-'));
  const server = await servePage(root);
  try {
    await putDocuments(root, documentsOf(makeMany(products, versions)));
    const paints: number[] = [];
    const filters: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const { page } = await openPage(browser, server.url);
      paints.push(await painted(page, 'documents-arrived'));
      for (const query of queries) filters.push(await filterTime(page, query));
      await page.context().close();
    }
    const what = `${products} products, ${products * versions} versions`;
    return [
      row(`page: list on the screen, ${what}`, paints, 1000),
      row(`page: filter, ${what}`, filters, 50),
    ];
  } finally {
    await server.close();
    await rm(root, { recursive: true, force: true });
  }
}

function row(name: string, times: readonly number[], most: number): Row {
  const [middle, worst] = [median(times), Math.max(...times)];
  return {
    name,
    ours: `${middle.toFixed(0)} ms`,
    peer: '',
    result: `at most ${worst.toFixed(0)} ms`,
    target: `< ${most} ms`,
    met: middle < most,
  };
}

/** From the mark `since` until the page is on the screen, in milliseconds. */
async function painted(page: Page, since: string): Promise<number> {
  return (await page.evaluate(`new Promise((resolve) => {
    const look = () => {
      const [since] = performance.getEntriesByName('${since}').slice(-1);
      const [painted] = performance.getEntriesByName('painted').slice(-1);
      if (painted && since && painted.startTime >= since.startTime) resolve(painted.startTime - since.startTime);
      else setTimeout(look, 1);
    };
    look();
  })`)) as number;
}

/** Types `query`, when the page has nothing else to do. */
async function filterTime(page: Page, query: string): Promise<number> {
  // All rows of the list before are there, the longest way to go.
  await page.evaluate(`new Promise((resolve) => {
    let count = -1;
    const look = () => {
      const now = document.querySelectorAll('#products > li').length;
      if (now === count) requestIdleCallback(resolve);
      else { count = now; setTimeout(look, 150); }
    };
    look();
  })`);
  await page.evaluate(
    "performance.clearMarks('painted'); performance.clearMarks('filter-started')",
  );
  await page.fill('#query', query);
  return await painted(page, 'filter-started');
}

async function servePage(root: string): Promise<{ url: string; close: () => Promise<void> }> {
  const server = createServer(async (request, response) => {
    const isPage = request.url === '/';
    const file = isPage ? join(pagesDir, 'index.html') : join(root, request.url ?? '');
    const content = await readFile(file).catch(() => undefined);
    const type = isPage ? 'text/html' : 'application/json';
    response.writeHead(content === undefined ? 404 : 200, { 'Content-Type': type });
    response.end(content);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const close = () => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { url: `http://127.0.0.1:${port}/`, close };
}
