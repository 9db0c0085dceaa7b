import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { versionsInto } from '../../src/disk/links.js';
import { temporaryFolder } from '../support/temporary.js';

describe('versions that link into another', () => {
  const cases: [string, { links: Record<string, string>; target?: string; found: string[] }][] = [
    ['are none without links', { links: {}, found: [] }],
    ['are found by a link to a file', { links: { 'b/file': '../a/file' }, found: ['b'] }],
    [
      'are found by a link through it to a third',
      { links: { 'a/through': '../c/file', 'b/file': '../a/through' }, found: ['b'] },
    ],
    [
      'are found by a link that leads there over a third',
      { links: { 'c/through': '../a/file', 'b/file': '../c/through' }, found: ['b', 'c'] },
    ],
    [
      'are found by a link over another name of it',
      { links: { other: 'a', 'b/file': '../other/file' }, found: ['b'] },
    ],
    [
      'are found where that is another name itself',
      { links: { other: 'a', 'b/file': '../other/file' }, target: 'other', found: ['b'] },
    ],
    [
      'are found where that is a name of what has gone',
      { links: { other: 'gone', 'b/file': '../other/file' }, target: 'other', found: ['b'] },
    ],
    ['are none by a link to one of a like name', { links: { 'b/file': '../a2/file' }, found: [] }],
    ['are none by a link to nowhere', { links: { 'b/file': '../nowhere' }, found: [] }],
    ['are none by links in a ring', { links: { 'b/x': 'y', 'b/y': 'x' }, found: [] }],
  ];
  for (const [name, { links, target = 'a', found }] of cases) {
    test(name, async (t) => {
      const product = await temporaryFolder(t);
      for (const version of ['a', 'a2', 'b', 'c']) {
        await mkdir(join(product, version));
        if (version !== 'b') await writeFile(join(product, version, 'file'), '');
      }
      for (const [link, to] of Object.entries(links)) await symlink(to, join(product, link));
      const all = await versionsInto(product, join(product, target));
      assert.deepEqual(
        all.filter((version) => version !== 'a' && version !== 'other').sort(),
        found,
      );
    });
  }
});
