/** The status page in a real browser: with a real daemon and its mirror, and with values of all kinds. */
import assert from 'node:assert/strict';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import type { Browser, Locator, Page } from 'playwright-core';
import { seriousViolations, startBrowser } from '../../support/browser.js';
import { type Daemon, emptyRoot, startDaemon } from '../../support/daemon.js';
import { addVersion } from '../../support/image-tree.js';
import { createMirrorHost } from '../../support/mirror-host.js';
import { mirrorTable } from '../../support/mirrored.js';
import { serveMonitored } from '../../support/monitored.js';
import { freePort } from '../../support/ports.js';
import { needs } from '../../support/programs.js';
import { type StatusValues, statusValues } from '../../support/status-values.js';
import { createTestCertificate } from '../../support/tls.js';

const built = join(import.meta.dirname, '../../../pages/status.html');
/** For whatever has to appear, in milliseconds. */
const timeout = 60_000;

const textOf = async (locator: Locator) => (await locator.textContent()) ?? '';

describe('the status page', needs('chromium'), () => {
  let browser: Browser;
  before(async () => {
    browser = await startBrowser();
  });
  after(() => browser.close());

  /** A page whose errors fail the test: a script that the policy stops is one. */
  async function openPage(
    t: TestContext,
    options: Parameters<Browser['newContext']>[0] = {},
  ): Promise<{ page: Page; errors: string[] }> {
    const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
    t.after(() => context.close());
    const page = await context.newPage();
    page.setDefaultTimeout(timeout);
    const errors: string[] = [];
    page.on('pageerror', (error) => errors.push(error.message));
    page.on('console', (message) => {
      const text = message.text();
      // That a server is away is what some tests are about.
      if (message.type() === 'error' && !text.includes('net::')) errors.push(text);
    });
    return { page, errors };
  }

  /** The page with a status that is made up. */
  async function serveValues(
    t: TestContext,
    values: StatusValues | ReturnType<typeof statusValues>,
  ) {
    const full = 'days' in values ? values : statusValues(values);
    const { days, ...live } = full;
    const site = await serveMonitored(t, {
      monitored: { status: () => ({ ...site.told.live, days }) },
      limits: { lookMs: 20 },
    });
    site.told.live = live;
    await copyFile(built, site.page);
    return { ...site, url: `https://127.0.0.1:${site.port}/status`, live };
  }

  const isLive = (page: Page) => page.locator('.connection.live').waitFor();

  describe('of a real daemon', needs('chromium', 'sshd', 'ssh-keygen'), () => {
    interface RealSite {
      root: string;
      url: string;
      start: () => Promise<Daemon>;
      mirror: Awaited<ReturnType<typeof createMirrorHost>>;
    }

    async function setUp(t: TestContext, lines = ''): Promise<RealSite> {
      const daemons: Daemon[] = [];
      // Before the server that is made after this, which waits for its sessions.
      const root = await emptyRoot(t);
      const mirror = await createMirrorHost(t);
      t.after(() => Promise.all(daemons.map((daemon) => daemon.end('SIGKILL'))));
      const { key, cert } = await createTestCertificate();
      const home = join(root, '.tls');
      await mkdir(home);
      const files = { tls_key: join(home, 'key'), tls_cert: join(home, 'cert') };
      await writeFile(files.tls_key, key, { mode: 0o600 });
      await writeFile(files.tls_cert, cert);
      const port = await freePort();
      const config = [
        `server.listen = "127.0.0.1:${port}"`,
        ...Object.entries(files).map(([name, file]) => `server.${name} = ${JSON.stringify(file)}`),
        lines,
        mirrorTable(mirror.config),
      ].join('\n');
      const start = async () => {
        const daemon = await startDaemon(t, root, { settle: '0s', config });
        daemons.push(daemon);
        return daemon;
      };
      return { root, url: `https://127.0.0.1:${port}/status`, start, mirror };
    }

    test('shows a new version being published, and the mirror catch up, without being loaded again', async (t) => {
      const { root, url, start } = await setUp(t);
      await start();
      const { page, errors } = await openPage(t);
      await page.goto(url);
      await isLive(page);
      await page.evaluate('window.isStillTheSame = true');
      const publications = page.locator('#publications tbody tr');
      // That there is nothing.
      assert.equal(await publications.count(), 1);
      await addVersion(root, 'a/x/amd64/default/20260101');
      await page.locator('#tiles').getByText('1 version', { exact: true }).waitFor();
      await publications.nth(1).waitFor();
      await page.locator('#mirrors').getByText('In sync', { exact: true }).waitFor();
      await page.locator('#verdict').getByText('All is well.').waitFor();
      assert.equal(await page.evaluate('window.isStillTheSame'), true);
      assert.deepEqual(errors, []);
    });

    test('says that a mirror fails, what to do, and when it is over', async (t) => {
      const { root, url, start, mirror } = await setUp(t);
      await addVersion(root, 'a/x/amd64/default/20260101');
      await start();
      const { page, errors } = await openPage(t);
      await page.goto(url);
      await page.locator('#mirrors').getByText('In sync', { exact: true }).waitFor();
      await mirror.kill();
      await addVersion(root, 'a/x/amd64/default/20260102');
      await page.locator('#verdict').getByText('The mirror fails.').waitFor();
      const row = page.locator('.mirror');
      // It is tried again meanwhile.
      await row.getByText('Failing', { exact: true }).waitFor();
      assert.match(await textOf(row), /^eu\s[\s\S]*behind by[\s\S]*What to do: /);
      await mirror.start();
      await page.locator('#verdict').getByText('All is well.').waitFor();
      assert.equal(await row.locator('.notice').count(), 0);
      assert.deepEqual(errors, []);
    });

    test('says that the connection is lost, and is live again once the daemon is back', async (t) => {
      const { root, url, start } = await setUp(t);
      const daemon = await start();
      const { page, errors } = await openPage(t);
      await page.goto(url);
      await isLive(page);
      const ending = performance.now();
      assert.equal(await daemon.end(), 0);
      t.diagnostic(`ended within ${Math.round(performance.now() - ending)} ms`);
      await page.locator('.connection.lost').getByText('Connection lost').waitFor();
      await addVersion(root, 'a/x/amd64/default/20260101');
      await start();
      await isLive(page);
      await page.locator('#tiles').getByText('1 version', { exact: true }).waitFor();
      assert.deepEqual(errors, []);
    });

    test('shows what is held back with its cure, whatever it is called', async (t) => {
      const { root, url, start } = await setUp(t);
      const name = '<img src=x onerror=alert(1)>';
      await mkdir(join(root, 'images', name), { recursive: true });
      await mkdir(join(root, 'images/a/x/amd64/default/20260101'), { recursive: true });
      await writeFile(join(root, 'images/a/x/amd64/default/20260101/root.squashfs'), 'x');
      await start();
      const { page, errors } = await openPage(t);
      await page.goto(url);
      const held = page.locator('#held li');
      await held.nth(1).waitFor();
      assert.ok((await textOf(page.locator('#held'))).includes(name));
      assert.match(await textOf(held.last()), /What to do: /);
      assert.equal(await page.locator('#held img').count(), 0);
      assert.deepEqual(errors, []);
    });

    test('is not for strangers', async (t) => {
      const { url, start } = await setUp(t, 'server.status_from = ["192.0.2.0/24"]');
      await start();
      const { page } = await openPage(t);
      const response = await page.goto(url);
      assert.equal(response?.status(), 403);
      assert.match(await textOf(page.locator('body')), /server\.status_from/);
    });
  });

  for (const [name, values] of Object.entries({
    'no mirrors and nothing published': { mirrors: 0, held: 0 },
    'something of everything': {},
    '200 mirrors and 1,000 held versions': { mirrors: 200, held: 1000 },
  })) {
    for (const colorScheme of ['light', 'dark'] as const) {
      test(`with ${name}, ${colorScheme}, has nothing that axe finds serious`, async (t) => {
        const { url } = await serveValues(t, values);
        const { page, errors } = await openPage(t, { colorScheme });
        await page.goto(url);
        await isLive(page);
        assert.deepEqual(await seriousViolations(page), []);
        assert.deepEqual(errors, []);
      });
    }

    test(`with ${name} fits a phone`, async (t) => {
      const { url } = await serveValues(t, values);
      const { page } = await openPage(t, { viewport: { width: 360, height: 740 } });
      await page.goto(url);
      await isLive(page);
      assert.equal(await page.evaluate('document.documentElement.scrollWidth'), 360);
    });
  }

  test('no text runs as a script, wherever it stands', async (t) => {
    const evil = `"'></script><script>window.ran = 1</script><img src=x onerror="window.ran = 1">`;
    const spoil = (value: unknown): unknown => {
      if (typeof value === 'string') return Number.isNaN(Date.parse(value)) ? value + evil : value;
      if (Array.isArray(value)) return value.map(spoil);
      if (typeof value !== 'object' || value === null) return value;
      return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, spoil(each)]));
    };
    const values = spoil(statusValues()) as ReturnType<typeof statusValues>;
    const [mirror] = values.mirrors;
    assert.ok(mirror);
    mirror.url = `javascript:window.ran=1//${evil}`;
    const { url } = await serveValues(t, values);
    const { page, errors } = await openPage(t);
    await page.goto(url);
    await isLive(page);
    await page.locator('.chart').first().waitFor();
    for (const summary of await page.locator('summary').all()) await summary.click();
    assert.equal(await page.evaluate('window.ran'), undefined);
    assert.equal(await page.locator('img, #content script').count(), 0);
    assert.equal(await page.locator('a[href^="javascript:" i]').count(), 0);
    assert.ok((await textOf(page.locator('#mirrors'))).includes(evil));
    assert.deepEqual(errors, []);
  });

  test('a day opens as a table of hours, by keyboard, and stays open while all changes', async (t) => {
    const { url, told, live } = await serveValues(t, {});
    const { page } = await openPage(t);
    await page.goto(url);
    await isLive(page);
    const day = page.locator('.mirror').nth(1).locator('details');
    await day.locator('summary').focus();
    await page.keyboard.press('Enter');
    await day.locator('table').waitFor();
    assert.equal(await day.locator('tbody tr').count(), 24);
    const mirrors = live.mirrors.map((mirror, index) =>
      index === 1 ? { ...mirror, state: 'synced' as const } : mirror,
    );
    told.live = { ...live, mirrors };
    await page.locator('.mirror').nth(1).getByText('In sync', { exact: true }).waitFor();
    assert.equal(await day.locator('table').count(), 1);
    assert.equal(await page.evaluate('document.activeElement.tagName'), 'SUMMARY');
  });

  test('mirrors come and go without taking the focus from others', async (t) => {
    const { url, told, live } = await serveValues(t, { mirrors: 4 });
    const { page } = await openPage(t);
    await page.goto(url);
    await isLive(page);
    const names = async () => (await page.locator('.mirror h3 bdi').allTextContents()).join(' ');
    assert.equal(await names(), 'amsterdam boston cape-town dublin');
    await page.locator('.mirror a').nth(2).focus();
    const focused = () => page.evaluate('document.activeElement.textContent');
    const [first, second, third] = live.mirrors;
    assert.ok(first && second && third);
    told.live = { ...live, mirrors: [third] };
    await page.locator('.mirror').nth(1).waitFor({ state: 'detached' });
    assert.deepEqual([await names(), await focused()], ['cape-town', third.url]);
    told.live = { ...live, mirrors: [second, third] };
    await page.getByRole('heading', { name: 'boston' }).waitFor();
    assert.deepEqual([await names(), await focused()], ['boston cape-town', third.url]);
    told.live = { ...live, mirrors: [third, first, second] };
    await page.getByRole('heading', { name: 'amsterdam' }).waitFor();
    assert.equal(await names(), 'cape-town amsterdam boston');
    assert.equal(await page.locator('.mirror .chart').count(), 3);
  });

  test('among many mirrors those that fail are found, and one by its name', async (t) => {
    const { url } = await serveValues(t, { mirrors: 200, held: 1000 });
    const { page } = await openPage(t);
    await page.goto(url);
    await isLive(page);
    const rows = page.locator('.mirror');
    assert.equal(await rows.count(), 200);
    await page.locator('#which').selectOption('failing');
    assert.equal(await rows.count(), 5);
    assert.equal(await textOf(page.locator('#mirrors-count')), '5 of 200 shown');
    await page.locator('#query').fill('MIRROR-43');
    assert.equal(await rows.count(), 1);
    await page.locator('#which').selectOption('all');
    await page.locator('#query').fill('');
    assert.equal(await rows.count(), 200);
    const held = page.locator('#held > li');
    assert.equal(await held.count(), 20);
    await page.getByRole('button', { name: 'Show all 1,000' }).click();
    assert.equal(await held.count(), 1000);
  });

  test('says aloud what has become otherwise, and not what only goes on', async (t) => {
    const { url, told, live } = await serveValues(t, { mirrors: 1, held: 0 });
    const { page } = await openPage(t);
    await page.goto(url);
    await isLive(page);
    const script = `new MutationObserver(() => { window.changes = (window.changes ?? 0) + 1; })
      .observe(document.getElementById('connection'), { subtree: true, childList: true, characterData: true })`;
    await page.evaluate(script);
    for (let products = 100; products < 105; products += 1) {
      told.live = { ...live, catalogue: { ...live.catalogue, products } };
      await page.locator('#tiles').getByText(`${products} products`).waitFor();
    }
    assert.equal(await textOf(page.locator('#said')), '');
    assert.equal(await page.evaluate('window.changes'), undefined);
    told.live = {
      ...live,
      heldCount: 1,
      held: [{ path: 'a', code: 'empty', reason: 'b', cure: 'c' }],
    };
    await page.locator('#said').getByText('1 held back.').waitFor({ state: 'attached' });
  });

  test('has no outside resources, and a policy that lets nothing in', async (t) => {
    const { url, port } = await serveValues(t, {});
    const { page } = await openPage(t);
    const hosts = new Set<string>();
    page.on('request', (request) => hosts.add(new URL(request.url()).host));
    await page.goto(url);
    await isLive(page);
    assert.deepEqual([...hosts].filter(Boolean), [`127.0.0.1:${port}`]);
    assert.match(await readFile(built, 'utf8'), /default-src 'none'; script-src 'sha256-/);
  });

  test('says why it shows nothing where the daemon refuses it', async (t) => {
    const { url, told } = await serveValues(t, {});
    const { page } = await openPage(t);
    await page.route('**/status/events', async (route) => {
      told.statusFrom = [];
      await route.continue();
    });
    await page.goto(url);
    await page
      .locator('.connection.lost')
      .getByText(/server\.status_from/)
      .waitFor();
  });
});
