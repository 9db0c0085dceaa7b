import assert from 'node:assert/strict';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ServerError } from '../../src/errors.js';
import {
  formatTrusted,
  namePattern,
  parseTrusted,
  readTrusted,
  type Trusted,
} from '../../src/trust/trust-file.js';
import { temporaryFolder } from '../support/temporary.js';

const added = '2026-03-01T12:00:00.000Z';
const expires = '2036-03-01T12:00:00.000Z';
const some: Trusted = {
  clients: [
    { name: 'alice', fingerprint: 'ab'.repeat(32), added, expires },
    { name: 'bob@laptop', fingerprint: 'cd'.repeat(32), added, used: added, expires },
  ],
  tokens: [{ name: 'carol', hash: 'ef'.repeat(32), added, expires }],
};

const file = '/state/trust.json';
const text = formatTrusted(some);

const isDamaged = (error: unknown) =>
  error instanceof ServerError &&
  error.code === 'DAMAGED' &&
  error.message.startsWith(`${file}, which says who is trusted, is `) &&
  /nothing is written to/.test(error.hint ?? '');

describe('what the file says', () => {
  test('is read as it was written', () => {
    const name = fc.stringMatching(namePattern);
    const digest = fc.stringMatching(/^[0-9a-f]{64}$/);
    const time = fc
      .date({ noInvalidDate: true, min: new Date(0), max: new Date(8e14) })
      .filter((date) => date.getUTCFullYear() <= 9999)
      .map((date) => date.toISOString());
    const options = { requiredKeys: ['name', 'added', 'expires'] } as const;
    const client = fc.record(
      { name, fingerprint: digest, added: time, used: time, expires: time },
      { requiredKeys: [...options.requiredKeys, 'fingerprint'] },
    );
    const token = fc.record(
      { name, hash: digest, added: time, used: time, expires: time },
      { requiredKeys: [...options.requiredKeys, 'hash'] },
    );
    const trusted = fc.record({ clients: fc.array(client), tokens: fc.array(token) });
    fc.assert(
      fc.property(trusted, (wanted) => {
        const plain = JSON.parse(JSON.stringify(wanted));
        assert.deepEqual(parseTrusted(formatTrusted(wanted), file), plain);
      }),
    );
  });

  test('is damaged wherever it is cut off', () => {
    for (let length = 0; length < text.trimEnd().length; length++) {
      assert.throws(() => parseTrusted(text.slice(0, length), file), isDamaged, `${length}`);
    }
  });

  for (const [what, wrong] of [
    ['a name that nobody can have', text.replace('alice', '../alice')],
    ['a fingerprint that is none', text.replace('abab', 'ABAB')],
    ['a hash that is too short', text.replace('efef', '')],
    ['a time that is none', text.replace('2026-03-01', '2026-13-41')],
    ['a field that is not known', text.replace('"name"', '"admin": true, "name"')],
    ['no format', text.replace('"format": 1,', '')],
    ['no tokens', text.replace('"tokens"', '"token"')],
    ['zeros, as a crash may leave them', '\0'.repeat(100)],
    ['null', 'null'],
  ] as const) {
    test(`is damaged with ${what}`, () => {
      assert.notEqual(wrong, text);
      assert.throws(() => parseTrusted(wrong, file), isDamaged);
    });
  }

  test('is of a newer version with another format, and then no copy is needed', () => {
    const newer = text.replace('"format": 1', '"format": 2');
    assert.throws(
      () => parseTrusted(newer, file),
      (error) => isDamaged(error) && /of a newer version/.test((error as Error).message),
    );
  });

  test('never fails in another way', () => {
    const anything = fc.oneof(fc.string(), fc.json());
    fc.assert(
      fc.property(anything, (content) => {
        assert.throws(() => parseTrusted(content, file), isDamaged);
      }),
    );
  });
});

describe('the file', () => {
  test('has nobody in it where there is none', async (t) => {
    const folder = await temporaryFolder(t);
    const nobody = { clients: [], tokens: [] };
    assert.deepEqual(await readTrusted(join(folder, 'trust.json')), nobody);
    assert.deepEqual(await readTrusted(join(folder, 'state/trust.json')), nobody);
  });

  for (const mode of [0o620, 0o602, 0o666]) {
    test(`does not count with mode ${mode.toString(8)}: others may have written to it`, async (t) => {
      const path = join(await temporaryFolder(t), 'trust.json');
      await writeFile(path, text);
      await chmod(path, mode);
      await assert.rejects(readTrusted(path), { code: 'DENIED', hint: /chmod 600/ });
      await chmod(path, 0o644);
      assert.deepEqual(await readTrusted(path), some);
    });
  }

  test('is an error where it cannot be read, not nobody', async (t) => {
    const path = join(await temporaryFolder(t), 'trust.json');
    await mkdir(path);
    await assert.rejects(readTrusted(path), { code: 'IO', message: /trust\.json: is a folder/ });
  });
});
