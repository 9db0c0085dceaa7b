/** The catalogue page in a real Chromium, over the embedded server. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Browser, BrowserContextOptions } from 'playwright-core';
import { seriousViolations, startBrowser } from '../support/browser.js';
import {
  digestOf,
  documentsOf,
  isLoaded,
  makeMany,
  makeProduct,
  openPage,
  putDocuments,
} from '../support/catalogue-page.js';
import { freePort } from '../support/ports.js';
import { needs } from '../support/programs.js';
import { initialise, makeSite, type Served, type Site, serve } from '../support/site.js';

const sample = {
  'ubuntu:noble:amd64:default': makeProduct(
    { os: 'Ubuntu', release: 'noble' },
    { versions: ['20260726_07:42', '20260727_07:42', '20260728_07:42'], isMachine: true },
  ),
  'debian:sid:amd64:default': makeProduct(
    { os: 'Debian', release: 'sid' },
    { versions: ['20260701'] },
  ),
  'debian:sid:arm64:default': makeProduct(
    { os: 'Debian', release: 'sid', arch: 'arm64' },
    { versions: ['20260702'] },
  ),
};

describe('the catalogue page', needs('chromium', 'openssl'), () => {
  let folder: string;
  let site: Site;
  let server: Served;
  let browser: Browser;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'catalogue-page-'));
    site = await makeSite(folder, { address: `127.0.0.1:${await freePort()}` });
    await initialise(site);
    [server, browser] = await Promise.all([serve(site), startBrowser()]);
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });
  beforeEach(() => putDocuments(site.root, documentsOf(sample)));

  const open = (path = '/', options: BrowserContextOptions = {}) =>
    openPage(browser, `${site.url}${path}`, options);
  const count = '#count';
  const rows = '#products > li';

  test('lists products with their aliases, sizes and newest versions', async () => {
    const { page, errors } = await open();
    assert.equal(await page.title(), `Images on ${site.address}`);
    assert.equal(await page.textContent(count), '3 products, 5 versions');
    const texts = await page.locator(rows).allInnerTexts();
    assert.equal(texts.length, 3);
    const [, , ubuntu = ''] = texts;
    for (const part of [
      'Ubuntu/noble',
      'Ubuntu/noble/amd64/default',
      'amd64',
      'Container',
      'VM',
      '2026-07-28 07:42',
      '400 MiB',
    ]) {
      assert.ok(ubuntu.includes(part), `${part} in ${ubuntu}`);
    }
    assert.deepEqual(errors, []);
    await page.context().close();
  });

  test('shows the versions of a product with fingerprints, and the lines that launch them', async () => {
    const { page } = await open('/#client=incus&remote=hub');
    await page.click('#products summary >> text=Ubuntu/noble');
    await page.locator('.commands').waitFor();
    const versions = page.locator('table tbody tr');
    assert.deepEqual(
      await versions.locator('.fingerprint').allTextContents(),
      ['28', '27', '26'].flatMap((day) => {
        const place = `Ubuntu/noble/amd64/default/202607${day}_07:42`;
        return [digestOf(`container ${place}`), digestOf(`machine ${place}`)];
      }),
    );
    const [container = '', machine = ''] = await versions.locator('.fingerprint').allTextContents();
    assert.deepEqual(await page.locator('.commands code').allTextContents(), [
      'incus launch hub:Ubuntu/noble',
      `incus launch hub:${container.slice(0, 12)}`,
      'incus launch hub:Ubuntu/noble --vm',
      `incus launch hub:${machine.slice(0, 12)} --vm`,
    ]);
    await page.click('#remote summary');
    await page.check('input[value=lxc]');
    assert.equal(
      await page.locator('.commands code').first().textContent(),
      'lxc launch hub:Ubuntu/noble',
    );
    await page.context().close();
  });

  test('filters as it is told, and its address brings another browser to the same', async () => {
    const { page } = await open();
    await page.selectOption('#os', 'Debian');
    await page.selectOption('#arch', 'arm64');
    await page.fill('#query', 'sid');
    assert.equal(await page.textContent(count), '1 product of 3 products, 1 version');
    const expected = '#q=sid&system=Debian&arch=arm64';
    await page.waitForURL((url) => url.hash === expected);
    const other = await open(`/${expected}`);
    assert.equal(await other.page.textContent(count), '1 product of 3 products, 1 version');
    assert.equal(await other.page.inputValue('#os'), 'Debian');
    await other.page.click('#clear');
    assert.equal(await other.page.textContent(count), '3 products, 5 versions');
    await other.page.fill('#query', 'nothing like it');
    assert.equal(await other.page.textContent('#message'), 'No product fits all of this.');
    await Promise.all([page, other.page].map((each) => each.context().close()));
  });

  test('can be used by keyboard alone, and says what it has copied', async () => {
    const { page } = await open('/', { permissions: ['clipboard-read', 'clipboard-write'] });
    const focused = () =>
      page.evaluate('document.activeElement.id || document.activeElement.textContent');
    const press = async (...keys: string[]) => {
      for (const key of keys) await page.keyboard.press(key);
    };
    await press('Tab');
    assert.equal(await focused(), 'skip');
    await press('Enter');
    assert.equal(await focused(), 'results');
    assert.equal(new URL(page.url()).hash, '');
    await page.evaluate('document.activeElement.blur(); document.getElementById("skip").focus()');
    await press('Tab');
    assert.equal(await focused(), 'Add this server to LXD or Incus');
    await press('Enter', 'Tab', 'ArrowRight');
    assert.equal(await page.isChecked('input[value=incus]'), true);
    await press('Shift+Tab', 'Space', 'Tab');
    assert.equal(await focused(), 'query');
    await page.keyboard.type('noble');
    assert.equal(await page.textContent(count), '1 product of 3 products, 3 versions');
    await press('Escape');
    assert.equal(await page.inputValue('#query'), '');
    assert.equal(await page.textContent(count), '3 products, 5 versions');
    await page.keyboard.type('noble');
    for (const id of ['os', 'release', 'arch', 'kind', 'sorting', 'clear']) {
      await press('Tab');
      assert.equal(await focused(), id);
    }
    await press('Tab', 'Space');
    await page.locator('.commands').waitFor();
    const hasRing = await page.evaluate('getComputedStyle(document.activeElement).outlineStyle');
    assert.equal(hasRing, 'solid');
    await press('Tab', 'Enter');
    const line = 'incus launch host-127.0.0.1:Ubuntu/noble';
    await page.locator('#said', { hasText: `Copied: ${line}` }).waitFor({ state: 'attached' });
    assert.equal(await page.evaluate('navigator.clipboard.readText()'), line);
    await page.context().close();
  });

  const widths: [string, BrowserContextOptions][] = [
    ['a phone', { viewport: { width: 390, height: 844 }, hasTouch: true }],
    ['a narrow phone', { viewport: { width: 320, height: 640 } }],
    [
      'a window of 1280 pixels at 200 %',
      { viewport: { width: 640, height: 450 }, deviceScaleFactor: 2 },
    ],
  ];
  for (const [what, options] of widths) {
    test(`needs no sideways scrolling on ${what}, however long the names`, async () => {
      const long = makeProduct(
        { os: 'W'.repeat(300), release: 'very-long-'.repeat(30) },
        { versions: [`20260101_${'9'.repeat(200)}`], isMachine: true },
      );
      await putDocuments(site.root, documentsOf({ ...sample, long }));
      const { page } = await open('/', options);
      await page.click('#remote summary');
      for (const summary of await page.locator('#products summary').all()) await summary.click();
      await page.locator('.commands').nth(3).waitFor();
      const [width, wide] = (await page.evaluate(
        '[document.documentElement.clientWidth, document.documentElement.scrollWidth]',
      )) as [number, number];
      assert.equal(wide, width);
      const outside = await page.evaluate(`[...document.querySelectorAll('body *')]
        .filter((each) => !each.closest('.unseen, .skip, option') && each.getBoundingClientRect().right > innerWidth + 1)
        .map((each) => each.outerHTML.slice(0, 80))`);
      assert.deepEqual(outside, []);
      await page.context().close();
    });
  }

  test('runs no script that stands in a name, and shows each as it is', async () => {
    const evil = [
      '<img src=x onerror="window.hacked=1">',
      '</script><script>window.hacked=1</script>',
      '"><svg/onload=window.hacked=1>',
      "'-window.hacked=1-'",
      'javascript:window.hacked=1',
      '\u202eright to left\u2067',
      '__proto__',
    ];
    const products = Object.fromEntries(
      evil.map((text) => {
        const product = makeProduct(
          { os: text, release: text, arch: text, variant: text },
          { versions: ['20260101'], isMachine: true },
        );
        const versions = { [`20260101${text}`]: product.versions['20260101'] };
        return [`id ${text}`, { ...product, aliases: text, release_title: text, versions }];
      }),
    );
    await putDocuments(site.root, documentsOf(products));
    const { page, errors } = await open('/', {
      permissions: ['clipboard-read', 'clipboard-write'],
    });
    for (const summary of await page.locator('#products summary').all()) await summary.click();
    await page
      .locator('table')
      .nth(evil.length - 1)
      .waitFor();
    for (const select of ['os', 'release', 'arch']) {
      await page.selectOption(`#${select}`, evil[1] ?? '');
    }
    await page.locator('#products .command button').first().click();
    await page.locator('#said', { hasText: 'Copied' }).waitFor({ state: 'attached' });
    assert.equal(
      await page.evaluate('navigator.clipboard.readText()'),
      `lxc launch 'host-127.0.0.1:${evil[1]}'`,
    );
    assert.deepEqual(await page.locator('#products strong').allTextContents(), [evil[1]]);
    await page.click('#clear');
    const names = await page.locator('#products strong').allTextContents();
    assert.deepEqual(names.sort(), [...evil].sort());
    assert.equal(await page.evaluate('window.hacked'), undefined);
    assert.equal(await page.locator('#products img, #products svg, #products script').count(), 0);
    assert.deepEqual(errors, []);
    // What runs from right to left moves nothing beside it.
    const lefts = await page.evaluate(
      "[...new Set([...document.querySelectorAll('#products .arch')].map((each) => each.getBoundingClientRect().left))].length",
    );
    assert.equal(lefts, 1);
    await page.context().close();
  });

  test('runs no script that stands anywhere in the documents or in the address, or is typed', async (t) => {
    const evil = `"'></script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">`;
    const plain = await servePlainly(site.root, '/');
    t.after(plain.close);
    const one = makeProduct(
      { os: 'Ubuntu', release: 'noble' },
      { versions: ['20260101'], isMachine: true },
    );
    const each = [...spoiled(one, evil)];
    assert.ok(each.length > 50);
    const products = Object.fromEntries(each.map((product, at) => [`${at}${evil}`, product]));
    const whole = documentsOf(products);
    const places = ['q', 'system', 'release', 'arch', 'type', 'sort', 'client', 'remote'];
    const hash = new URLSearchParams(Object.fromEntries(places.map((name) => [name, evil])));
    const sets = [
      [whole, ''],
      [whole, `#${hash}`],
      ...(['index.json', 'images.json'] as const).flatMap((name) => {
        const { products: _many, ...document } = JSON.parse(documentsOf(sample)[name]);
        const others = [...spoiled(document, evil)].map((other) =>
          JSON.stringify(
            name === 'index.json' ? other : Object.assign({ products: sample }, other),
          ),
        );
        return others.map((text) => [{ ...documentsOf(sample), [name]: text }, ''] as const);
      }),
    ] as const;
    const { page, errors } = await openPage(browser, plain.url);
    for (const [documents, fragment] of sets) {
      await putDocuments(site.root, documents);
      await page.goto('about:blank');
      await page.goto(`${plain.url}${fragment}`);
      await isLoaded(page);
      if (documents === whole && fragment === '') {
        await page.evaluate(
          "document.querySelectorAll('details').forEach((each) => { each.open = true; })",
        );
        await page.locator('.commands').nth(20).waitFor();
        await page.fill('#remote input:not([type=radio])', evil);
        await page.fill('#query', `${evil} and nothing else`);
        await page.locator('#count', { hasText: ' of ' }).waitFor();
      }
      assert.equal(await page.evaluate('window.hacked'), undefined);
      assert.equal(await page.locator('img, svg, #main script, #remote script').count(), 0);
    }
    const unexpected = errors.filter((text) => !text.startsWith('Failed to load resource'));
    assert.deepEqual(unexpected, []);
    await page.context().close();
  });

  const broken: [string, Partial<Record<'index.json' | 'images.json', string>>, RegExp][] = [
    ['is not JSON', { 'index.json': '<html>' }, /streams\/v1\/index\.json: it is not JSON/],
    ['is empty', { 'index.json': '' }, /streams\/v1\/index\.json: it is empty/],
    [
      'has another format',
      { 'index.json': '{"format":"index:2.0"}' },
      /it is no simplestreams index/,
    ],
    [
      'names no images',
      { 'index.json': '{"format":"index:1.0","index":{}}' },
      /it names no list of images/,
    ],
    [
      'leads out of the server',
      {
        'index.json':
          '{"format":"index:1.0","index":{"a":{"datatype":"image-downloads","path":"https://example.org/x.json"}}}',
      },
      /it names no list of images/,
    ],
    [
      'leads to a document that is cut short',
      { 'images.json': documentsOf(sample)['images.json'].slice(0, -50) },
      /images\.json: it is not JSON, or it is cut short/,
    ],
    [
      'leads to another format',
      { 'images.json': '[1, 2]' },
      /it is no simplestreams list of products/,
    ],
  ];
  for (const [what, documents, text] of broken) {
    test(`says what is wrong where the index ${what}, and shows the list once it is mended`, async (t) => {
      // The embedded server keeps the last good document; another web server hands out what is there.
      const plain = await servePlainly(site.root, '/');
      t.after(plain.close);
      await putDocuments(site.root, documents);
      const { page } = await openPage(browser, plain.url);
      const alert = page.locator('[role=alert]');
      assert.match((await alert.textContent()) ?? '', text);
      assert.match(
        (await alert.textContent()) ?? '',
        /administrator: Run "lxd-image-server update"/,
      );
      await putDocuments(site.root, documentsOf(sample));
      await page.click('text=Try again');
      await page.locator(rows).first().waitFor();
      assert.equal(await alert.count(), 0);
      assert.equal(await page.textContent(count), '3 products, 5 versions');
      await page.context().close();
    });
  }

  test('says so where nothing is published, and where the server is away', async () => {
    await rm(join(site.root, 'streams'), { recursive: true });
    const { page } = await open();
    assert.match((await page.textContent('[role=alert]')) ?? '', /Nothing is published here yet/);
    await page.context().setOffline(true);
    await page.click('text=Try again');
    await page.locator('[role=alert]', { hasText: 'The server cannot be reached' }).waitFor();
    await page.context().setOffline(false);
    await putDocuments(site.root, documentsOf(sample));
    await page.click('text=Try again');
    await page.locator(rows).first().waitFor();
    await page.context().close();
  });

  test('says how to publish where there are no images', async () => {
    await putDocuments(site.root, documentsOf({}));
    const { page, errors } = await open();
    assert.match(
      (await page.textContent('#message')) ?? '',
      /no images yet.*lxd-image-server trust add/,
    );
    assert.equal(await page.isVisible('#filters'), false);
    assert.deepEqual(await seriousViolations(page), []);
    assert.deepEqual(errors, []);
    await page.context().close();
  });

  test('leaves out products that nobody could start, and says how many', async () => {
    await putDocuments(site.root, documentsOf({ ...sample, odd: { versions: 7 }, other: null }));
    const { page } = await open();
    assert.equal(await page.textContent(count), '3 products, 5 versions');
    assert.match((await page.textContent('#note')) ?? '', /^2 products .* are left out/);
    await page.context().close();
  });

  for (const colorScheme of ['light', 'dark'] as const) {
    test(`has nothing that axe finds serious, in the ${colorScheme}, open or with a fault`, async () => {
      const { page } = await open('/', { colorScheme });
      assert.deepEqual(await seriousViolations(page), []);
      await page.click('#remote summary');
      for (const summary of await page.locator('#products summary').all()) await summary.click();
      await page.locator('.commands').nth(2).waitFor();
      assert.deepEqual(await seriousViolations(page), []);
      await page.setViewportSize({ width: 390, height: 844 });
      assert.deepEqual(await seriousViolations(page), []);
      await rm(join(site.root, 'streams'), { recursive: true });
      await page.reload();
      await page.locator('[role=alert]').waitFor();
      assert.deepEqual(await seriousViolations(page), []);
      await page.context().close();
    });
  }

  test('shows ten thousand versions, the first at once, and more when asked', async () => {
    await putDocuments(site.root, documentsOf(makeMany(1000, 10)));
    const { page } = await open();
    assert.equal(await page.textContent(count), '1,000 products, 10,000 versions');
    await page.locator('#more').waitFor();
    /** They come in several frames. */
    const rowsAre = async (wanted: number) => {
      await page
        .locator(rows)
        .nth(wanted - 1)
        .waitFor({ state: 'attached' });
      assert.equal(await page.locator(rows).count(), wanted);
    };
    await rowsAre(400);
    await page.click('#more');
    await page.locator('#more', { hasText: 'Show 200 more' }).waitFor();
    await rowsAre(800);
    await page.click('#more');
    await page.locator('#more').waitFor({ state: 'hidden' });
    await rowsAre(1000);
    await page.fill('#query', 'system7/2/amd64/default');
    assert.equal(await page.textContent(count), '1 product of 1,000 products, 10 versions');
    assert.equal(await page.locator(rows).count(), 1);
    await page.context().close();
  });

  test('works below a path, as on a mirror that shares its web server', async (t) => {
    const plain = await servePlainly(site.root, '/pub/images/');
    t.after(plain.close);
    const { page } = await openPage(browser, plain.url);
    assert.equal(await page.textContent(count), '3 products, 5 versions');
    assert.equal(await page.textContent('#server'), 'https://127.0.0.1/pub/images');
    await page.context().close();
  });

  test('says what to do without JavaScript', async () => {
    const { page } = await open('/', { javaScriptEnabled: false });
    assert.match((await page.textContent('noscript')) ?? '', /needs JavaScript/);
    assert.equal(await page.isVisible('#filters'), false);
    await page.context().close();
  });

  test('comes with headers that keep it out of frames and tell nobody where a reader came from', async () => {
    const { page } = await open();
    for (const path of ['/', '/index.html']) {
      const response = await page.request.get(`${site.url}${path}`, {
        headers: { Accept: 'text/html' },
      });
      const headers = response.headers();
      assert.equal(headers['content-security-policy'], "frame-ancestors 'none'");
      assert.equal(headers['referrer-policy'], 'no-referrer');
      assert.match(
        await response.text(),
        /<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-/,
      );
    }
    await page.context().close();
  });

  test('asks no other server for anything', async () => {
    const { page } = await open();
    const asked: string[] = [];
    page.on('request', (request) => asked.push(request.url()));
    await page.reload();
    await isLoaded(page);
    const names = asked
      .filter((url) => !url.startsWith('data:'))
      .map((url) => url.slice(site.url.length));
    assert.deepEqual(names, ['/', '/streams/v1/index.json', '/streams/v1/images.json']);
    await page.context().close();
  });
});

/** A web server that knows nothing of images: files of `root` below `base`, over plain HTTP. */
async function servePlainly(root: string, base: string) {
  const server = createServer(async (request, response) => {
    const path = (request.url ?? '').slice(base.length) || 'index.html';
    const content = await readFile(join(root, path)).catch(() => undefined);
    const type = path.endsWith('.html') ? 'text/html' : 'application/json';
    response.writeHead(content === undefined ? 404 : 200, { 'Content-Type': type });
    response.end(content);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const close = () => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { url: `http://127.0.0.1:${port}${base}`, close };
}

/** Copies of `value`, each of which says `evil` in one place: as all of it, at the end of a text, or in a name. */
function* spoiled(value: unknown, evil: string): Generator<unknown> {
  yield evil;
  if (typeof value === 'string') yield `${value}${evil}`;
  if (typeof value !== 'object' || value === null) return;
  for (const [name, each] of Object.entries(value)) {
    for (const other of spoiled(each, evil)) yield { ...value, [name]: other };
    const { [name]: _gone, ...rest } = value as Record<string, unknown>;
    yield { ...rest, [`${name}${evil}`]: each };
  }
}
