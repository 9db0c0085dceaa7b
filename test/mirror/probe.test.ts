/** Probes of real web servers over TLS, most of which are not what a mirror should be. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import {
  createServer as createHttpServer,
  type IncomingMessage,
  type RequestListener,
} from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { createAuthorities } from '../../src/mirror/authorities.js';
import {
  mirrorUrl,
  ownWordHeader,
  type ProbeOptions,
  type ProbeResult,
  probeMirror,
} from '../../src/mirror/probe.js';
import { createAuthority } from '../support/authority.js';
import { freePort } from '../support/ports.js';
import { temporaryFolder } from '../support/temporary.js';
import { createTestCertificate, type TestCertificate } from '../support/tls.js';

const index = JSON.stringify({
  format: 'index:1.0',
  index: { images: { path: 'streams/v1/images.json', products: ['a:x:amd64:default'] } },
});
const file = { path: 'images/a/x/amd64/default/20260101_00:00/lxd.tar.xz', sha256: '', size: 12 };

/** What a good mirror answers. */
const good: RequestListener = (request, response) => {
  if (request.url === '/streams/v1/index.json') return void response.end(index);
  if (request.url !== `/${file.path}`) return void response.writeHead(404).end();
  response.writeHead(200, { 'Content-Length': file.size }).end();
};

async function listening(t: TestContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.close();
    (server as { closeAllConnections?: () => void }).closeAllConnections?.();
  });
  return (server.address() as AddressInfo).port;
}

async function http(t: TestContext, answer: RequestListener): Promise<string> {
  return `http://127.0.0.1:${await listening(t, createHttpServer(answer))}`;
}

async function https(
  t: TestContext,
  pair: TestCertificate,
  answer: RequestListener = good,
): Promise<string> {
  return `https://127.0.0.1:${await listening(t, createHttpsServer(pair, answer))}`;
}

async function writeTemporary(t: TestContext, text: string): Promise<string> {
  const path = join(await temporaryFolder(t), 'certificate.pem');
  await writeFile(path, text);
  return path;
}

/** What is trusted; nothing by default. */
async function probe(
  t: TestContext,
  url: string,
  {
    own = '',
    tlsCa,
    bundle = '',
    ...options
  }: { own?: string; tlsCa?: string; bundle?: string } & Partial<ProbeOptions> = {},
): Promise<ProbeResult> {
  const authorities = createAuthorities({ bundle: await writeTemporary(t, bundle) });
  const files = { own: await writeTemporary(t, own), tlsCa };
  return await probeMirror(
    { name: 'eu', url },
    { ownWord: 'word', authorities: () => authorities.contextFor(files), ...options },
  );
}

describe('a probe', () => {
  test('reads the index and asks for the head of a file, on one connection', async (t) => {
    const asked: IncomingMessage[] = [];
    const sockets = new Set<unknown>();
    const url = await http(t, (request, response) => {
      asked.push(request);
      sockets.add(request.socket);
      good(request, response);
    });
    const { ms } = await probe(t, `${url}/`, { file });
    assert.ok(ms >= 0 && Number.isInteger(ms));
    assert.deepEqual(
      asked.map(({ method, url: path }) => `${method} ${path}`),
      ['GET /streams/v1/index.json', `HEAD /${file.path}`],
    );
    assert.equal(sockets.size, 1);
    await probe(t, url);
    assert.equal(asked.length, 3);
  });

  test('asks below the path of the address', async (t) => {
    const url = await http(t, (request, response) => {
      request.url = request.url?.replace('/sub/tree', '');
      good(request, response);
    });
    await probe(t, `${url}/sub/tree/`, { file });
    assert.equal(mirrorUrl('https://a.example/b/', 'c'), 'https://a.example/b/c');
    assert.equal(mirrorUrl('https://a.example', 'c'), 'https://a.example/c');
  });

  const answers: [
    what: string,
    answer: RequestListener,
    code: string,
    message: RegExp,
    hint: RegExp,
  ][] = [
    [
      'without an index',
      (_, response) => void response.writeHead(404).end(),
      'MIRROR_DENIED',
      /index\.json is answered with status 404$/,
      /set url/,
    ],
    [
      'that forbids it',
      (_, response) => void response.writeHead(403).end(),
      'MIRROR_DENIED',
      /status 403$/,
      /everybody/,
    ],
    [
      'that is out of order',
      (_, response) => void response.writeHead(502).end(),
      'MIRROR_DENIED',
      /status 502$/,
      /log of its web server/,
    ],
    [
      'that sends elsewhere',
      (_, response) => void response.writeHead(302, { Location: 'http://x/' }).end(),
      'MIRROR_DENIED',
      /is redirected to "http:\/\/x\/" \(status 302\)$/,
      /where the files themselves are/,
    ],
    [
      'with web pages',
      (_, response) => void response.end('<!doctype html><p>hello'),
      'MIRROR_DENIED',
      /is a web page, not a document$/,
      /set url/,
    ],
    [
      'with other documents',
      (_, response) => void response.end('{"format":"products:1.0"}'),
      'MIRROR_DENIED',
      /index\.json /,
      /set url/,
    ],
    [
      'with half an index',
      (_, response) => void response.end(index.slice(0, -2)),
      'MIRROR_DENIED',
      /is not JSON, or was cut short$/,
      /set url/,
    ],
    [
      'without an end',
      (_, response) => void response.end(index + ' '.repeat(2 ** 20)),
      'MIRROR_DENIED',
      /is larger than 1 MiB$/,
      /set url/,
    ],
    [
      'without the file',
      (request, response) =>
        request.method === 'HEAD' ? void response.writeHead(404).end() : good(request, response),
      'MIRROR_MISSING',
      /lxd\.tar\.xz is answered with status 404$/,
      /the very folder that root names/,
    ],
    [
      'that sends elsewhere for the file',
      (request, response) =>
        request.method === 'HEAD'
          ? void response.writeHead(302, { Location: '/y' }).end()
          : good(request, response),
      'MIRROR_MISSING',
      /is redirected to "\/y"/,
      /where the files themselves are/,
    ],
    [
      'with another file of that name',
      (request, response) =>
        request.method === 'HEAD'
          ? void response.writeHead(200, { 'Content-Length': 13 }).end()
          : good(request, response),
      'MIRROR_DAMAGED',
      /has a size of 13, what was sent there has 12$/,
      /another server may answer/,
    ],
    [
      'that keeps the size to itself',
      (request, response) =>
        request.method === 'HEAD'
          ? void response.writeHead(200, { 'Transfer-Encoding': 'chunked' }).end()
          : good(request, response),
      'MIRROR_DAMAGED',
      /its size is not told$/,
      /the very folder/,
    ],
    [
      'that is this server itself',
      (request, response) =>
        void response
          .writeHead(421, { [ownWordHeader]: String(request.headers[ownWordHeader]) })
          .end(),
      'CONFIG',
      /leads to this server itself$/,
      /in circles/,
    ],
    [
      'that is misdirected otherwise',
      (_, response) => void response.writeHead(421, { [ownWordHeader]: 'other' }).end(),
      'MIRROR_DENIED',
      /status 421$/,
      /set url/,
    ],
    [
      'that hangs up',
      (request) => void request.socket.destroy(),
      'MIRROR_DOWN',
      /the connection was cut$/,
      /check network/,
    ],
  ];
  for (const [what, answer, code, message, hint] of answers) {
    test(`of a server ${what} fails, and says so`, async (t) => {
      const url = await http(t, answer);
      await assert.rejects(probe(t, url, { file }), { code, message, hint });
    });
  }

  test('gives up after a time, for all of it together, whatever trickles in', async (t) => {
    const url = await http(t, (_, response) => {
      response.writeHead(200);
      const timer = setInterval(() => response.write(' '), 20);
      response.on('close', () => clearInterval(timer));
    });
    await assert.rejects(probe(t, url, { timeoutMs: 200 }), {
      code: 'MIRROR_DOWN',
      message: /no answer from http:\/\/127\.0\.0\.1:\d+: nothing within 0\.2 s$/,
    });
  });

  test('ends with its signal', async (t) => {
    const server = createHttpServer();
    const url = `http://127.0.0.1:${await listening(t, server)}`;
    const arrived = once(server, 'request');
    const ending = new AbortController();
    const probing = probe(t, url, { signal: ending.signal });
    await arrived;
    const reason = new Error('over');
    ending.abort(reason);
    await assert.rejects(probing, reason);
  });

  test('of nobody fails', async (t) => {
    await assert.rejects(probe(t, `http://127.0.0.1:${await freePort()}`), {
      code: 'MIRROR_DOWN',
      message: /connection refused$/,
      hint: /web server of the mirror runs, and the port/,
    });
    await assert.rejects(probe(t, 'https://mirror.invalid'), {
      code: 'MIRROR_DOWN',
      message:
        /no answer from https:\/\/mirror\.invalid: (?:no such host|the name servers do not answer)$/,
      hint: /name servers/,
    });
  });

  test('of something that is no web server fails', async (t) => {
    const port = await listening(
      t,
      createTcpServer((socket) => {
        socket.on('error', () => {});
        socket.end('SSH-2.0-OpenSSH_9.2\r\n');
      }),
    );
    await assert.rejects(probe(t, `http://127.0.0.1:${port}`), {
      code: 'MIRROR_DOWN',
      message: /what it says is not HTTP$/,
    });
    await assert.rejects(probe(t, `https://127.0.0.1:${port}`), {
      code: 'MIRROR_DOWN',
      message: /it does not speak TLS there$/,
      hint: /port in url/,
    });
  });
});

test('a mirror without TLS 1.3, which LXD and Incus ask for, is none for clients', async (t) => {
  const pair = await createTestCertificate();
  const server = createHttpsServer({ ...pair, maxVersion: 'TLSv1.2' }, good);
  const url = `https://127.0.0.1:${await listening(t, server)}`;
  await assert.rejects(probe(t, url, { own: pair.cert }), {
    code: 'MIRROR_DOWN',
    message: /it has no TLS 1\.3/,
    hint: /ssl_protocols/,
  });
});

describe('the certificate of a mirror', () => {
  test('is believed where it is this server’s own, or tls_ca names it or its authority', async (t) => {
    const pair = await createTestCertificate();
    const authority = await createAuthority();
    const signed = await authority.issue();
    await probe(t, await https(t, pair), { file, own: pair.cert });
    await probe(t, await https(t, pair), { file, tlsCa: await writeTemporary(t, pair.cert) });
    const url = await https(t, signed);
    await probe(t, url, { file, tlsCa: await writeTemporary(t, authority.cert) });
    await probe(t, url, { file, bundle: authority.cert });
    await probe(t, url, { file, tlsCa: await writeTemporary(t, `# leaf\n${signed.cert}`) });
  });

  test('is not believed otherwise, and the hint names tls_ca', async (t) => {
    const pair = await createTestCertificate();
    const authority = await createAuthority();
    const trusted = { own: (await createTestCertificate()).cert };
    for (const shown of [pair, await authority.issue()]) {
      await assert.rejects(probe(t, await https(t, shown), trusted), {
        code: 'TLS',
        message:
          /the certificate of https:\/\/127\.0\.0\.1:\d+ is not accepted: it is of no authority/,
        hint: /as tls_ca of the mirror; clients have to trust it too$/,
      });
    }
  });

  test('must be for the host, and of this day', async (t) => {
    const authority = await createAuthority();
    const trusted = { tlsCa: await writeTemporary(t, authority.cert) };
    const other = await authority.issue({ names: ['other.example'] });
    await assert.rejects(probe(t, await https(t, other), trusted), {
      code: 'TLS',
      message: /it is not for 127\.0\.0\.1$/,
      hint: /a name that its certificate has/,
    });
    const day = 86_400_000;
    const from = (start: number) => ({
      notBefore: new Date(Date.now() + start),
      notAfter: new Date(Date.now() + start + day),
    });
    await assert.rejects(probe(t, await https(t, await authority.issue(from(-2 * day))), trusted), {
      message: /it has expired$/,
    });
    await assert.rejects(probe(t, await https(t, await authority.issue(from(day))), trusted), {
      message: /it is not valid yet$/,
    });
  });

  test('is believed once the system believes it, without a restart', async (t) => {
    const bundle = await writeTemporary(t, '');
    const authorities = createAuthorities({ bundle });
    const options = { ownWord: '', authorities: () => authorities.contextFor({ own: '/nowhere' }) };
    const authority = await createAuthority();
    const target = { name: 'eu', url: await https(t, await authority.issue()) };
    await assert.rejects(probeMirror(target, options), { code: 'TLS' });
    await writeFile(bundle, authority.cert);
    await probeMirror(target, options);
    await writeFile(bundle, '');
    await assert.rejects(probeMirror(target, options), { code: 'TLS' });
  });

  test('is looked up again where the file has changed; one that cannot be read is an error', async (t) => {
    const [before, after] = [await createTestCertificate(), await createTestCertificate()];
    const tlsCa = await writeTemporary(t, before.cert);
    const authorities = createAuthorities({ bundle: await writeTemporary(t, '') });
    const options = {
      ownWord: '',
      authorities: () => authorities.contextFor({ own: '/nowhere', tlsCa }),
    };
    const target = { name: 'eu', url: await https(t, after) };
    await assert.rejects(probeMirror(target, options), { code: 'TLS' });
    await writeFile(tlsCa, after.cert);
    await probeMirror(target, options);
    for (const text of ['', 'no PEM', before.cert.replace(/\n\w{8}/, '\nAAAAAAAA')]) {
      await writeFile(tlsCa, text);
      await assert.rejects(probeMirror(target, options), {
        code: 'TLS',
        message: `Cannot read ${tlsCa}: there is no certificate in it that can be read`,
      });
    }
    await assert.rejects(authorities.contextFor({ own: '', tlsCa: '/nowhere' }), {
      code: 'TLS',
      message: 'Cannot read /nowhere: no such file or folder',
      hint: /^tls_ca of a mirror/,
    });
  });
});
