/**
 * `npm start`: runs a master with a sample image, and a mirror of it, with the real command; says how to try them.
 *
 * Options: `--folder` (default: .sample of the project), `--port` (8443), `--mirror-port` (the next one),
 * `--image busybox|tiny`, `--sftp sshd|own` (what takes the mirror's files; default: sshd where there is one).
 */
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { KeptServer } from '../support/command.js';
import { initialise, makeSite, type Site, succeed, watch } from '../support/site.js';
import { type DemoMirror, makeMirror, type SftpKind } from './mirror.js';
import { makeSample, type SampleImage } from './sample.js';

const defaultFolder = join(import.meta.dirname, '../../../.sample');

interface StartOptions {
  folder: string;
  port: number;
  mirrorPort: number;
  image?: SampleImage;
  sftp?: SftpKind;
}

function readOptions(): StartOptions {
  const { values } = parseArgs({
    options: {
      folder: { type: 'string', default: defaultFolder },
      port: { type: 'string', default: '8443' },
      'mirror-port': { type: 'string' },
      image: { type: 'string' },
      sftp: { type: 'string' },
    },
  });
  const port = readPort('--port', values.port);
  const { 'mirror-port': mirrorPort = String(port + 1), image, sftp } = values;
  return {
    folder: resolve(values.folder),
    port,
    mirrorPort: readPort('--mirror-port', mirrorPort),
    ...(image !== undefined && { image: oneOf('--image', image, ['busybox', 'tiny'] as const) }),
    ...(sftp !== undefined && { sftp: oneOf('--sftp', sftp, ['sshd', 'own'] as const) }),
  };
}

function readPort(option: string, text: string): number {
  const port = Number(text);
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return port;
  throw new Error(`${option} ${text}: a port is a number from 1 to 65535`);
}

function oneOf<T extends string>(option: string, text: string, known: readonly T[]): T {
  const found = known.find((each) => each === text);
  if (found !== undefined) return found;
  throw new Error(`${option} ${text}: there are ${known.join(' and ')}`);
}

/** Throws where another program listens on the port: its answers would be taken for ours. */
async function checkPort(port: number, option: string): Promise<void> {
  const probe = createServer();
  await new Promise<void>((free, refuse) => {
    probe.once('error', () => {
      refuse(
        new Error(`Port ${port} is in use: end what listens there, or npm start -- ${option} N`),
      );
    });
    probe.listen(port, '127.0.0.1', free);
  });
  await new Promise((closed) => probe.close(closed));
}

/** The lines to paste into a shell, for one of the two clients. */
function clientLines(client: 'lxc' | 'incus', site: Site, image: SampleImage): string[] {
  const certificates = `${configFolder(client)}/servercerts`;
  return [
    `mkdir -p ${certificates}`,
    `cp '${site.certificate}' ${certificates}/demo.crt`,
    `${client} remote add demo ${site.url} --protocol=simplestreams`,
    `${client} image list demo:`,
    `${client} launch demo:${image} hello`,
    image === 'busybox' ? `${client} exec hello -- uname -a` : `${client} info hello`,
    `${client} delete --force hello`,
  ];
}

function configFolder(client: 'lxc' | 'incus'): string {
  const isSnap = client === 'lxc' && existsSync(join(homedir(), 'snap/lxd/common/config'));
  return isSnap ? '~/snap/lxd/common/config' : `~/.config/${client}`;
}

interface Demo {
  site: Site;
  mirror: DemoMirror;
  /** Of the mirror. */
  url: string;
  image: SampleImage;
}

function explain({ site, mirror, url, image }: Demo): string {
  const block = (client: 'lxc' | 'incus') =>
    clientLines(client, site, image)
      .map((line) => `  ${line}`)
      .join('\n');
  const server = mirror.kind === 'sshd' ? "OpenSSH's sshd" : 'an SSH server of our own';
  const version = `'${site.root}/images/sample/${image}/'*/default/20260101_00:00`;
  return `Master: ${site.root} on ${site.url} (Ctrl-C ends it)
Mirror: ${mirror.root} on ${url}, sent over SFTP to ${server}

A new version on the master is on the mirror moments later:
  for each in ${version}; do cp -r "$each" "\${each%/*}/$(date +%Y%m%d_%H:%M)"; done

With LXD:
${block('lxc')}

With Incus:
${block('incus')}
`;
}

/** What a line of the daemon's log means to somebody who tries it; `undefined` where it is not worth telling. */
function retell(line: string): string | undefined {
  if (!line.startsWith('{')) return line;
  const { msg, level, err, ...event } = JSON.parse(line) as Record<string, unknown> & {
    err?: { message: string };
  };
  if (msg === 'published') {
    return `master: published ${event.products} products, ${event.versions} versions`;
  }
  if (msg === 'the mirror is up to date' || msg === 'the mirror is up to date again') {
    return `mirror: up to date, ${event.files} files and ${event.bytes} bytes sent in ${event.ms} ms`;
  }
  return Number(level) > 30 ? `${msg}${err ? `: ${err.message}` : ''}` : undefined;
}

/** Runs until somebody ends it, or the master ends by itself. */
async function untilStopped(master: KeptServer): Promise<void> {
  let asked = false;
  const stop = () => {
    asked = true;
    void master.stop('SIGINT');
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
  const code = await master.wait();
  if (!asked) throw new Error(`The server ended by itself, with ${code}`);
}

async function start(): Promise<void> {
  const { folder, port, mirrorPort, image: wanted, sftp } = readOptions();
  await checkPort(port, '--port');
  await checkPort(mirrorPort, '--mirror-port');
  const sslDir = join(folder, 'ssl');
  const mirror = await makeMirror({
    ...{ folder: join(folder, 'mirror'), port: mirrorPort, sslDir },
    ...(sftp && { kind: sftp }),
  });
  try {
    const address = `127.0.0.1:${port}`;
    const site = await makeSite(folder, { address, sslDir, config: mirror.table });
    const image = await makeSample(site.root, wanted);
    await initialise(site);
    let hasBegun = false;
    const master = await watch(site, (line) => {
      const text = hasBegun ? retell(line) : undefined;
      if (text !== undefined) process.stdout.write(`${text}\n`);
    });
    const stopped = untilStopped(master);
    await succeed(site, 'mirror', 'sync');
    const { url, server } = await mirror.show();
    process.stdout.write(explain({ site, mirror, url, image }));
    hasBegun = true;
    await stopped.finally(() => server.stop());
  } finally {
    await mirror.close();
  }
}

start().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
});
