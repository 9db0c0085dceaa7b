import assert from 'node:assert/strict';
import { test } from 'node:test';
import { capacityOf } from '../../src/server/listen.js';
import { serveTree, version } from '../support/served-tree.js';
import { startSlowClients } from '../support/slow-clients.js';
import { rawGet } from '../support/tls.js';

const rootfs = `${version}/rootfs.squashfs`;
const MiB = 1024 * 1024;

test('among five thousand idle connections a good client is served, within bounded memory', async (t) => {
  const idle = Math.min(5000, capacityOf().connections - 1000);
  const limits = { handshakeMs: 600_000, keepAliveMs: 600_000, stallMs: 600_000 };
  const { port } = await serveTree(t, { [rootfs]: 'image' }, { limits });
  const path = '/streams/v1/index.json';
  const before = process.memoryUsage.rss();
  const clients = await startSlowClients({ port, silent: 0, idle, dripping: 0, path });
  t.after(() => clients.close());
  assert.equal((await rawGet(port, path)).status, 200);
  assert.equal((await rawGet(port, `/${rootfs}`)).body.toString(), 'image');
  assert.deepEqual(await clients.count(), { silent: 0, idle, dripping: 0 });
  const grown = (process.memoryUsage.rss() - before) / MiB;
  t.diagnostic(`${idle} idle connections took ${Math.round(grown)} MiB`);
  assert.ok(grown < 500, `${grown} MiB`);
});
