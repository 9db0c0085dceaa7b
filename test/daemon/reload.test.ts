import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseConfig } from '../../src/config.js';
import { hoursOf } from '../../src/daemon/jobs.js';
import { changedKeys, createReloader, type ReloaderOptions } from '../../src/daemon/reload.js';
import type { Reporter } from '../../src/daemon/report.js';
import { createSchedule } from '../../src/daemon/schedule.js';
import { createServiceManager } from '../../src/daemon/service-manager.js';
import { createServing } from '../../src/server/following.js';
import { memoryLog } from '../support/memory-log.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate } from '../support/tls.js';

const configOf = (text: string) => parseConfig(text, { file: 'config.toml' }).config;

const mirror = '[mirrors.eu]\nurl = "https://eu.example.org"\nkey_path = "/k"\n';
const cases: [text: string, keys: string[]][] = [
  ['', []],
  ['publish.settle = "2s"', []],
  ['publish.settle = "3s"\nlogging.level = "debug"', ['logging.level', 'publish.settle']],
  ['server.tls_cert = "/c"', ['server.tls_cert']],
  ['paths.root = "/srv"', ['paths.images', 'paths.root', 'paths.streams']],
  [mirror, ['mirrors']],
];
for (const [text, keys] of cases) {
  test(`the keys changed by ${JSON.stringify(text)} are ${keys.join(', ') || 'none'}`, () => {
    assert.deepEqual(changedKeys(configOf(''), configOf(text)), keys);
    assert.deepEqual(changedKeys(configOf(text), configOf('')), keys);
  });
}

test('a configuration that is read when the daemon has ended opens no server', async (t) => {
  const root = await temporaryFolder(t);
  const { key, cert } = await createTestCertificate();
  await writeFile(join(root, 'key'), key, { mode: 0o600 });
  await writeFile(join(root, 'cert'), cert);
  const [tlsKey, tlsCert] = [join(root, 'key'), join(root, 'cert')].map((p) => JSON.stringify(p));
  const config = configOf(
    `paths.root = ${JSON.stringify(root)}\nserver.listen = "127.0.0.1:0"\nserver.tls_key = ${tlsKey}\nserver.tls_cert = ${tlsCert}`,
  );
  const { log } = memoryLog();
  const ending = new AbortController();
  const serving = createServing({ log });
  t.after(() => serving.close());
  const jobs = Object.keys(hoursOf(config)).map((name) => ({
    name,
    cron: '',
    run: async () => {},
  }));
  const schedule = createSchedule({ jobs, log });
  t.after(() => schedule.close());
  const { reload } = createReloader({
    config,
    log,
    signal: ending.signal,
    serving,
    schedule,
    manager: createServiceManager({ log, env: {} }),
    reporter: { line: () => '' } as Reporter,
    async reload(accept) {
      ending.abort();
      await serving.close();
      await accept(config);
      return config;
    },
  } as Partial<ReloaderOptions> as ReloaderOptions);
  await assert.rejects(reload(), { code: 'INTERRUPTED' });
  assert.deepEqual(serving.state(), { reason: 'it has ended' });
});
