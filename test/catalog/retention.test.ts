import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { versionTime } from '../../src/catalog/placement.js';
import { outlivedVersions } from '../../src/catalog/retention.js';

const now = Date.UTC(2026, 0, 31);
const names = ['20260129', '20260101_12:00', '20251231', '20260130_08:00', '20260130'];

describe('of five versions', () => {
  for (const [rules, gone] of [
    [{ keep: 0, days: 0 }, []],
    [{ keep: 5, days: 0 }, []],
    [{ keep: 3, days: 0 }, ['20260101_12:00', '20251231']],
    [{ keep: 1, days: 0 }, ['20260130', '20260129', '20260101_12:00', '20251231']],
    [{ keep: 0, days: 30 }, ['20251231']],
    [{ keep: 0, days: 2 }, ['20260101_12:00', '20251231']],
    [{ keep: 4, days: 2 }, ['20260101_12:00', '20251231']],
    [{ keep: 2, days: 30 }, ['20260129', '20260101_12:00', '20251231']],
  ] as const) {
    test(`${JSON.stringify(rules)} does not keep ${gone.join(', ') || 'none'}`, () => {
      assert.deepEqual(outlivedVersions(names, { rules, now }), gone);
    });
  }
});

test('the newest version stays however old it is, and no rule keeps what it should not', () => {
  const day = fc.integer({ min: 0, max: 4000 }).map((days) => {
    const date = new Date(Date.UTC(2016, 0, 1) + days * 86_400_000);
    return date.toISOString().slice(0, 10).replaceAll('-', '');
  });
  const rule = fc.integer({ min: 0, max: 5 });
  fc.assert(
    fc.property(
      fc.uniqueArray(day, { minLength: 1, maxLength: 12 }),
      fc.record({ keep: rule, days: rule.map((years) => years * 365) }),
      (versions, rules) => {
        const gone = outlivedVersions(versions, { rules, now });
        const stay = versions.filter((name) => !gone.includes(name)).sort();
        const newest = versions.toSorted().at(-1);
        assert.equal(stay.at(-1), newest);
        assert.equal(stay.length + gone.length, versions.length);
        if (rules.keep > 0) assert.ok(stay.length <= rules.keep);
        const oldest = now - rules.days * 86_400_000;
        const isYoung = (name: string) => rules.days === 0 || versionTime(name) >= oldest;
        assert.ok(stay.every((name) => name === newest || isYoung(name)));
        // What went had to go, by the one rule or the other.
        for (const name of gone) {
          const newer = versions.filter((other) => other > name).length;
          assert.ok((rules.keep > 0 && newer >= rules.keep) || !isYoung(name));
        }
      },
    ),
  );
});
