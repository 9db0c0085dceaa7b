/** A mirror for `npm start`: a folder of its own, the SSH server that fills it, and the web server that shows it. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { findProgram } from '../support/command.js';
import { makeSite, type Served, type Site, serve } from '../support/site.js';
import { createSshServer } from '../support/slow-upload.js';
import { sshKey } from '../support/ssh-keys.js';
import { startSftpServer } from './sftp-server.js';

/** What takes the files: OpenSSH's sshd, or a server of our own for machines that have none. */
export type SftpKind = 'sshd' | 'own';

export interface DemoMirror {
  /** Its table in the master's configuration. */
  table: string;
  root: string;
  kind: SftpKind;
  /** Serves what is there by now. @throws Error where its port is taken. */
  show(): Promise<{ url: string; server: Served }>;
  close(): Promise<void>;
}

export interface DemoMirrorOptions {
  /** Absolute; made if need be. */
  folder: string;
  /** Of the web server. */
  port: number;
  /** Where the master has key and certificate, which do for the mirror as well. */
  sslDir: string;
  /** Default: sshd where there is one. */
  kind?: SftpKind;
}

/** Where to log in, and with what. */
interface Login {
  user: string;
  port: number;
  keyFile: string;
  /** How the host is known: a line of the mirror's table. */
  known: string;
  /** The mirror's root as the account sees it. */
  root: string;
  close(): Promise<void>;
}

export async function makeMirror(options: DemoMirrorOptions): Promise<DemoMirror> {
  const { folder, port, sslDir, kind = hasSshd() ? 'sshd' : 'own' } = options;
  const address = `127.0.0.1:${port}`;
  const site: Site = await makeSite(folder, { address, sslDir });
  const login = await (kind === 'sshd' ? startSshd : startOwn)(folder, site.root);
  const text = JSON.stringify;
  const table = `[mirrors.demo]
url = ${text(site.url)}
user = ${text(login.user)}
remote = "127.0.0.1:${login.port}"
key_path = ${text(login.keyFile)}
${login.known}
root = ${text(login.root)}
`;
  return {
    table,
    root: site.root,
    kind,
    show: async () => ({ url: site.url, server: await serve(site) }),
    close: login.close,
  };
}

function hasSshd(): boolean {
  return ['sshd', 'ssh-keygen'].every((program) => findProgram(program) !== undefined);
}

async function startSshd(folder: string, root: string): Promise<Login> {
  const home = join(folder, 'ssh');
  const { user, port, keyFile, close } = await createSshServer(home);
  const known = `known_hosts = ${JSON.stringify(join(home, 'known_hosts'))}`;
  return { user, port, keyFile, known, root, close };
}

async function startOwn(folder: string, root: string): Promise<Login> {
  const home = join(folder, 'ssh');
  await mkdir(home, { recursive: true, mode: 0o700 });
  const host = await sshKey(join(home, 'host_key'), 'mirror');
  const client = await sshKey(join(home, 'client_key'), 'master');
  const server = await startSftpServer({
    root,
    user: 'mirror',
    hostKey: host.private,
    authorizedKeys: [client.public],
    listen: { host: '127.0.0.1', port: 0 },
  });
  const { port, fingerprint, close } = server;
  const known = `host_key = "${fingerprint}"`;
  return { user: 'mirror', port, keyFile: client.file, known, root: '/', close };
}
