/** The contract of a mirror, kept over a way that is cut again and again. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createReplicator } from '../../src/mirror/replicate.js';
import { withRetry } from '../../src/mirror/retry.js';
import { createCuttingProxy, randomGaps } from '../support/cutting-proxy.js';
import { generationOf, pathOf, sourcesOf } from '../support/image-generations.js';
import { memoryLog } from '../support/memory-log.js';
import { needs } from '../support/programs.js';
import { createSftpServer } from '../support/sftp-mirror.js';
import { conformance } from './conformance.js';

const programs = needs('sshd', 'ssh-keygen');
const seeds = { next: 1 };
let cuts = 0;

/** A mirror behind the wrapper, on a server of its own, by a way that is cut. */
async function setUp(t: TestContext, gaps: Iterable<number> = randomGaps(seeds.next++)) {
  let close = async () => {};
  // Before the server, which waits for its sessions.
  t.after(() => close());
  const server = await createSftpServer(t);
  const proxy = await createCuttingProxy({ target: server.port, gaps });
  const { log } = memoryLog();
  const pause = async (_: number, signal: AbortSignal) => signal.throwIfAborted();
  const mirror = withRetry(server.open({ config: await server.by(proxy.port) }), { log, pause });
  close = async () => {
    cuts += proxy.cuts;
    await mirror.close();
    await proxy.close();
  };
  return { mirror, folder: server.folder, proxy };
}

conformance('that is cut off now and then', {
  setUp: (t) => setUp(t),
  interrupted: true,
  ...programs,
});

test('a sync goes on to its end over a way that is cut', programs, async (t) => {
  const { mirror, folder, proxy } = await setUp(t, Array(12).fill(2 ** 19));
  const tree: Record<string, string> = {};
  for (let n = 0; n < 200; n++) {
    tree[`x/20260101_${n}/lxd.tar.xz`] = `meta ${n}`;
    // Some have the content of others, and are linked.
    tree[`x/20260101_${n}/root.squashfs`] = `root ${n % 150} `.repeat(
      n % 5 === 0 ? 2 ** 15 : 2 ** 8,
    );
  }
  const generation = generationOf(tree);
  const replicator = createReplicator({
    mirror,
    master: { id: 'a', host: 'b' },
    images: 'images',
    grace: 1000,
    openSource: sourcesOf(() => tree),
    cache: { get: async () => undefined, set: async () => {} },
    log: memoryLog().log,
    // Less than passes between two cuts: else none of many files might ever be through.
    window: 2 ** 17,
  });
  const { sent } = await replicator.sync(() => generation);
  assert.equal(sent.files, 400);
  for (const [path, content] of Object.entries(tree)) {
    assert.equal(await readFile(join(folder, pathOf(path)), 'utf8'), content, path);
  }
  assert.equal(proxy.cuts, 12);
});

test('the suite was run over a way that was cut', programs, () => {
  assert.ok(cuts >= 40, `${cuts} cuts`);
});
