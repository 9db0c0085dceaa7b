import assert from 'node:assert/strict';
import { renameSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { KnownDigests } from '../../src/catalog/record.js';
import { createProductNames } from '../../src/daemon/product-names.js';
import { stampOf } from '../../src/disk/stamp.js';
import { temporaryFolder } from '../support/temporary.js';

const product = 'demo/box/amd64/default';

describe('a change of product.yaml', () => {
  test('keeps what an editor saves in the middle of it', async (t) => {
    const imagesDir = await temporaryFolder(t);
    const path = join(imagesDir, product, 'product.yaml');
    await mkdir(join(imagesDir, product), { recursive: true });
    writeFileSync(path, 'os: before\n');
    const learned: KnownDigests[] = [];
    const names = createProductNames({
      imagesDir,
      learn(digests) {
        learned.push(digests);
        if (learned.length > 1) return;
        writeFileSync(`${path}.swp`, 'os: after # mine\n');
        renameSync(`${path}.swp`, path);
      },
    });
    assert.equal(await names.change(product, [{ add: 'x' }]), true);
    assert.equal(await readFile(path, 'utf8'), 'os: after # mine\naliases:\n  - x\n');
    assert.deepEqual(await readdir(join(imagesDir, product)), ['product.yaml']);
    assert.equal(learned.length, 2);
    const [[name, stamp, digest] = []] = learned[1]?.[''] ?? [];
    assert.equal(name, 'product.yaml');
    assert.equal(stamp, stampOf(await stat(path, { bigint: true })));
    assert.deepEqual(digest?.facts, { os: 'after', aliases: ['x'] });
  });
});
