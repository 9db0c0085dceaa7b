import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseConfig } from '../../src/config.js';
import { changedKeys } from '../../src/daemon/reload.js';

const configOf = (text: string) => parseConfig(text, { file: 'config.toml' }).config;

const mirror = '[mirrors.eu]\nurl = "https://eu.example.org"\nkey_path = "/k"\n';
const cases: [text: string, keys: string[]][] = [
  ['', []],
  ['publish.settle = "2s"', []],
  ['publish.settle = "3s"\nlogging.level = "debug"', ['logging.level', 'publish.settle']],
  ['server.tls_cert = "/c"', ['server.tls_cert']],
  ['paths.root = "/srv"', ['paths.images', 'paths.root', 'paths.streams']],
  [mirror, ['mirrors']],
];
for (const [text, keys] of cases) {
  test(`the keys changed by ${JSON.stringify(text)} are ${keys.join(', ') || 'none'}`, () => {
    assert.deepEqual(changedKeys(configOf(''), configOf(text)), keys);
    assert.deepEqual(changedKeys(configOf(text), configOf('')), keys);
  });
}
