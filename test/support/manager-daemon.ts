/**
 * One private LXD or Incus daemon, from its start to the removal of the last thing that it made. It says `ready`
 * when it is, and ends on a signal; where the daemon ends by itself, that is an error.
 *
 * Run as `node manager-daemon.js lxd|incus FOLDER`; the daemon's LXD_DIR or INCUS_DIR is FOLDER/lxd or FOLDER/incus.
 * FOLDER is removed in the end.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const controlGroupRoot = '/sys/fs/cgroup';
const startTimeout = 60;
const stopTimeout = 30_000;

const programs = {
  lxd: { client: 'lxc', daemon: 'lxd', folders: ['LXD_DIR', 'LXD_CONF'] },
  incus: { client: 'incus', daemon: 'incusd', folders: ['INCUS_DIR', 'INCUS_CONF'] },
};

const [name, folder] = process.argv.slice(2);
if (!(name === 'lxd' || name === 'incus') || folder === undefined) {
  throw new Error('usage: manager-daemon.js lxd|incus FOLDER');
}
const program = programs[name];
const [daemonFolder = '', clientFolder = ''] = program.folders;
const env = {
  ...process.env,
  // Not for this process and those above it: whoever has it is ended as one of the daemon's.
  [daemonFolder]: join(folder, name),
  [clientFolder]: join(folder, 'daemon-client'),
};

const asked = new Promise<void>((resolve) => {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => resolve());
});
const daemon = spawn(program.daemon, ['--group', 'root'], {
  env,
  stdio: ['ignore', 'inherit', 'inherit'],
});
const ended = once(daemon, 'exit');
const waiting = spawn(program.daemon, ['waitready', '--timeout', String(startTimeout)], { env });
waiting.once('exit', (code) => {
  if (code === 0) process.stdout.write('ready\n');
  else daemon.kill('SIGTERM');
});

await Promise.race([asked, ended]);
waiting.kill();
if (isRunning(daemon)) await stopDaemon();
else process.exitCode = 1;
endLeftovers();
unmountAll();
rmSync(folder, { recursive: true, force: true });

function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null;
}

async function stopDaemon(): Promise<void> {
  deleteInstances();
  deleteNetworks();
  daemon.kill('SIGTERM');
  const timer = setTimeout(() => daemon.kill('SIGKILL'), stopTimeout);
  await ended;
  clearTimeout(timer);
}

function deleteInstances(): void {
  const names = client('list', '--format', 'csv', '--columns', 'n').split('\n').filter(Boolean);
  if (names.length > 0) client('delete', '--force', ...names);
}

/** Bridges outlive the daemon otherwise, and those who give addresses there. */
function deleteNetworks(): void {
  const networks = client('network', 'list', '--format', 'csv').split('\n').filter(Boolean);
  for (const [name = '', , isManaged] of networks.map((line) => line.split(','))) {
    if (isManaged !== 'YES') continue;
    client('profile', 'device', 'remove', 'default', 'eth0');
    client('network', 'delete', name);
  }
}

function client(...args: string[]): string {
  const { stdout } = spawnSync(program.client, args, {
    env,
    encoding: 'utf8',
    timeout: stopTimeout,
  });
  return stdout ?? '';
}

/** Ends what the daemon left behind (container monitors and their containers, helpers), by process id. */
function endLeftovers(): void {
  const parents = parentsOfProcesses();
  const ours = [...parents.keys()].filter((pid) => pid !== process.pid && mentionsFolder(pid));
  const all = [...descendants(parents, ours), ...ours];
  const groups = new Set(all.flatMap(controlGroups));
  for (const pid of all) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended by itself meanwhile.
    }
  }
  for (const group of groups) removeGroup(group);
}

/** The folders of the control groups that were made for a container and that a process is in. */
function controlGroups(pid: number): string[] {
  const groups = readProc(String(pid), 'cgroup').matchAll(
    /:(\/lxc\.(?:payload|monitor)\.[^/\n]+)/g,
  );
  const hierarchies = [...groups].flatMap(([, group = '']) =>
    ['.', ...readdirSync(controlGroupRoot)].map((name) => join(controlGroupRoot, name, group)),
  );
  return hierarchies.filter((path) => existsSync(path));
}

/** Removes a group with those in it. One whose processes have not ended yet is asked again for a while. */
function removeGroup(path: string): void {
  for (let tries = 50; tries > 0 && existsSync(path); tries -= 1) {
    // Only folders can be removed there; what is in use stays.
    spawnSync('find', [path, '-depth', '-type', 'd', '-exec', 'rmdir', '{}', ';']);
    if (existsSync(path)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
  }
}

function parentsOfProcesses(): Map<number, number> {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return new Map(pids.map((pid) => [Number(pid), parentOf(pid)]));
}

/** The parent of a process; 0 where the process has ended. Its name, in brackets, may contain spaces. */
function parentOf(pid: string): number {
  const stat = readProc(pid, 'stat');
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1] ?? 0);
}

function mentionsFolder(pid: number): boolean {
  return ['cmdline', 'environ'].some((file) => readProc(String(pid), file).includes(`${folder}/`));
}

function readProc(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

function descendants(parents: ReadonlyMap<number, number>, roots: readonly number[]): number[] {
  const children = [...parents.keys()].filter((pid) => roots.includes(parents.get(pid) ?? 0));
  return children.length === 0 ? [] : [...descendants(parents, children), ...children];
}

function unmountAll(): void {
  const points = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((point) => point.startsWith(`${folder}/`));
  for (const point of points.reverse()) spawnSync('umount', ['--lazy', point]);
}
