/** The contract of a mirror, kept over a way that is cut again and again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withRetry } from '../../src/mirror/retry.js';
import { createCuttingProxy, randomGaps } from '../support/cutting-proxy.js';
import { memoryLog } from '../support/memory-log.js';
import { needs } from '../support/programs.js';
import { createSftpServer } from '../support/sftp-mirror.js';
import { conformance } from './conformance.js';

const programs = needs('sshd', 'ssh-keygen');
const seeds = { next: 1 };
let cuts = 0;

conformance('that is cut off now and then', {
  async setUp(t) {
    let close = async () => {};
    // Before the server, which waits for its sessions.
    t.after(() => close());
    const server = await createSftpServer(t);
    const proxy = await createCuttingProxy({ target: server.port, gaps: randomGaps(seeds.next++) });
    const { log } = memoryLog();
    const pause = async (_: number, signal: AbortSignal) => signal.throwIfAborted();
    const mirror = withRetry(server.open({ config: await server.by(proxy.port) }), { log, pause });
    close = async () => {
      cuts += proxy.cuts;
      await mirror.close();
      await proxy.close();
    };
    return { mirror, folder: server.folder };
  },
  interrupted: true,
  ...programs,
});

test('the suite was run over a way that was cut', programs, () => {
  assert.ok(cuts >= 40, `${cuts} cuts`);
});
