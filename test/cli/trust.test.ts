/** Who may upload, on the command line: where a daemon runs, and where none does. */
import assert from 'node:assert/strict';
import { chmod, chown, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { acquireLock } from '../../src/disk/lock.js';
import { cli, runCli } from '../support/cli.js';
import { createClient } from '../support/client-certificate.js';
import { outcome } from '../support/command.js';
import { daemonConfig, emptyRoot, startDaemon } from '../support/daemon.js';
import { needs, needsRoot } from '../support/programs.js';

const day = 86_400_000;

interface Place {
  root: string;
  /** `trust.json` */
  file: string;
  config: string;
  /** Lines of the configuration. */
  lines: string;
  certificate: string;
  trust(...args: string[]): ReturnType<typeof runCli>;
}

/** A root with a server's certificate, and a configuration whose daemon would listen in it. */
async function place(t: TestContext, more = ''): Promise<Place> {
  const root = await emptyRoot(t);
  const server = await createClient();
  const certificate = join(root, 'server.crt');
  await writeFile(certificate, server.cert);
  const lines = `server.tls_cert = ${JSON.stringify(certificate)}\n${more}`;
  const config = await daemonConfig(root, { config: lines });
  const trust = (...args: string[]) => runCli(['trust', ...args, '--config', config]);
  const file = join(root, 'state/trust.json');
  return { root, file, config, lines, certificate: server.fingerprint, trust };
}

interface Listed {
  clients: { name: string; fingerprint: string; added: string; used?: string; expires: string }[];
  tokens: { name: string; added: string; expires: string }[];
}

async function listed({ trust }: Place): Promise<Listed> {
  const { code, stdout, stderr } = await trust('list', '--json');
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as Listed;
}

const contentOf = (token = '') => JSON.parse(Buffer.from(token, 'base64').toString());

/** Written beside a place, with a client's certificate. */
async function clientFile({ root }: Place) {
  const client = await createClient();
  const file = join(root, 'client.crt');
  await writeFile(file, client.cert);
  return { ...client, file };
}

for (const withDaemon of [false, true]) {
  const how = withDaemon ? 'by the daemon' : 'without a daemon';
  /** A place, with a daemon or without. */
  const start = async (t: TestContext, more = '') => {
    const here = await place(t, more);
    const daemon = withDaemon ? await startDaemon(t, here.root, { config: here.lines }) : undefined;
    return { ...here, daemon };
  };

  describe(`trust, ${how}`, () => {
    test('adds a token: it is printed with the lines to paste', async (t) => {
      const here = await start(t, 'server.addresses = ["images.example.org"]\n');
      const before = Date.now();
      const { code, stdout, stderr } = await here.trust('add', 'alice');
      const after = Date.now();
      assert.equal(code, 0, stderr);
      const [token = '', ...lines] = stdout.split('\n');
      const { secret, expires_at, ...content } = contentOf(token);
      assert.deepEqual(content, {
        client_name: 'alice',
        fingerprint: here.certificate,
        addresses: ['images.example.org:443'],
      });
      const made = Date.parse(expires_at) - day;
      assert.ok(before <= made && made <= after, expires_at);
      const until = `${expires_at.slice(0, 16).replace('T', ' ')} UTC`;
      assert.deepEqual(lines, [
        '',
        `It has one client trusted, as "alice", until ${until}, and names this server as`,
        'images.example.org:443. On the client, paste one of:',
        '',
        `    lxc remote add hub ${token}`,
        `    incus remote add hub ${token}`,
        '',
      ]);
      assert.equal((await readFile(here.file, 'utf8')).includes(secret), false);
      assert.equal(stderr.includes(secret) || stderr.includes(token), false);
      const { clients, tokens } = await listed(here);
      const added = new Date(made).toISOString();
      assert.deepEqual(
        { clients, tokens: tokens.map((each) => ({ ...each, added })) },
        {
          clients: [],
          tokens: [{ name: 'alice', added, expires: expires_at }],
        },
      );
      assert.ok(!JSON.stringify(here.daemon?.events ?? []).includes(secret));
    });

    test('adds one with a lifetime and addresses of its own, for machines', async (t) => {
      const here = await start(t, 'server.addresses = ["images.example.org"]\n');
      const wish = ['--address', 'a.example:8443', '--address', '2001:db8::1', '--expires', '7d'];
      const { code, stdout, stderr } = await here.trust('add', ...wish, 'alice', '--json');
      assert.equal(code, 0, stderr);
      const { token, ...told } = JSON.parse(stdout);
      const { secret: _secret, client_name, expires_at, ...content } = contentOf(token);
      assert.deepEqual(content, {
        fingerprint: here.certificate,
        addresses: ['a.example:8443', '[2001:db8::1]:443'],
      });
      assert.deepEqual(told, { ...content, name: client_name, expires: expires_at });
      const left = Date.parse(expires_at) - Date.now();
      assert.ok(left > 6.9 * day && left <= 7 * day, expires_at);
    });

    test('adds a certificate, lists it, and removes it', async (t) => {
      const here = await start(t);
      const client = await clientFile(here);
      const added = await here.trust('add', 'alice', '--certificate', client.file);
      assert.deepEqual(
        [added.code, added.stdout],
        [0, `"alice" is trusted from now on, with the certificate ${client.fingerprint}\n`],
      );
      await here.trust('add', 'bob');
      const { clients } = await listed(here);
      assert.deepEqual(
        clients.map(({ name, fingerprint }) => [name, fingerprint]),
        [['alice', client.fingerprint]],
      );
      const { stdout: table } = await here.trust('list');
      const rows = table
        .trimEnd()
        .split('\n')
        .map((row) => row.split(/ {2,}/));
      assert.deepEqual(
        rows.map((row) => row.with(2, '')),
        [
          ['NAME', 'FINGERPRINT', '', 'LAST USED', 'EXPIRES'],
          ['alice', client.fingerprint.slice(0, 12), '', 'never', 'in 3649 d'],
          ['bob', 'token', '', 'not yet', 'in 23 h'],
        ],
      );
      const removed = await here.trust('remove', 'alice');
      assert.deepEqual(
        [removed.code, removed.stdout],
        [0, '"alice" is not trusted any more: 1 certificate removed\n'],
      );
      const other = await here.trust('remove', 'bob', '--json');
      assert.deepEqual(JSON.parse(other.stdout), { name: 'bob', clients: [], tokens: 1 });
      assert.equal((await here.trust('list')).stdout, 'nobody is trusted, so nobody can upload\n');
    });

    test('refuses what cannot be, with exit code 2, and changes nothing', async (t) => {
      const here = await start(t);
      const client = await clientFile(here);
      assert.equal((await here.trust('add', 'alice', '--certificate', client.file)).code, 0);
      assert.equal((await here.trust('add', 'bob')).code, 0);
      const before = await readFile(here.file, 'utf8');
      const cases: [args: string[], stderr: RegExp][] = [
        [['add'], /missing required argument 'name'/],
        [['add', 'carol', 'dave'], /too many arguments for 'add'\. Expected 1 argument but got 2/],
        [['add', 'alice'], /A client called "alice" is trusted already; .*trust remove alice/],
        [['add', 'bob'], /There is a token for "bob" already, good until .*trust remove bob/],
        [['add', '../carol'], /A client cannot be called "\.\.\/carol"; take up to 64 letters/],
        [['add', 'carol', '--expires', 'soon'], /Give a time such as "24h" or "7d"/],
        [['add', 'carol', '--expires', '0s'], /A token cannot be good for that long/],
        [['add', 'carol', '--expires', '400d'], /A token cannot be good for that long/],
        [['add', 'carol', '--address', 'a b'], /Give a host, or host and port/],
        [['add', 'carol', '--address', 'a:99999'], /Give a host, or host and port/],
        [['add', 'carol', '--certificate', client.file], /is trusted already, as "alice"/],
        [['add', 'carol', '--certificate', here.config], /config\.toml holds no certificate; name/],
        [['add', 'carol', '--certificate', '/none'], /Cannot read \/none: no such file or folder/],
        [
          ['add', 'carol', '--certificate', client.file, '--expires', '1h'],
          /--expires and --address say what a token is like/,
        ],
        [['remove', 'carol'], /Nobody called "carol" is trusted; "lxd-image-server trust list"/],
        [['remove'], /missing required argument 'name'/],
      ];
      for (const [args, stderr] of cases) {
        const result = await here.trust(...args);
        assert.match(result.stderr, stderr);
        assert.deepEqual([result.code, result.stdout], [2, ''], args.join(' '));
      }
      assert.equal(await readFile(here.file, 'utf8'), before);
    });

    test('says that there is no certificate that clients could know the server by', async (t) => {
      const here = await start(t, '');
      await writeFile(join(here.root, 'server.crt'), 'nothing');
      const { code, stderr } = await here.trust('add', 'alice');
      assert.equal(code, 1);
      assert.match(stderr, /server\.crt holds no certificate in PEM form/);
      await assert.rejects(readFile(here.file), { code: 'ENOENT' });
    });

    test('leaves a damaged file as it is', async (t) => {
      const here = await start(t);
      const client = await clientFile(here);
      await here.trust('add', 'alice');
      const whole = await readFile(here.file, 'utf8');
      const damaged = whole.slice(0, -10);
      await writeFile(here.file, damaged);
      for (const args of [
        ['add', 'bob'],
        ['add', 'bob', '--certificate', client.file],
        ['list'],
        ['remove', 'alice'],
      ]) {
        const { code, stderr } = await here.trust(...args);
        assert.match(
          stderr,
          /trust\.json, which says who is trusted, is damaged: it is not JSON; put a copy of it back/,
        );
        assert.equal(code, 5);
      }
      await here.daemon?.end();
      assert.equal(await readFile(here.file, 'utf8'), damaged);
      await writeFile(here.file, whole);
      assert.equal((await here.trust('remove', 'alice')).code, 0);
    });
  });
}

describe('without a daemon', () => {
  test('several commands at once all do their work', async (t) => {
    const here = await place(t);
    const names = ['alice', 'bob', 'carol', 'dave'];
    const results = await Promise.all(names.map((name) => here.trust('add', name)));
    for (const { code, stderr } of results) assert.equal(code, 0, stderr);
    const { tokens } = await listed(here);
    assert.deepEqual(tokens.map(({ name }) => name).sort(), names);
  });

  test('a name that several commands take at once is taken by one', async (t) => {
    const here = await place(t);
    const results = await Promise.all([1, 2, 3].map(() => here.trust('add', 'alice')));
    assert.deepEqual(results.map(({ code }) => code).sort(), [0, 2, 2]);
    assert.equal((await listed(here)).tokens.length, 1);
  });

  test('who is trusted is not changed while another process has the root', async (t) => {
    const here = await place(t);
    const lock = await acquireLock(here.root);
    t.after(() => lock.release());
    const { code, stderr } = await here.trust('add', 'alice');
    assert.equal(code, 1);
    assert.match(stderr, /Another lxd-image-server \(process \d+\) is at work here/);
    assert.deepEqual(await listed(here), { clients: [], tokens: [] });
  });

  for (const umask of ['000', '077', '777']) {
    test(`the file is for its owner alone with the umask ${umask}`, async (t) => {
      const here = await place(t);
      const line = `umask ${umask}; exec "$@"`;
      const args = [process.execPath, cli, 'trust', 'add', 'alice', '--config', here.config];
      const { code, stderr } = await outcome('sh', ['-c', line, 'sh', ...args]);
      assert.equal(code, 0, stderr);
      assert.equal((await stat(here.file)).mode & 0o7777, 0o600);
      assert.equal((await stat(join(here.root, 'state'))).mode & 0o7777, 0o750);
      await chmod(here.file, 0o644);
      await here.trust('remove', 'alice');
      assert.equal((await stat(here.file)).mode & 0o7777, 0o600);
    });
  }

  test(
    'root leaves the file to the owner of the folder, whose daemon reads it',
    needsRoot(),
    async (t) => {
      const here = await place(t);
      await mkdir(join(here.root, 'state'));
      await chown(join(here.root, 'state'), 1234, 2345);
      assert.equal((await here.trust('add', 'alice')).code, 0);
      const { uid, gid, mode } = await stat(here.file);
      assert.deepEqual([uid, gid, mode & 0o7777], [1234, 2345, 0o600]);
    },
  );
});

describe('a running daemon', () => {
  test('trusts with what was added before it started, and keeps it', async (t) => {
    const here = await place(t);
    const client = await clientFile(here);
    await here.trust('add', 'alice', '--certificate', client.file);
    const before = await readFile(here.file, 'utf8');
    const daemon = await startDaemon(t, here.root, { config: here.lines });
    assert.equal((await listed(here)).clients[0]?.name, 'alice');
    assert.equal(await daemon.end(), 0);
    assert.equal(await readFile(here.file, 'utf8'), before);
  });

  test('names the addresses and the certificate that are in force', async (t) => {
    const here = await place(t, 'server.addresses = ["one.example"]\n');
    const daemon = await startDaemon(t, here.root, { config: here.lines });
    const other = await createClient();
    const certificate = join(here.root, 'other.crt');
    await writeFile(certificate, other.cert);
    const lines = `server.tls_cert = "${certificate}"\nserver.addresses = ["two.example:9443"]\n`;
    await daemonConfig(here.root, { config: lines });
    await daemon.call('reload');
    const { stdout } = await here.trust('add', 'alice');
    const { addresses, fingerprint } = contentOf(stdout.split('\n')[0]);
    assert.deepEqual([addresses, fingerprint], [['two.example:9443'], other.fingerprint]);
  });

  test('goes on where the file is damaged, and takes it once it is mended', async (t) => {
    const here = await place(t);
    const client = await clientFile(here);
    await here.trust('add', 'alice', '--certificate', client.file);
    const whole = await readFile(here.file, 'utf8');
    await writeFile(here.file, '');
    const daemon = await startDaemon(t, here.root, { config: here.lines });
    const { err } = await daemon.event('cannot read who is trusted');
    assert.match(JSON.stringify(err), /is damaged: it is not JSON/);
    assert.equal((await here.trust('list')).code, 5);
    await writeFile(here.file, whole);
    await daemon.call('reload');
    assert.equal((await listed(here)).clients.length, 1);
    const told = () => daemon.events.filter(({ msg }) => msg === 'cannot read who is trusted');
    assert.equal(told().length, 1);
    await writeFile(here.file, '');
    await daemon.call('reload');
    await daemon.event('cannot read who is trusted');
    assert.equal(told().length, 2);
  });

  test('of another state folder is left alone', async (t) => {
    const here = await place(t);
    await startDaemon(t, here.root, { config: here.lines });
    const beside = await place(t);
    const text = await readFile(beside.config, 'utf8');
    const run = `paths.run = ${JSON.stringify(join(here.root, 'run'))}`;
    await writeFile(beside.config, text.replace(/^paths\.run = .*$/m, run));
    assert.equal((await beside.trust('add', 'alice')).code, 0);
    assert.equal((await listed(beside)).tokens.length, 1);
    assert.equal((await listed(here)).tokens.length, 0);
  });
});

/** Runs a command that is killed as its only thread for files enters `call` for the `count`-th time. */
async function killedAt(
  { config }: Place,
  { call, count, args }: { call: string; count: number; args: string[] },
): Promise<boolean> {
  const inject = `inject=${call}:signal=SIGKILL:when=${count}`;
  const tracing = ['-D', '-f', '-o', '/dev/null', '--seccomp-bpf', '-e', inject];
  const command = [process.execPath, cli, 'trust', ...args, '--config', config];
  const env = { UV_THREADPOOL_SIZE: '1' };
  const { code } = await outcome('strace', [...tracing, ...command], { env });
  assert.ok(code === 0 || code === -1, `it ended with ${code}`);
  return code === -1;
}

/** What the lock and the file are made of, and how often it is called at least. */
const calls = { link: 1, fchmod: 1, fsync: 2, rename: 1, unlink: 1, ftruncate: 1 };

describe('whenever it is killed', { concurrency: 2 }, () => {
  for (const [call, fewest] of Object.entries(calls)) {
    test(`as it calls ${call}, all or nothing is changed`, needs('strace'), async (t) => {
      const here = await place(t);
      assert.equal((await here.trust('add', 'alice')).code, 0);
      let kills = 0;
      while (await killedAt(here, { call, count: kills + 1, args: ['add', `bob-${kills}`] })) {
        const { tokens } = await listed(here);
        assert.equal(tokens[0]?.name, 'alice');
        assert.equal((await here.trust('add', `carol-${kills}`)).code, 0);
        assert.deepEqual(await readdir(join(here.root, 'state')), ['trust.json']);
        kills++;
        assert.ok(kills < 10, `it calls ${call} for ever`);
      }
      const { tokens } = await listed(here);
      assert.equal(tokens.at(-1)?.name, `bob-${kills}`);
      assert.ok(kills >= fewest, `${kills} kills`);
    });
  }
});
