import assert from 'node:assert/strict';
import { createHmac, randomBytes } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import {
  describeHostKey,
  type KnownHost,
  knownHostsFile,
  loadHostTrust,
  namesHost,
  parseKnownHosts,
  recordHostKey,
  withHostKey,
} from '../../src/mirror/host-keys.js';
import { outcome, run } from '../support/command.js';
import { needs } from '../support/programs.js';
import { temporaryFolder } from '../support/temporary.js';
import { failsWith } from './conformance.js';

/** A key as the protocol carries it. */
function key(type = 'ssh-ed25519', content = randomBytes(32)): Buffer {
  const field = (bytes: Buffer) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return Buffer.concat([length, bytes]);
  };
  return Buffer.concat([field(Buffer.from(type)), field(content)]);
}

const line = (names: string, of: Buffer) =>
  `${names} ${describeHostKey(of).type} ${of.toString('base64')}`;

function hashed(name: string): string {
  const salt = randomBytes(20);
  const hash = createHmac('sha1', salt).update(name).digest('base64');
  return `|1|${salt.toString('base64')}|${hash}`;
}

const remote = { host: 'mirror.example.org', port: 2222 };
const place = '[mirror.example.org]:2222';

describe('a line of known_hosts', () => {
  const cases: [patterns: string, name: string, expected: boolean][] = [
    ['host', 'host', true],
    ['host', 'HOST', true],
    ['Host', 'host', true],
    ['host', 'hosts', false],
    ['a,host,b', 'host', true],
    ['*.example.org', 'a.example.org', true],
    ['*.example.org', 'example.org', false],
    ['mirror?', 'mirror1', true],
    ['mirror?', 'mirror', false],
    ['*,!host', 'host', false],
    ['!host,*', 'other', true],
    ['!host', 'other', false],
    ['[host]:2222', '[host]:2222', true],
    ['[host]:2222', 'host', false],
    ['[*]:2222', '[host]:2222', true],
    ['a.b', 'axb', false],
    ['2001:db8::1', '2001:db8::1', true],
    [hashed('host'), 'host', true],
    [hashed('host'), 'HOST', true],
    [hashed('host'), 'other', false],
    [`${hashed('host')},host`, 'host', false],
    ['|2|x|y', 'host', false],
    ['|1|', '|1|', false],
  ];
  for (const [patterns, name, expected] of cases) {
    test(`with ${patterns.slice(0, 20)} ${expected ? 'names' : 'does not name'} ${name}`, () => {
      assert.equal(namesHost({ patterns: patterns.split(',') }, name), expected);
    });
  }

  test('that says nothing is passed over with the reason', () => {
    const good = key();
    const text = [
      '# comment',
      '',
      line('host', good),
      'host',
      'host ssh-ed25519 !!!',
      `host ssh-rsa ${good.toString('base64')}`,
      `@other ${line('host', good)}`,
      `@revoked ${line('host', good)} a comment\r`,
      `@cert-authority ${line('*.example.org', good)}`,
    ].join('\n');
    const { hosts, problems } = parseKnownHosts(text);
    const found = hosts.map((host: KnownHost) => [host.line, host.marker]);
    assert.deepEqual(found, [
      [3, undefined],
      [8, 'revoked'],
      [9, 'cert-authority'],
    ]);
    assert.deepEqual(
      problems.map((problem) => problem.line),
      [4, 5, 6, 7],
    );
    assert.match(problems[2]?.reason ?? '', /not of the type ssh-rsa/);
  });

  test('never makes the reader fail', () => {
    const word = fc.oneof(
      fc.string(),
      fc.constantFrom('@revoked', 'ssh-ed25519', '|1|a|b', key().toString('base64')),
    );
    const lines = fc.array(fc.array(word).map((words) => words.join(' ')));
    void fc.assert(
      fc.property(lines, (texts) => {
        const { hosts } = parseKnownHosts(texts.join('\n'));
        for (const host of hosts) namesHost(host, 'host');
      }),
    );
  });
});

describe('a host key', () => {
  test('is judged by what is known of its host', async (t) => {
    const folder = await temporaryFolder(t);
    const knownHosts = join(folder, 'known');
    const judge = async (text: string, seen: Buffer) => {
      await writeFile(knownHosts, text);
      return (await loadHostTrust({ name: 'eu', remote, knownHosts })).judge(seen);
    };
    const [mine, other] = [key(), key('ssh-rsa')];
    assert.equal(await judge(line(place, mine), mine), undefined);
    assert.equal(await judge(line(hashed(place), mine), mine), undefined);
    assert.equal(await judge(`${line(place, other)}\n${line(place, mine)}`, mine), undefined);
    // As ssh does, where nothing is known of the port.
    assert.equal(await judge(line('mirror.example.org', mine), mine), undefined);
    const withBoth = `${line('mirror.example.org', mine)}\n${line(place, other)}`;
    const refusals: [text: string, expected: RegExp][] = [
      ['', /not known/],
      [line('elsewhere', mine), /not known/],
      [line(place, other), /another host key than the known ssh-rsa/],
      [withBoth, /another host key/],
      [`${line(place, mine)}\n@revoked ${line('*', mine)}`, /revoked/],
      [`@cert-authority ${line(place, other)}`, /not known \(the certificate authority of line 1/],
    ];
    for (const [text, expected] of refusals) {
      failsWith('MIRROR_AUTH', expected)(await judge(text, mine));
    }
  });

  test('of a known kind is asked for first', async (t) => {
    const folder = await temporaryFolder(t);
    const knownHosts = join(folder, 'known');
    await writeFile(knownHosts, line(place, key('ssh-rsa')));
    const { attempts } = await loadHostTrust({ name: 'eu', remote, knownHosts });
    assert.equal(attempts.length, 1);
    assert.deepEqual(attempts[0]?.slice(0, 3), ['rsa-sha2-512', 'rsa-sha2-256', 'ssh-ed25519']);
  });

  test("is looked up in the user's file and the system's where none is named", async (t) => {
    const home = await temporaryFolder(t);
    const [mine, system] = [key(), key()];
    await mkdir(join(home, '.ssh'));
    await writeFile(join(home, '.ssh/known_hosts'), line(place, mine));
    await writeFile(join(home, 'system'), line(place, system));
    const options = { home, systemFile: join(home, 'system') };
    const trust = await loadHostTrust({ name: 'eu', remote }, options);
    assert.equal(trust.judge(mine), undefined);
    assert.equal(trust.judge(system), undefined);
    assert.ok(trust.judge(key()));
    assert.equal(knownHostsFile({}, { home }), join(home, '.ssh/known_hosts'));
  });

  test('has the fingerprint that ssh-keygen prints', needs('ssh-keygen'), async (t) => {
    const folder = await temporaryFolder(t);
    for (const type of ['ed25519', 'ecdsa', 'rsa']) {
      const file = join(folder, type);
      await run('ssh-keygen', ['-q', '-t', type, '-N', '', '-f', file]);
      const [name, base64 = ''] = (await readFile(`${file}.pub`, 'utf8')).split(' ');
      const described = describeHostKey(Buffer.from(base64, 'base64'));
      assert.equal(described.type, name);
      assert.ok(
        (await run('ssh-keygen', ['-l', '-f', file])).includes(` ${described.fingerprint} `),
      );
    }
  });
});

describe('a key that was accepted', () => {
  test('is found by ssh, also after it replaces others', needs('ssh-keygen'), async (t) => {
    const folder = await temporaryFolder(t);
    const file = join(folder, 'new/known_hosts');
    const [first, second] = [key(), key()];
    await recordHostKey(file, { remote, key: first });
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.equal((await stat(join(folder, 'new'))).mode & 0o777, 0o700);
    await writeFile(file, `${await readFile(file, 'utf8')}${line(hashed(place), key())}\n`);
    await recordHostKey(file, { remote, key: second });
    const found = await outcome('ssh-keygen', ['-F', place, '-f', file]);
    const keys = found.stdout.split('\n').filter((each) => each.includes('ssh-ed25519'));
    assert.deepEqual(keys, [line(place, second)]);
    assert.deepEqual(await readdir(join(folder, 'new')), ['known_hosts']);
  });

  test('leaves everything else in the file as it was', () => {
    const [mine, other] = [key(), key()];
    const text = [
      '# mine',
      line(`a,${place},b`, other),
      line('*.example.org', other),
      `@revoked ${line(place, other)}`,
      line(hashed('elsewhere'), other),
      line(place, other),
      '',
    ].join('\n');
    const expected = [
      '# mine',
      line('a,b', other),
      line('*.example.org', other),
      `@revoked ${line(place, other)}`,
      text.split('\n')[4],
      line(place, mine),
      '',
    ].join('\n');
    assert.equal(withHostKey(text, { remote, key: mine }), expected);
    assert.equal(withHostKey(expected, { remote, key: mine }), expected);
  });

  test('is written through a symbolic link, with the mode that the file has', async (t) => {
    const folder = await temporaryFolder(t);
    await writeFile(join(folder, 'real'), '# x\n');
    await chmod(join(folder, 'real'), 0o644);
    await symlink('real', join(folder, 'link'));
    await recordHostKey(join(folder, 'link'), { remote, key: key() });
    assert.deepEqual((await readdir(folder)).sort(), ['link', 'real']);
    assert.equal((await stat(join(folder, 'real'))).mode & 0o777, 0o644);
    assert.match(await readFile(join(folder, 'real'), 'utf8'), /^# x\n\[mirror/);
  });
});
