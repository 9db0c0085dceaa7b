/** Mirrors of a test's own: a real sshd with internal-sftp, and what talks to it. */
import { chmod, chown, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Logger } from '../../src/log.js';
import type { Mirror } from '../../src/mirror/mirror.js';
import { createSftpMirror, type SftpMirrorConfig } from '../../src/mirror/sftp.js';
import { run } from './command.js';
import { memoryLog } from './memory-log.js';
import { createSshServer, type SshServer, type SshServerOptions } from './slow-upload.js';
import { temporaryFolder } from './temporary.js';

export interface SftpServer extends SshServer {
  /** The mirror's root, empty. */
  folder: string;
  /** Where the server keeps its own. */
  home: string;
  /** A configuration for it, the root as the account sees it. */
  config: SftpMirrorConfig;
  /** A mirror on it. */
  open(options?: MirrorOptions): Mirror;
  /** What differs in the configuration of a mirror that comes by another port, as that of a proxy. */
  by(port: number): Promise<Pick<SftpMirrorConfig, 'remote' | 'knownHosts'>>;
}

export interface SftpServerOptions extends SshServerOptions {
  /**
   * Whether the account is one that may do nothing but this, without a shell: `nobody`, shut in, in a folder where
   * the root is `/root`. What the test puts there is for all to write. Default: no.
   */
  chroot?: boolean;
}

export interface MirrorOptions {
  /** What differs from the server's own configuration. */
  config?: Partial<SftpMirrorConfig>;
  stallMs?: number;
  /** Default: nothing. */
  env?: NodeJS.ProcessEnv;
  /** Default: one that keeps nothing. */
  log?: Logger;
}

/** A server that is closed after the test, after the mirrors that were opened on it. */
export async function createSftpServer(
  t: Pick<TestContext, 'after'>,
  { chroot = false, settings = '', ...options }: SftpServerOptions = {},
): Promise<SftpServer> {
  const home = await temporaryFolder(t);
  const jail = chroot ? await makeJail(t) : home;
  const folder = join(jail, 'root');
  await mkdir(folder);
  const server = await createSshServer(join(home, 'ssh'), {
    ...options,
    settings: `${settings}\n${chroot ? shutIn(jail) : ''}`,
  });
  if (chroot) await letIn(t, { jail, keys: join(home, 'ssh/authorized_keys') });
  const config: SftpMirrorConfig = {
    name: 'eu',
    user: chroot ? captive : server.user,
    remote: { host: '127.0.0.1', port: server.port },
    keyPath: server.keyFile,
    knownHosts: join(home, 'ssh', 'known_hosts'),
    root: chroot ? '/root' : folder,
    connections: 3,
    bandwidth: undefined,
  };
  const mirrors: Mirror[] = [];
  t.after(async () => {
    // The server waits for its sessions.
    await Promise.all(mirrors.map((mirror) => mirror.close()));
    await server.close();
  });
  const open = ({ config: changes, ...given }: MirrorOptions = {}) => {
    const { log } = memoryLog();
    const mirror = createSftpMirror({ config: { ...config, ...changes }, log, env: {}, ...given });
    mirrors.push(mirror);
    return mirror;
  };
  const by = async (port: number) => {
    const knownHosts = join(home, `known_hosts_${port}`);
    const hosts = await readFile(join(home, 'ssh/known_hosts'), 'utf8');
    await writeFile(knownHosts, hosts.replace(`:${server.port} `, `:${port} `));
    return { remote: { host: '127.0.0.1', port }, knownHosts };
  };
  return { ...server, folder, home, config, open, by };
}

/** An account that every system has, and that owns nothing. */
const captive = 'nobody';

function shutIn(jail: string): string {
  return `
AllowUsers ${captive}
AuthorizedKeysFile ${jail}/authorized_keys
ChrootDirectory ${jail}
ForceCommand internal-sftp
`;
}

async function letIn(
  t: Pick<TestContext, 'after'>,
  { jail, keys }: { jail: string; keys: string },
): Promise<void> {
  // The account reads it, and may not look into the folder of the server.
  await copyFile(keys, join(jail, 'authorized_keys'));
  const uid = await run('id', ['-u', captive]);
  await chown(join(jail, 'root'), Number(uid), -1);
  const mask = process.umask(0);
  t.after(() => process.umask(mask));
}

/** A folder outside of /tmp, for sshd takes none below a folder that others than root may write. */
async function makeJail(t: Pick<TestContext, 'after'>): Promise<string> {
  const jail = await mkdtemp('/run/mirror-jail-');
  t.after(() => rm(jail, { recursive: true }));
  await chmod(jail, 0o755);
  return jail;
}
