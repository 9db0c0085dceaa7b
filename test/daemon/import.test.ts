import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type ImportedPart, importImage } from '../../src/daemon/import.js';
import { ServerError } from '../../src/errors.js';
import type { UploadFacts } from '../../src/server/lxd/contract.js';
import {
  fingerprintOf,
  type LibrarySite,
  librarySite,
  type Parts,
  piecesOf,
  splitParts,
  staged,
  treeOf,
} from '../support/library-site.js';

const quiet = new AbortController().signal;

function partsOf(image: Parts): ImportedPart[] {
  return Object.entries(image).map(([part, { length }]) => {
    return { part: part as ImportedPart['part'], size: length };
  });
}

interface Sent {
  image: Parts;
  parts?: ImportedPart[];
  source?: AsyncIterable<Uint8Array>;
  facts?: UploadFacts;
  signal?: AbortSignal;
}

function send({ library }: LibrarySite, sent: Sent) {
  const { image, parts = partsOf(image), facts = {}, signal = quiet } = sent;
  // Pieces that do not end where files do.
  const source = sent.source ?? piecesOf(Buffer.concat(Object.values(image)), 1000);
  return importImage(library, { parts, source, facts, signal });
}

async function assertNothing(site: LibrarySite): Promise<void> {
  assert.deepEqual(await staged(site), []);
  assert.deepEqual(await treeOf(site), []);
}

async function readySite(t: TestContext, options: Parameters<typeof librarySite>[1] = {}) {
  const site = await librarySite(t, options);
  await site.runner.update({ passing: true });
  return site;
}

test('an image comes in pieces that do not end where its files do', async (t) => {
  const site = await readySite(t);
  const image = await splitParts();
  const found = await send(site, { image, facts: { aliases: ['mine'] } });
  const path = 'images/demo/box/amd64/default/20260101_00:00';
  assert.deepEqual([found.path, found.fingerprint], [path, fingerprintOf(image)]);
  assert.ok(found.aliases.includes('mine'));
});

test('no clients may upload, and an import works', async (t) => {
  const site = await readySite(t);
  site.library.configure({ ...site.config, uploads: { enabled: false, maxSize: 1e9 } });
  await assert.rejects(site.library.begin({ signal: quiet }), { code: 'UPLOADS_OFF' });
  await send(site, { image: await splitParts() });
});

test('what is larger than uploads.max_size is refused before any of it is asked for', async (t) => {
  const image = await splitParts();
  const size = Buffer.concat(Object.values(image)).length;
  const site = await readySite(t, { maxSize: size - 1 });
  const source = { [Symbol.asyncIterator]: () => ({ next: () => assert.fail('asked for') }) };
  await assert.rejects(send(site, { image, source }), { code: 'TOO_LARGE' });
  await assertNothing(site);
  site.library.configure({ ...site.config, uploads: { enabled: true, maxSize: size } });
  await send(site, { image });
  const { ended } = site.library.counts();
  assert.deepEqual(ended, { added: 1, refused: 1, cancelled: 0, failed: 0 });
});

for (const [what, more] of [
  ['more', -1],
  ['fewer', 1],
] as const) {
  test(`an image with ${what} bytes than was told is refused`, async (t) => {
    const site = await readySite(t);
    const { metadata, rootfs } = await splitParts();
    // Longer than its own header says: nothing else tells that a byte is missing.
    const image = { metadata, rootfs: Buffer.concat([rootfs, Buffer.alloc(100)]) };
    for (const changed of [0, 1]) {
      const parts = partsOf(image);
      (parts[changed] as ImportedPart).size += more;
      const code = 'IMAGE_INVALID';
      await assert.rejects(send(site, { image, parts }), { code });
      await assertNothing(site);
    }
  });
}

test('an end that has its reason is told with it, and leaves nothing', async (t) => {
  const site = await readySite(t);
  const image = await splitParts();
  const ends: { reason: unknown; code: string }[] = [
    { reason: new ServerError('IO', 'The daemon ended'), code: 'IO' },
    { reason: undefined, code: 'INTERRUPTED' },
  ];
  for (const { reason, code } of ends) {
    const controller = new AbortController();
    async function* source() {
      yield Buffer.alloc(1);
      controller.abort(reason);
      await new Promise(() => {});
    }
    const { signal } = controller;
    await assert.rejects(send(site, { image, source: source(), signal }), { code });
    await assertNothing(site);
  }
});

test('what the source fails with is what the import fails with', async (t) => {
  const site = await readySite(t);
  const broken = new ServerError('IO', 'The disk is broken');
  async function* source() {
    yield Buffer.alloc(1);
    throw broken;
  }
  await assert.rejects(send(site, { image: await splitParts(), source: source() }), broken);
  await assertNothing(site);
});
