/**
 * Uploads as people make them: the real rsync, scp and sftp through a real sshd of its own on the loopback
 * address, as the user that runs the tests. They can be slowed down, killed half-way and awaited.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { type CommandResult, findProgram, run, startServer } from './command.js';
import { freePort } from './ports.js';

/** What uploads need, for `needs(…)`. */
export const uploadPrograms = ['sshd', 'ssh', 'ssh-keygen', 'rsync', 'scp', 'sftp'] as const;

export interface SshServer {
  port: number;
  user: string;
  /** The private key that logs in. */
  keyFile: string;
  /** For `ssh -F`: knows this server, its key and the user as the host `target`. */
  clientConfig: string;
  /** Ends the server; a session that is open ends with its client. */
  close(): Promise<void>;
}

export interface SshServerOptions {
  /** Lines for the top of its configuration, where they count before others. */
  settings?: string;
  /** What serves SFTP. Default: internal-sftp. */
  subsystem?: string;
  /** Default: a free one. */
  port?: number;
}

/** Starts a server that keeps its keys and configuration in `folder` (absolute, made if need be). */
export async function createSshServer(
  folder: string,
  options: SshServerOptions = {},
): Promise<SshServer> {
  await mkdir(folder, { recursive: true });
  const { username: user } = userInfo();
  const port = options.port ?? (await freePort());
  const { settings = '', subsystem = 'internal-sftp' } = options;
  const keyFile = await makeKey(folder, 'client');
  const hostKey = await makeKey(folder, 'host');
  await writeFile(join(folder, 'authorized_keys'), await readFile(`${keyFile}.pub`));
  await writeFile(
    join(folder, 'known_hosts'),
    `[127.0.0.1]:${port} ${await readFile(`${hostKey}.pub`, 'utf8')}`,
  );
  const clientConfig = join(folder, 'ssh_config');
  await writeFile(clientConfig, clientSettings({ folder, port, user, keyFile }));
  const serverConfig = join(folder, 'sshd_config');
  await writeFile(
    serverConfig,
    `${settings}\n${serverSettings({ folder, port, hostKey, subsystem })}`,
  );
  // The one folder that an sshd of root's insists on; Debian's service makes it, too.
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true, mode: 0o755 });
  const program = findProgram('sshd') ?? 'sshd';
  const server = await startServer([program, '-D', '-e', '-f', serverConfig], {
    isReady: (said) => said.includes('Server listening on'),
  });
  return { port, user, keyFile, clientConfig, close: async () => void (await server.stop()) };
}

/** Makes a key; one that is there stays, so that a server that is started again is the same. */
async function makeKey(folder: string, name: string): Promise<string> {
  const file = join(folder, `${name}_key`);
  if (existsSync(file)) return file;
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', name, '-f', file]);
  return file;
}

function serverSettings({
  folder,
  port,
  hostKey,
  subsystem,
}: Record<string, string | number>): string {
  return `
ListenAddress 127.0.0.1:${port}
HostKey ${hostKey}
AuthorizedKeysFile ${folder}/authorized_keys
# The folders above it are not the user's own.
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
# As many uploads at once as tests like to make.
MaxStartups 100
Subsystem sftp ${subsystem}
`;
}

function clientSettings(settings: Record<string, string | number>): string {
  return `
Host target
  HostName 127.0.0.1
  Port ${settings.port}
  User ${settings.user}
  IdentityFile ${settings.keyFile}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile ${settings.folder}/known_hosts
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
`;
}

export interface UploadOptions {
  /** File or folder, absolute. For rsync, a folder with a slash at its end is what is in it. */
  from: string;
  /** Where it goes on the server, absolute. A folder that is there receives it under its own name. */
  to: string;
  /** KiB a second. Default: no limit. */
  limit?: number | undefined;
  /** Further options of the program, such as `--inplace`, `--partial` or `-p`. */
  args?: readonly string[];
}

/** An upload under way. */
export interface Upload {
  pid: number;
  /** Sends a signal to the client. Default: SIGKILL. Wait for {@link Upload.ended} after it. */
  kill(signal?: NodeJS.Signals): void;
  /** Resolves when the client and its ssh have ended, with whatever exit code; -1 after a signal. */
  ended: Promise<CommandResult>;
}

/** `rsync -a`. Its receiver writes in pieces of 256 KiB, so nothing is seen of a slow upload before that. */
export function startRsync(server: SshServer, options: UploadOptions): Upload {
  const { from, to, limit, args = [] } = options;
  const limits = limit === undefined ? [] : [`--bwlimit=${limit}`];
  const shell = `ssh -F ${server.clientConfig}`;
  return start('rsync', ['-a', '-e', shell, ...limits, ...args, from, `target:${to}`]);
}

/** `scp -r`. */
export function startScp(server: SshServer, options: UploadOptions): Upload {
  const { from, to, limit, args = [] } = options;
  const common = ['-F', server.clientConfig, ...kilobits(limit), ...args];
  return start('scp', ['-r', ...common, from, `target:${to}`]);
}

/** `put -r` of `sftp`, or other commands of it. */
export function startSftp(
  server: SshServer,
  { commands, ...options }: UploadOptions & { commands?: readonly string[] },
): Upload {
  const { from, to, limit, args = [] } = options;
  const common = ['-F', server.clientConfig, ...kilobits(limit), ...args];
  const script = commands ?? [`put -r "${from}" "${to}"`];
  return start('sftp', ['-b', '-', ...common, 'target'], `${script.join('\n')}\n`);
}

/** `cp` on this machine, without `-r` unless `args` has it. */
export function startCopy({ from, to, limit, args = [] }: UploadOptions): Upload {
  return slowed(['cp', '--reflink=never', ...args, from, to], { limit, pieceKib: 128 });
}

/** `tar x` of the archive `from` in the folder `to`. */
export function startUnpacking({ from, to, limit, args = [] }: UploadOptions): Upload {
  return slowed(['tar', '-x', ...args, '-f', from, '-C', to], { limit, pieceKib: 10 });
}

/**
 * Programs of this machine cannot be slow by themselves, so strace holds up each `write` of theirs, which is
 * `pieceKib` long or longer. What is stopped and killed is the program itself.
 */
function slowed(
  command: readonly [string, ...string[]],
  { limit, pieceKib }: { limit: number | undefined; pieceKib: number },
): Upload {
  const [program, ...args] = command;
  if (limit === undefined) return start(program, args);
  const inject = `inject=write:delay_enter=${Math.round((pieceKib / limit) * 1e6)}`;
  return start('strace', ['-D', '-qq', '-o', '/dev/null', '-e', inject, ...command]);
}

/** The limit as scp and sftp have it. */
function kilobits(limit: number | undefined): string[] {
  return limit === undefined ? [] : ['-l', String(Math.max(1, Math.round(limit * 8.192)))];
}

function start(program: string, args: readonly string[], input = ''): Upload {
  const child = spawn(program, args);
  // A client that is killed is judged by its exit code.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const code = new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (exitCode) => resolve(exitCode ?? -1));
  });
  const ended = Promise.all([code, text(child.stdout), text(child.stderr)]).then(
    ([exitCode, stdout, stderr]) => ({ code: exitCode, stdout, stderr }),
  );
  return { pid: child.pid ?? -1, kill: (signal = 'SIGKILL') => void child.kill(signal), ended };
}
