/** What clients say of an image, in JSON and in headers. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ServerError } from '../../../../src/errors.js';
import {
  parseImageRequest,
  readUploadHeaders,
} from '../../../../src/server/lxd/uploads/request.js';

const fingerprint = 'ab'.repeat(32);

function refused(says: RegExp) {
  return (error: unknown) =>
    error instanceof ServerError && error.code === 'IMAGE_INVALID' && says.test(error.message);
}

describe('the JSON', () => {
  test('of a pull by lxc says where the image is', () => {
    const json = {
      auto_update: true,
      public: false,
      properties: null,
      expires_at: '0001-01-01T00:00:00Z',
      filename: '',
      source: {
        ...{ type: 'image', mode: 'pull', protocol: 'lxd', server: 'https://192.0.2.1:8443' },
        ...{ certificate: 'PEM', fingerprint, secret: 's', project: 'default', image_type: '' },
      },
      aliases: null,
      compression_algorithm: '',
    };
    assert.deepEqual(parseImageRequest(JSON.stringify(json)), {
      mode: 'pull',
      source: {
        protocol: 'lxd',
        server: 'https://192.0.2.1:8443',
        certificate: 'PEM',
        image: fingerprint,
        alias: '',
        secret: 's',
        project: 'default',
        type: '',
      },
      facts: {},
    });
  });

  test('of a push keeps what the image is to have', () => {
    const json = {
      source: { mode: 'push', fingerprint: fingerprint.toUpperCase() },
      public: true,
      properties: { a: 'b' },
      expires_at: '2030-01-02T03:04:05Z',
      aliases: [{ name: 'x', description: '' }, { name: 'y/z' }],
      profiles: ['default'],
    };
    assert.deepEqual(parseImageRequest(JSON.stringify(json)), {
      mode: 'push',
      facts: {
        fingerprint,
        properties: { a: 'b' },
        aliases: ['x', 'y/z'],
        expires: Date.UTC(2030, 0, 2, 3, 4, 5),
      },
    });
  });

  const pull = { type: 'image', mode: 'pull', server: 'https://a', fingerprint };
  const cases: [what: string, json: unknown, says: RegExp][] = [
    ['no object', [], /cannot be understood/],
    ['no source', {}, /source/],
    [
      'a source without fingerprint',
      { source: { ...pull, fingerprint: '' } },
      /fingerprint is missing/,
    ],
    ['a source without server', { source: { ...pull, server: null } }, /server is missing/],
    ['a protocol that is none', { source: { ...pull, protocol: 'direct' } }, /"direct"/],
    ['a push of half a fingerprint', { source: { mode: 'push', fingerprint: 'abc' } }, /64/],
    ['a container', { source: { type: 'instance', name: 'c1' } }, /makes no image .*"instance"/],
    ['a URL', { source: { type: 'url', url: 'https://a' } }, /"url"/],
    ['properties that are no text', { source: pull, properties: { a: 1 } }, /properties\.a/],
    ['an alias without a name', { source: pull, aliases: [{}] }, /aliases\.0\.name/],
    ['an endless server', { source: { ...pull, server: 'x'.repeat(5000) } }, /source\.server/],
  ];
  for (const [what, json, says] of cases) {
    test(`is refused for ${what}`, () => {
      assert.throws(() => parseImageRequest(JSON.stringify(json)), refused(says));
    });
  }

  test('is refused where it is not JSON', () => {
    assert.throws(() => parseImageRequest('{'), refused(/not JSON/));
  });

  test('is read or refused, whatever it is', () => {
    const source = fc.record(
      {
        ...{ type: fc.oneof(fc.constant('image'), fc.jsonValue()), mode: fc.jsonValue() },
        ...{ server: fc.jsonValue(), fingerprint: fc.jsonValue(), certificate: fc.jsonValue() },
      },
      { requiredKeys: [] },
    );
    const body = fc.oneof(
      fc.jsonValue(),
      fc.record(
        { source, aliases: fc.jsonValue(), properties: fc.jsonValue() },
        { requiredKeys: [] },
      ),
    );
    fc.assert(
      fc.property(body, (json) => {
        try {
          parseImageRequest(JSON.stringify(json));
        } catch (error) {
          assert.ok(refused(/./)(error), String(error));
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('the headers', () => {
  for (const prefix of ['x-lxd', 'x-incus']) {
    test(`${prefix}-* say what the image is to have`, () => {
      const headers = {
        [`${prefix}-fingerprint`]: fingerprint.toUpperCase(),
        [`${prefix}-secret`]: 's',
        [`${prefix}-properties`]: 'a=b+c&d=%C3%A9%26&a=second',
        [`${prefix}-aliases`]: 'alias=x&alias=y%2Fz&other=1',
        [`${prefix}-public`]: 'true',
        [`${prefix}-filename`]: 'image.tar.gz',
      };
      assert.deepEqual(readUploadHeaders(headers), {
        secret: 's',
        facts: {
          fingerprint,
          properties: { a: 'b c', d: 'é&' },
          aliases: ['x', 'y/z'],
          filename: 'image.tar.gz',
        },
      });
    });
  }

  test('may all be missing', () => {
    assert.deepEqual(readUploadHeaders({}), { facts: {}, secret: '' });
  });

  test('are refused with a fingerprint that is none', () => {
    assert.throws(() => readUploadHeaders({ 'x-lxd-fingerprint': '../x' }), refused(/64/));
  });
});
