import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { gunzipSync, gzipSync } from 'node:zlib';
import { publishDocument, type ServedTree, serveTree, sha256 } from '../support/served-tree.js';
import { rawGet } from '../support/tls.js';

const gzip = { headers: { 'Accept-Encoding': 'gzip' } };
const images = '/streams/v1/images.json';

/** Longer than the server goes without looking at the disk. */
const stale = () => setTimeout(50);

/** A document whose every part says which generation it is of. */
function generation(number: number): string {
  return JSON.stringify({ format: 'products:1.0', updated: Array(20_000).fill(number) });
}

function complaints({ events }: ServedTree): unknown[] {
  return events.filter(({ level }) => level === 50).map(({ reason }) => reason);
}

test('a document has one strong ETag plain and another as gzip', async (t) => {
  const tree = await serveTree(t);
  const text = generation(1);
  await publishDocument(tree.root, 'images.json', { text });
  const plain = await rawGet(tree.port, images);
  const zipped = await rawGet(tree.port, images, gzip);
  assert.equal(plain.body.toString(), text);
  assert.equal(gunzipSync(zipped.body).toString(), text);
  assert.equal(plain.headers.etag, `"${sha256(text)}"`);
  assert.equal(zipped.headers.etag, `"${sha256(text)}-gzip"`);
  assert.equal(plain.headers['content-encoding'], undefined);
  assert.equal(zipped.headers['content-encoding'], 'gzip');
  for (const { headers } of [plain, zipped]) {
    assert.equal(headers['content-type'], 'application/json');
    assert.equal(headers['cache-control'], 'no-cache');
    assert.equal(headers.vary, 'Accept-Encoding');
  }
});

test('the ETag of one form does not stand for the other', async (t) => {
  const { port } = await serveTree(t);
  const { headers } = await rawGet(port, images);
  const known = { 'If-None-Match': headers.etag ?? '', 'Accept-Encoding': 'gzip' };
  const response = await rawGet(port, images, { headers: known });
  assert.equal(response.status, 200);
  const again = { 'If-None-Match': response.headers.etag ?? '', 'Accept-Encoding': 'gzip' };
  assert.equal((await rawGet(port, images, { headers: again })).status, 304);
});

test('the .gz file is served as a file of its own, whatever the client takes', async (t) => {
  const { port, root } = await serveTree(t);
  const text = generation(3);
  await publishDocument(root, 'images.json', { text });
  const { status, headers, body } = await rawGet(port, `${images}.gz`);
  assert.deepEqual([status, headers['content-type']], [200, 'application/gzip']);
  assert.equal(headers['content-encoding'], undefined);
  assert.equal(gunzipSync(body).toString(), text);
});

const strangers: [what: string, gz: Buffer | undefined][] = [
  ['missing', undefined],
  ['of another document', gzipSync('{"old":true}')],
  ['cut short', gzipSync(generation(4)).subarray(0, -5)],
  ['empty', Buffer.alloc(0)],
  ['not gzip', Buffer.from('nothing of the kind, but long enough')],
];

for (const [what, gz] of strangers) {
  test(`where the .gz file is ${what}, the document is compressed afresh`, async (t) => {
    const { port, root } = await serveTree(t, {});
    await publishDocument(root, 'index.json', { text: generation(4), gzip: false });
    const path = join(root, 'streams/v1/index.json.gz');
    if (gz === undefined) await rm(path);
    else await writeFile(path, gz);
    const { body } = await rawGet(port, '/streams/v1/index.json', gzip);
    assert.equal(gunzipSync(body).toString(), generation(4));
  });
}

test('a .gz file that belongs to the document is sent as it is', async (t) => {
  const { port, root } = await serveTree(t, {});
  await publishDocument(root, 'index.json', { text: generation(5) });
  const stored = gzipSync(generation(5), { level: 1 });
  await writeFile(join(root, 'streams/v1/index.json.gz'), stored);
  assert.deepEqual((await rawGet(port, '/streams/v1/index.json', gzip)).body, stored);
});

test('documents replaced while they are polled are always whole, and the newest one comes', async (t) => {
  const { port, root } = await serveTree(t, {});
  await publishDocument(root, 'images.json', { text: generation(0) });
  const last = 30;
  let published = false;
  const publish = async () => {
    for (let number = 1; number <= last; number += 1) {
      await publishDocument(root, 'images.json', {
        text: generation(number),
        gzip: number % 3 > 0,
      });
      await setTimeout(20);
    }
    published = true;
  };
  const poll = async (zip: boolean) => {
    let seen = 0;
    while (!published) {
      const { status, headers, body } = await rawGet(port, images, zip ? gzip : {});
      assert.equal(status, 200);
      const text = zip ? gunzipSync(body).toString() : body.toString();
      assert.equal(headers.etag, `"${sha256(text)}${zip ? '-gzip' : ''}"`);
      const [number = Number.NaN] = (JSON.parse(text) as { updated: number[] }).updated;
      assert.equal(text, generation(number));
      assert.ok(number >= seen);
      seen = number;
    }
  };
  await Promise.all([publish(), poll(true), poll(false)]);
  await stale();
  assert.equal((await rawGet(port, images)).body.toString(), generation(last));
});

test('a document that is not there says what to run', async (t) => {
  const { port, root } = await serveTree(t, {});
  await rm(join(root, 'streams/v1/images.json'));
  const missing = await rawGet(port, images);
  assert.equal(missing.status, 404);
  assert.match(missing.body.toString(), /lxd-image-server update/);
  await publishDocument(root, 'images.json', { text: generation(6) });
  await stale();
  assert.equal((await rawGet(port, images)).status, 200);
});

const broken: [what: string, text: string][] = [
  ['truncated', generation(7).slice(0, -10)],
  ['empty', ''],
  ['not JSON', '<html>'],
  ['not an object', '17'],
];

for (const [what, text] of broken) {
  test(`a document that becomes ${what} leaves the last good one, and one error`, async (t) => {
    const tree = await serveTree(t, {});
    const before = await rawGet(tree.port, images);
    await publishDocument(tree.root, 'images.json', { text });
    for (let round = 0; round < 2; round += 1) {
      await stale();
      assert.deepEqual((await rawGet(tree.port, images)).body, before.body);
    }
    assert.equal(complaints(tree).length, 1);
    await publishDocument(tree.root, 'images.json', { text: generation(8) });
    await stale();
    assert.equal((await rawGet(tree.port, images)).body.toString(), generation(8));
  });
}

test('a document that never was good gives 503, and says what to run', async (t) => {
  const tree = await serveTree(t, {});
  await publishDocument(tree.root, 'images.json', { text: '{' });
  const { status, body } = await rawGet(tree.port, images);
  assert.equal(status, 503);
  assert.match(body.toString(), /lxd-image-server update/);
  assert.equal(complaints(tree).length, 1);
});

test('a document larger than any buffer arrives whole', async (t) => {
  const { port, root } = await serveTree(t, {});
  const text = JSON.stringify({ products: {}, padding: 'x'.repeat(12_000_000) });
  await publishDocument(root, 'images.json', { text });
  const { body } = await rawGet(port, images);
  assert.equal(sha256(body), sha256(text));
});

test('entries of images.json that are no files are passed over', async (t) => {
  const { port, root } = await serveTree(t, {});
  const items = { a: null, b: 1, c: { path: 1 }, d: { path: 'x', size: 1, sha256: '"\r\n' } };
  const products = { p: { versions: { v: { items } } }, q: 1, r: { versions: null } };
  await publishDocument(root, 'images.json', { text: JSON.stringify({ products }) });
  assert.equal((await rawGet(port, images)).status, 200);
});
