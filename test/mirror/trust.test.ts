/** Trusting host keys: a real sshd that has keys of two kinds. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { describeHostKey } from '../../src/mirror/host-keys.js';
import { acceptHostKey, showHostKey } from '../../src/mirror/trust.js';
import { run } from '../support/command.js';
import { needs } from '../support/programs.js';
import { createSftpServer } from '../support/sftp-mirror.js';
import { uploadPrograms } from '../support/slow-upload.js';
import { temporaryFolder } from '../support/temporary.js';

describe('a mirror with host keys of several kinds', needs(...uploadPrograms), () => {
  test('shows the one that is known, or that the configuration names', async (t) => {
    const folder = await temporaryFolder(t);
    const file = join(folder, 'ecdsa');
    await run('ssh-keygen', ['-q', '-t', 'ecdsa', '-N', '', '-f', file]);
    const { config } = await createSftpServer(t, { settings: `HostKey ${file}` });
    const [type = '', base64 = ''] = (await readFile(`${file}.pub`, 'utf8')).split(' ');
    const { fingerprint } = describeHostKey(Buffer.from(base64, 'base64'));
    const knownHosts = join(folder, 'known_hosts');
    const line = `[127.0.0.1]:${config.remote.port} ${type} ${base64}\n`;
    await writeFile(knownHosts, line);
    const { knownHosts: _none, ...rest } = config;
    for (const how of [{ knownHosts }, { hostKey: fingerprint }]) {
      const shown = await showHostKey({ ...rest, ...how });
      assert.deepEqual([shown.fingerprint, shown.trusted], [fingerprint, true]);
      await acceptHostKey({ ...rest, ...how }, { fingerprint });
    }
    assert.equal(await readFile(knownHosts, 'utf8'), line);
    assert.equal(
      (await showHostKey({ ...rest, hostKey: `SHA256:${'A'.repeat(43)}` })).trusted,
      false,
    );
  });
});

test('a revoked host key is not said to be trusted', needs(...uploadPrograms), async (t) => {
  const { config } = await createSftpServer(t);
  const knownHosts = join(await temporaryFolder(t), 'known_hosts');
  const [, ...key] = (await readFile(config.knownHosts as string, 'utf8')).split(' ');
  await writeFile(knownHosts, `@revoked * ${key.join(' ')}`);
  const mirror = { ...config, knownHosts };
  const { fingerprint, reason } = await showHostKey(mirror);
  assert.match(reason ?? '', /revoked/);
  await assert.rejects(acceptHostKey(mirror, { fingerprint }), /revoked/);
});
