import assert from 'node:assert/strict';
import { chmod, copyFile, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { loadCredentials, passphraseVariable } from '../../src/mirror/credentials.js';
import { run, startServer } from '../support/command.js';
import { needs } from '../support/programs.js';
import { createSftpServer } from '../support/sftp-mirror.js';
import { temporaryFolder } from '../support/temporary.js';
import { failsWith } from './conformance.js';

const programs = needs('sshd', 'ssh-keygen', 'ssh-agent', 'ssh-add', 'openssl');
const passphrase = 'correct horse';

interface KeyForm {
  name: string;
  /** Makes the key in `file`. */
  make(file: string): Promise<void>;
  locked?: boolean;
}

const keygen = (file: string, ...args: string[]) =>
  run('ssh-keygen', ['-q', '-f', file, ...args]).then(() => {});
const pem = (type: string, secret: string) => (file: string) =>
  keygen(file, '-t', type, '-m', 'PEM', '-N', secret);
const pkcs8 =
  (type: string, ...args: string[]) =>
  async (file: string) => {
    await keygen(file, '-t', type, '-m', 'PEM', '-N', '');
    await run('openssl', ['pkcs8', '-topk8', '-in', file, '-out', `${file}.8`, ...args]);
    await rename(`${file}.8`, file);
    await chmod(file, 0o600);
  };

const forms: KeyForm[] = [
  ...['ed25519', 'ecdsa', 'rsa'].flatMap((type) => [
    { name: `${type}`, make: (file: string) => keygen(file, '-t', type, '-N', '') },
    {
      name: `${type} with a passphrase`,
      make: (file: string) => keygen(file, '-t', type, '-N', passphrase),
      locked: true,
    },
  ]),
  { name: 'rsa as PEM', make: pem('rsa', '') },
  { name: 'ecdsa as PEM', make: pem('ecdsa', '') },
  { name: 'rsa as PEM with a passphrase', make: pem('rsa', passphrase), locked: true },
  { name: 'rsa as PKCS #8', make: pkcs8('rsa', '-nocrypt') },
  { name: 'ecdsa as PKCS #8', make: pkcs8('ecdsa', '-nocrypt') },
  {
    name: 'rsa as PKCS #8 with a passphrase',
    make: pkcs8('rsa', '-passout', `pass:${passphrase}`),
    locked: true,
  },
];

describe('a private key', programs, () => {
  for (const { name, make, locked = false } of forms) {
    test(`of the form ${name} logs in`, async (t) => {
      const { open, home } = await createSftpServer(t);
      const keyPath = join(home, 'key');
      await make(keyPath);
      await copyFile(`${keyPath}.pub`, join(home, 'ssh/authorized_keys'));
      const env = locked ? { [passphraseVariable]: passphrase } : {};
      assert.equal((await open({ config: { keyPath }, env }).stat(''))?.kind, 'folder');
      if (!locked) return;
      const without = open({ config: { keyPath } });
      await assert.rejects(without.stat(''), failsWith('MIRROR_AUTH', /needs a passphrase/));
      const wrong = open({ config: { keyPath }, env: { [passphraseVariable]: 'wrong' } });
      await assert.rejects(wrong.stat(''), failsWith('MIRROR_AUTH', /does not open/));
    });
  }

  async function refusal(t: TestContext, make: (file: string) => Promise<unknown>) {
    const keyPath = join(await temporaryFolder(t), 'key');
    await make(keyPath);
    return await loadCredentials({ name: 'eu', user: 'u', keyPath, env: {} }).then(
      () => assert.fail('it was accepted'),
      (error: Error & { hint?: string }) => error,
    );
  }

  test('that others can read is refused', async (t) => {
    for (const mode of [0o640, 0o604, 0o620]) {
      const error = await refusal(t, async (file) => {
        await keygen(file, '-t', 'ed25519', '-N', '');
        await chmod(file, mode);
      });
      failsWith('MIRROR_AUTH', /others than its owner/)(error);
      assert.match(error.hint ?? '', /^chmod 600 \//);
    }
  });

  test('that is missing, public or no key at all is told as such', async (t) => {
    failsWith('MIRROR_AUTH', /there is no key/)(await refusal(t, async () => {}));
    const publicKey = await refusal(t, async (file) => {
      await keygen(file, '-t', 'ed25519', '-N', '');
      await rename(`${file}.pub`, file);
    });
    failsWith('MIRROR_AUTH', /is a public key/)(publicKey);
    for (const text of [
      '',
      'hello',
      '-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n',
    ]) {
      const error = await refusal(t, (file) => writeFile(file, text, { mode: 0o600 }));
      failsWith('MIRROR_AUTH', /cannot make use of the key/)(error);
    }
    failsWith(
      'MIRROR_AUTH',
      /cannot make use of the key/,
    )(
      await refusal(t, async (file) => {
        await run('openssl', ['genpkey', '-algorithm', 'ed25519', '-out', file]);
        await chmod(file, 0o600);
      }),
    );
  });

  test('that an agent holds is taken from there, and no other key of its', async (t) => {
    const { open, home } = await createSftpServer(t);
    const env = await startAgent(t, home);
    const keyPath = join(home, 'key');
    await keygen(keyPath, '-t', 'ed25519', '-N', passphrase);
    await keygen(join(home, 'other'), '-t', 'ed25519', '-N', '');
    await run('ssh-add', ['-q', join(home, 'other')], { env });
    await copyFile(join(home, 'other.pub'), join(home, 'ssh/authorized_keys'));
    const mirror = open({ config: { keyPath }, env });
    await assert.rejects(mirror.stat(''), failsWith('MIRROR_AUTH', /needs a passphrase/));

    await keygen(keyPath, '-p', '-P', passphrase, '-N', '');
    await run('ssh-add', ['-q', keyPath], { env });
    await keygen(keyPath, '-p', '-P', '', '-N', passphrase);
    await assert.rejects(mirror.stat(''), failsWith('MIRROR_AUTH', /login .* refused/));
    await copyFile(`${keyPath}.pub`, join(home, 'ssh/authorized_keys'));
    assert.equal((await open({ config: { keyPath }, env }).stat(''))?.kind, 'folder');

    await rm(keyPath);
    assert.equal((await open({ config: { keyPath }, env }).stat(''))?.kind, 'folder');
    const named = open({ config: { keyPath: `${keyPath}.pub` }, env });
    assert.equal((await named.stat(''))?.kind, 'folder');
    assert.ok((await readFile(`${keyPath}.pub`, 'utf8')).length > 0);
  });
});

async function startAgent(t: TestContext, folder: string): Promise<{ SSH_AUTH_SOCK: string }> {
  const socket = join(folder, 'agent');
  const agent = await startServer(['ssh-agent', '-D', '-a', socket], {
    isReady: (said) => said.includes('SSH_AUTH_SOCK'),
  });
  t.after(() => agent.stop());
  return { SSH_AUTH_SOCK: socket };
}
