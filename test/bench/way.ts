/** The way to a mirror that is measured, for ours and for its peers. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Mirror } from '../../src/mirror/mirror.js';
import { createSftpMirror } from '../../src/mirror/sftp.js';
import { run } from '../support/command.js';
import { memoryLog } from '../support/memory-log.js';
import type { SshServer } from '../support/slow-upload.js';

const cipher = 'aes128-gcm@openssh.com';

/** How to get to a mirror: by ours, and by a peer with the same cipher. */
export interface Way {
  port: number;
  server: Pick<SshServer, 'user' | 'keyFile'>;
  knownHosts: string;
  /** Where it arrives. */
  target: string;
}

/** A way to `server` by `port`, which may be that of a proxy before it, into a folder below `folder`. */
export async function wayTo(
  server: Way['server'],
  given: { folder: string; port: number; target?: string },
): Promise<Way> {
  const { folder, port } = given;
  const known = await readFile(join(folder, 'ssh/known_hosts'), 'utf8');
  const knownHosts = join(folder, `known_hosts-${port}`);
  await writeFile(knownHosts, known.replace(/\[127\.0\.0\.1\]:\d+/, `[127.0.0.1]:${port}`));
  const target = join(folder, given.target ?? 'target');
  await mkdir(target, { recursive: true });
  return { port, server, knownHosts, target };
}

export function openMirror({ server, port, knownHosts, target }: Way): Mirror {
  const config = {
    name: 'bench',
    user: server.user,
    remote: { host: '127.0.0.1', port },
    keyPath: server.keyFile,
    knownHosts,
    root: target,
    connections: 4,
    bandwidth: undefined,
  };
  return createSftpMirror({ config, log: memoryLog().log, env: {} });
}

/** `rsync -azh` of `what`, options before paths, to `name` in the target. */
export async function runRsync(way: Way, what: string[], name: string): Promise<void> {
  const shell = ['ssh', ...sshOptions(way), '-p', String(way.port)].join(' ');
  const to = `${way.server.user}@127.0.0.1:${way.target}/${name}`;
  await run('rsync', ['-azh', '-e', shell, ...what, to]);
}

export function sshOptions({ server, knownHosts }: Way): string[] {
  const settings = { UserKnownHostsFile: knownHosts, IdentitiesOnly: 'yes', BatchMode: 'yes' };
  const words = Object.entries(settings).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
  return ['-F', '/dev/null', '-i', server.keyFile, '-c', cipher, ...words];
}
