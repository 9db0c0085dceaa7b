import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash, generateKeyPairSync, type KeyObject, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import {
  type CertificateFiles,
  certificateFingerprint,
  ensureCertificate,
  hostAddresses,
  hostNames,
  qualifiedNames,
  readCertificate,
} from '../../src/server/certificate.js';
import { needs, systemEnv } from '../support/programs.js';

const run = promisify(execFile);
const folder = mkdtempSync(join(tmpdir(), 'certificate-'));
after(() => rmSync(folder, { recursive: true }));

let count = 0;
/** Where a pair could stand: in a folder that is not there yet. */
function freshFiles(): CertificateFiles {
  const place = join(folder, String(count++));
  return { certFile: join(place, 'nginx.crt'), keyFile: join(place, 'nginx.key') };
}

const mode = (path: string) => statSync(path).mode & 0o777;

describe('a new pair', () => {
  test('is an EC P-256 key with a server certificate for the names and addresses, for ten years', async () => {
    const files = freshFiles();
    const names = ['web.example.org', 'web', 'not a name', 'web', ''];
    const addresses = ['192.0.2.1', '2001:db8::1', '192.0.2.1'];
    const { created, fingerprint } = await ensureCertificate({ ...files, names, addresses });
    assert.equal(created, true);
    const certificate = new X509Certificate(readFileSync(files.certFile));
    assert.equal(fingerprint, createHash('sha256').update(certificate.raw).digest('hex'));
    assert.equal(certificate.publicKey.asymmetricKeyDetails?.namedCurve, 'prime256v1');
    assert.equal(certificate.subject, 'CN=web.example.org');
    assert.equal(
      certificate.subjectAltName,
      'DNS:web.example.org, DNS:web, IP Address:192.0.2.1, IP Address:2001:DB8:0:0:0:0:0:1',
    );
    assert.equal(certificate.ca, false);
    assert.deepEqual(certificate.keyUsage, ['1.3.6.1.5.5.7.3.1']);
    const days = (Date.parse(certificate.validTo) - Date.parse(certificate.validFrom)) / 86_400_000;
    assert.equal(days, 3651);
    assert.ok(Date.parse(certificate.validFrom) < Date.now());
  });

  test("is for this host's names and addresses unless told otherwise", async () => {
    const files = freshFiles();
    await ensureCertificate(files);
    const certificate = new X509Certificate(readFileSync(files.certFile));
    for (const name of ['localhost', hostname()]) assert.equal(certificate.checkHost(name), name);
    for (const address of ['127.0.0.1', '::1', ...hostAddresses()]) {
      assert.equal(certificate.checkIP(address), address);
    }
  });

  test('has a common name of at most 64 letters', async () => {
    const files = freshFiles();
    const name = `${'a'.repeat(60)}.example.org`;
    await ensureCertificate({ ...files, names: [name] });
    const certificate = new X509Certificate(readFileSync(files.certFile));
    assert.equal(certificate.subject, `CN=${name.slice(0, 64)}`);
    assert.equal(certificate.subjectAltName?.split(', ')[0], `DNS:${name}`);
  });

  for (const mask of [0, 0o077]) {
    test(`has a closed key and an open certificate under umask ${mask.toString(8)}`, async () => {
      const files = freshFiles();
      const before = process.umask(mask);
      await ensureCertificate(files).finally(() => process.umask(before));
      assert.equal(mode(files.keyFile), 0o600);
      assert.equal(mode(files.certFile), 0o644);
      assert.equal(mode(dirname(files.certFile)), 0o755 & ~mask);
      assert.deepEqual(readdirSync(dirname(files.certFile)), ['nginx.crt', 'nginx.key']);
    });
  }

  test('is one and the same for runs at the same time', async () => {
    const files = freshFiles();
    const results = await Promise.all(Array.from({ length: 8 }, () => ensureCertificate(files)));
    assert.equal(results.filter(({ created }) => created).length, 1);
    assert.equal(new Set(results.map(({ fingerprint }) => fingerprint)).size, 1);
    assert.deepEqual(readdirSync(dirname(files.certFile)), ['nginx.crt', 'nginx.key']);
  });
});

describe('an existing pair', () => {
  test('is left untouched', async () => {
    const files = freshFiles();
    const first = await ensureCertificate(files);
    const { cert, key } = await readCertificate(files);
    const times = () => [files.certFile, files.keyFile].map((file) => statSync(file).ctimeMs);
    const before = times();
    assert.deepEqual(await ensureCertificate(files), { ...first, created: false });
    assert.deepEqual(await readCertificate(files), { cert, key });
    assert.deepEqual(times(), before);
    assert.equal(certificateFingerprint(cert), first.fingerprint);
  });

  test('may be a chain with its own certificate first, and a key that its group reads', async () => {
    const [files, other] = [freshFiles(), freshFiles()];
    const { fingerprint } = await ensureCertificate(files);
    await ensureCertificate(other);
    writeFileSync(files.certFile, readFileSync(other.certFile), { flag: 'a' });
    chmodSync(files.keyFile, 0o640);
    assert.deepEqual(await ensureCertificate(files), { created: false, fingerprint });
  });
});

describe('half a pair', () => {
  test('that is a key, as a crash leaves it, gets its certificate', async () => {
    const files = freshFiles();
    await ensureCertificate(files);
    const { key } = await readCertificate(files);
    rmSync(files.certFile);
    assert.equal((await ensureCertificate(files)).created, true);
    assert.deepEqual((await readCertificate(files)).key, key);
  });

  test('that is a key of another kind is left to its owner', async () => {
    const files = freshFiles();
    mkdirSync(dirname(files.keyFile));
    const key = pem(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey);
    writeFileSync(files.keyFile, key, { mode: 0o600 });
    await assert.rejects(ensureCertificate(files), {
      code: 'TLS',
      message: `The key ${files.keyFile} has no certificate and is not an EC P-256 key`,
      hint: 'put its certificate beside it, or move the key away and run lxd-image-server init',
    });
    assert.equal(existsSync(files.certFile), false);
    assert.equal(readFileSync(files.keyFile, 'utf8'), key);
  });
});

describe('a pair that cannot be used', () => {
  const startOver =
    'put the right file there, or move both files away and run lxd-image-server init';
  const cases: {
    state: string;
    change: (files: CertificateFiles) => void | Promise<void>;
    message: (files: CertificateFiles) => string;
    hint: (files: CertificateFiles) => string;
  }[] = [
    {
      state: 'a certificate without its key',
      change: ({ keyFile }) => rmSync(keyFile),
      message: ({ keyFile }) => `Cannot read the TLS key ${keyFile}: no such file or folder`,
      hint: ({ certFile }) => `put it back, or move ${certFile} away and run lxd-image-server init`,
    },
    {
      state: "another pair's key",
      change: async ({ keyFile }) => {
        const other = freshFiles();
        await ensureCertificate(other);
        writeFileSync(keyFile, readFileSync(other.keyFile));
      },
      message: ({ certFile, keyFile }) =>
        `The key ${keyFile} does not belong to the certificate ${certFile}`,
      hint: () => startOver,
    },
    {
      state: 'a certificate that is none',
      change: ({ certFile }) => writeFileSync(certFile, 'certificate'),
      message: ({ certFile }) => `${certFile} holds no certificate in PEM form`,
      hint: () => startOver,
    },
    {
      state: 'a certificate in DER form',
      change: ({ certFile }) =>
        writeFileSync(certFile, new X509Certificate(readFileSync(certFile)).raw),
      message: ({ certFile }) => `${certFile} holds no certificate in PEM form`,
      hint: () => startOver,
    },
    {
      state: 'an empty key',
      change: ({ keyFile }) => writeFileSync(keyFile, ''),
      message: ({ keyFile }) => `${keyFile} holds no private key in PEM form without a passphrase`,
      hint: () => startOver,
    },
    {
      state: 'a key with a passphrase',
      change: ({ keyFile }) => writeFileSync(keyFile, pem(ecKey(), 'secret')),
      message: ({ keyFile }) => `${keyFile} holds no private key in PEM form without a passphrase`,
      hint: () => startOver,
    },
    {
      state: 'a key that everyone may read',
      change: ({ keyFile }) => chmodSync(keyFile, 0o644),
      message: ({ keyFile }) => `The TLS key ${keyFile} is open to every user of this host`,
      hint: ({ keyFile }) =>
        `run chmod o= ${keyFile}, and make a new pair if others may have read it`,
    },
    {
      state: 'a folder for a certificate',
      change: ({ certFile }) => {
        rmSync(certFile);
        mkdirSync(certFile);
      },
      message: ({ certFile }) => `Cannot read the TLS certificate ${certFile}: is a folder`,
      hint: () => 'make it a file that this user may read',
    },
  ];
  for (const { state, change, message, hint } of cases) {
    test(`is refused with its cure: ${state}`, async () => {
      const files = freshFiles();
      await ensureCertificate(files);
      await change(files);
      const expected = { code: 'TLS', message: message(files), hint: hint(files) };
      await assert.rejects(readCertificate(files), expected);
      await assert.rejects(ensureCertificate(files), expected);
    });
  }

  test('is refused with its cure: none at all', async () => {
    const files = freshFiles();
    await assert.rejects(readCertificate(files), {
      code: 'TLS',
      message: `Cannot read the TLS certificate ${files.certFile}: no such file or folder`,
      hint: 'run lxd-image-server init',
    });
  });

  test('is not made where a file stands in place of the folder', async () => {
    const files = freshFiles();
    writeFileSync(dirname(files.certFile), '');
    await assert.rejects(ensureCertificate(files), {
      code: 'TLS',
      message: `Cannot read the TLS certificate ${files.certFile}: not a folder`,
    });
  });

  test('is not made where nothing can be written', async () => {
    const { certFile } = freshFiles();
    // Room for the name itself, but not for that of a temporary file.
    const keyFile = join(dirname(certFile), 'k'.repeat(255));
    await assert.rejects(ensureCertificate({ certFile, keyFile }), {
      code: 'TLS',
      message: `Cannot write ${keyFile}: the name is too long`,
      hint: 'run it as a user that may write there, or name another folder with --ssl-dir',
    });
  });
});

describe('the names of this host', () => {
  test('are the fully qualified ones of its lines in /etc/hosts', () => {
    const hosts = [
      '127.0.0.1 localhost',
      '127.0.1.1\tweb.example.org web # web.comment.org',
      '#192.0.2.1 web.old.org web',
      '  192.0.2.2   web.example.net  other',
      '192.0.2.3 webmail.example.org web2.example.org',
    ].join('\n');
    assert.deepEqual(qualifiedNames(hosts, 'web'), ['web.example.org', 'web.example.net']);
    assert.deepEqual(qualifiedNames('', 'web'), []);
  });

  test('end with its own and localhost', async () => {
    assert.deepEqual((await hostNames()).slice(-2), [hostname(), 'localhost']);
  });
});

describe('a client that trusts the certificate', () => {
  let server: Server;
  let port: number;
  const files = freshFiles();

  before(async () => {
    await ensureCertificate(files);
    server = createServer(await readCertificate(files), (_request, response) => {
      response.end('{"format":"index:1.0","index":{}}');
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as AddressInfo).port;
  });
  after(() => server.close());

  test('as an authority of the system, strictly checked', needs('openssl'), async () => {
    const { certFile } = files;
    const args = ['verify', '-x509_strict', '-purpose', 'sslserver', '-CAfile', certFile, certFile];
    assert.equal((await run('openssl', args)).stdout, `${certFile}: OK\n`);
  });

  test('connects, by name and by address', needs('curl'), async () => {
    for (const host of ['localhost', '127.0.0.1']) {
      const url = `https://${host}:${port}/streams/v1/index.json`;
      const { stdout } = await run('curl', ['-sS', '--cacert', files.certFile, url]);
      assert.equal(stdout, '{"format":"index:1.0","index":{}}');
    }
  });

  test('is lxc, with it pinned or as an authority, and not without it', needs('lxc'), async () => {
    const LXD_CONF = join(folder, 'lxc');
    const pin = join(LXD_CONF, 'servercerts', 'here.crt');
    mkdirSync(dirname(pin), { recursive: true });
    const remote = { addr: `https://127.0.0.1:${port}`, protocol: 'simplestreams', public: true };
    const config = { 'default-remote': 'here', remotes: { here: remote } };
    writeFileSync(join(LXD_CONF, 'config.yml'), JSON.stringify(config));
    const list = (env: NodeJS.ProcessEnv) =>
      run('lxc', ['image', 'list', 'here:', '--format', 'json'], {
        env: { ...systemEnv, LXD_CONF, ...env },
      });
    await assert.rejects(list({}), /certificate signed by unknown authority/);
    assert.equal((await list({ SSL_CERT_FILE: files.certFile })).stdout, '[]\n');
    writeFileSync(pin, readFileSync(files.certFile));
    assert.equal((await list({})).stdout, '[]\n');
  });
});

/** A private key as PEM, under a passphrase where one is given. */
function pem(key: KeyObject, passphrase?: string): string {
  const lock = passphrase === undefined ? {} : { cipher: 'aes-256-cbc', passphrase };
  return key.export({ type: 'pkcs8', format: 'pem', ...lock }).toString();
}

const ecKey = () => generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
