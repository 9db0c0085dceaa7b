import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { createLocalServer } from '../../../src/server/local.js';
import { ask, makeApi, serveApi } from '../../support/api.js';
import { splitImage, vmImage } from '../../support/api-images.js';
import { temporaryFolder } from '../../support/temporary.js';
import { createTestCertificate, rawRequest } from '../../support/tls.js';

/** Nearly right, and not at all. */
const segment = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.constantFrom(
      ...['images', 'aliases', 'operations', 'certificates', 'projects', 'events', 'default'],
      ...['export', 'secret', 'refresh', 'wait', 'FP', 'OP', 'd12', 'debian%2F12', 'instances'],
    ),
  },
  fc.string({ unit: 'binary' }).map((text) => encodeURIComponent(text.replace(/\p{Cs}/gu, ''))),
  fc.constantFrom('%00', '..', '%2e%2e', '%2f', '%', '%zz', '%ff', '.', '', 'a'.repeat(4000)),
);
const query = fc.oneof(
  fc.constantFrom('', '?recursion=1', '?project=default', '?secret=x&timeout=0', '?timeout=0'),
  fc.constantFrom('?recursion=2&filter=%zz', '?timeout=-', '?project=%00', '?&&==', '??', '?%'),
);
const target = fc
  .tuple(fc.array(segment, { maxLength: 4 }), query)
  .map(([segments, end]) => `${['/1.0', ...segments].join('/')}${end}`);

const method = fc.constantFrom(
  ...['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND', 'TRACE'],
);
const headers = fc.dictionary(
  fc.constantFrom('Accept', 'If-Match', 'Range', 'Content-Type', 'X-Real-IP', 'Upgrade', 'Expect'),
  fc.oneof(
    fc.constantFrom('*', '*/*', '"x"', 'bytes=0-0', 'bytes=9-1', 'websocket', '100-continue'),
    fc.string({ unit: fc.constantFrom(...'abc ,;="\\/*-') }).map((text) => text.trim()),
  ),
);

/** Bodies of the right form with any values, any JSON, and anything. */
const key = fc.constantFrom(
  ...['name', 'target', 'properties', 'public', 'expires_at', 'password', 'trust_token'],
  ...['certificate', 'type', 'description', 'source', 'aliases', '__proto__'],
);
const value = fc.oneof(
  fc.constantFrom('FP', 'd12', '../x', 'a\0b', 'a\nb', '9'.repeat(5000), '+275760-09-13T00:00:00Z'),
  fc.jsonValue(),
);
const body = fc.oneof(
  fc.dictionary(key, value).map((each) => JSON.stringify(each)),
  fc.json(),
  fc.string(),
  fc.constant('['.repeat(100_000)),
);
const request = fc.record({ method, target, headers, body: fc.option(body) });

/** How many requests each of the two listeners gets. */
const numRuns = 300;

test('no request over TLS crashes the API, fails it, or has another answer than its own', async (t) => {
  const { port, friend, library, operations, events } = await serveApi(t);
  const fill = await filler(library, operations);
  const check = fc.asyncProperty(request, fc.boolean(), async (asked, trusted) => {
    const wanted = fill(asked);
    const as = trusted ? { as: friend } : {};
    const { target: path, method, headers, body } = wanted;
    const answer = await ask(port, path, { method, headers, ...as, ...(body && { body }) });
    checkAnswer(answer, wanted);
  });
  await fc.assert(check, { numRuns });
  assert.deepEqual(events, []);
});

test('no request over the socket does, whatever is said of who asks', async (t) => {
  const { api, library, operations, callers, events, log } = await makeApi(t);
  const friend = await createTestCertificate();
  callers.trust('friend', new X509Certificate(friend.cert).raw);
  const runDir = await temporaryFolder(t);
  const server = await createLocalServer({ runDir, services: [api], log });
  t.after(() => server.close({ graceMs: 0 }));
  const fill = await filler(library, operations);
  const shown = fc.oneof(
    fc.constantFrom(encodeURIComponent(friend.cert), '', '%', '-----BEGIN CERTIFICATE-----'),
    fc.string({ unit: fc.constantFrom(...'abc%20-') }).map((text) => text.trim()),
  );
  const check = fc.asyncProperty(request, shown, async (asked, certificate) => {
    const wanted = fill(asked);
    const all = { ...wanted.headers, 'X-SSL-Cert': certificate };
    const { target: path, method, body } = wanted;
    const answer = await ask(server.path, path, {
      ...{ method, headers: all },
      ...(body && { body }),
    });
    checkAnswer(answer, wanted);
  });
  await fc.assert(check, { numRuns });
  assert.deepEqual(events, []);
});

test('bytes that are no request are refused, and the next is answered', async (t) => {
  const { port, events } = await serveApi(t);
  const noise = fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    fc.string().map((text) => Buffer.from(`GET /1.0/${text} HTTP/1.1\r\n${text}: ${text}`)),
  );
  const check = fc.asyncProperty(noise, async (bytes) => {
    const end = Buffer.from('\r\n\r\n\r\n\r\n');
    const { status } = await rawRequest(port, Buffer.concat([bytes, end]));
    assert.ok(status < 500, `${status}`);
  });
  await fc.assert(check, { numRuns: 100 });
  assert.equal((await ask(port, '/1.0')).status, 200);
  assert.deepEqual(events, []);
});

type Asked = typeof request extends fc.Arbitrary<infer T> ? T : never;

/** Puts names of things that are there in the place of `FP` and `OP`. */
async function filler(
  library: Awaited<ReturnType<typeof makeApi>>['library'],
  operations: Awaited<ReturnType<typeof makeApi>>['operations'],
) {
  const { fingerprint } = await library.add(splitImage());
  await library.add(vmImage());
  return (asked: Asked): Asked => {
    const { id } = operations.list()[0] ?? operations.begin({ class: 'token', description: 'x' });
    return { ...asked, target: asked.target.replace('OP', id).replace('FP', fingerprint) };
  };
}

function checkAnswer(
  { status, headers: found, bytes }: Awaited<ReturnType<typeof ask>>,
  { method, target }: Asked,
): void {
  assert.ok(status < 500, `${status} for ${method} ${target}: ${bytes}`);
  // Node's own answer to what nobody can expect.
  if (status === 417) return;
  if (/multipart|octet-stream/.test(found['content-type'] ?? '')) {
    assert.ok(target.includes('/export'));
    return;
  }
  assert.equal(found['content-type'], 'application/json');
  if (method === 'HEAD') return;
  const { type, error, error_code } = JSON.parse(bytes.toString());
  assert.equal(type, status < 300 ? (status === 202 ? 'async' : 'sync') : 'error');
  if (type !== 'error') return;
  assert.equal(error_code, status);
  assert.match(error, /\S/);
  assert.doesNotMatch(error, /\n {4}at /);
}
