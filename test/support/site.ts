/**
 * A site of its own for the real command: tree, configuration, key and certificate in one folder.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type CommandResult, type KeptServer, outcome, startServer } from './command.js';

const executable = join(import.meta.dirname, '../../src/main.js');

/** Where a site keeps what. Its `config` names all the other paths. */
export interface Site {
  /** The tree: `images/` and, once published, `streams/`. */
  root: string;
  config: string;
  /** Where `init` puts key and certificate; {@link Site.certificate} is in there. */
  sslDir: string;
  certificate: string;
  /** `host:port` on which `serve` listens. */
  address: string;
  url: string;
}

export interface SiteOptions {
  /** `host:port` */
  address: string;
  /** Where key and certificate are, or will be. Default: in the site's own folder. */
  sslDir?: string;
  /** Further tables of the configuration. */
  config?: string;
}

/** Lays out a site in `folder` (absolute, made if need be) that will listen on `address`. */
export async function makeSite(
  folder: string,
  { address, sslDir = join(folder, 'ssl'), config = '' }: SiteOptions,
): Promise<Site> {
  const site = {
    root: join(folder, 'root'),
    config: join(folder, 'config.toml'),
    sslDir,
    certificate: join(sslDir, 'nginx.crt'),
    address,
    url: `https://${address}`,
  };
  await mkdir(join(site.root, 'images'), { recursive: true });
  await writeFile(site.config, `${configuration(folder, site)}\n${config}`);
  return site;
}

function configuration(folder: string, { root, sslDir, certificate, address }: Site): string {
  // JSON's strings are TOML's basic strings too.
  const text = JSON.stringify;
  return `[paths]
root = ${text(root)}
state = ${text(join(folder, 'state'))}
run = ${text(join(folder, 'run'))}

[publish]
settle = "0s"

[server]
listen = ${text(address)}
tls_cert = ${text(certificate)}
tls_key = ${text(join(sslDir, 'nginx.key'))}
`;
}

/** Runs the command with the site's configuration to its end, whatever its exit code. */
export function command(site: Pick<Site, 'config'>, ...args: string[]): Promise<CommandResult> {
  return outcome(process.execPath, [executable, '--config', site.config, ...args]);
}

/** Runs the command and gives its standard output. Throws with all that it said unless it exits with 0. */
export async function succeed(site: Pick<Site, 'config'>, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await command(site, ...args);
  if (code === 0) return stdout;
  throw new Error(`lxd-image-server ${args.join(' ')} ended with ${code}:\n${stdout}${stderr}`);
}

/** Makes key and certificate, and publishes what is there. The machine's nginx is left alone. */
export async function initialise(site: Site): Promise<void> {
  await succeed(site, 'init', '--nginx-skip', '--ssl-dir', site.sslDir);
  await succeed(site, 'update');
}

/** A running `serve`, with the PEM that clients have to trust. */
export interface Served extends KeptServer {
  certificate: string;
}

/** Starts `serve` and waits until it says where it listens. Throws with all that it said if it ends first. */
export async function serve(site: Site): Promise<Served> {
  const line = [process.execPath, executable, '--config', site.config, 'serve'] as const;
  const server = await startServer(line, { isReady: (said) => said.includes(site.address) });
  return { ...server, certificate: await readFile(site.certificate, 'utf8') };
}

/** Starts `watch`, and waits until it has published what is there. Throws with all that it said if it ends first. */
export async function watch(site: Site, onOutput: (line: string) => void): Promise<KeptServer> {
  const line = [process.execPath, executable, '--config', site.config, 'watch'] as const;
  return await startServer(line, { isReady: (said) => said.includes('"msg":"ready"'), onOutput });
}
