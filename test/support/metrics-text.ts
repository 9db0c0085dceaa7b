/** Prometheus' text format, version 0.0.4, read back; and what in it is against the conventions for names. */
import assert from 'node:assert/strict';

export interface MetricFamily {
  name: string;
  help: string;
  type: string;
  samples: MetricSample[];
}

export interface MetricSample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

/** Reads `text`; throws at whatever is not of the format. */
export function parseMetrics(text: string): Map<string, MetricFamily> {
  assert.ok(text.endsWith('\n'), 'the last line ends');
  const families = new Map<string, MetricFamily>();
  let current: MetricFamily | undefined;
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const [, word, name, rest] = /^# (HELP|TYPE) ([^ ]+) (.+)$/.exec(line) ?? [];
    if (word === 'HELP' && name !== undefined) {
      assert.ok(!families.has(name), `${name} is told twice`);
      current = { name, help: rest ?? '', type: '', samples: [] };
      families.set(name, current);
    } else if (word === 'TYPE') {
      assert.equal(name, current?.name, line);
      if (current) current.type = rest ?? '';
    } else {
      const sample = parseSample(line);
      assert.ok(current && isOf(sample.name, current), `${line} stands with its family`);
      current.samples.push(sample);
    }
  }
  return families;
}

function parseSample(line: string): MetricSample {
  const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
  assert.ok(found, `${line} is a sample`);
  const [, name = '', text = '', number = ''] = found;
  const value = number === '+Inf' ? Infinity : Number(number);
  assert.ok(!Number.isNaN(value) || number === 'Nan', `${line} has a number`);
  return { name, labels: parseLabels(text), value };
}

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  const label = /([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)/y;
  while (label.lastIndex < text.length) {
    const [, name, value] = label.exec(text) ?? [];
    assert.ok(name !== undefined && value !== undefined, `labels: ${text}`);
    assert.ok(!(name in labels), `${name} twice: ${text}`);
    labels[name] = value.replace(/\\(.)/g, (_, char: string) => (char === 'n' ? '\n' : char));
  }
  return labels;
}

function isOf(name: string, { name: family, type }: MetricFamily): boolean {
  if (name === family) return type !== 'histogram';
  const parts = type === 'histogram' ? ['_bucket', '_sum', '_count'] : [];
  return parts.some((part) => name === family + part);
}

/** The value of a sample; `undefined` where there is none. */
export function sampleOf(
  families: ReadonlyMap<string, MetricFamily>,
  name: string,
  labels: Record<string, string> = {},
): number | undefined {
  const family = families.get(name) ?? families.get(name.replace(/_(?:bucket|sum|count)$/, ''));
  const found = family?.samples.filter(
    (sample) =>
      sample.name === name &&
      Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  );
  assert.ok((found?.length ?? 0) < 2, `${name} ${JSON.stringify(labels)} is one sample`);
  return found?.[0]?.value;
}

/** Units that are not the base ones, and words that a name must not have. */
const badWords =
  /_(?:ms|millis|milliseconds|microseconds|minutes|hours|days|kb|kib|mb|mib|kilobytes|megabytes|percent|gauge|counter|histogram|metric)(?:_|$)/;
const units = ['seconds', 'bytes'];

/** What is against https://prometheus.io/docs/practices/naming/, as sentences. */
export function faultsOf(families: ReadonlyMap<string, MetricFamily>): string[] {
  return [...families.values()].flatMap(({ name, help, type, samples }) => {
    const faults: [isFault: boolean, text: string][] = [
      [!/^[a-z][a-z0-9_]*$/.test(name), 'is not in snake case'],
      [help.trim() === '', 'has no help'],
      [!['counter', 'gauge', 'histogram', 'summary'].includes(type), `has the type "${type}"`],
      [type === 'counter' && !name.endsWith('_total'), 'is a counter without _total'],
      [type !== 'counter' && name.endsWith('_total'), 'ends in _total and is no counter'],
      [badWords.test(name), 'has a word that no name has'],
      [!unitIsLast(name), 'does not end in its unit'],
      [type === 'histogram' && !histogramsOf(samples).every(isHistogram), 'is no whole histogram'],
      [hasTwice(samples), 'has a series twice'],
      [samples.some(({ labels }) => 'le' in labels) && type !== 'histogram', 'has a label le'],
      [type !== 'gauge' && samples.some(({ value }) => value < 0), 'is negative'],
    ];
    return faults.filter(([isFault]) => isFault).map(([, text]) => `${name} ${text}`);
  });
}

function unitIsLast(name: string): boolean {
  const words = name.replace(/_total$/, '').split('_');
  const unit = words.findIndex((word) => units.includes(word));
  return unit === -1 || unit === words.length - 1;
}

/** The samples of each, by their labels. */
function histogramsOf(samples: readonly MetricSample[]): MetricSample[][] {
  const groups = new Map<string, MetricSample[]>();
  for (const sample of samples) {
    const { le: _le, ...labels } = sample.labels;
    const key = JSON.stringify(Object.entries(labels).sort());
    groups.set(key, [...(groups.get(key) ?? []), sample]);
  }
  return [...groups.values()];
}

function isHistogram(samples: readonly MetricSample[]): boolean {
  const named = (part: string) => samples.filter(({ name }) => name.endsWith(part));
  const buckets = named('_bucket').map(({ value }) => value);
  const isRising = buckets.every((value, at) => at === 0 || value >= (buckets[at - 1] ?? 0));
  const last = named('_bucket').at(-1);
  const [count] = named('_count');
  const isEnded = last?.labels.le === '+Inf' && last.value === count?.value;
  return isRising && isEnded && named('_sum').length === 1;
}

function hasTwice(samples: readonly MetricSample[]): boolean {
  const series = samples.map(({ name, labels }) =>
    JSON.stringify([name, Object.entries(labels).sort()]),
  );
  return new Set(series).size < series.length;
}
