/** Records of products as the record store keeps them. */
import type { ProductRecord } from '../../src/catalog/record.js';
import type { Records } from '../../src/disk/record-store.js';

/** `count` records; those of the same numbers are equal, and every third has nothing published. */
export function makeRecords(count: number): ProductRecord[] {
  return Array.from({ length: count }, (_, number) => makeRecord(number));
}

function makeRecord(number: number): ProductRecord {
  const [env, release, arch, type] = ['demo', `r${number}`, 'amd64', 'default'];
  const record: ProductRecord = {
    path: [env, release, arch, type].join('/'),
    fingerprint: `fingerprint ${number}`,
    final: number % 2 === 0,
    restless: number % 4 === 0 ? ['20260101'] : [],
    filled: number % 3 === 0 ? ['20260101 17'] : [],
    totals: { versions: number, bytes: number * 1000 },
    problems: [{ path: `${env}/${release}`, code: 'empty', reason: 'größe 0\n', cure: 'none' }],
    digests: Buffer.from(JSON.stringify({ [`2026010${number}`]: [['ä', '1-2-3', {}]] })),
  };
  if (number % 3 === 2) return record;
  const aliases = [`${env}/${release}`];
  const names = { env, release, arch, type, os: 'Démo', releaseTitle: release };
  const head = { ...names, aliases, requirements: { secureboot: 'false' }, updated: number };
  return { ...record, entry: { head, versions: Buffer.from(`{"${number}":"versions"}}`) } };
}

/** What a store must give back for `records`, by path. */
export function byPath(records: readonly ProductRecord[]): Records {
  return new Map(records.map((record) => [record.path, record]));
}
