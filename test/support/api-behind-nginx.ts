/** The API behind a real nginx with the site that `init` installs. */
import { X509Certificate } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createLocalServer, type LocalServer } from '../../src/server/local.js';
import type { LxdApiOptions } from '../../src/server/lxd/api.js';
import { type ApiServer, makeApi } from './api.js';
import { startNginx } from './nginx.js';
import { makeSite, type Site } from './site.js';
import { temporaryFolder } from './temporary.js';
import { createTestCertificate } from './tls.js';

export interface ApiBehindNginx extends ApiServer {
  local: LocalServer;
  /** What nginx serves beside the API. */
  site: Site;
}

/** Serves the API behind nginx until the test is over. */
export async function serveBehindNginx(
  t: Pick<TestContext, 'after'>,
  options: Partial<LxdApiOptions> = {},
): Promise<ApiBehindNginx> {
  const parts = await makeApi(t, options);
  const folder = await temporaryFolder(t);
  const site = await makeSite(folder, { address: '127.0.0.1:0' });
  const runDir = join(folder, 'run');
  await mkdir(runDir);
  const local = await createLocalServer({ runDir, services: [parts.api], log: parts.log });
  t.after(() => local.close({ graceMs: 0 }));
  const nginx = await startNginx(site, join(folder, 'nginx'));
  t.after(() => nginx.close());
  const [friend, stranger] = await Promise.all([createTestCertificate(), createTestCertificate()]);
  parts.callers.trust('friend', new X509Certificate(friend.cert).raw);
  const cert = await readFile(site.certificate, 'utf8');
  const server = { key: '', cert, der: new X509Certificate(cert).raw };
  return { ...parts, local, site, friend, stranger, server, port: Number(new URL(nginx.url).port) };
}
