import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { get } from 'node:https';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { type KeptServer, missingPrograms, outcome, run, startServer } from '../support/command.js';
import { machine } from '../support/image-files.js';
import { type IncusTools, incusMissing, incusTools } from '../support/incus.js';
import { lxdMissing, type PrivateLxd, startLxd } from '../support/lxd.js';
import { freePort } from '../support/ports.js';

const startScript = join(import.meta.dirname, '../demo/start.js');
const skipLxd = lxdMissing() || missingPrograms('busybox');
const skipIncus = await incusMissing();

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'npm-start-'));
});
after(() => rm(folder, { recursive: true, force: true }));

interface Demo {
  folder: string;
  home: string;
  port: number;
  mirrorPort: number;
  server: KeptServer;
}

/** Runs what `npm start` runs, for a user whose home is empty, until it has said how to try it. */
async function startDemo(
  name: string,
  options: readonly string[],
  onOutput?: (line: string) => void,
): Promise<Demo> {
  const [port, mirrorPort] = [await freePort(), await freePort()];
  const home = join(folder, `${name}-home`);
  const demo = { folder: join(folder, name), home, port, mirrorPort };
  await mkdir(home, { recursive: true });
  const line = [process.execPath, startScript, '--folder', demo.folder, '--port', String(port)];
  const more = ['--mirror-port', String(mirrorPort), ...options];
  const server = await startServer([...line, ...more] as [string, ...string[]], {
    isReady: (said) => said.includes('incus delete'),
    env: { HOME: home },
    ...(onOutput && { onOutput }),
  });
  return { ...demo, server };
}

/** The lines that it says to paste under `title`. */
function linesUnder(title: string, { server }: Demo): string[] {
  const block = server.said.split('\n\n').find((text) => text.startsWith(`${title}\n`));
  return (block ?? '').trim().split('\n').slice(1);
}

/** The `images.json` that a server gives. */
async function download({ port, ca }: { port: number; ca: string }): Promise<string> {
  const request = get({ host: '127.0.0.1', port, ca, path: '/streams/v1/images.json' });
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return await text(response);
}

/** Pastes one line into a shell of that user, and gives what it prints. */
function paste(line: string, { home }: Demo, env: Record<string, string>): Promise<string> {
  return run('sh', ['-c', line], { env: { ...env, HOME: home } });
}

describe('npm start, without any client', () => {
  test('uses the sample again at the next start, and changes nothing in it', async () => {
    const look = async (demo: Demo) => {
      const image = join(demo.folder, 'root/images/sample/tiny', machine.folder, 'default');
      const files = ['root/streams/v1/images.json', 'root/streams/v1/index.json', 'ssl/nginx.crt'];
      const paths = [
        join(image, '20260101_00:00/lxd_combined.tar.gz'),
        ...files.map((file) => join(demo.folder, file)),
      ];
      return Promise.all(
        paths.map(async (path) => ({
          inode: (await stat(path)).ino,
          content: await readFile(path, 'base64'),
        })),
      );
    };
    const first = await startDemo('again', ['--image', 'tiny']);
    await first.server.stop('SIGINT');
    const before = await look(first);
    const second = await startDemo('again', ['--image', 'tiny']);
    await second.server.stop('SIGINT');
    assert.deepEqual(await look(second), before);
  });

  test('ends with exit code 0 on Ctrl-C, and frees its ports', async () => {
    const demo = await startDemo('ctrl-c', ['--image', 'tiny']);
    assert.equal(await demo.server.stop('SIGINT'), 0);
    for (const port of [demo.port, demo.mirrorPort]) {
      const next = createServer().listen(port, '127.0.0.1');
      await once(next, 'listening');
      next.close();
    }
  });

  for (const sftp of ['sshd', 'own']) {
    const skip = sftp === 'sshd' && missingPrograms('sshd', 'ssh-keygen');
    const title = `an image dropped into the sample tree is on the mirror moments later (${sftp})`;
    test(title, { skip }, async () => {
      const events = new EventEmitter();
      const options = ['--image', 'tiny', '--sftp', sftp];
      const demo = await startDemo(`drop-${sftp}`, options, (line) => events.emit('line', line));
      const [line = ''] = linesUnder(
        'A new version on the master is on the mirror moments later:',
        demo,
      );
      const mirrored = new Promise<void>((resolve) => {
        events.on('line', (said: string) => {
          if (said.startsWith('mirror: up to date, 1 files')) resolve();
        });
      });
      await paste(line, demo, {});
      const ended = demo.server.wait().then(() => assert.fail('it has ended'));
      await Promise.race([mirrored, ended]);
      ended.catch(() => {});
      const ca = await readFile(join(demo.folder, 'ssl/nginx.crt'), 'utf8');
      const documents = await Promise.all(
        [demo.port, demo.mirrorPort].map((port) => download({ port, ca })),
      );
      assert.equal(documents[0], documents[1]);
      assert.equal(documents[0]?.match(/"lxd_combined.tar.gz":/g)?.length, 2);
      assert.equal(await demo.server.stop('SIGINT'), 0);
    });
  }

  test('says so when its port is in use', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as { port: number };
    const args = [startScript, '--folder', join(folder, 'in-use'), '--port', String(port)];
    const { code, stderr } = await outcome(process.execPath, args);
    other.close();
    assert.equal(code, 1);
    const cure = 'end what listens there, or npm start -- --port N';
    assert.equal(stderr, `Port ${port} is in use: ${cure}\n`);
  });
});

describe('the lines that npm start says to paste, with LXD', { skip: skipLxd }, () => {
  let lxd: PrivateLxd;
  before(async () => {
    lxd = await startLxd();
  });
  after(() => lxd?.close());

  test('launch a container and run a command in it', async () => {
    const demo = await startDemo('busybox', ['--image', 'busybox']);
    const env = { LXD_DIR: lxd.env.LXD_DIR };
    const printed = new Map<string, string>();
    for (const line of linesUnder('With LXD:', demo)) {
      printed.set(line.trim(), await paste(line, demo, env));
    }
    assert.match(printed.get('lxc image list demo:') ?? '', /\| busybox \(\d+ more\) +\|/);
    assert.match(printed.get('lxc exec hello -- uname -a') ?? '', /^Linux hello /);
    assert.equal(await lxd.lxc('list', '--format', 'csv'), '');
    assert.equal(await demo.server.stop('SIGINT'), 0);
  });

  test('launch a container that stops when asked, from the image made without BusyBox', async () => {
    const demo = await startDemo('tiny', ['--image', 'tiny']);
    const env = { LXD_DIR: lxd.env.LXD_DIR };
    const lines = linesUnder('With LXD:', demo);
    for (const line of lines.slice(0, -1)) await paste(line, demo, env);
    assert.equal(await lxd.lxc('list', '--format', 'csv', '--columns', 'ns'), 'hello,RUNNING\n');
    await lxd.lxc('stop', 'hello', '--timeout', '60');
    assert.equal(await lxd.lxc('list', '--format', 'csv', '--columns', 'ns'), 'hello,STOPPED\n');
    await paste(lines.at(-1) ?? '', demo, env);
    assert.equal(await lxd.lxc('list', '--format', 'csv'), '');
    assert.equal(await demo.server.stop('SIGINT'), 0);
  });
});

describe('the lines that npm start says to paste, with Incus', { skip: skipIncus }, () => {
  let tools: IncusTools;
  before(async () => {
    tools = await incusTools();
  });
  after(() => tools?.close());

  test('list the image', async () => {
    const demo = await startDemo('incus', ['--image', 'tiny']);
    const lines = linesUnder('With Incus:', demo);
    const upToList = lines.slice(0, lines.findIndex((line) => line.includes('image list')) + 1);
    let printed = '';
    for (const line of upToList) printed = await paste(line, demo, { PATH: tools.env.PATH });
    assert.match(printed, /\| tiny \(\d+ more\) +\|/);
    assert.equal(await demo.server.stop('SIGINT'), 0);
  });
});
