import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  cleanRemote,
  isPlain,
  launchByAlias,
  launchByFingerprint,
  remoteLines,
  serverOf,
  shellWord,
  suggestedRemote,
} from '../../src/pages/catalogue/commands.js';
import { run } from '../support/command.js';

const lxc = { client: 'lxc', remote: 'r', isVirtualMachine: false } as const;

describe('a word of a shell', () => {
  test('is what a real shell reads of it', async () => {
    const text = fc.string({ unit: 'binary' }).filter((each) => !/[\0\p{Cs}]/u.test(each));
    await fc.assert(
      fc.asyncProperty(fc.array(text, { minLength: 1, maxLength: 20 }), async (words) => {
        const script = words.map((word) => `printf '%s\\0' ${shellWord(word)}`).join('\n');
        const said = await run('sh', ['-c', script]);
        assert.deepEqual(said.split('\0').slice(0, -1), words);
      }),
      { numRuns: 40 },
    );
  });

  test('stays as it is where a shell has nothing to say to it', () => {
    assert.equal(shellWord('r:ubuntu/24.04'), 'r:ubuntu/24.04');
  });
});

describe('the name of a remote', () => {
  for (const [hostname, name] of [
    ['hub.example.org', 'hub'],
    ['images.example.org', 'example'],
    ['www.images.example.org', 'example'],
    ['ubuntu-mirror.example.org', 'example'],
    ['localhost', 'localhost'],
    ['127.0.0.1', 'host-127.0.0.1'],
    ['[::1]', 'host-1'],
    ['images', 'image-server'],
  ] as const) {
    test(`of ${hostname} is ${name}`, () => assert.equal(suggestedRemote(hostname), name));
  }

  test('is a file name and a word, whatever is typed', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (typed) => {
        assert.match(cleanRemote(typed), /^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?$/);
      }),
    );
  });
});

describe('the server', () => {
  for (const [page, server] of [
    [
      'https://hub.example.org/',
      { url: 'https://hub.example.org', endpoint: 'hub.example.org:443' },
    ],
    [
      'https://hub.example.org:8443/',
      { url: 'https://hub.example.org:8443', endpoint: 'hub.example.org:8443' },
    ],
    [
      'https://hub.example.org/a/b/index.html',
      { url: 'https://hub.example.org/a/b', endpoint: 'hub.example.org:443' },
    ],
    ['https://[::1]:8443/', { url: 'https://[::1]:8443', endpoint: '[::1]:8443' }],
    [
      'http://hub.example.org:8080/',
      { url: 'https://hub.example.org', endpoint: 'hub.example.org:443' },
    ],
  ] as const) {
    test(`of ${page} is ${server.url}`, () => {
      const { url, endpoint } = serverOf(new URL(page));
      assert.deepEqual({ url, endpoint }, server);
    });
  }

  test('is known for sure only from a page that came over HTTPS', () => {
    assert.equal(serverOf(new URL('https://x/')).isSure, true);
    assert.equal(serverOf(new URL('http://x/')).isSure, false);
  });
});

describe('the line that launches', () => {
  test('goes by alias, and asks for a virtual machine where it is one', () => {
    assert.equal(launchByAlias('x/1', lxc), 'lxc launch r:x/1');
    const machine = { client: 'incus', remote: 'r', isVirtualMachine: true } as const;
    assert.equal(launchByAlias('x/1', machine), 'incus launch r:x/1 --vm');
  });

  test('goes by the first twelve digits of a fingerprint, as clients show them', () => {
    assert.equal(launchByFingerprint('0123456789abcdef', lxc), 'lxc launch r:0123456789ab');
  });

  test('quotes what a shell would act on', () => {
    assert.equal(launchByAlias("$(id)'", lxc), "lxc launch 'r:$(id)'\\'''");
  });

  for (const [what, alias] of [
    ['a line end', 'x\nid'],
    ['text that turns round', 'x\u202e/1'],
    ['a zero-width space', 'x\u200b'],
    ['an escape', 'x\u001b[2J'],
  ] as const) {
    test(`is not made of an alias with ${what}: what is pasted would not be what is seen`, () => {
      assert.equal(isPlain(alias), false);
      assert.equal(launchByAlias(alias, lxc), undefined);
    });
  }

  test('is made of names in any script', () => {
    for (const alias of ['образ/1', 'イメージ', 'صورة']) assert.ok(isPlain(alias));
  });
});

test('the lines that add a remote name its certificate where the client looks for it', () => {
  const server = { url: 'https://h:8443', endpoint: 'h:8443' };
  assert.deepEqual(remoteLines(server, { client: 'incus', remote: 'r' }), {
    trust:
      'mkdir -p ~/.config/incus/servercerts && openssl s_client -connect h:8443 </dev/null 2>/dev/null | openssl x509 > ~/.config/incus/servercerts/r.crt',
    show: 'openssl x509 -noout -fingerprint -sha256 -in ~/.config/incus/servercerts/r.crt',
    add: 'incus remote add r https://h:8443 --protocol simplestreams',
    list: 'incus image list r:',
  });
});
