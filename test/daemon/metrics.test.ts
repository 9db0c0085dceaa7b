/** What is told to Prometheus: names and units, values, and what asking costs. */
import assert from 'node:assert/strict';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Problem } from '../../src/catalog/tree.js';
import { createMetrics, type MetricsSources } from '../../src/daemon/metrics.js';
import type { RunResult } from '../../src/pipeline.js';
import { ask } from '../support/api.js';
import { emptyRoot, startDaemon } from '../support/daemon.js';
import { eventually } from '../support/eventually.js';
import { addVersion } from '../support/image-tree.js';
import { metricsSources, mirrorStatus } from '../support/metrics-sources.js';
import { faultsOf, type MetricFamily, parseMetrics, sampleOf } from '../support/metrics-text.js';
import { createTestCertificate, rawRequest } from '../support/tls.js';

function metricsOf(more: Partial<MetricsSources> = {}) {
  return createMetrics({ version: '1.2.3', sources: () => metricsSources(more) });
}

const problem = (code: Problem['code']): Problem => ({ path: 'p', code, reason: 'r', cure: 'c' });

function run(more: Partial<RunResult> = {}): RunResult {
  return {
    ...{ products: 2, versions: 3, bytes: 400, problems: [], published: ['images.json'] },
    read: { files: 1, bytes: 100 },
    ms: { scan: 100, digest: 200, publish: 400 },
    ...more,
  };
}

async function scrape({ text }: Pick<ReturnType<typeof createMetrics>, 'text'>) {
  return parseMetrics((await text()).text);
}

const named = (name: string) => `lxd_image_server_${name}`;

describe('the parser of metrics', () => {
  const family = (name: string, type: string, samples = `${name} 1`) =>
    faultsOf(parseMetrics(`# HELP ${name} h\n# TYPE ${name} ${type}\n${samples}\n`));
  const cases: [name: string, type: string, fault: string][] = [
    ['a_seconds', 'counter', 'a_seconds is a counter without _total'],
    ['a_total', 'gauge', 'a_total ends in _total and is no counter'],
    ['a_ms', 'gauge', 'a_ms has a word that no name has'],
    ['a_bytes_used', 'gauge', 'a_bytes_used does not end in its unit'],
    ['aB', 'gauge', 'aB is not in snake case'],
    ['a', 'untyped', 'a has the type "untyped"'],
  ];
  for (const [name, type, fault] of cases) {
    test(`finds that ${fault}`, () => assert.deepEqual(family(name, type), [fault]));
  }
  test('finds a histogram without its end, and a series that is there twice', () => {
    assert.deepEqual(family('a_seconds', 'histogram', 'a_seconds_sum 1\na_seconds_count 1'), [
      'a_seconds is no whole histogram',
    ]);
    assert.deepEqual(family('a', 'gauge', 'a{x="1"} 1\na{x="1"} 2'), ['a has a series twice']);
  });
  test('refuses what is not of the format', () => {
    for (const text of ['a', 'a{x=1} 1', 'a b', '# HELP a h\n# TYPE b gauge', 'a{x="\n"} 1']) {
      assert.throws(() => parseMetrics(`# HELP a h\n# TYPE a gauge\n${text}\n`), text);
    }
  });
});

describe('metrics', () => {
  test('keep to the conventions for names and units, all of them', async () => {
    const metrics = metricsOf();
    metrics.ran(run({ problems: [problem('empty')] }));
    const { contentType, text } = await metrics.text();
    assert.match(contentType, /^text\/plain; version=0\.0\.4/);
    const families = parseMetrics(text);
    assert.deepEqual(faultsOf(families), []);
    for (const { name, samples } of families.values()) {
      if (name.startsWith(named(''))) assert.ok(samples.length > 0, `${name} has a value`);
    }
    for (const name of ['process_cpu_seconds_total', 'nodejs_eventloop_lag_p99_seconds']) {
      assert.ok(families.has(name), name);
    }
  });

  test('tell of runs and publications, and of failures', async () => {
    const metrics = metricsOf();
    const before = await scrape(metrics);
    assert.equal(sampleOf(before, named('last_publication_timestamp_seconds')), undefined);
    assert.equal(sampleOf(before, named('published_versions')), undefined, 'not known is not 0');
    const began = Date.now() / 1000;
    metrics.ran(run());
    metrics.ran(run({ versions: 9, published: [] }));
    metrics.activity({ doing: 'scan', bytes: 0 });
    metrics.activity({ doing: 'waiting', failure: 'no' });
    const after = await scrape(metrics);
    const of = (name: string) => sampleOf(after, named(name));
    assert.deepEqual(['runs_total', 'run_failures_total', 'publications_total'].map(of), [2, 1, 1]);
    assert.deepEqual(['published_products', 'published_versions', 'published_bytes'].map(of), [
      ...[2, 9, 400],
    ]);
    const last = of('last_publication_timestamp_seconds') ?? 0;
    assert.ok(last >= began && last <= Date.now() / 1000);
    assert.equal(of('publication_duration_seconds_count'), 1);
    assert.equal(of('publication_duration_seconds_sum'), 0.7);
    const bucket = (le: string) =>
      sampleOf(after, named('publication_duration_seconds_bucket'), { le });
    assert.deepEqual([bucket('0.5'), bucket('1')], [0, 1]);
  });

  test('count what is held back by its problem, and 0 where that is over', async () => {
    const metrics = metricsOf();
    metrics.ran(run({ problems: [problem('empty'), problem('empty'), problem('date')] }));
    const held = async () => {
      const { samples = [] } = (await scrape(metrics)).get(named('held_back_versions')) ?? {};
      return Object.fromEntries(samples.map(({ labels, value }) => [labels.problem, value]));
    };
    assert.deepEqual(await held(), { empty: 2, date: 1 });
    metrics.ran(run({ problems: [problem('date')] }));
    assert.deepEqual(await held(), { empty: 0, date: 1 });
  });

  test('tell of each mirror, and no more of one that is gone', async () => {
    let mirrors = [
      mirrorStatus('eu'),
      mirrorStatus('us "1"\\', {
        state: 'waiting',
        synced: undefined,
        lag: { seconds: 90 },
        serving: { state: 'failing', since: '', redirected: 0 },
      }),
    ];
    const metrics = metricsOf({ replication: { state: () => mirrors } });
    const first = await scrape(metrics);
    const of = (families: Map<string, MetricFamily>, mirror: string, name: string) =>
      sampleOf(families, named(`mirror_${name}`), { mirror });
    const names = [
      ...['lag_seconds', 'lag_versions', 'last_success_timestamp_seconds', 'sent_bytes_total'],
      ...['sent_files_total', 'syncs_total', 'failures_total', 'serving_healthy'],
      'redirected_requests_total',
    ];
    assert.deepEqual(
      names.map((name) => of(first, 'eu', name)),
      [0, 0, Date.parse('2026-01-02T03:04:05.500Z') / 1000, 4096, 3, 2, 1, 1, 7],
    );
    assert.deepEqual(
      names.map((name) => of(first, 'us "1"\\', name)),
      [90, undefined, undefined, 4096, 3, 2, 1, 0, 0],
    );
    const states = first.get(named('mirror_state'))?.samples.filter(({ value }) => value === 1);
    assert.deepEqual(
      states?.map(({ labels }) => labels),
      [
        { mirror: 'eu', state: 'synced' },
        { mirror: 'us "1"\\', state: 'waiting' },
      ],
    );
    assert.equal(first.get(named('mirror_state'))?.samples.length, 14, 'each state of each');

    mirrors = [mirrorStatus('eu', { serving: { state: 'unknown', since: '', redirected: 0 } })];
    const { text } = await metrics.text();
    assert.ok(!text.includes('us \\"1'));
    assert.equal(of(parseMetrics(text), 'eu', 'serving_healthy'), undefined);
  });

  test('are right also where two scrape at once', async () => {
    const metrics = metricsOf();
    const [one, other] = await Promise.all([scrape(metrics), scrape(metrics)]);
    for (const families of [one, other]) {
      assert.equal(sampleOf(families, named('digested_bytes_total')), 1000);
      assert.equal(sampleOf(families, named('mirror_sent_bytes_total'), { mirror: 'eu' }), 4096);
    }
  });

  test('ask for nothing that grows with the tree, once a run is over', async () => {
    const metrics = metricsOf();
    const problems = Array.from({ length: 10_000 }, () => problem('empty'));
    const result = run({ problems });
    metrics.ran(result);
    // Whoever looked at them again would be noticed.
    problems[Symbol.iterator] = () => assert.fail('a scrape goes through what is held back');
    Object.defineProperty(result, 'problems', { get: () => assert.fail('asked for') });
    assert.equal(
      sampleOf(await scrape(metrics), named('held_back_versions'), { problem: 'empty' }),
      10_000,
    );
  });
});

describe('the daemon', () => {
  const scraped = async (root: string) => {
    const near = { headers: { 'X-Real-IP': '127.0.0.1' } };
    const { bytes } = await ask(join(root, 'run/http.sock'), '/metrics', near);
    return parseMetrics(bytes.toString());
  };

  test('tells of what it published, read, held back and was asked for', async (t) => {
    const root = await emptyRoot(t);
    const ssl = join(root, 'ssl');
    const config = [
      'server.listen = "127.0.0.1:0"',
      `server.tls_cert = "${ssl}.crt"`,
      `server.tls_key = "${ssl}.key"`,
    ];
    const pair = await createTestCertificate();
    await writeFile(`${ssl}.crt`, pair.cert);
    await writeFile(`${ssl}.key`, pair.key, { mode: 0o600 });
    const daemon = await startDaemon(t, root, { config: config.join('\n') });
    await addVersion(root, 'demo/one/amd64/default/20260101');
    await addVersion(root, 'demo/one/amd64/default/20260102', { 'lxd.tar.xz': 'x' });
    await daemon.until(async () => (await daemon.status()).catalogue.versions === 1);
    const { server, heldCount, catalogue } = await daemon.status();
    assert.ok('url' in server);
    const port = Number(new URL(server.url).port);
    await rawRequest(
      port,
      'GET /streams/v1/index.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
    );
    await rawRequest(port, 'BREW /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
    await ask(join(root, 'run/http.sock'), '/1.0/nothing');

    const families = await scraped(root);
    assert.deepEqual(faultsOf(families), []);
    const of = (name: string, labels = {}) => sampleOf(families, named(name), labels);
    assert.equal(of('published_versions'), 1);
    assert.equal(of('published_bytes'), catalogue.bytes);
    const held = families.get(named('held_back_versions'))?.samples ?? [];
    assert.equal(
      held.reduce((sum, { value }) => sum + value, 0),
      heldCount,
    );
    assert.ok((of('digested_files_total') ?? 0) >= 2);
    assert.ok((of('digested_bytes_total') ?? 0) >= catalogue.bytes);
    assert.ok((of('watched_folders') ?? 0) >= 5);
    const requests = { listener: 'https', method: 'GET', status: '2xx' };
    assert.equal(of('http_requests_total', requests), 1);
    assert.ok((of('http_sent_bytes_total', { listener: 'https' }) ?? 0) > 100);
    const nginx = { listener: 'nginx', method: 'GET', status: '4xx' };
    assert.equal(of('http_requests_total', nginx), 1);
    assert.equal(of('healthy'), 1);
    assert.equal(of('info', { version: (await daemon.status()).version }), 1);
  });

  test('counts the runs that fail, and tells that it is not well', async (t) => {
    const root = await emptyRoot(t);
    await startDaemon(t, root);
    await rm(join(root, 'images'), { recursive: true });
    await eventually('a run has failed', async () => {
      const families = await scraped(root);
      const failures = sampleOf(families, named('run_failures_total')) ?? 0;
      return failures > 0 && sampleOf(families, named('healthy')) === 0;
    });
  });
});
