/** `init`: makes what the server needs, keeps what is there, and publishes. */

import { assets } from '../assets.js';
import { makeFolder } from '../disk/files.js';
import { exitCodes } from '../errors.js';
import type { RunResult } from '../pipeline.js';
import { flagPath } from '../server/redirect-flag.js';
import { localPath } from '../server/unix-socket.js';
import type { Command } from './command.js';
import { counted } from './format.js';
import { publishTree } from './update.js';

export interface InitOptions {
  /** No TLS key and certificate. */
  sslSkip?: boolean;
  /** Make no folders and publish nothing: they are to belong to the user that the server runs as. */
  publishSkip?: boolean;
  /** No nginx site. */
  nginxSkip?: boolean;
  /** Where nginx has its configuration. Default: /etc/nginx. */
  nginxDir?: string;
}

interface InitResult extends Partial<RunResult> {
  certificate: { file: string; created: boolean; fingerprint: string } | null;
  nginx: 'installed' | 'present' | 'no-nginx' | 'skipped';
}

/** Brings a host to the point where clients can be pointed at it. Running it again changes nothing. */
export async function init(command: Command, options: InitOptions): Promise<number> {
  const { paths } = command.config;
  if (options.publishSkip !== true) await makeFolders(paths);
  const certificate = options.sslSkip === true ? null : await certify(command);
  const nginx = options.nginxSkip === true ? 'skipped' : await installSite(command, options);
  const run = options.publishSkip === true ? {} : await publishTree(command, {});
  const result: InitResult = { ...run, certificate, nginx };
  command.print(command.json ? JSON.stringify(result) : summary(result, paths.root));
  return (result.problems ?? []).length > 0 ? exitCodes.partial : exitCodes.done;
}

async function makeFolders({ images, streams, state }: Command['config']['paths']): Promise<void> {
  for (const folder of [images, streams]) await makeFolder(folder);
  await makeFolder(state, 0o750);
}

async function certify({ config }: Command): Promise<InitResult['certificate']> {
  const { tlsCert: certFile, tlsKey: keyFile } = config.server;
  const { ensureCertificate } = await import('../server/certificate.js');
  return { file: certFile, ...(await ensureCertificate({ certFile, keyFile })) };
}

async function installSite(
  { config }: Command,
  options: InitOptions,
): Promise<InitResult['nginx']> {
  const { installNginxSite } = await import('../disk/nginx-site.js');
  return installNginxSite({
    nginxDir: options.nginxDir ?? '/etc/nginx',
    root: config.paths.root,
    certFile: config.server.tlsCert,
    keyFile: config.server.tlsKey,
    socketFile: localPath(config.paths.run),
    redirectFile: flagPath(config.paths.run),
    templateDir: assets.nginx,
  });
}

const nginxTexts: Record<InitResult['nginx'], string> = {
  installed: 'nginx: site installed; reload nginx to serve it',
  present: 'nginx: a site is there already and was kept',
  'no-nginx': 'nginx: not on this host; "lxd-image-server serve" needs none',
  skipped: '',
};

function summary({ certificate, nginx, products, versions }: InitResult, root: string): string {
  const tls =
    certificate &&
    `certificate: ${certificate.file} (${certificate.created ? 'made' : 'kept'}), SHA-256 ${certificate.fingerprint}`;
  const stock =
    products !== undefined &&
    versions !== undefined &&
    `published: ${counted(products, 'product')}, ${counted(versions, 'version')}`;
  return [`root: ${root}`, tls, nginxTexts[nginx], stock].filter(Boolean).join('\n');
}
