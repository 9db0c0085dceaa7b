import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import fc from 'fast-check';
import { certificateIn, fingerprintOf, validCertificate } from '../../src/trust/certificate.js';
import { createClient, type TestClient } from '../support/client-certificate.js';

const from = Date.parse('2026-01-01T00:00:00Z');
const until = Date.parse('2026-02-01T00:00:00Z');

describe('a certificate', () => {
  let client: TestClient;
  before(async () => {
    client = await createClient({ from, until });
  });

  test('is known by the fingerprint that clients show', () => {
    assert.equal(fingerprintOf(client.der), client.fingerprint);
  });

  test('is valid from the first second to the last', () => {
    const valid = { fingerprint: client.fingerprint, until };
    for (const now of [from, from + 1000, until]) {
      assert.deepEqual(validCertificate(client.der, now), valid);
    }
    const early = 'is not valid before 2026-01-01 00:00 UTC';
    assert.equal(validCertificate(client.der, from - 1), early);
    assert.equal(validCertificate(client.der, until + 1), 'expired on 2026-02-01 00:00 UTC');
  });

  test('is DER and nothing else', () => {
    const others = [
      Buffer.concat([client.der, Buffer.from([0])]),
      client.der.subarray(0, -1),
      Buffer.from(client.cert),
      Buffer.alloc(0),
    ];
    for (const bytes of others) assert.equal(validCertificate(bytes, from), 'cannot be read');
  });

  test('in a file is PEM or DER, the first, without what stands around it', () => {
    const text = `Bag attributes\n${client.cert}\n${client.key}`;
    for (const file of [client.der, Buffer.from(client.cert), Buffer.from(text)]) {
      assert.deepEqual(certificateIn(file), client.der);
    }
    for (const file of ['', 'hello', client.key]) {
      assert.equal(certificateIn(Buffer.from(file)), undefined);
    }
  });

  test('that is damaged anywhere is another one, or none; never a crash', () => {
    fc.assert(
      fc.property(fc.nat(client.der.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bytes = Buffer.from(client.der);
        bytes[at] = (bytes[at] ?? 0) ^ flip;
        const found = validCertificate(bytes, from);
        if (typeof found !== 'string') assert.notEqual(found.fingerprint, client.fingerprint);
      }),
      { numRuns: 1000 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
        assert.equal(validCertificate(bytes, from), 'cannot be read');
        assert.equal(certificateIn(bytes), undefined);
      }),
    );
  });
});
