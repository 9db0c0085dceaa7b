/** The lines that the catalogue page shows, run as a user would: copied from a real browser into a shell. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { startBrowser } from '../support/browser.js';
import { splitImagePrograms } from '../support/busybox-image.js';
import { openPage } from '../support/catalogue-page.js';
import { closeAll } from '../support/close-all.js';
import { missingPrograms, outcome } from '../support/command.js';
import { incusEnv, incusMissing } from '../support/incus.js';
import { type Nginx, startNginx } from '../support/nginx.js';
import { type PublishedImages, publishImages } from '../support/published-images.js';

const skip =
  missingPrograms(...splitImagePrograms, 'chromium', 'nginx', 'openssl', 'lxc') ||
  (await incusMissing());

describe('the lines of the catalogue page', { skip }, () => {
  let images: PublishedImages;
  let nginx: Nginx;
  let browser: Browser;
  let home: string;

  before(async () => {
    images = await publishImages();
    nginx = await startNginx(images.site, join(images.site.root, '../nginx'));
    browser = await startBrowser();
    home = await mkdtemp(join(tmpdir(), 'page-lines-'));
  });
  after(async () => {
    await closeAll(browser, nginx, images);
    await rm(home, { recursive: true, force: true });
  });

  for (const client of ['lxc', 'incus'] as const) {
    for (const through of ['the embedded server', 'nginx'] as const) {
      test(`make it a remote of ${client}, and name images that it has, through ${through}`, async () => {
        const { url } = through === 'nginx' ? nginx : images.site;
        const folder = join(home, `${client} ${through}`);
        await mkdir(folder);
        const sh = async (line: string) => {
          const env = {
            ...incusEnv(),
            HOME: folder,
            XDG_CONFIG_HOME: '',
            LXD_CONF: '',
            INCUS_CONF: '',
            INCUS_CACHE: join(folder, 'cache'),
          };
          const { code, stdout, stderr } = await outcome('sh', ['-c', line], { env });
          assert.equal(code, 0, `${line}: ${stdout}${stderr}`);
          return stdout;
        };
        const { page, errors } = await openPage(browser, `${url}/#client=${client}&remote=hub`);
        const [trust = '', show = '', add = '', list = ''] = await page
          .locator('#remote-body .command code')
          .allTextContents();

        // Without the certificate the client must not believe the server: that is what the line is for.
        const early = await outcome('sh', ['-c', `${add} && ${list}`], {
          env: { ...incusEnv(), HOME: await mkdtemp(join(home, 'early-')) },
        });
        assert.match(early.stderr, /certificate/);

        await sh(trust);
        assert.match(await sh(show), /^sha256 Fingerprint=[0-9A-F:]{95}\n$/i);
        await sh(add);
        const listed = JSON.parse(await sh(`${list} --format json`)) as { fingerprint: string }[];
        const expected = [images.split.fingerprint, images.unified.fingerprint].sort();
        assert.deepEqual(listed.map(({ fingerprint }) => fingerprint).sort(), expected);

        for (const { alias, fingerprint } of [images.split, images.unified]) {
          const row = page.locator('#products > li', { hasText: alias });
          await row.locator('summary').click();
          await row.locator('.commands').waitFor();
          const [byAlias = '', byFingerprint = ''] = await row
            .locator('.commands code')
            .allTextContents();
          for (const line of [byAlias, byFingerprint]) {
            // To launch takes a daemon; which image it would be, the client tells by itself.
            assert.match(line, new RegExp(`^${client} launch hub:`));
            const info = await sh(line.replace(' launch ', ' image info '));
            assert.equal(/^Fingerprint: (.*)$/m.exec(info)?.[1], fingerprint, line);
          }
          assert.deepEqual(await row.locator('.fingerprint').allTextContents(), [fingerprint]);
        }
        assert.deepEqual(errors, []);
        await page.context().close();
      });
    }
  }
});
