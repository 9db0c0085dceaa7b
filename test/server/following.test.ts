import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { Agent, request } from 'node:https';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { ServerError } from '../../src/errors.js';
import { createServing, type ServingConfig } from '../../src/server/following.js';
import { cli } from '../support/cli.js';
import { memoryLog } from '../support/memory-log.js';
import { freePort } from '../support/ports.js';
import { testRedirects } from '../support/redirecting.js';
import {
  imagesDocument,
  publishDocument,
  sha256,
  version,
  writeUnder,
} from '../support/served-tree.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate, rawGet } from '../support/tls.js';

const rootfs = `${version}/rootfs.squashfs`;
/** More than sockets and pipes hold, so that it is under way until it is read. */
const image = randomBytes(64 * 1024 * 1024);

/** A root with an image and a certificate, and a configuration to serve it. */
async function site(t: TestContext): Promise<ServingConfig> {
  const root = await temporaryFolder(t);
  await mkdir(join(root, 'images'));
  await writeUnder(root, rootfs, image);
  await publishDocument(root, 'images.json', { text: imagesDocument({ [rootfs]: image }) });
  await renewCertificate(root);
  return {
    paths: { root, images: join(root, 'images'), streams: join(root, 'streams/v1') },
    server: {
      listen: `127.0.0.1:${await freePort()}`,
      tlsCert: join(root, 'tls.crt'),
      tlsKey: join(root, 'tls.key'),
    },
  };
}

async function renewCertificate(root: string): Promise<void> {
  const { key, cert } = await createTestCertificate();
  await writeFile(join(root, 'new.key'), key, { mode: 0o600 });
  await rename(join(root, 'new.key'), join(root, 'tls.key'));
  await writeFile(join(root, 'tls.crt'), cert);
}

async function startServing(t: TestContext, config: ServingConfig) {
  const { log } = memoryLog();
  const serving = createServing({ log });
  t.after(() => serving.close({ graceMs: 0 }));
  await serving.apply(config);
  return serving;
}

function portOf({ server }: ServingConfig): number {
  return Number(server.listen.split(':').at(-1));
}

/** Asks for `path`; the answer's body is not read yet. */
async function get(port: number, path: string, agent?: Agent): Promise<IncomingMessage> {
  const options = { host: '127.0.0.1', port, path: `/${path}`, rejectUnauthorized: false };
  const asking = request({ ...options, agent: agent ?? false }).end();
  const [response] = (await once(asking, 'response')) as [IncomingMessage];
  return response;
}

/** SHA-256 of the certificate that a new connection is shown. */
async function shown(port: number): Promise<string> {
  const response = await get(port, '');
  const { raw } = (response.socket as TLSSocket).getPeerCertificate();
  response.resume();
  await once(response, 'end');
  return sha256(raw);
}

async function refusal(applying: Promise<void>): Promise<string> {
  try {
    await applying;
  } catch (error) {
    assert.ok(error instanceof ServerError, String(error));
    return error.code;
  }
  return assert.fail('It was applied');
}

function keepAlive(t: TestContext): Agent {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => agent.destroy());
  return agent;
}

test('a download goes on across another certificate, which new connections are shown', async (t) => {
  const config = await site(t);
  const port = portOf(config);
  const serving = await startServing(t, config);
  const before = await shown(port);
  const agent = keepAlive(t);
  const download = await get(port, rootfs, agent);
  const { socket } = download;
  await renewCertificate(config.paths.root);
  await serving.apply(config);
  const after = await shown(port);
  assert.notEqual(after, before);
  assert.equal(sha256(await buffer(download)), sha256(image));
  const next = await get(port, 'streams/v1/images.json', agent);
  assert.equal(next.socket, socket);
  assert.equal((await buffer(next)).toString(), imagesDocument({ [rootfs]: image }));
});

test('a download goes on across another address, where new connections are taken', async (t) => {
  const config = await site(t);
  const serving = await startServing(t, config);
  const agent = keepAlive(t);
  const download = await get(portOf(config), rootfs, agent);
  const listen = `127.0.0.1:${await freePort()}`;
  const moved = { ...config, server: { ...config.server, listen } };
  await serving.apply(moved);
  assert.deepEqual(serving.state(), { url: `https://${listen}` });
  await assert.rejects(get(portOf(config), ''), { code: 'ECONNREFUSED' });
  const next = await get(portOf(moved), rootfs);
  assert.equal(sha256(await buffer(next)), sha256(image));
  assert.equal(sha256(await buffer(download)), sha256(image));
});

test('a client that asks on at an earlier address is answered, and told that this is the end', async (t) => {
  const config = await site(t);
  const serving = await startServing(t, config);
  const agent = keepAlive(t);
  const download = await get(portOf(config), rootfs, agent);
  const { socket } = download;
  await serving.apply({ ...config, server: { ...config.server, listen: '' } });
  await buffer(download);
  const next = await get(portOf(config), 'streams/v1/images.json', agent);
  assert.equal(next.socket, socket);
  assert.deepEqual([next.statusCode, next.headers.connection], [200, 'close']);
  assert.equal((await buffer(next)).toString(), imagesDocument({ [rootfs]: image }));
});

test('another host with the same port, and another root at the same address, take the place over', async (t) => {
  const config = await site(t);
  const serving = await startServing(t, config);
  const download = await get(portOf(config), rootfs);
  const everywhere = { ...config.server, listen: `0.0.0.0:${portOf(config)}` };
  await serving.apply({ ...config, server: everywhere });
  assert.equal((await get(portOf(config), '')).statusCode, 200);
  const other = await site(t);
  await writeUnder(other.paths.root, 'index.html', 'the other one');
  await serving.apply({ ...other, server: everywhere });
  assert.equal((await buffer(await get(portOf(config), ''))).toString(), 'the other one');
  assert.equal(sha256(await buffer(download)), sha256(image));
});

test('what cannot be applied leaves the server as it was', async (t) => {
  const config = await site(t);
  const { root } = config.paths;
  const port = portOf(config);
  const serving = await startServing(t, config);
  const before = await shown(port);
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  t.after(() => taken.close());
  const address = taken.address() as { port: number };
  const withServer = (server: Partial<ServingConfig['server']>) => ({
    ...config,
    server: { ...config.server, ...server },
  });
  const elsewhere = { ...config.paths, images: '/elsewhere' };
  const cases: [ServingConfig, string][] = [
    [withServer({ listen: `127.0.0.1:${address.port}` }), 'BUSY'],
    [withServer({ listen: '192.0.2.1:1' }), 'CONFIG'],
    [withServer({ listen: `192.0.2.1:${port}` }), 'CONFIG'],
    [withServer({ tlsKey: join(root, 'none') }), 'TLS'],
    [{ ...config, paths: elsewhere }, 'CONFIG'],
  ];
  for (const [wrong, code] of cases) assert.equal(await refusal(serving.apply(wrong)), code);
  await writeFile(join(root, 'tls.key'), (await createTestCertificate()).key);
  assert.equal(await refusal(serving.apply(config)), 'TLS');
  assert.deepEqual(serving.state(), { url: `https://127.0.0.1:${port}` });
  assert.equal(await shown(port), before);
});

test('a server that could not take the place over comes back', async (t) => {
  const config = await site(t);
  const port = portOf(config);
  const serving = await startServing(t, config);
  // Another process at the same port of another address of this host stands in the way of all addresses.
  const taken = createServer().listen(port, '127.0.0.2');
  await once(taken, 'listening');
  t.after(() => taken.close());
  const everywhere = { ...config.server, listen: `0.0.0.0:${port}` };
  assert.equal(await refusal(serving.apply({ ...config, server: everywhere })), 'BUSY');
  assert.deepEqual(serving.state(), { url: `https://127.0.0.1:${port}` });
  assert.equal((await get(port, '')).statusCode, 200);
});

test('without a server, the state says why', async (t) => {
  const config = await site(t);
  const { log } = memoryLog();
  const serving = createServing({ log });
  t.after(() => serving.close());
  assert.deepEqual(serving.state(), { reason: 'it has not started yet' });
  const tlsCert = join(config.paths.root, 'none');
  assert.equal(
    await refusal(serving.apply({ ...config, server: { ...config.server, tlsCert } })),
    'TLS',
  );
  assert.deepEqual(serving.state(), {
    reason: `Cannot read the TLS certificate ${tlsCert}: no such file or folder`,
  });
  await serving.apply({ ...config, server: { ...config.server, listen: '' } });
  assert.deepEqual(serving.state(), {
    reason: 'it is switched off: server.listen is "" in the configuration',
  });
  await serving.apply(config);
  assert.deepEqual(serving.state(), { url: `https://127.0.0.1:${portOf(config)}` });
});

test('the end cuts what still goes on at an earlier address', async (t) => {
  const config = await site(t);
  const serving = await startServing(t, config);
  const download = await get(portOf(config), rootfs);
  await serving.apply({ ...config, server: { ...config.server, listen: '' } });
  await serving.close({ graceMs: 0 });
  await assert.rejects(buffer(download), { code: 'ECONNRESET' });
});

/** The `serve` command on a configuration file, and what it logs. */
async function startServe(t: TestContext, config: ServingConfig, logging: string) {
  const { root } = config.paths;
  const file = join(root, 'config.toml');
  const write = (listen: string, level: string) =>
    writeFile(
      file,
      `paths.root = "${root}"
[server]
listen = "${listen}"
tls_cert = "${root}/tls.crt"
tls_key = "${root}/tls.key"
[logging]
level = "${level}"
file = "${logging}"
`,
    );
  await write(config.server.listen, 'info');
  const child = spawn(process.execPath, [cli, 'serve', '--config', file], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  t.after(() => child.kill('SIGKILL'));
  /** Waits until the log in `place` has a line with `message`, beyond the first `from` bytes. */
  const logged = async (message: string, place = logging) => {
    for (;;) {
      const text = await readFile(place, 'utf8').catch(() => '');
      if (text.includes(message)) return text;
      assert.equal(child.exitCode ?? child.signalCode, null, `It ended: ${text}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  await logged('"serving"');
  return { child, write, logged };
}

test('serve follows its configuration at SIGHUP, and refuses a broken one', async (t) => {
  const config = await site(t);
  const logging = join(config.paths.root, 'log/serve.log');
  const { child, write, logged } = await startServe(t, config, logging);
  const port = portOf(config);
  const download = await get(port, rootfs);
  const before = await shown(port);

  // A rotated log, a new certificate, and requests in the log.
  await rename(logging, `${logging}.1`);
  await renewCertificate(config.paths.root);
  await write(config.server.listen, 'debug');
  child.kill('SIGHUP');
  await logged('"configuration read again"');
  assert.notEqual(await shown(port), before);
  await logged('"Request"');
  assert.doesNotMatch(await readFile(`${logging}.1`, 'utf8'), /read again|Request/);

  // Refused: what is there goes on.
  await write('nonsense', 'debug');
  child.kill('SIGHUP');
  assert.match(await logged('configuration refused'), /server\.listen must be an address/);
  await write('', 'debug');
  child.kill('SIGHUP');
  await logged('There is no address to serve on');
  assert.equal((await get(port, '')).statusCode, 200);

  const listen = `127.0.0.1:${await freePort()}`;
  await write(listen, 'info');
  child.kill('SIGHUP');
  await logged(`https://${listen}`);
  await assert.rejects(get(port, ''), { code: 'ECONNREFUSED' });
  assert.equal(sha256(await buffer(download)), sha256(image));
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  assert.deepEqual(await exited, [0, null]);
});

test('serve goes on when nobody reads its standard error, also across SIGHUP', async (t) => {
  const config = await site(t);
  const logging = join(config.paths.root, 'serve.log');
  const { child, write, logged } = await startServe(t, config, logging);
  child.stderr.destroy();
  // To standard error, and back.
  await writeFile(
    join(config.paths.root, 'config.toml'),
    (await readFile(join(config.paths.root, 'config.toml'), 'utf8')).replace(logging, ''),
  );
  child.kill('SIGHUP');
  await renewCertificate(config.paths.root);
  const before = await shown(portOf(config));
  while ((await shown(portOf(config))) === before) child.kill('SIGHUP');
  await rename(logging, `${logging}.1`);
  await write(config.server.listen, 'info');
  child.kill('SIGHUP');
  await logged('"configuration read again"');
  assert.equal((await get(portOf(config), '')).statusCode, 200);
});

test('serve needs an address', async (t) => {
  const config = await site(t);
  const file = join(config.paths.root, 'config.toml');
  await writeFile(file, `paths.root = "${config.paths.root}"\nserver.listen = ""\n`);
  const child = spawn(process.execPath, [cli, 'serve', '--config', file], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const said = (await buffer(child.stderr)).toString();
  assert.equal(
    said,
    'error: There is no address to serve on: server.listen is ""; set it in the configuration, or name an address with --listen\n',
  );
  assert.equal(child.exitCode ?? (await once(child, 'exit'))[0], 2);
});

test('what it redirects, and which proxies it believes, goes with it to another address', async (t) => {
  const config = await site(t);
  const redirects = testRedirects();
  const { log } = memoryLog();
  const serving = createServing({ log, redirects, trustedProxies: () => ['127.0.0.0/8'] });
  t.after(() => serving.close({ graceMs: 0 }));
  const headers = { 'X-Forwarded-For': '198.51.100.7' };
  for (const listen of [config.server.listen, `127.0.0.1:${await freePort()}`]) {
    await serving.apply({ ...config, server: { ...config.server, listen } });
    const { status } = await rawGet(Number(listen.split(':')[1]), `/${rootfs}`, { headers });
    assert.equal(status, 302);
    assert.deepEqual(
      redirects.take().map(({ client }) => client),
      ['198.51.100.7'],
    );
  }
});
