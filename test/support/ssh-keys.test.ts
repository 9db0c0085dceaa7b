import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import ssh2 from 'ssh2';
import { makeKeyPair, sshKey } from './ssh-keys.js';
import { temporaryFolder } from './temporary.js';

test('every key that is made can be read', () => {
  for (let n = 0; n < 1500; n++) {
    const made = makeKeyPair('someone');
    const [secret, open] = [made.private, made.public].map((text) => ssh2.utils.parseKey(text));
    if (secret instanceof Error || open instanceof Error || !secret || !open) {
      assert.fail(`not a key: ${made.public}`);
    }
    assert.ok(secret.isPrivateKey() && open.getPublicSSH().equals(secret.getPublicSSH()));
  }
});

test('a key is made once, and only its owner may read it', async (t) => {
  const file = join(await temporaryFolder(t), 'key');
  const key = await sshKey(file, 'someone');
  assert.deepEqual(await sshKey(file, 'another'), key);
  assert.match(key.public, /^ssh-ed25519 \S+ someone$/);
  assert.equal((await stat(file)).mode & 0o777, 0o600);
});
