/**
 * A process of its own around one private LXD daemon: it outlives a test that fails, is interrupted
 * or killed, and clears away everything of the daemon as soon as its standard input ends.
 *
 * Run as `node lxd-keeper.js FOLDER`; the daemon's LXD_DIR is FOLDER/lxd, its log FOLDER/lxd.log.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const stopTimeout = 30_000;

const folder = process.argv[2];
if (folder === undefined) throw new Error('usage: lxd-keeper.js FOLDER');
const lxdDir = join(folder, 'lxd');
const env = { ...process.env, LXD_DIR: lxdDir, LXD_CONF: join(folder, 'keeper') };

const log = openSync(join(folder, 'lxd.log'), 'a');
const daemon = spawn('lxd', ['--group', 'root'], { env, stdio: ['ignore', log, log] });
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});

process.stdin.resume();
await once(process.stdin, 'close');
if (isRunning(daemon)) await stopDaemon();
endLeftovers();
unmountAll();
rmSync(folder, { recursive: true, force: true });

function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null;
}

async function stopDaemon(): Promise<void> {
  const exit = once(daemon, 'exit');
  deleteInstances();
  daemon.kill('SIGTERM');
  const timer = setTimeout(() => daemon.kill('SIGKILL'), stopTimeout);
  await exit;
  clearTimeout(timer);
}

function deleteInstances(): void {
  const names = lxc('list', '--format', 'csv', '--columns', 'n').split('\n').filter(Boolean);
  if (names.length > 0) lxc('delete', '--force', ...names);
}

function lxc(...args: string[]): string {
  const { stdout } = spawnSync('lxc', args, { env, encoding: 'utf8', timeout: stopTimeout });
  return stdout ?? '';
}

/** Ends what the daemon left behind (container monitors and their containers, helpers), by process id. */
function endLeftovers(): void {
  const parents = parentsOfProcesses();
  const ours = [...parents.keys()].filter((pid) => pid !== process.pid && mentionsLxdDir(pid));
  for (const pid of [...descendants(parents, ours), ...ours]) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has ended by itself meanwhile.
    }
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

function mentionsLxdDir(pid: number): boolean {
  return ['cmdline', 'environ'].some((file) => readProc(String(pid), file).includes(lxdDir));
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
    .filter((point) => point.startsWith(`${lxdDir}/`));
  for (const point of points.reverse()) spawnSync('umount', ['--lazy', point]);
}
