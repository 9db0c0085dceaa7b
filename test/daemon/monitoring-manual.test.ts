/** What the manual says of metrics is what there is. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { load } from 'js-yaml';
import { mirrorStates } from '../../src/daemon/metric-families.js';
import { createMetrics } from '../../src/daemon/metrics.js';
import { readProjectFile } from '../support/manual.js';
import { metricsSources } from '../support/metrics-sources.js';
import { parseMetrics } from '../support/metrics-text.js';

const manual = await readProjectFile('debian/doc/operation.md');
const [, section = ''] = /^## Monitoring\n(.*?)^## /ms.exec(manual) ?? [];
const metrics = createMetrics({ version: '1', sources: () => metricsSources() });
metrics.ran({
  ...{ products: 1, versions: 1, bytes: 1, published: ['images.json'] },
  problems: [{ path: 'a', code: 'empty', reason: 'r', cure: 'c' }],
  read: { files: 0, bytes: 0 },
  ms: { scan: 1, digest: 1, publish: 1 },
});
const families = parseMetrics((await metrics.text()).text);

test('the table of the manual has every metric of ours, as it is', () => {
  const told = [...section.matchAll(/^\| `(\w+)` +\| (\w+) +\| (.*?) +\| (.+?) +\|$/gm)].map(
    ([, name, type, labels = '', help]) => ({
      ...{ name, type, help: `${help}.` },
      labels: labels.trim().replaceAll('`', ''),
    }),
  );
  const ours = [...families.values()]
    .filter(({ name }) => name.startsWith('lxd_image_server_'))
    .map(({ name, type, help, samples }) => {
      const { le: _le, ...labels } = samples[0]?.labels ?? {};
      return { name, type, help, labels: Object.keys(labels).join(', ') };
    });
  const byName = (a: { name?: string | undefined }, b: { name?: string | undefined }) =>
    String(a.name).localeCompare(String(b.name));
  assert.deepEqual(told.sort(byName), ours.sort(byName));
});

interface Rules {
  groups: { rules: { alert: string; expr: string; for: string }[] }[];
}

test('the alert rules of the manual are rules, about metrics and labels that there are', () => {
  const [, text = ''] = /```yaml\n(.*?)```/s.exec(section) ?? [];
  const rules = (load(text) as Rules).groups.flatMap((group) => group.rules);
  assert.equal(new Set(rules.map(({ alert }) => alert)).size, 9);
  for (const { alert, expr, for: time } of rules) {
    assert.match(time, /^\d+[smh]$/, alert);
    const names = expr.match(/\b(?:lxd_image_server|nodejs|process)_\w+/g) ?? [];
    assert.ok(names.length > 0 || /^up\{/.test(expr), alert);
    for (const name of names) assert.ok(families.has(name), `${alert}: ${name}`);
    for (const [, state] of expr.matchAll(/state="([^"]+)"/g)) {
      assert.ok(
        mirrorStates.some((known) => known === state),
        alert,
      );
    }
  }
});

test('the scrape example of the manual is YAML', () => {
  const [, text = ''] = /^( {4}scrape_configs:\n(?: {4}.*\n)+)/m.exec(section) ?? [];
  const { scrape_configs: configs } = load(text) as { scrape_configs: { scheme: string }[] };
  assert.deepEqual(
    configs.map(({ scheme }) => scheme),
    ['https'],
  );
});
