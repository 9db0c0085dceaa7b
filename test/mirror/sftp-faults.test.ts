/** What can be wrong with a mirror and the way to it, each brought about with real programs and real disks. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import * as fc from 'fast-check';
import { createLogger, type Logger } from '../../src/log.js';
import { type PutSource, resumeWindow } from '../../src/mirror/mirror.js';
import { seenHostKey } from '../../src/mirror/sftp.js';
import { outcome, run } from '../support/command.js';
import { deafPort } from '../support/deaf-port.js';
import { createDelayProxy } from '../support/delay-proxy.js';
import { mounting } from '../support/mounting.js';
import { needs, needsRoot } from '../support/programs.js';
import { createSftpServer } from '../support/sftp-mirror.js';
import { temporaryFolder } from '../support/temporary.js';
import { failsWith, sourceOf } from './conformance.js';

const programs = needs('sshd', 'ssh-keygen');
const asRoot = needsRoot('sshd', 'ssh-keygen', 'mount');
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** Content without end, for what is to be broken off. */
const endless: PutSource = { size: 2 ** 40, read: async (_offset, length) => Buffer.alloc(length) };

interface BehindProxyOptions {
  connections?: number;
  stallMs?: number;
  /** Whether the mirror is so far away that more than one connection is of use. Default: no. */
  far?: boolean;
  /** Lines for the server's configuration. */
  settings?: string;
}

/** A server behind a proxy, and a mirror that goes through it. */
async function behindProxy(t: TestContext, options: BehindProxyOptions = {}) {
  const { stallMs = 30_000, connections = 3, far = false, settings = '' } = options;
  let close = async () => {};
  // Before the server, which waits for its sessions.
  t.after(() => close());
  const server = await createSftpServer(t, { settings });
  const proxy = await createDelayProxy({ target: server.port, delayMs: far ? 5 : 0 });
  close = proxy.close;
  const remote = { host: '127.0.0.1', port: proxy.port };
  const hosts = await readFile(join(server.home, 'ssh/known_hosts'), 'utf8');
  const knownHosts = join(server.home, 'known_hosts');
  await writeFile(knownHosts, hosts.replace(`:${server.port} `, `:${proxy.port} `));
  const open = ({ log, config }: { log?: Logger; config?: { root: string } } = {}) =>
    server.open({
      config: { remote, knownHosts, connections, ...config },
      stallMs,
      ...(log && { log }),
    });
  return { ...server, proxy, open };
}

/** {@link behindProxy} with one connection, and how many sessions the server has. */
async function withSessions(t: TestContext, options: { far: boolean; settings?: string }) {
  const pidFile = join(await temporaryFolder(t), 'pid');
  const settings = `PidFile ${pidFile}\n${options.settings ?? ''}`;
  const server = await behindProxy(t, { ...options, connections: 1, settings });
  const sessions = async () => {
    const pids = await childrenOf(Number(await readFile(pidFile, 'utf8')));
    const parents = await Promise.all(pids.map((pid) => childrenOf(pid)));
    // Each session has a process of its own, and no process of it has another below.
    return parents.filter((below) => below.length === 0).length;
  };
  return { ...server, sessions };
}

test('what nobody waits for any more is not begun once the login is over', programs, async (t) => {
  const { open, folder } = await behindProxy(t, { far: true });
  for (const name of ['one', 'two', 'gone']) await writeFile(join(folder, name), name);
  const before = (await readdir(folder)).sort();
  const mirror = open();
  const leaving = new AbortController();
  const { signal } = leaving;
  const given = { signal };
  const asked = Promise.allSettled([
    mirror.rename('one', 'renamed', given),
    mirror.rename('one', 'synced', { ...given, sync: true }),
    mirror.renameInOrder([[{ from: 'two', to: 'ordered' }]], given),
    mirror.link('two', 'linked', given),
    mirror.copy('two', 'copied', given),
    mirror.remove('gone', given),
    mirror.makeFolder('made/below', given),
    mirror.write('written', [Buffer.from('x')], given),
    mirror.put(sourceOf(Buffer.from('x')), 'put', given),
  ]);
  await nextTurn();
  leaving.abort(new Error('superseded'));
  for (const { status } of await asked) assert.equal(status, 'rejected');
  // Ends when nothing is left running.
  await mirror.stat('');
  await mirror.close();
  assert.deepEqual((await readdir(folder)).sort(), before);
});

describe('logging in', programs, () => {
  test('is refused with the line that authorized_keys lacks', async (t) => {
    const { open, home, keyFile } = await createSftpServer(t);
    await writeFile(join(home, 'ssh/authorized_keys'), '');
    const [type, key] = (await readFile(`${keyFile}.pub`, 'utf8')).split(' ');
    await assert.rejects(open().stat(''), (error) => {
      failsWith('MIRROR_AUTH', /the login as .* is refused/)(error);
      assert.ok((error as { hint: string }).hint.includes(`${type} ${key}`));
      return true;
    });
  });

  test('works again with the same mirror once the key is added', async (t) => {
    const { open, home, keyFile } = await createSftpServer(t);
    await writeFile(join(home, 'ssh/authorized_keys'), '');
    const mirror = open();
    await assert.rejects(mirror.stat(''), failsWith('MIRROR_AUTH'));
    await writeFile(join(home, 'ssh/authorized_keys'), await readFile(`${keyFile}.pub`));
    assert.equal((await mirror.stat(''))?.kind, 'folder');
  });

  test('stops at an unknown host key, with its fingerprint and the command that accepts it', async (t) => {
    const { open, home, config } = await createSftpServer(t);
    const fingerprint = await fingerprintOf(join(home, 'ssh/host_key.pub'));
    const mirror = open({ config: { knownHosts: join(home, 'none') } });
    await assert.rejects(mirror.stat(''), (error) => {
      failsWith('MIRROR_AUTH', /not known/)(error);
      assert.ok((error as Error).message.includes(fingerprint));
      assert.match((error as { hint: string }).hint, /lxd-image-server mirror trust eu$/);
      return true;
    });
    assert.equal((await seenHostKey(config)).fingerprint, fingerprint);
  });

  test('stops at a changed host key', async (t) => {
    const { open, home, port } = await createSftpServer(t);
    const other = await makeKey(join(home, 'other'));
    await writeFile(join(home, 'hosts'), `[127.0.0.1]:${port} ${await readFile(`${other}.pub`)}`);
    const mirror = open({ config: { knownHosts: join(home, 'hosts') } });
    await assert.rejects(mirror.stat(''), failsWith('MIRROR_AUTH', /another host key/));
  });

  test('takes the host key by its fingerprint, of whatever kind it is', async (t) => {
    const folder = await temporaryFolder(t);
    const keys = await Promise.all(
      ['rsa', 'ecdsa'].map((type) => makeKey(join(folder, type), type)),
    );
    const settings = keys.map((key) => `HostKey ${key}`).join('\n');
    const { open, home } = await createSftpServer(t, { settings });
    const files = [...keys.map((key) => `${key}.pub`), join(home, 'ssh/host_key.pub')];
    for (const file of files) {
      const hostKey = await fingerprintOf(file);
      assert.equal((await open({ config: { hostKey } }).stat(''))?.kind, 'folder', file);
    }
    const hostKey = `SHA256:${'A'.repeat(43)}`;
    await assert.rejects(open({ config: { hostKey } }).stat(''), failsWith('MIRROR_AUTH', /AAAA/));
  });

  test('asks for the kind of host key that is known', async (t) => {
    const folder = await temporaryFolder(t);
    const rsa = await makeKey(join(folder, 'rsa'), 'rsa');
    const { open, home, port } = await createSftpServer(t, { settings: `HostKey ${rsa}` });
    const knownHosts = join(home, 'hosts');
    await writeFile(knownHosts, `[127.0.0.1]:${port} ${await readFile(`${rsa}.pub`)}`);
    assert.equal((await open({ config: { knownHosts } }).stat(''))?.kind, 'folder');
  });

  test('ends at once when it is closed while it waits for a host that does not answer', async (t) => {
    const { open } = await createSftpServer(t);
    const { port, waiting } = await deafPort(t);
    const before = await waiting();
    const mirror = open({ config: { remote: { host: '127.0.0.1', port } } });
    const leaving = new AbortController();
    const asked = mirror.stat('', { signal: leaving.signal });
    while ((await waiting()) === before) await nextTurn();
    leaving.abort(new Error('leaving'));
    await assert.rejects(asked, /leaving/);
    await mirror.close();
    assert.equal(await waiting(), before);
  });

  test('fails where nothing listens, and where what listens says nothing', async (t) => {
    const { open, home } = await createSftpServer(t);
    const silent = createServer((socket) => socket.on('error', () => {}).resume());
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as { port: number };
    const remote = { host: '127.0.0.1', port };
    const hearing = open({ config: { remote, root: home }, stallMs: 200 });
    await assert.rejects(hearing.stat(''), failsWith('MIRROR_DOWN', /no answer in time/));
    await hearing.close();
    await new Promise((resolve) => silent.close(resolve));
    const refused = open({ config: { remote } });
    await assert.rejects(refused.stat(''), failsWith('MIRROR_DOWN', /connection refused/));
  });

  test('fails where there is no SFTP', async (t) => {
    const { open } = await createSftpServer(t, { subsystem: '/bin/false' });
    await assert.rejects(open().stat(''), failsWith('MIRROR_DENIED', /does not speak SFTP/));
  });

  test('fails where the root is not a folder', async (t) => {
    const { open, home } = await createSftpServer(t);
    await writeFile(join(home, 'file'), '');
    for (const name of ['none', 'file']) {
      const mirror = open({ config: { root: join(home, name) } });
      const source = sourceOf(Buffer.from('x'));
      for (const attempt of [
        () => mirror.list(''),
        () => mirror.stat(''),
        () => mirror.stat('a'),
        () => mirror.read('a', { maxBytes: 1 }),
        () => mirror.put(source, 'a'),
        () => mirror.write('a', []),
        () => mirror.rename('a', 'b'),
        () => mirror.remove('a'),
        () => mirror.makeFolder('a/b'),
        () => mirror.sync(''),
        () => mirror.capabilities(),
      ]) {
        await assert.rejects(attempt, failsWith('MIRROR_DENIED', /there is no folder/));
      }
    }
  });

  test('is not needed anew when the root has been made', async (t) => {
    const { open, proxy, home } = await behindProxy(t);
    const mirror = open({ config: { root: join(home, 'later') } });
    await assert.rejects(mirror.stat('a'), failsWith('MIRROR_DENIED', /there is no folder/));
    await mkdir(join(home, 'later'));
    assert.equal(await mirror.stat('a'), undefined);
    await mirror.write('a', [Buffer.from('x')]);
    assert.equal(proxy.opened, 1);
  });
});

describe('a disk', asRoot, () => {
  test('that is full stops uploads, and takes them again when there is room', async (t) => {
    const mount = mounting(t);
    const { open, folder } = await createSftpServer(t);
    await mount(folder);
    await run('mount', ['-o', 'remount,size=8m', folder]);
    const mirror = open();
    const content = randomBytes(12 * 2 ** 20);
    await assert.rejects(
      mirror.put(sourceOf(content), 'file'),
      failsWith('MIRROR_FULL', /no space/),
    );
    await assert.rejects(mirror.write('small', [randomBytes(100)]), failsWith('MIRROR_FULL'));
    await run('mount', ['-o', 'remount,size=32m', folder]);
    await mirror.put(sourceOf(content), 'file');
    assert.equal((await mirror.hash('file'))?.sha256, sha256(content));
  });

  test('that can hold no more files says so', async (t) => {
    const mount = mounting(t);
    const { open, folder } = await createSftpServer(t);
    await mount(folder);
    await run('mount', ['-o', 'remount,nr_inodes=2', folder]);
    const mirror = open();
    await mirror.put(sourceOf(Buffer.from('1')), 'first');
    await assert.rejects(
      mirror.put(sourceOf(Buffer.from('2')), 'second'),
      failsWith('MIRROR_FULL'),
    );
    await assert.rejects(mirror.makeFolder('folder'), failsWith('MIRROR_FULL'));
  });

  test('that is read-only is told from one that is full', async (t) => {
    const mount = mounting(t);
    const { open, folder } = await createSftpServer(t);
    await mount(folder);
    await writeFile(join(folder, 'file'), 'x');
    await run('mount', ['-o', 'remount,ro', folder]);
    const mirror = open();
    const isReadOnly = failsWith('MIRROR_DENIED', /read-only/);
    await assert.rejects(mirror.put(sourceOf(Buffer.from('1')), 'new'), isReadOnly);
    await assert.rejects(mirror.makeFolder('folder'), isReadOnly);
    await assert.rejects(mirror.rename('file', 'other'), isReadOnly);
    await assert.rejects(mirror.remove('file'), isReadOnly);
    assert.equal((await mirror.space())?.readOnly, true);
  });

  test('that belongs to someone else is denied', async (t) => {
    const { open, folder } = await createSftpServer(t, { subsystem: 'internal-sftp -R' });
    await writeFile(join(folder, 'file'), 'x');
    const mirror = open();
    const isDenied = failsWith('MIRROR_DENIED', /permission denied/);
    await assert.rejects(mirror.put(sourceOf(Buffer.from('1')), 'new'), isDenied);
    await assert.rejects(mirror.remove('file'), isDenied);
    assert.equal((await mirror.hash('file'))?.size, 1);
  });
});

describe('a connection', programs, () => {
  test('that is cut ends what it carries, and the next operation opens another', async (t) => {
    const { open, proxy } = await behindProxy(t);
    const mirror = open();
    const put = mirror.put(endless, 'file', { onBytes: () => proxy.cut() });
    await assert.rejects(put, failsWith('MIRROR_DOWN'));
    assert.equal((await mirror.stat(''))?.kind, 'folder');
  });

  test('whose server is killed is lost', async (t) => {
    const pidFile = join(await temporaryFolder(t), 'pid');
    const { open } = await createSftpServer(t, { settings: `PidFile ${pidFile}` });
    const mirror = open();
    // It says that it listens before it writes the file.
    await mirror.stat('');
    const sshd = Number(await readFile(pidFile, 'utf8'));
    let killed = false;
    const onBytes = () => {
      if (killed) return;
      killed = true;
      void childrenOf(sshd).then((pids) => outcome('kill', ['-9', ...pids.map(String)]));
    };
    await assert.rejects(mirror.put(endless, 'file', { onBytes }), failsWith('MIRROR_DOWN'));
    assert.equal((await mirror.stat('file'))?.kind, 'file');
  });

  test('that passes nothing on any more is given up', async (t) => {
    const { open, proxy } = await behindProxy(t, { stallMs: 500 });
    const mirror = open();
    const put = mirror.put(endless, 'file', { onBytes: () => proxy.freeze() });
    await assert.rejects(put, failsWith('MIRROR_DOWN', /no answer/));
    proxy.thaw();
    assert.equal((await mirror.stat(''))?.kind, 'folder');
  });

  test('that goes silent while it has nothing to do is noticed', async (t) => {
    const { open, proxy } = await behindProxy(t, { stallMs: 400 });
    let tell = (_line: string) => {};
    const ended = new Promise<string>((resolve) => {
      tell = resolve;
    });
    const write = (line: string) => {
      if (line.includes('has ended')) tell(line);
    };
    const log = createLogger({ level: 'debug', format: 'json', destination: { write } });
    const mirror = open({ log });
    await mirror.stat('');
    proxy.freeze();
    assert.match(await ended, /no answer/);
    proxy.thaw();
    assert.equal((await mirror.stat(''))?.kind, 'folder');
  });

  test('that goes silent does not keep a signal from ending an operation, nor the mirror from closing', async (t) => {
    const { open, proxy } = await behindProxy(t, { stallMs: 60_000 });
    const mirror = open();
    await mirror.stat('');
    proxy.freeze();
    const stop = new AbortController();
    const stat = mirror.stat('', { signal: stop.signal });
    const list = mirror.list('');
    stop.abort(new Error('enough'));
    await assert.rejects(stat, /enough/);
    const refused = assert.rejects(list, failsWith('MIRROR_DOWN'));
    await mirror.close();
    await refused;
  });

  test('is shared until there is work for more, and no more are opened than allowed', async (t) => {
    const { open, proxy } = await behindProxy(t, { connections: 3, far: true });
    const mirror = open();
    for (let count = 0; count < 20; count++) await mirror.stat('');
    assert.equal(proxy.opened, 1);
    await mirror.put(sourceOf(randomBytes(64 * 2 ** 20)), 'file');
    assert.equal(proxy.opened, 3);
    await Promise.all(Array.from({ length: 1000 }, () => mirror.stat('file')));
    assert.equal(proxy.opened, 3);
  });

  test('to a mirror that is near carries large files alone, in one session', async (t) => {
    const { open, sessions } = await withSessions(t, { far: false });
    const mirror = open();
    await mirror.put(sourceOf(randomBytes(64 * 2 ** 20)), 'file');
    assert.equal(await sessions(), 1);
  });

  test('to a mirror that is far gets a second session for large files, and keeps it', async (t) => {
    const { open, sessions, folder } = await withSessions(t, { far: true });
    const mirror = open();
    const content = randomBytes(64 * 2 ** 20);
    await mirror.stat('');
    assert.equal(await sessions(), 1);
    for (const name of ['a', 'b']) {
      await mirror.put(sourceOf(content), name);
      assert.equal(await sessions(), 2);
      assert.equal(sha256(await readFile(join(folder, name))), sha256(content));
    }
    await Promise.all(Array.from({ length: 1000 }, () => mirror.stat('a')));
    await mirror.close();
    await assert.rejects(mirror.stat('a'), failsWith('MIRROR_DOWN'));
  });

  test('is lost with all its sessions, each of which tells why', async (t) => {
    const { open, proxy } = await behindProxy(t, { connections: 1, far: true, stallMs: 3000 });
    const mirror = open();
    await mirror.put(sourceOf(randomBytes(64 * 2 ** 20)), 'file');
    proxy.freeze();
    const stats = Array.from({ length: 20 }, () =>
      assert.rejects(mirror.stat('file'), failsWith('MIRROR_DOWN', /no answer/)),
    );
    await Promise.all(stats);
    proxy.thaw();
    assert.equal((await mirror.stat('file'))?.size, 64 * 2 ** 20);
    assert.equal(proxy.opened, 2);
  });

  test('that cannot be opened beside the first is done without', async (t) => {
    const settings = 'MaxStartups 1:100:1';
    const { open, folder } = await behindProxy(t, { connections: 16, far: true, settings });
    const content = randomBytes(40 * 2 ** 20);
    await open().put(sourceOf(content), 'file');
    assert.equal(sha256(await readFile(join(folder, 'file'))), sha256(content));
  });

  test('that may have no second session does without', async (t) => {
    const { open, sessions, folder } = await withSessions(t, {
      far: true,
      settings: 'MaxSessions 1',
    });
    const mirror = open();
    const content = randomBytes(40 * 2 ** 20);
    for (const name of ['a', 'b']) {
      await mirror.put(sourceOf(content), name);
      assert.equal(sha256(await readFile(join(folder, name))), sha256(content));
    }
    assert.equal(await sessions(), 1);
  });
});

describe('an upload that was cut', programs, () => {
  test('wherever that was, goes on, and sends at most a window twice', async (t) => {
    const { open, proxy, folder } = await behindProxy(t, { far: true });
    const content = randomBytes(48 * 2 ** 20 + 4321);
    const file = join(folder, 'file');
    const cuts = fc.array(fc.integer({ min: 0, max: content.length }), {
      minLength: 1,
      maxLength: 3,
    });
    await fc.assert(
      fc.asyncProperty(cuts, async (places) => {
        await rm(file, { force: true });
        for (const place of places) {
          const mirror = open();
          await mirror.stat('');
          proxy.cutAfter(place);
          const put = mirror.put(sourceOf(content), 'file');
          const isCut = await put.then(
            () => false,
            (error: unknown) => failsWith('MIRROR_DOWN')(error),
          );
          proxy.cutAfter(Number.POSITIVE_INFINITY);
          await mirror.close();
          if (!isCut) break;
        }
        const there = (await stat(file).catch(() => undefined))?.size ?? 0;
        const mirror = open();
        const { start, sent } = await mirror.put(sourceOf(content), 'file');
        const hash = await mirror.hash('file');
        await mirror.close();
        assert.equal(start + sent, content.length);
        assert.ok(
          there - start <= resumeWindow,
          `${there} bytes were there, it went on at ${start}`,
        );
        assert.deepEqual(hash, { size: content.length, sha256: sha256(content) });
      }),
      { numRuns: 12 },
    );
  });

  test('while one connection hung has no holes before the window, and is mended', async (t) => {
    const { open, proxy, folder } = await behindProxy(t, {
      connections: 3,
      stallMs: 1000,
      far: true,
    });
    // No byte of it is zero, as the holes are.
    const content = Buffer.alloc(400 * 2 ** 20, 7);
    let done = 0;
    let hangs = false;
    const onBytes = (count: number) => {
      done += count;
      if (!hangs && done >= 30 * 2 ** 20) hangs = proxy.freezeLast();
    };
    const put = open().put(sourceOf(content), 'file', { onBytes });
    await assert.rejects(put, failsWith('MIRROR_DOWN', /no answer/));
    const there = await readFile(join(folder, 'file'));
    const hole = there.indexOf(0);
    assert.ok(hole > 0 && there.length - hole <= resumeWindow, `${hole} of ${there.length}`);
    // What is now cut at the hole's end would keep it, were it taken for written.
    const rest = content.subarray(0, there.length);
    const mirror = open();
    await mirror.put(sourceOf(rest), 'file');
    assert.equal((await mirror.hash('file'))?.sha256, sha256(rest));
  });
});

describe('a reader of a mirror without posix-rename', programs, () => {
  test('never sees half a file, and the old one is put back where the new one fails', async (t) => {
    const { open, folder } = await createSftpServer(t, {
      subsystem: 'internal-sftp -P posix-rename',
    });
    const mirror = open();
    assert.equal((await mirror.capabilities()).atomicReplace, false);
    const contents = ['a', 'b'].map((letter) => letter.repeat(300_000));
    await mirror.write('index.json', [Buffer.from(contents[0] ?? '')]);
    let writing = true;
    const reading = (async () => {
      const seen = new Set<string>();
      while (writing) {
        const text = await readFile(join(folder, 'index.json'), 'utf8').catch(() => 'none');
        seen.add(text);
      }
      return seen;
    })();
    for (let round = 0; round < 40; round++) {
      await mirror.write('index.json', [Buffer.from(contents[round % 2] ?? '')]);
    }
    writing = false;
    for (const text of await reading) assert.ok([...contents, 'none'].includes(text), 'whole');
    await assert.rejects(mirror.rename('none', 'index.json'), failsWith('MIRROR_MISSING'));
    assert.deepEqual(await readdir(folder), ['index.json']);
    assert.equal((await stat(join(folder, 'index.json'))).size, 300_000);
  });

  test('finds a file again that a crash has left aside only until the next write', async (t) => {
    const { open, folder } = await createSftpServer(t, {
      subsystem: 'internal-sftp -P posix-rename',
    });
    await writeFile(join(folder, '.index.json.replaced.tmp'), 'old');
    await open().write('index.json', [Buffer.from('new')]);
    assert.deepEqual(await readdir(folder), ['.index.json.replaced.tmp', 'index.json'].slice(1));
  });
});

describe('a limit of bandwidth', programs, () => {
  test('holds over all connections', async (t) => {
    const { open } = await createSftpServer(t);
    const mirror = open({ config: { bandwidth: 20 * 2 ** 20, connections: 4 } });
    await mirror.stat('');
    const started = performance.now();
    await mirror.put(sourceOf(randomBytes(20 * 2 ** 20)), 'file');
    // Nothing can make it faster than the limit, less the burst.
    assert.ok(performance.now() - started >= 850);
  });
});

async function fingerprintOf(file: string): Promise<string> {
  const text = await run('ssh-keygen', ['-l', '-f', file]);
  return text.split(' ')[1] ?? '';
}

async function makeKey(file: string, type = 'ed25519'): Promise<string> {
  await run('ssh-keygen', ['-q', '-t', type, '-N', '', '-f', file]);
  return file;
}

/** The processes that `pid` has started, and those that they have. */
async function childrenOf(pid: number): Promise<number[]> {
  const { stdout } = await outcome('pgrep', ['-P', String(pid)]);
  const children = stdout.split('\n').filter(Boolean).map(Number);
  const below = await Promise.all(children.map(childrenOf));
  return [...children, ...below.flat()];
}
