import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { mirrorTable, tables } from '../src/config/schema.js';
import {
  type Config,
  loadConfig,
  type PathOverrides,
  parseConfig,
  withPaths,
} from '../src/config.js';
import { ServerError } from '../src/errors.js';

const file = '/etc/lxd-image-server/config.toml';
const parse = (text: string) => parseConfig(text, { file });
const defaults = parse('').config;
const shipped = readFileSync(
  fileURLToPath(new URL('../../config/config.toml', import.meta.url)),
  'utf8',
);

/** What the error of an unacceptable text says: its lines, then its hint. */
function complaints(text: string): { lines: string[]; hint: string | undefined } {
  try {
    parse(text);
  } catch (error) {
    assert.ok(error instanceof ServerError);
    assert.equal(error.code, 'CONFIG');
    return { lines: error.message.split('\n'), hint: error.hint };
  }
  return assert.fail('accepted');
}

describe('an empty configuration', () => {
  test('is the documented defaults', () => {
    const expected: Config = {
      paths: {
        root: '/var/www/simplestreams',
        images: '/var/www/simplestreams/images',
        streams: '/var/www/simplestreams/streams/v1',
        state: '/var/lib/lxd-image-server',
        run: '/run/lxd-image-server',
      },
      publish: { settle: 2000, gzip: true, removalGrace: 7_200_000 },
      schedule: { rescan: '*/10 * * * *', verify: '', prune: '' },
      mirrors: [],
      server: {
        listen: '127.0.0.1:8443',
        addresses: [],
        tlsCert: '/etc/nginx/ssl/nginx.crt',
        tlsKey: '/etc/nginx/ssl/nginx.key',
        socketGroup: 'www-data',
        redirect: false,
        probeInterval: 10_000,
        trustedProxies: [],
        statusFrom: [
          '127.0.0.0/8',
          '10.0.0.0/8',
          '172.16.0.0/12',
          '192.168.0.0/16',
          '169.254.0.0/16',
          '::1/128',
          'fc00::/7',
          'fe80::/10',
        ],
      },
      uploads: { enabled: true, maxSize: 20 * 2 ** 30 },
      retention: { keep: 0, days: 0 },
      logging: { level: 'info', file: '' },
    };
    assert.deepEqual(parse(''), { config: expected, file, warnings: [] });
  });
});

describe('the shipped configuration', () => {
  test('sets every key outside [mirrors] to its default', () => {
    assert.deepEqual(parse(shipped).config, defaults);
    for (const [table, { entries }] of Object.entries(tables)) {
      const section = shipped.split(`\n[${table}]\n`)[1]?.split('\n[')[0] ?? '';
      const keys = [...section.matchAll(/^(\w+) = /gm)].map(([, key]) => key);
      assert.deepEqual(keys, Object.keys(entries), table);
    }
  });

  test('shows every key of a mirror in an example that parses', () => {
    const { mirrors } = parse(shipped.replaceAll(/^#(?=[[\w])/gm, '')).config;
    assert.deepEqual(mirrors, [
      {
        name: 'eu',
        user: 'lxdadm',
        url: 'https://eu.images.example.org:8443',
        remote: { host: 'eu.images.example.org', port: 22 },
        keyPath: '/etc/lxd-image-server/mirror.key',
        hostKey: 'SHA256:bpvKkUK0rNgnS9zDjS5rrsBVDrmXkZUvrlQ4IdkzvrE',
        knownHosts: '/etc/lxd-image-server/known_hosts',
        root: '/var/www/simplestreams',
        connections: 4,
        bandwidth: undefined,
        schedule: '',
        weight: 1,
        networks: [],
      },
    ]);
    const shown = [...shipped.matchAll(/^#(\w+) = /gm)].map(([, key]) => key ?? '');
    const known = Object.keys(mirrorTable.entries).filter((key) => key !== 'name');
    assert.deepEqual(shown.sort(), known.sort());
  });

  test("the example's optional keys have their defaults, the keys of the host aside", () => {
    const minimal = parse(
      '[mirrors.eu]\nurl = "https://eu.images.example.org:8443"\nkey_path = "/k"',
    );
    const example = parse(shipped.replaceAll(/^#(?=[[\w])/gm, ''));
    const { hostKey: _key, knownHosts: _hosts, ...rest } = example.config.mirrors[0] ?? {};
    assert.deepEqual(minimal.config.mirrors, [{ ...rest, keyPath: '/k' }]);
  });
});

describe('mirrors', () => {
  const keys = 'url = "https://[2001:db8::1]:8443"\nkey_path = "/k"\n';

  test('take their host from url, or from remote', () => {
    const remotes = {
      '': ['2001:db8::1', 22],
      'a.example:2222': ['a.example', 2222],
      b: ['b', 22],
    };
    for (const [remote, [host, port]] of Object.entries(remotes)) {
      const { mirrors } = parse(`[mirrors.a]\n${keys}remote = "${remote}"`).config;
      assert.deepEqual(mirrors[0]?.remote, { host, port }, remote);
    }
  });

  test('may limit their bandwidth and name their networks', () => {
    const text = `[mirrors.a]\n${keys}bandwidth = "10MB"\nnetworks = ["10.0.0.0/8", "2001:db8::/32"]`;
    const [mirror] = parse(text).config.mirrors;
    assert.equal(mirror?.bandwidth, 10_000_000);
    assert.deepEqual(mirror?.networks, ['10.0.0.0/8', '2001:db8::/32']);
  });

  test("of the earlier server's manual stand at the top and count like [mirrors.NAME]", () => {
    const named = (name: string) => `${keys}remote = "${name}.example.org"\n`;
    const old = ['mirror1', 'mirror2'].map((name) => `  [${name}]\n${named(name)}`).join('');
    const now = ['mirror1', 'mirror2'].map((name) => `[mirrors.${name}]\n${named(name)}`).join('');
    const { config, warnings } = parse(`[mirrors]\n${old}`);
    assert.deepEqual(config, parse(now).config);
    assert.deepEqual(warnings, []);
  });

  test('of both forms stand side by side, but not under one name', () => {
    const { config } = parse(`[mirrors.a]\n${keys}[mirror1]\n${keys}root = "/srv/other"\n`);
    assert.deepEqual(
      config.mirrors.map(({ name }) => name),
      ['a', 'mirror1'],
    );
    assert.deepEqual(complaints(`[mirrors.mirror1]\n${keys}[mirror1]\n${keys}`), {
      lines: [`${file}:4: mirror "mirror1" is defined twice`],
      hint: 'rename it, or drop [mirrors.mirror1]',
    });
  });

  test('that are one under two names are refused', () => {
    const twice = (more: string) => `[mirrors.a]\n${keys}[mirrors.b]\n${keys}${more}`;
    assert.deepEqual(complaints(twice('root = "/var/www/simplestreams/"\n')), {
      lines: [`${file}:4: mirror "b" is the same as "a": user, remote and root`],
      hint: 'drop one of them, or give it a root of its own',
    });
    for (const more of ['root = "/srv/b"', 'user = "b"', 'remote = "other.example.org"']) {
      assert.equal(parse(twice(`${more}\n`)).config.mirrors.length, 2);
    }
  });

  test('that could not name a file of the state folder are refused', () => {
    for (const name of ['../x', '.hidden', 'a b', '', 'ü', 'x'.repeat(65)]) {
      assert.deepEqual(complaints(`[mirrors."${name}"]\n${keys}`).lines, [
        `${file}:1: ${JSON.stringify(name.slice(0, 60))}${name.length > 60 ? '…' : ''} cannot name a mirror`,
      ]);
    }
  });

  test('may have the name of an inherited property', () => {
    const text = `[mirrors.constructor]\n${keys}[mirrors.toString]\n${keys}root = "/srv"`;
    const { mirrors } = parse(text).config;
    assert.deepEqual(
      mirrors.map(({ name }) => name),
      ['constructor', 'toString'],
    );
  });
});

describe("the earlier server's Python logging", () => {
  const old = `
[logging]
version = 1
disable_existing_loggers = false
level = "debug"
  [logging.formatters.default]
  format = "%(message)s"
  [logging.handlers.console]
  class = "logging.StreamHandler"
  [logging.loggers."lxd-image-server"]
  handlers = ["console"]
  [logging.root]
  level = "INFO"
`;

  test('is passed over with one warning, our own keys beside it are not', () => {
    const { config, warnings } = parse(old);
    assert.equal(config.logging.level, 'debug');
    assert.deepEqual(warnings, [
      `${file}: passed over the earlier server's logging.version, logging.disable_existing_loggers, ` +
        'logging.formatters, logging.handlers, logging.loggers, logging.root; ' +
        'set level and file in [logging] instead',
    ]);
  });

  test('does not hide a mistyped key', () => {
    assert.deepEqual(complaints('[logging.file]\nversion = 1').lines, [
      `${file}:1: logging.file must be an absolute path, or "" for standard error, not a table`,
    ]);
    assert.deepEqual(complaints('[logging]\nversion = 1\nlevle = "debug"'), {
      lines: [`${file}:3: unknown key "logging.levle"`],
      hint: 'did you mean "logging.level"?',
    });
  });
});

describe('a wrong configuration', () => {
  const mirror = '[mirrors.eu]\nurl = "https://a"\nkey_path = "/k"\n';
  const cases: [text: string, line: number, message: string, hint?: string][] = [
    ['[publish]\nsetle = "2s"', 2, 'unknown key "publish.setle"', 'did you mean "publish.settle"?'],
    ['[publsh]', 1, 'unknown key "publsh"', 'did you mean "publish"?'],
    ['settle = "2s"', 1, 'unknown key "settle"', 'did you mean "publish.settle"?'],
    ['[paths]\ntls_key = "/k"', 2, 'unknown key "paths.tls_key"', 'did you mean "server.tls_key"?'],
    [
      '[server]\ntls-key = "/k"',
      2,
      'unknown key "server.tls-key"',
      'did you mean "server.tls_key"?',
    ],
    ['[uploads]\nwhat = 1', 2, 'unknown key "uploads.what"', 'known here: enabled, max_size'],
    [
      '[uploads]\ntoString = 1',
      2,
      'unknown key "uploads.toString"',
      'known here: enabled, max_size',
    ],
    [
      `${mirror}keyPath = "/k"`,
      4,
      'unknown key "mirrors.eu.keyPath"',
      'did you mean "mirrors.eu.key_path"?',
    ],
    [`${mirror}name = "x"`, 4, 'unknown key "mirrors.eu.name"', `known here: ${mirrorKeys()}`],
    ['[mirror]\nurl = "https://a"', 1, 'unknown key "mirror"', 'did you mean "mirrors"?'],
    ['\n[publish]\n\ngzip = "yes"', 4, 'publish.gzip must be true or false, not "yes"'],
    ['publish = 3', 1, 'publish must be a table, not 3'],
    ['[[publish]]', 1, 'publish must be a table, not a list'],
    ['mirrors = "eu"', 1, 'mirrors must be a table, not "eu"'],
    ['[mirrors]\neu = []', 2, 'mirrors.eu must be a table, not a list'],
    ['[publish]\nsettle = 2', 2, `publish.settle must be ${aDuration()}, not 2`],
    ['[publish]\nsettle = "2 weeks"', 2, `publish.settle must be ${aDuration()}, not "2 weeks"`],
    ['publish = { settle = 1979-05-27 }', 1, `publish.settle must be ${aDuration()}, not a date`],
    [
      '[paths]\nroot = "www"',
      2,
      'paths.root must be an absolute path such as "/srv/images", not "www"',
    ],
    ['[uploads]\nmax_size = "big"', 2, `uploads.max_size must be ${aSize()}, not "big"`],
    ['[uploads]\nmax_size = -1', 2, `uploads.max_size must be ${aSize()}, not -1`],
    ['[uploads]\nmax_size = nan', 2, `uploads.max_size must be ${aSize()}, not NaN`],
    [
      '[retention]\nkeep = 1.5',
      2,
      'retention.keep must be a whole number from 0 to 1000000, not 1.5',
    ],
    [
      '[schedule]\nprune = "daily"',
      2,
      'schedule.prune must be a cron expression such as "*/10 * * * *", or "" for never, not "daily"',
    ],
    [
      '[logging]\nlevel = "loud"',
      2,
      'logging.level must be one of trace, debug, info, warn, error, fatal, silent, not "loud"',
    ],
    [
      '[logging]\nfile = "x"',
      2,
      'logging.file must be an absolute path, or "" for standard error, not "x"',
    ],
    [
      '[server]\naddresses = ["images.example.org", "a b"]',
      2,
      'server.addresses must be hosts such as "images.example.org" or "192.0.2.1:8443", not "a b"',
    ],
    [
      '[server]\naddresses = "images.example.org"',
      2,
      'server.addresses must be a list of hosts such as ["images.example.org"], not "images.example.org"',
    ],
    [
      '[server]\nlisten = "8443"',
      2,
      'server.listen must be an address and a port such as "127.0.0.1:8443" or ":8443", or "" for no server, not "8443"',
    ],
    [
      '[mirrors.eu]\nurl = "https://a"',
      1,
      'mirrors.eu.key_path is missing',
      'every mirror needs url and key_path',
    ],
    [
      '[mirror1]\nkey_path = "/k"',
      1,
      'mirror1.url is missing',
      'every mirror needs url and key_path',
    ],
    [
      '[mirror1]\nkey_path = "/k"\nurl = "a"',
      3,
      'mirror1.url must be a web address such as "https://mirror.example.org:8443", not "a"',
    ],
    [
      `${mirror}networks = [\n  "10.0.0.0/8",\n  "10.0.0.0/33",\n]`,
      4,
      'mirrors.eu.networks must be networks such as "10.0.0.0/8" or "2001:db8::/32", not "10.0.0.0/33"',
    ],
    [
      `${mirror}networks = "10.0.0.0/8"`,
      4,
      'mirrors.eu.networks must be a list of networks such as ["10.0.0.0/8"], not "10.0.0.0/8"',
    ],
    [
      `${mirror}connections = 0`,
      4,
      'mirrors.eu.connections must be a whole number from 1 to 64, not 0',
    ],
    [
      `${mirror}host_key = "d0:3f"`,
      4,
      'mirrors.eu.host_key must be a fingerprint such as ssh-keygen -l prints, "SHA256:…", not "d0:3f"',
    ],
    [
      `${mirror}bandwidth = "0"`,
      4,
      'mirrors.eu.bandwidth must be a size for each second such as "10MiB", or "" for no limit, not "0"',
    ],
    ['[paths]\nroot = "a', 2, 'not valid TOML: unfinished string', 'mend the line "root = \\"a"'],
    [
      'a = 1\n[b]\na = 1\na = 2',
      4,
      'not valid TOML: trying to redefine an already defined table or value',
    ],
  ];

  for (const [text, line, message, hint] of cases) {
    test(`is told in full: ${message}`, () => {
      const told = complaints(text);
      assert.deepEqual(told.lines, [`${file}:${line}: ${message}`]);
      if (hint !== undefined) assert.equal(told.hint, hint);
    });
  }

  test('has all its problems told at once, in the order of the file', () => {
    const text =
      '[retention]\ndais = 3\nkeep = "x"\n[publish]\ngzip = 1\n[mirrors.eu]\nuser = ""\n';
    assert.deepEqual(complaints(text), {
      lines: [
        `${file}:2: unknown key "retention.dais"; did you mean "retention.days"?`,
        `${file}:3: retention.keep must be a whole number from 0 to 1000000, not "x"`,
        `${file}:5: publish.gzip must be true or false, not 1`,
        `${file}:6: mirrors.eu.url is missing; every mirror needs url and key_path`,
        `${file}:6: mirrors.eu.key_path is missing; every mirror needs url and key_path`,
        `${file}:7: mirrors.eu.user must be a user name, not ""`,
      ],
      hint: undefined,
    });
  });

  test('with very many problems tells the first twenty', () => {
    const text = Array.from({ length: 50 }, (_, index) => `k${index} = 1\n`).join('');
    const { lines } = complaints(text);
    assert.equal(lines.length, 21);
    assert.equal(lines.at(-1), `${file}: and 30 more`);
  });

  test('is a ServerError whatever the text is', () => {
    const words = fc.constantFrom(
      ...['[', ']', '=', '\n', '"', "'", '"""', '.', '{', '}', ',', '#', '\\', '1', 'true', ' '],
      ...[
        'publish',
        'settle',
        '"2s"',
        'mirrors',
        'mirror1',
        'logging',
        'version',
        '__proto__',
        'url',
      ],
    );
    const texts = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.array(words).map((list) => list.join('')),
    );
    fc.assert(
      fc.property(texts, (text) => {
        try {
          assert.ok(parse(text).config.paths.root);
        } catch (error) {
          assert.ok(error instanceof ServerError, String(error));
        }
      }),
      { numRuns: 3000 },
    );
  });

  function mirrorKeys(): string {
    return Object.keys(mirrorTable.entries)
      .filter((key) => key !== 'name')
      .join(', ');
  }
  function aDuration(): string {
    return 'a duration such as "500ms", "2s", "5m", "2h" or "1d"';
  }
  function aSize(): string {
    return 'a size such as "512MiB", "20GiB" or "10MB"';
  }
});

describe('a configuration file', () => {
  const folder = mkdtempSync(join(tmpdir(), 'config-'));
  after(() => rmSync(folder, { recursive: true }));

  function written(name: string, content: string | Buffer): string {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  }

  test('given as an option beats the one that the environment names', async () => {
    const one = written('one.toml', '[retention]\nkeep = 1');
    const two = written('two.toml', '[retention]\nkeep = 2');
    const env = { LXD_IMAGE_SERVER_CONFIG: two };
    assert.equal((await loadConfig({ file: one, env })).config.retention.keep, 1);
    const { config, file } = await loadConfig({ env });
    assert.equal(config.retention.keep, 2);
    assert.equal(file, two);
  });

  test('may begin with a byte order mark and end its lines as Windows does', async () => {
    const file = written('bom.toml', '\ufeff[retention]\r\nkeep = 1\r\n');
    assert.equal((await loadConfig({ file })).config.retention.keep, 1);
  });

  test('may be empty, or a device', async () => {
    const { config } = await loadConfig({ file: '/dev/null' });
    assert.deepEqual(config, defaults);
  });

  const hint = 'name a TOML file with --config or LXD_IMAGE_SERVER_CONFIG';
  const unreadable: [name: string, content: string | Buffer | undefined, reason: string][] = [
    ['missing.toml', undefined, 'no such file or folder'],
    ['latin1.toml', Buffer.from('# caf\xe9', 'latin1'), 'it is not UTF-8 text'],
    ['huge.toml', '#'.repeat(2 ** 20 + 1), 'it is larger than 1 MiB'],
  ];
  for (const [name, content, reason] of unreadable) {
    test(`that cannot be used is named with the reason: ${reason}`, async () => {
      const file = content === undefined ? join(folder, name) : written(name, content);
      const message = `Cannot read the configuration ${file}: ${reason}`;
      await assert.rejects(loadConfig({ file }), { code: 'CONFIG', message, hint });
      const env = { LXD_IMAGE_SERVER_CONFIG: file };
      await assert.rejects(loadConfig({ env }), { code: 'CONFIG', message, hint });
    });
  }

  test('that is a folder, or an endless device, is named with the reason', async () => {
    mkdirSync(join(folder, 'folder'));
    const reasons = {
      [join(folder, 'folder')]: 'is a folder',
      '/dev/zero': 'it is larger than 1 MiB',
    };
    for (const [file, reason] of Object.entries(reasons)) {
      const message = `Cannot read the configuration ${file}: ${reason}`;
      await assert.rejects(loadConfig({ file }), { code: 'CONFIG', message, hint });
    }
  });

  test('of exactly 1 MiB is read', async () => {
    const file = written('large.toml', '#'.repeat(2 ** 20));
    assert.deepEqual((await loadConfig({ file })).config, defaults);
  });
});

describe('the folders of the command line', () => {
  const cases: [overrides: PathOverrides, root: string, images: string, streams: string][] = [
    [
      {},
      '/var/www/simplestreams',
      '/var/www/simplestreams/images',
      '/var/www/simplestreams/streams/v1',
    ],
    [{ root: '/t' }, '/t', '/t/images', '/t/streams/v1'],
    [{ root: '/t', images: '/t/i' }, '/t', '/t/i', '/t/streams/v1'],
    [{ streams: '/t/streams/v1/' }, '/t', '/t/images', '/t/streams/v1'],
    [{ streams: '/t/streams/v1', images: '/t/i' }, '/t', '/t/i', '/t/streams/v1'],
    [{ images: '/t/images' }, '/t', '/t/images', '/t/streams/v1'],
    [{ images: '/images' }, '/', '/images', '/streams/v1'],
  ];
  for (const [overrides, root, images, streams] of cases) {
    test(`are combined: ${JSON.stringify(overrides)}`, () => {
      const { paths } = withPaths(defaults, overrides);
      assert.deepEqual(paths, { ...defaults.paths, root, images, streams });
    });
  }

  test('are relative to the working directory', () => {
    assert.equal(withPaths(defaults, { root: 't' }).paths.images, join(process.cwd(), 't/images'));
  });

  test('must have the images inside the root', () => {
    const outside: PathOverrides[] = [
      { images: '/t/i' },
      { root: '/t', images: '/t' },
      { root: '/t', images: '/tt/images' },
      { root: '/t', images: '/t/../images' },
    ];
    for (const overrides of outside) {
      assert.throws(() => withPaths(defaults, overrides), {
        code: 'USAGE',
        message: /^The images \S+ lie outside the root \S+$/,
        hint: 'name the folder that holds both images and streams with --root-dir',
      });
    }
  });

  test('must have the documents where clients look for them', () => {
    const elsewhere: PathOverrides[] = [
      { streams: '/s' },
      { root: '/t', streams: '/t/meta' },
      { root: '/t', streams: '/s/streams/v1' },
    ];
    for (const overrides of elsewhere) {
      assert.throws(() => withPaths(defaults, overrides), {
        code: 'USAGE',
        message: /^The documents \S+ are not in streams\/v1 of the root \S+$/,
      });
    }
  });

  test('move the certificate and its key', () => {
    const { server } = withPaths(defaults, { ssl: '/tls' });
    const [tlsCert, tlsKey] = ['/tls/nginx.crt', '/tls/nginx.key'];
    assert.deepEqual(server, { ...defaults.server, tlsCert, tlsKey });
  });
});
