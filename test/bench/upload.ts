/**
 * Uploads as `lxc image copy --mode=relay` makes them, to the daemon and to a real LXD, round by round in turn: the
 * rate, from the first byte to the end of the operation, and what memory the daemon takes for them.
 */
import { randomFillSync } from 'node:crypto';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeImageMetadata } from '../support/busybox-image.js';
import { run } from '../support/command.js';
import { createOwnHub } from '../support/hub.js';
import { lxd, startManager } from '../support/managers.js';
import { fingerprintOf, superblock } from '../support/sample-images.js';
import { succeed } from '../support/site.js';
import { createTestCertificate } from '../support/tls.js';
import { withFolder } from './folder.js';
import { inTurn, limitRow, median, type Row } from './measure.js';

const MiB = 2 ** 20;
const atOnce = 10;

export interface BenchUploadOptions {
  rounds: number;
  /** MiB of the root file system. */
  size: number;
}

/** What takes uploads. */
interface Target {
  url: string;
  pid: number;
}

interface Body {
  /** What is sent, piece by piece. */
  files: readonly string[];
  bytes: number;
  fingerprint: string;
}

interface Credentials {
  cert: string;
  key: string;
}

/** Needs root, LXD, curl, and a /dev/shm with room for twelve such images. */
export async function benchUpload({ rounds, size }: BenchUploadOptions): Promise<Row[]> {
  return await withFolder(async (folder) => {
    const endings: (() => unknown)[] = [];
    const t = { after: (ending: () => unknown) => void endings.unshift(ending) };
    try {
      const client = await makeClient(folder);
      const bodies = await makeBodies(folder, size * MiB);
      const peer = await startPeer(t, { folder, client });
      const ours = await startOurs(t, { folder, client });
      return await measure({ ours, peer, rounds, client, bodies });
    } finally {
      for (const end of endings) await end();
    }
  });
}

interface Measurement {
  ours: Target;
  peer: Target;
  rounds: number;
  client: Credentials;
  bodies: readonly Body[];
}

async function measure({ ours, peer, rounds, client, bodies }: Measurement): Promise<Row[]> {
  const [first] = bodies;
  if (first === undefined) throw new Error('no body');
  const size = `${Math.round(first.bytes / MiB)} MiB`;
  const idle = await resident(ours.pid);
  const rate = async (target: Target) => {
    const ms = await upload(target, { client, body: first });
    await remove(target, { client, body: first });
    return (first.bytes / MiB / ms) * 1000;
  };
  const peak = async (work: () => Promise<unknown>) => {
    await writeFile(`/proc/${ours.pid}/clear_refs`, '5');
    await work();
    return (await resident(ours.pid, 'VmHWM')) - idle;
  };
  // The first of each warms it up.
  const [own = [], theirs = []] = await inTurn(rounds + 1, [() => rate(ours), () => rate(peer)]);
  const one = await inTurn(rounds, [() => peak(() => rate(ours))]);
  const many = await inTurn(rounds, [
    () =>
      peak(async () => {
        await Promise.all(bodies.map((body) => upload(ours, { client, body })));
        for (const body of bodies) await remove(ours, { client, body });
      }),
  ]);
  const limit = { target: 60, unit: 'MiB' } as const;
  return [
    rateRow(`upload of ${size}`, { ours: median(own.slice(1)), peer: median(theirs.slice(1)) }),
    limitRow('memory above idle, one upload', { value: median(one[0] ?? []), ...limit }),
    limitRow(`memory above idle, ${atOnce} at once`, { value: median(many[0] ?? []), ...limit }),
  ];
}

function rateRow(name: string, { ours, peer }: { ours: number; peer: number }): Row {
  const shown = (rate: number) => `${Math.round(rate)} MiB/s`;
  return {
    name,
    ours: shown(ours),
    peer: shown(peer),
    result: `${(ours / peer).toFixed(2)} ×`,
    target: '≥ 0.6 ×',
    met: ours / peer >= 0.6,
  };
}

type Ending = { after: (ending: () => unknown) => void };
type Setting = { folder: string; client: Credentials };

async function startPeer(t: Ending, { folder, client }: Setting): Promise<Target> {
  const peer = await startManager(lxd, { parent: folder });
  t.after(() => peer.close());
  await peer.run('config', 'trust', 'add', client.cert);
  const { environment } = JSON.parse(await peer.run('query', '/1.0')) as {
    environment: { server_pid: number };
  };
  return { url: peer.url, pid: environment.server_pid };
}

async function startOurs(t: Ending, { folder, client }: Setting): Promise<Target> {
  const root = join(folder, 'root');
  await mkdir(root);
  const hub = await createOwnHub(t, { root, config: 'publish.removal_grace = "0s"' });
  await succeed(hub.site, 'trust', 'add', 'bench', '--certificate', client.cert);
  return { url: hub.url, pid: hub.daemon.pid };
}

async function makeClient(folder: string): Promise<Credentials> {
  const { cert, key } = await createTestCertificate();
  const paths = { cert: join(folder, 'client.crt'), key: join(folder, 'client.key') };
  await writeFile(paths.cert, cert);
  await writeFile(paths.key, key);
  return paths;
}

const boundary = 'between-the-parts';

/** Images that share their root file system, as forms of two parts. */
async function makeBodies(folder: string, bytes: number): Promise<Body[]> {
  const root = join(folder, 'root.squashfs');
  await writeRandom(root, bytes);
  const end = join(folder, 'end');
  await writeFile(end, `\r\n--${boundary}--\r\n`);
  const bodies: Body[] = [];
  for (let number = 0; number < atOnce; number += 1) {
    const own = join(folder, `image-${number}`);
    await mkdir(own);
    const properties = { os: 'Bench', release: `r${number}` };
    const metadata = await makeImageMetadata(own, { properties });
    const head = join(own, 'head');
    await writeFile(head, await headOf(metadata));
    const fingerprint = await fingerprintOf([metadata, root]);
    bodies.push({ files: [head, root, end], bytes, fingerprint });
  }
  return bodies;
}

async function headOf(metadata: string): Promise<Buffer> {
  const part = (name: string) =>
    Buffer.from(
      `--${boundary}\r\nContent-Disposition: form-data; name="${name}"; filename="${name}"\r\n` +
        'Content-Type: application/octet-stream\r\n\r\n',
    );
  const between = Buffer.from('\r\n');
  return Buffer.concat([part('metadata'), await readFile(metadata), between, part('rootfs')]);
}

/** A file of random bytes that begins as squashfs does. */
async function writeRandom(path: string, bytes: number): Promise<void> {
  const chunk = Buffer.alloc(Math.min(bytes, MiB));
  const file = await open(path, 'w');
  for (let at = 0; at < bytes; at += chunk.length) {
    randomFillSync(chunk);
    if (at === 0) superblock(bytes).copy(chunk);
    await file.write(chunk);
  }
  await file.close();
}

type Transfer = { client: Credentials; body: Body };

/** Sends an image and waits until it is taken. @returns milliseconds */
async function upload(target: Target, { client, body }: Transfer): Promise<number> {
  const started = performance.now();
  const headers = ['Transfer-Encoding: chunked', 'Expect:', 'X-LXD-public: true'];
  const type = `Content-Type: multipart/form-data; boundary=${boundary}`;
  const words = [...headers, type].flatMap((header) => ['-H', header]);
  const line = ['curl', ...curlArguments(client), '-X', 'POST', ...words, '-T', '-'];
  const shell = `cat "$1" "$2" "$3" | { shift 3; exec "$@"; }`;
  const url = `${target.url}/1.0/images`;
  await done(target, {
    client,
    answer: await run('sh', ['-c', shell, 'sh', ...body.files, ...line, url]),
  });
  return performance.now() - started;
}

async function remove(target: Target, { client, body }: Transfer): Promise<void> {
  const url = `${target.url}/1.0/images/${body.fingerprint}`;
  const answer = await run('curl', [...curlArguments(client), '-X', 'DELETE', url]);
  await done(target, { client, answer });
}

/** Waits for the operation that an answer names. @throws where it fails */
async function done(
  target: Target,
  { client, answer }: { client: Credentials; answer: string },
): Promise<void> {
  const { operation } = JSON.parse(answer) as { operation?: string };
  if (!operation) throw new Error(`not an operation: ${answer}`);
  const url = `${target.url}${operation}/wait?timeout=-1`;
  const said = await run('curl', [...curlArguments(client), url]);
  const { metadata } = JSON.parse(said) as { metadata?: { status_code: number } };
  if (metadata?.status_code !== 200) throw new Error(`the operation failed: ${said}`);
}

/** curl is written in C, so that the server and not its client is what gets measured. */
function curlArguments({ cert, key }: Credentials): string[] {
  return ['-sSk', '--http1.1', '--tlsv1.3', '--cert', cert, '--key', key];
}

/** Memory of a process in MiB, now or at most since that was last asked anew. */
async function resident(pid: number, line: 'VmRSS' | 'VmHWM' = 'VmRSS'): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${line}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]) / 1024;
}
