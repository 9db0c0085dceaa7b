/** Images that are brought: import, relay and push, whole and broken, by clients that may and that may not. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { afterEach, before, describe, type TestContext, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ServerError } from '../../../../src/errors.js';
import { memoryLog } from '../../../support/memory-log.js';
import { inTemporaryFolder, temporaryFolder } from '../../../support/temporary.js';
import { connectTls, createTestCertificate, type TestCertificate } from '../../../support/tls.js';
import {
  fingerprintOf,
  formOf,
  jsonType,
  multipart,
  open,
  plain,
  type Reply,
  send,
} from '../../../support/upload-client.js';
import {
  digest,
  startUploadSite,
  trustAll,
  type UploadSite,
  type UploadSiteOptions,
} from '../../../support/upload-site.js';

let certificate: TestCertificate;
before(async () => {
  certificate = await createTestCertificate();
});

const sites: UploadSite[] = [];
afterEach(async () => {
  for (const site of sites.splice(0)) await site.close();
});

async function start(
  t: TestContext,
  options: Partial<UploadSiteOptions> = {},
): Promise<UploadSite & { folder: string }> {
  const folder = await temporaryFolder(t);
  const site = await startUploadSite({ folder, ...options });
  sites.push(site);
  return { ...site, folder };
}

/** That nothing is left of an upload that failed. */
async function assertNothing({ folder, library }: UploadSite & { folder: string }): Promise<void> {
  assert.equal(library.open(), 0);
  assert.deepEqual(await readdir(folder), []);
  assert.deepEqual(await library.images(), []);
}

const split = formOf([
  ['metadata', 'meta'],
  ['rootfs', 'root'],
]);
const splitFingerprint = fingerprintOf('meta', 'root');

function assertAdded({ status, metadata }: Reply, fingerprint: string, size: number): void {
  assert.equal(status, 202);
  assert.equal(metadata.status, 'Success', metadata.err);
  assert.equal(metadata.class, 'task');
  assert.deepEqual(metadata.metadata, { fingerprint, size: String(size) });
}

/** Waits until `condition` holds; the runner's time-out is what ends it where it never does. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await nextTurn();
}

describe('a trusted client', () => {
  test('brings a split image with its properties, aliases and file name', async (t) => {
    const site = await start(t);
    const headers = {
      ...multipart,
      'X-LXD-public': 'true',
      'X-LXD-properties': 'os=Alpine&release=3.20+edge',
      'X-Incus-aliases': 'alias=alpine%2F3.20',
      'X-LXD-fingerprint': splitFingerprint,
    };
    assertAdded(await send(site, { certificate, headers, body: split }), splitFingerprint, 8);
    const image = await site.library.image(splitFingerprint);
    const contents = await Promise.all(image.files.map(({ path }) => readFile(path, 'utf8')));
    assert.deepEqual(contents, ['meta', 'root']);
    assert.deepEqual(site.library.told.get(splitFingerprint), {
      fingerprint: splitFingerprint,
      properties: { os: 'Alpine', release: '3.20 edge' },
      aliases: ['alpine/3.20'],
      filename: 'rootfs.file',
    });
  });

  test('brings the image of a virtual machine', async (t) => {
    const site = await start(t);
    const body = formOf([
      ['metadata', 'meta'],
      ['rootfs.img', 'disk'],
    ]);
    const reply = await send(site, { certificate, headers: multipart, body });
    assertAdded(reply, fingerprintOf('meta', 'disk'), 8);
  });

  test('brings a unified image, with or without saying what it is', async (t) => {
    const site = await start(t);
    const headers = { ...plain, 'X-LXD-filename': 'one.tar.gz' };
    assertAdded(await send(site, { certificate, headers, body: 'one' }), fingerprintOf('one'), 3);
    assertAdded(await send(site, { certificate, body: 'two' }), fingerprintOf('two'), 3);
    assert.deepEqual(site.library.told.get(fingerprintOf('one')), { filename: 'one.tar.gz' });
  });

  test('hears that the image is here already, in the words of LXD', async (t) => {
    const site = await start(t);
    await send(site, { certificate, headers: multipart, body: split });
    const { metadata } = await send(site, { certificate, headers: multipart, body: split });
    assert.equal(metadata.status, 'Failure');
    assert.equal(metadata.err, 'Image with same fingerprint already exists');
    assert.equal(site.library.open(), 0);
    assert.equal((await readdir(site.folder)).length, 1);
  });

  const long = Array.from({ length: 1000 }, (_, index) => [`part${index}`, 'x'] as const);
  const cases: [what: string, body: Buffer, says: RegExp][] = [
    [
      'with its parts in the wrong order',
      formOf([
        ['rootfs', 'r'],
        ['metadata', 'm'],
      ]),
      /"rootfs" stands where "metadata" should/,
    ],
    ['without a root file system', formOf([['metadata', 'm']]), /"rootfs" is missing/],
    ['without any part', Buffer.from('--B--\r\n'), /"metadata" is missing/],
    [
      'with an unknown part',
      formOf([
        ['metadata', 'm'],
        ['extra', 'x'],
        ['rootfs', 'r'],
      ]),
      /"extra" stands where "rootfs"/,
    ],
    [
      'with one part too many',
      formOf([
        ['metadata', 'm'],
        ['rootfs', 'r'],
        ['rootfs', 'r'],
      ]),
      /"rootfs" is one too many/,
    ],
    [
      'with a thousand parts',
      formOf([['metadata', 'm'], ['rootfs', 'r'], ...long]),
      /"part0" is one too many/,
    ],
    ['that is cut short', split.subarray(0, -12), /cut short/],
    ['that is none', Buffer.from('hello'), /malformed/],
  ];
  for (const [what, body, says] of cases) {
    test(`is refused a split image ${what}, and nothing is left of it`, async (t) => {
      const site = await start(t);
      const { status, error } = await send(site, { certificate, headers: multipart, body });
      assert.equal(status, 400);
      assert.match(error ?? '', says);
      await assertNothing(site);
    });
  }

  test('is refused an image with another fingerprint than it told', async (t) => {
    const site = await start(t);
    const headers = { ...multipart, 'X-LXD-fingerprint': 'ab'.repeat(32) };
    const { metadata } = await send(site, { certificate, headers, body: split });
    assert.equal(metadata.status, 'Failure');
    await assertNothing(site);
  });

  test('is refused more bytes than the limit as soon as they are too many', async (t) => {
    const site = await start(t, { maxSize: () => 100_000 });
    let sent = 0;
    async function* endless() {
      for (; sent < 5_000_000; sent += 10_000) yield Buffer.alloc(10_000);
    }
    const { status, error } = await send(site, { certificate, headers: plain, body: endless() });
    assert.equal(status, 413);
    assert.match(error ?? '', /larger than 100kB/);
    assert.equal(sent, 5_000_000, 'the rest was not read');
    await assertNothing(site);
  });

  test('is refused a body that says itself that it is too large, before it is written', async (t) => {
    const site = await start(t, { maxSize: () => 1000 });
    site.library.onWrite = () => assert.fail('it is written');
    const body = Buffer.alloc(2000);
    assert.equal((await send(site, { certificate, headers: plain, body })).status, 413);
    await assertNothing(site);
  });

  test('hears when the disk is full, after all that it sends', async (t) => {
    const site = await start(t);
    site.library.onWrite = () => {
      throw new ServerError('DISK_FULL', 'The disk is full');
    };
    const body = formOf([
      ['metadata', 'm'],
      ['rootfs', Buffer.alloc(3_000_000)],
    ]);
    const { error } = await send(site, { certificate, headers: multipart, body });
    assert.equal(error, 'The disk is full');
    await assertNothing(site);
  });

  test('leaves nothing behind when it goes away in the middle', async (t) => {
    const site = await start(t);
    const { request } = open(site, { certificate, headers: multipart });
    request.on('error', () => {});
    request.write(split.subarray(0, -5));
    await until(() => site.library.open() === 1);
    request.destroy();
    await until(() => site.library.open() === 0);
    await assertNothing(site);
  });

  test('leaves nothing behind when it goes away while the disk hangs', async (t) => {
    const site = await start(t);
    site.library.onWrite = (_part, signal) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason));
      });
    const { request } = open(site, { certificate, headers: multipart });
    request.on('error', () => {});
    request.end(split);
    await until(() => site.library.open() === 1);
    request.destroy();
    await until(() => site.library.open() === 0);
    await assertNothing(site);
  });

  test('may bring another image after any that failed', async (t) => {
    const site = await start(t, { limits: { each: 1 } });
    await send(site, { certificate, headers: multipart, body: 'hello' });
    const headers = { ...plain, 'X-LXD-fingerprint': splitFingerprint };
    const wrong = await send(site, { certificate, headers, body: 'x' });
    assert.equal(wrong.metadata.status, 'Failure');
    const source = { ...{ type: 'image', mode: 'pull' }, server: 'x', fingerprint: 'x' };
    const body = JSON.stringify({ source });
    const pull = await send(site, { certificate, headers: jsonType, body });
    assert.equal(pull.metadata.status, 'Failure');
    assertAdded(await send(site, { certificate, body: 'x' }), fingerprintOf('x'), 1);
  });

  test('that stops sending is given up, and nothing is left', async (t) => {
    const site = await start(t, { limits: { stallMs: 50 } });
    const { request, reply } = open(site, { certificate, headers: multipart });
    request.write(split.subarray(0, -5));
    const { error } = await reply;
    assert.match(error ?? '', /has sent nothing for/);
    request.destroy();
    await assertNothing(site);
  });

  test('may take its time as long as bytes come, and as long as the disk needs', async (t) => {
    const site = await start(t, { limits: { stallMs: 150 } });
    const wait = () => new Promise((resolve) => setTimeout(resolve, 60));
    site.library.onWrite = async () => {
      await wait().then(wait).then(wait);
    };
    async function* slow() {
      for (const byte of split) {
        if (byte % 13 === 0) await wait();
        yield Buffer.from([byte]);
      }
    }
    const reply = await send(site, { certificate, headers: multipart, body: slow() });
    assertAdded(reply, splitFingerprint, 8);
  });

  test('cancels an upload whose bytes are all there', async (t) => {
    const site = await start(t);
    site.library.onFinish = (_facts, signal) =>
      new Promise((_resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason));
      });
    const path = '/1.0/images?at-once';
    const { metadata } = await send(site, { certificate, path, headers: multipart, body: split });
    assert.equal(metadata.status, 'Running');
    await site.operations.cancel(metadata.id);
    assert.equal(site.operations.get(metadata.id)?.view().status, 'Cancelled');
    await assertNothing(site);
  });

  test('has so many uploads at once, and then places again', async (t) => {
    const site = await start(t, { limits: { all: 3, each: 2 } });
    const other = await createTestCertificate();
    const begin = (certificate: TestCertificate) => {
      const opened = open(site, { certificate, headers: plain });
      opened.request.write('x');
      return opened;
    };
    const running = [begin(certificate), begin(certificate)];
    await until(() => site.library.open() === 2);
    const third = await send(site, { certificate, headers: plain, body: 'y' });
    assert.equal(third.status, 503);
    assert.match(String(third.error), /2 of one client/);
    running.push(begin(other));
    await until(() => site.library.open() === 3);
    assert.match(String((await send(site, { certificate: other, body: 'y' })).error), /3 in all/);
    for (const [index, { request, reply }] of running.entries()) {
      request.end(String(index));
      assertAdded(await reply, fingerprintOf(`x${index}`), 2);
    }
    assertAdded(await send(site, { certificate, body: 'y' }), fingerprintOf('y'), 1);
  });
});

describe('a client that is not trusted', () => {
  for (const [form, headers] of Object.entries({ multipart, plain, json: jsonType })) {
    test(`hears why after it has sent its ${form}`, async (t) => {
      const judge = () => ({ refusal: 'Your certificate is not known here' });
      const site = await start(t, { judge });
      site.library.begin = () => assert.fail('an upload begins');
      const body = Buffer.alloc(5_000_000);
      const { status, error } = await send(site, { certificate, headers, body });
      assert.deepEqual(
        { status, error },
        { status: 403, error: 'Your certificate is not known here' },
      );
    });
  }

  test('hears how to become trusted where it has shown no certificate', async (t) => {
    const site = await start(t);
    const { status, error } = await send(site, { headers: plain, body: 'x' });
    assert.equal(status, 403);
    assert.match(error ?? '', /Only clients that this server trusts may do this: .*token/);
  });

  test('hears it before the end of a body that is too long to be thrown away', async (t) => {
    const site = await start(t, { limits: { drain: { bytes: 200_000, ms: 60_000 } } });
    const { request, reply } = open(site, { headers: plain });
    let more = true;
    const sending = (async () => {
      while (more) {
        if (!request.write(Buffer.alloc(50_000))) {
          await Promise.race([once(request, 'drain'), reply]);
        }
        await nextTurn();
      }
    })();
    assert.equal((await reply).status, 403);
    more = false;
    await sending;
    request.destroy();
  });

  test('hears it in time where it sends nothing', async (t) => {
    const site = await start(t, { limits: { drain: { bytes: 1000, ms: 20 } } });
    const { request, reply } = open(site, { headers: plain });
    request.write('x');
    assert.equal((await reply).status, 403);
    request.destroy();
  });
});

describe('a client that is trusted no more', () => {
  const forgetful = async (t: TestContext) => {
    let isTrusted = true;
    const forget = () => {
      isTrusted = false;
    };
    const judge = (der: Buffer | undefined) => ({ ...trustAll(der), isTrusted: () => isTrusted });
    return { site: await start(t, { judge }), forget };
  };

  test('has nothing published of what it was sending', async (t) => {
    const { site, forget } = await forgetful(t);
    async function* body() {
      yield Buffer.from('one');
      await until(() => site.library.open() === 1);
      forget();
      yield Buffer.from('two');
    }
    const { metadata } = await send(site, { certificate, headers: plain, body: body() });
    assert.match(metadata.err, /trusts the client that asked for it no more: .*trust add/);
    await assertNothing(site);
  });

  test('has nothing brought by others that it has announced', async (t) => {
    const { site, forget } = await forgetful(t);
    const body = JSON.stringify({ source: { mode: 'push', fingerprint: splitFingerprint } });
    const token = await send(site, { certificate, headers: jsonType, body });
    forget();
    const { status, error } = await send(site, {
      headers: {
        ...multipart,
        'X-LXD-fingerprint': splitFingerprint,
        'X-LXD-secret': String(token.metadata.metadata?.secret),
      },
      body: split,
    });
    assert.equal(status, 403);
    assert.match(error ?? '', /trusts the client that asked for it no more/);
    await assertNothing(site);
  });
});

describe('a push', () => {
  const announcement = {
    source: { type: 'image', mode: 'push', fingerprint: splitFingerprint },
    properties: { os: 'Alpine' },
    aliases: [{ name: 'alpine', description: '' }],
    public: true,
  };
  const announce = (site: UploadSite, json: object = announcement) =>
    send(site, { certificate, headers: jsonType, body: JSON.stringify(json) });
  const bring = (site: UploadSite, { secret = '', fingerprint = splitFingerprint } = {}) =>
    send(site, {
      headers: { ...multipart, 'X-LXD-fingerprint': fingerprint, 'X-LXD-secret': secret },
      body: split,
    });
  const secretOf = ({ metadata }: Reply) => String(metadata.metadata?.secret);

  test('is a token operation, and what a server brings with its secret is the image', async (t) => {
    const site = await start(t);
    const token = await announce(site);
    assert.equal(token.status, 202);
    assert.equal(token.metadata.class, 'token');
    assert.equal(token.metadata.status, 'Running');
    assert.deepEqual(token.metadata.resources, { images: [`/1.0/images/${splitFingerprint}`] });
    const { status, metadata } = await bring(site, { secret: secretOf(token) });
    assert.equal(status, 202);
    assert.equal(metadata.status, 'Success', metadata.err);
    const { secret, ...rest } = metadata.metadata ?? {};
    assert.deepEqual(rest, { fingerprint: splitFingerprint, size: '8' });
    assert.ok(site.operations.opensWith(metadata.id, String(secret)));
    assert.notEqual(secret, secretOf(token));
    assert.deepEqual(site.library.told.get(splitFingerprint), {
      filename: 'rootfs.file',
      fingerprint: splitFingerprint,
      properties: { os: 'Alpine' },
      aliases: ['alpine'],
    });
    assert.equal(site.operations.get(token.metadata.id)?.view().status, 'Success');
  });

  test('counts once', async (t) => {
    const site = await start(t);
    const secret = secretOf(await announce(site));
    site.library.onFinish = () => {
      throw new ServerError('IMAGE_INVALID', 'not an image');
    };
    assert.equal((await bring(site, { secret })).metadata.err, 'not an image');
    assert.equal((await bring(site, { secret })).status, 403);
    await assertNothing(site);
  });

  test('is refused with another secret or for another image, and the token stays', async (t) => {
    const site = await start(t);
    const secret = secretOf(await announce(site));
    const other = fingerprintOf('other');
    assert.equal((await bring(site, { secret: 'x' })).status, 403);
    assert.equal((await bring(site, { secret: 'f'.repeat(64) })).status, 403);
    assert.equal((await bring(site, { secret, fingerprint: other })).status, 403);
    assert.equal((await bring(site)).status, 403);
    await assertNothing(site);
    assert.equal((await bring(site, { secret })).metadata.status, 'Success');
  });

  test('is not waited for when its client cancels it', async (t) => {
    const site = await start(t);
    const token = await announce(site);
    await site.operations.cancel(token.metadata.id);
    assert.equal((await bring(site, { secret: secretOf(token) })).status, 403);
  });

  test('is not waited for longer than its time, and leaves its place to another', async (t) => {
    const site = await start(t, { limits: { pushes: { all: 1, each: 1, expireMs: 100 } } });
    const token = await announce(site);
    assert.match(String((await announce(site)).error), /Too many announced pushes/);
    await site.operations.get(token.metadata.id)?.ended();
    assert.equal((await bring(site, { secret: secretOf(token) })).status, 403);
    assert.equal((await announce(site)).status, 202);
  });

  test('of an image that is here is refused when it is announced', async (t) => {
    const site = await start(t);
    await send(site, { certificate, headers: multipart, body: split });
    const { status, error } = await announce(site);
    assert.deepEqual([status, error], [409, 'Image with same fingerprint already exists']);
  });

  test('is announced by trusted clients only', async (t) => {
    const site = await start(t);
    const body = JSON.stringify(announcement);
    assert.equal((await send(site, { headers: jsonType, body })).status, 403);
  });

  test('of another image than was announced leaves nothing', async (t) => {
    const site = await start(t);
    const fingerprint = fingerprintOf('other');
    const token = await announce(site, { source: { mode: 'push', fingerprint } });
    const { metadata } = await bring(site, { secret: secretOf(token), fingerprint });
    assert.equal(metadata.status, 'Failure');
    await assertNothing(site);
  });

  test('counts as an upload of the client that announced it', async (t) => {
    const site = await start(t, { limits: { each: 1 } });
    const secret = secretOf(await announce(site));
    const first = open(site, { certificate, headers: plain });
    first.request.write('x');
    await until(() => site.library.open() === 1);
    assert.equal((await bring(site, { secret })).status, 503);
    first.request.end();
    await first.reply;
  });
});

test('what was not taken is in the log, with its client and the reason', async (t) => {
  const { log, events } = memoryLog();
  const site = await start(t, { log });
  site.library.onWrite = () => {
    throw new ServerError('DISK_FULL', 'The disk is full');
  };
  await send(site, { certificate, headers: plain, body: 'x' });
  assert.deepEqual(
    events.map(({ msg, client, reason }) => [msg, client, reason]),
    [['image not taken', 'client', 'The disk is full']],
  );
});

describe('the JSON of a request', () => {
  test('is refused where it is longer than any image needs', async (t) => {
    const site = await start(t);
    const body = JSON.stringify({ source: {}, filler: 'x'.repeat(2_000_000) });
    const { status, error } = await send(site, { certificate, headers: jsonType, body });
    assert.equal(status, 400);
    assert.match(error ?? '', /too long/);
  });

  test('is refused where it is none', async (t) => {
    const site = await start(t);
    const { status } = await send(site, { certificate, headers: jsonType, body: '{' });
    assert.equal(status, 400);
  });
});

test('closing ends the connections whose bodies nobody wanted, and the announced pushes', async () => {
  await inTemporaryFolder(async (folder) => {
    const limits = { drain: { bytes: 1000, ms: 10 } };
    const site = await startUploadSite({ folder, limits });
    const token = await send(site, {
      certificate,
      headers: jsonType,
      body: JSON.stringify({ source: { mode: 'push', fingerprint: splitFingerprint } }),
    });
    const socket = await connectTls(site.port);
    socket.write('POST /1.0/images HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx');
    const [answer] = (await once(socket, 'data')) as [Buffer];
    assert.match(answer.toString(), /^HTTP\/1.1 403 /);
    const closed = once(socket, 'close');
    await site.uploads.close();
    await closed;
    assert.equal(site.operations.get(token.metadata.id)?.view().status, 'Cancelled');
    await site.close();
  });
});

test('the client of an upload is in the log', async (t) => {
  const lines: Record<string, unknown>[] = [];
  const { createLogger } = await import('../../../../src/log.js');
  const write = (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>);
  const log = createLogger({ level: 'info', format: 'json', destination: { write } });
  const site = await start(t, { log });
  await send(site, { certificate, headers: multipart, body: split });
  const [{ msg, client, how, fingerprint } = {}] = lines;
  assert.deepEqual(
    { msg, client, how, fingerprint },
    { msg: 'image added', client: 'client', how: 'import', fingerprint: splitFingerprint },
  );
  assert.notEqual(digest(certificate), digest(site.certificate));
});
