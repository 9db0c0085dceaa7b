/** Our tokens beside those of a real LXD. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatToken, parseToken } from '../../src/trust/token.js';
import { lxdMissing, startLxd } from '../support/lxd.js';
import { freePort } from '../support/ports.js';

test('a token is of the same form as one of LXD', { skip: lxdMissing() }, async (t) => {
  const lxd = await startLxd();
  t.after(() => lxd.close());
  const listen = `127.0.0.1:${await freePort()}`;
  await lxd.lxc('config', 'set', 'core.https_address', listen);
  await lxd.lxc('config', 'set', 'core.remote_token_expiry', '1d');
  const said = await lxd.lxc('config', 'trust', 'add', '--name', 'alice');
  const token = said.trim().split('\n').at(-1) ?? '';
  const content = JSON.parse(Buffer.from(token, 'base64').toString());
  assert.deepEqual(content.addresses, [listen]);
  assert.equal(formatToken(content), token);
  const { secret, fingerprint, expires_at } = content;
  assert.deepEqual(parseToken(token), { secret, fingerprint, expires: Date.parse(expires_at) });
});
