import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import {
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import ssh2, { type AnyAuthMethod, type ClientChannel, type SFTPWrapper } from 'ssh2';
import { createSftpMirror, type SftpMirrorConfig } from '../../src/mirror/sftp.js';
import { conformance, failsWith } from '../mirror/conformance.js';
import { run } from '../support/command.js';
import { memoryLog } from '../support/memory-log.js';
import { needs } from '../support/programs.js';
import { type SshKey, sshKey } from '../support/ssh-keys.js';
import { temporaryFolder } from '../support/temporary.js';
import { startSftpServer } from './sftp-server.js';
import { serveFiles } from './sftp-session.js';

interface Served {
  /** What clients see as `/`. */
  folder: string;
  /** The folder above it. */
  home: string;
  port: number;
  fingerprint: string;
  client: SshKey;
  open(changes?: Partial<SftpMirrorConfig>): ReturnType<typeof createSftpMirror>;
  close(): Promise<void>;
}

async function serve(t: TestContext): Promise<Served> {
  const home = await temporaryFolder(t);
  const folder = join(home, 'root');
  await mkdir(folder);
  const host = await sshKey(join(home, 'host'), 'host');
  const client = await sshKey(join(home, 'client'), 'client');
  const { port, fingerprint, close } = await startSftpServer({
    root: folder,
    user: 'demo',
    hostKey: host.private,
    authorizedKeys: [client.public],
    listen: { host: '127.0.0.1', port: 0 },
  });
  const config: SftpMirrorConfig = {
    name: 'demo',
    user: 'demo',
    remote: { host: '127.0.0.1', port },
    keyPath: client.file,
    hostKey: fingerprint,
    root: '/',
    connections: 3,
    bandwidth: undefined,
  };
  const mirrors: ReturnType<typeof createSftpMirror>[] = [];
  let isClosed = false;
  const closeOnce = async () => {
    if (!isClosed) await close();
    isClosed = true;
  };
  t.after(async () => {
    await Promise.all(mirrors.map((mirror) => mirror.close()));
    await closeOnce();
  });
  const open = (changes: Partial<SftpMirrorConfig> = {}) => {
    const { log } = memoryLog();
    const mirror = createSftpMirror({ config: { ...config, ...changes }, log, env: {} });
    mirrors.push(mirror);
    return mirror;
  };
  return { folder, home, port, fingerprint, client, open, close: closeOnce };
}

conformance('on the server for development', {
  async setUp(t) {
    const { open, folder } = await serve(t);
    return { mirror: open(), folder };
  },
  extensions: false,
  software: /^lxd-image-server-development$/,
  space: false,
  skip: false,
});

/** A client that is logged in. */
async function logIn(t: TestContext, { port, client }: Served): Promise<ssh2.Client> {
  const connection = new ssh2.Client();
  t.after(() => connection.destroy());
  const login = { host: '127.0.0.1', port, username: 'demo', privateKey: client.private };
  await once(connection.connect(login), 'ready');
  return connection;
}

/** Sends requests as they are, without what a mirror makes of them. */
async function rawClient(t: TestContext, served: Served) {
  const connection = await logIn(t, served);
  const sftp = await promisify(connection.sftp.bind(connection) as SftpOpener)();
  return <T = void>(name: keyof SFTPWrapper, ...given: unknown[]): Promise<T> =>
    new Promise((resolve, reject) => {
      const answer = (error: Error | undefined, value: T) =>
        error ? reject(error) : resolve(value);
      (sftp[name] as (...given: unknown[]) => void).call(sftp, ...given, answer);
    });
}

type SftpOpener = (done: (error: Error | undefined, sftp: SFTPWrapper) => void) => void;

const denied = (error: unknown) => (error as { code?: number }).code === 3;
const fails = (error: unknown) => (error as { code?: number }).code === 4;

describe('the server for development', () => {
  test('lets in its user with its key, and nobody else', async (t) => {
    const { open, home, port, client } = await serve(t);
    assert.equal((await open().stat(''))?.kind, 'folder');
    const stranger = await sshKey(join(home, 'stranger'), 'stranger');
    for (const wrong of [{ keyPath: stranger.file }, { user: 'root' }]) {
      await assert.rejects(open(wrong).stat(''), failsWith('MIRROR_AUTH'));
    }
    const attempts: AnyAuthMethod[] = [
      { type: 'none', username: 'demo' },
      { type: 'password', username: 'demo', password: client.private },
      // The right key, without what proves that it is the client's.
      { type: 'publickey', username: 'demo', key: impostorOf(client, stranger) },
    ];
    for (const attempt of attempts) {
      const connection = new ssh2.Client();
      t.after(() => connection.destroy());
      const outcome = await new Promise((resolve) => {
        connection.once('ready', () => resolve('let in'));
        connection.once('error', ({ level }) => resolve(level));
        connection.connect({ host: '127.0.0.1', port, username: 'demo', authHandler: [attempt] });
      });
      assert.equal(outcome, 'client-authentication', attempt.type);
    }
  });

  test('shows nothing outside of its folder, by whatever name', async (t) => {
    const served = await serve(t);
    const { home, folder } = served;
    await writeFile(join(home, 'secret'), 'secret');
    await mkdir(join(home, 'root-2'));
    await symlink('../secret', join(folder, 'file'));
    await symlink('..', join(folder, 'folder'));
    await symlink('../root-2', join(folder, 'beside'));
    await symlink('../new', join(folder, 'dangling'));
    const ask = await rawClient(t, served);
    const leads = ['file', 'folder/secret', 'folder', 'beside', '/folder/../folder/secret'];
    for (const path of leads) {
      await assert.rejects(ask('open', path, 'r'), denied, path);
      await assert.rejects(ask('stat', path), denied, path);
      await assert.rejects(ask('opendir', path), denied, path);
      await assert.rejects(ask('setstat', path, { mode: 0o777 }), denied, path);
    }
    const below = ['folder/new', 'beside/new'];
    for (const path of below) {
      await assert.rejects(ask('open', path, 'w'), denied);
      await assert.rejects(ask('mkdir', path), denied);
      await assert.rejects(ask('rename', 'file', path), denied);
      await assert.rejects(ask('unlink', path), denied);
      await assert.rejects(ask('lstat', path), denied);
    }
    await assert.rejects(ask('open', 'dangling', 'w'), fails);
    // Above the root there is the root.
    assert.equal(await ask<string>('realpath', '../../x/..'), '/');
    await assert.rejects(ask('stat', '../secret'), { code: 2 });
    assert.deepEqual((await readdir(home)).sort(), [
      ...['client', 'client.pub', 'host', 'host.pub', 'root', 'root-2', 'secret'],
    ]);
    // A link itself may be looked at, moved and removed.
    await ask('lstat', 'file');
    await ask('rename', 'file', 'moved');
    assert.equal(await readlink(join(folder, 'moved')), '../secret');
    await ask('unlink', 'moved');
    assert.equal(await readFile(join(home, 'secret'), 'utf8'), 'secret');
  });

  test('keeps its folder', async (t) => {
    const served = await serve(t);
    const ask = await rawClient(t, served);
    await assert.rejects(ask('rmdir', '/'), denied);
    await assert.rejects(ask('rmdir', '.'), denied);
    await assert.rejects(ask('rename', '/', '/x'), denied);
    assert.ok((await lstat(served.folder)).isDirectory());
  });

  test('does not rename over what is there', async (t) => {
    const served = await serve(t);
    const ask = await rawClient(t, served);
    for (const name of ['one', 'other']) await writeFile(join(served.folder, name), name);
    await assert.rejects(ask('rename', 'one', 'other'), fails);
    assert.equal(await readFile(join(served.folder, 'other'), 'utf8'), 'other');
    await ask('rename', 'one', 'third');
    assert.deepEqual((await readdir(served.folder)).sort(), ['other', 'third']);
  });

  test('changes rights, times and sizes, and no owners', async (t) => {
    const served = await serve(t);
    const ask = await rawClient(t, served);
    const file = join(served.folder, 'file');
    await writeFile(file, 'content');
    const handle = await ask<Buffer>('open', 'file', 'r+');
    await ask('fsetstat', handle, { mode: 0o600, size: 3 });
    await ask('setstat', 'file', { mode: 0o640, atime: 5, mtime: 7 });
    const found = await stat(file);
    assert.deepEqual([found.mode & 0o777, found.size, found.mtimeMs], [0o640, 3, 7000]);
    await ask('setstat', 'file', { size: 1 });
    assert.equal(await readFile(file, 'utf8'), 'c');
    await assert.rejects(ask('setstat', 'file', { uid: 1, gid: 1 }), denied);
  });

  test('opens so many files and no more', async (t) => {
    const served = await serve(t);
    await writeFile(join(served.folder, 'file'), '');
    const ask = await rawClient(t, served);
    const open = () => ask<Buffer>('open', 'file', 'r');
    const handles = await Promise.all(Array.from({ length: 1000 }, open));
    await assert.rejects(open(), fails);
    await ask('close', handles[0] as Buffer);
    await open();
    await assert.rejects(ask('close', handles[0] as Buffer), fails);
    // All are closed with the server, which waits for it.
    await served.close();
    const descriptors = await readdir('/proc/self/fd');
    const places = await Promise.all(
      descriptors.map((each) => readlink(`/proc/self/fd/${each}`).catch(() => '')),
    );
    assert.deepEqual(
      places.filter((place) => place.startsWith(served.folder)),
      [],
    );
  });

  test('answers requests in their order, however many there are', async (t) => {
    const served = await serve(t);
    const ask = await rawClient(t, served);
    const handle = await ask<Buffer>('open', 'file', 'w+');
    const size = 20_000;
    const answered: number[] = [];
    const content = randomBytes(size);
    await Promise.all(
      Array.from({ length: size }, async (_, at) => {
        await ask('write', handle, content, at, 1, at);
        answered.push(at);
      }),
    );
    assert.deepEqual(
      answered,
      Array.from({ length: size }, (_, at) => at),
    );
    assert.ok((await readFile(join(served.folder, 'file'))).equals(content));
  });

  test('takes in no more while many requests wait', async () => {
    const said: string[] = [];
    const name = (id: number) => void said.push(`answer ${id}`);
    const sftp = Object.assign(new EventEmitter(), { name, end: () => said.push('end') });
    const session = serveFiles(sftp as unknown as SFTPWrapper, {
      root: '/',
      wait: () => void said.push('wait'),
      goOn: () => void said.push('go on'),
    });
    for (let id = 0; id < 256; id++) sftp.emit('REALPATH', id, '.');
    assert.deepEqual(said, ['wait']);
    while (!said.includes('answer 255')) await new Promise(setImmediate);
    assert.equal(said.indexOf('go on'), said.indexOf('answer 127') + 1);
    session.end();
    await session.ended;
    assert.deepEqual(said.slice(-3), ['answer 255', 'end', 'go on']);
  });

  test('ends a session that does not keep to the protocol, and goes on', async (t) => {
    const served = await serve(t);
    const connection = await logIn(t, served);
    const channel = await new Promise<ClientChannel>((resolve, reject) => {
      connection.subsys('sftp', (error, opened) => (error ? reject(error) : resolve(opened)));
    });
    const closed = once(channel, 'close');
    channel.resume().write(Buffer.from([0, 0, 0, 1, 99]));
    await closed;
    assert.equal((await served.open().stat(''))?.kind, 'folder');
  });

  test('serves the sftp of OpenSSH', needs('sftp'), async (t) => {
    const { port, client, home, folder } = await serve(t);
    const content = randomBytes(3 * 2 ** 20 + 1);
    await writeFile(join(home, 'from'), content);
    const script = [
      ...['mkdir a', `put ${home}/from a/b`, 'rename a/b a/c', `get a/c ${home}/back`],
      ...['ls -l a', 'rm a/c', 'mkdir a/d'],
    ].join('\n');
    await writeFile(join(home, 'script'), script);
    const options = ['StrictHostKeyChecking=no', `UserKnownHostsFile=${home}/hosts`];
    const said = await run('sftp', [
      ...['-b', join(home, 'script'), '-P', String(port), '-i', client.file, '-F', 'none'],
      ...options.flatMap((option) => ['-o', option]),
      'demo@127.0.0.1',
    ]);
    assert.match(said, /3145729 .*c$/m);
    assert.ok((await readFile(join(home, 'back'))).equals(content));
    assert.deepEqual(await readdir(folder, { recursive: true }), ['a', 'a/d']);
  });
});

/** A key that shows itself as `key` and signs with another. */
function impostorOf(key: SshKey, other: SshKey) {
  const [shown, signing] = [key.public, other.private].map((text) => ssh2.utils.parseKey(text));
  if (shown instanceof Error || signing instanceof Error || !shown || !signing) {
    throw new Error('A key that cannot be read');
  }
  return Object.assign(signing, { getPublicSSH: () => shown.getPublicSSH() });
}
