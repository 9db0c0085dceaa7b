import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createChanges } from '../../src/daemon/changes.js';

const folder = fc
  .array(fc.constantFrom('a', 'b'), { maxLength: 4 })
  .map((names) => names.join('/'));

const isIn = (path: string, other: string) =>
  other === '' || path === other || path.startsWith(`${other}/`);

test('changes cover every folder that was noted, none of them twice', () => {
  fc.assert(
    fc.property(fc.array(folder), (noted) => {
      const changes = createChanges();
      for (const path of noted) changes.add(path);
      assert.equal(changes.isEmpty(), noted.length === 0);
      const taken = changes.take();
      for (const path of noted) {
        assert.equal(taken.filter((other) => isIn(path, other)).length, 1, path);
      }
      assert.ok(taken.every((path) => noted.includes(path)));
    }),
  );
});

test('changes that were taken are gone', () => {
  const changes = createChanges();
  changes.add('a/b');
  assert.deepEqual(changes.take(), ['a/b']);
  assert.ok(changes.isEmpty());
  assert.deepEqual(changes.take(), []);
});
