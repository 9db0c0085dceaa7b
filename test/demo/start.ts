/**
 * `npm start`: publishes a sample image with the real command, serves it, and says how to try it.
 *
 * Options: `--folder` (default: .sample of the project), `--port` (8443), `--image busybox|tiny`.
 */
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { initialise, makeSite, type Served, type Site, serve } from '../support/site.js';
import { makeSample, type SampleImage } from './sample.js';

const defaultFolder = join(import.meta.dirname, '../../../.sample');

interface StartOptions {
  folder: string;
  port: number;
  image?: SampleImage;
}

function readOptions(): StartOptions {
  const { values } = parseArgs({
    options: {
      folder: { type: 'string', default: defaultFolder },
      port: { type: 'string', default: '8443' },
      image: { type: 'string' },
    },
  });
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new Error(`--port ${values.port}: a port is a number from 1 to 65535`);
  }
  const options = { folder: resolve(values.folder), port };
  if (values.image === undefined) return options;
  if (values.image !== 'busybox' && values.image !== 'tiny') {
    throw new Error(`--image ${values.image}: there are busybox and tiny`);
  }
  return { ...options, image: values.image };
}

/** Throws where another program listens on the port: its answers would be taken for ours. */
async function checkPort(port: number): Promise<void> {
  const probe = createServer();
  await new Promise<void>((free, refuse) => {
    probe.once('error', () => {
      refuse(new Error(`Port ${port} is in use: end what listens there, or npm start -- --port N`));
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

function explain(site: Site, image: SampleImage): string {
  const block = (client: 'lxc' | 'incus') =>
    clientLines(client, site, image)
      .map((line) => `  ${line}`)
      .join('\n');
  return `Serving ${site.root} on ${site.url} (Ctrl-C ends it)

With LXD:
${block('lxc')}

With Incus:
${block('incus')}
`;
}

async function untilStopped(server: Served): Promise<void> {
  let asked = false;
  const stop = () => {
    asked = true;
    void server.stop('SIGINT');
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
  const code = await server.wait();
  if (!asked) throw new Error(`The server ended by itself, with ${code}`);
}

async function start(): Promise<void> {
  const { folder, port, image: wanted } = readOptions();
  await checkPort(port);
  const site = await makeSite(folder, { address: `127.0.0.1:${port}` });
  const image = await makeSample(site.root, wanted);
  await initialise(site);
  const server = await serve(site);
  const stopped = untilStopped(server);
  process.stdout.write(explain(site, image));
  await stopped;
}

start().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
});
