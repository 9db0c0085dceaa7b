/** Hosts with Debian: system containers of a private LXD, on a bridge of their own, where they know their names. */
import { basename } from 'node:path';
import { type CommandResult, outcome } from './command.js';
import { type DebianSuite, debianImage } from './debian-image.js';
import { lxd, type Manager, startManager } from './managers.js';

export const hostPrograms = ['lxd', 'lxc', 'dnsmasq', 'nft', 'timeout'] as const;

export interface DebianHost {
  name: string;
  /** IPv4 */
  address: string;
  /** Runs a line of shell as root and gives its standard output. Throws with all that it said where it fails. */
  run(line: string): Promise<string>;
  /** As {@link DebianHost.run}, whatever the exit code. */
  outcome(line: string): Promise<CommandResult>;
  /** Has the file at `path` as /root/NAME, or where `target` says. */
  push(path: string, target?: string): Promise<void>;
  /** As somebody who pulls the plug. */
  stop(): Promise<void>;
  /** Starts it again; resolves when it has its address and its services run. */
  start(): Promise<void>;
}

export interface DebianHosts {
  /** The LXD that runs them. A client of it is a client of theirs too: it reaches their addresses. */
  manager: Manager;
  /** The address of this machine there. */
  gateway: string;
  /** Starts a host; resolves when its services run. `name` is what the others know it as too, with `.example.org`. */
  launch(name: string, suite?: DebianSuite): Promise<DebianHost>;
  /** Ends and removes all of them. */
  close(): Promise<void>;
}

/** Far above what any command takes here. */
const patienceSeconds = 180;

export async function startHosts(): Promise<DebianHosts> {
  // Made before anything runs, for that takes minutes where it is not there yet.
  await debianImage('trixie');
  const manager = await startManager(lxd);
  try {
    // A network of this process: others may test at the same time.
    const network = `10.${100 + (process.pid % 100)}.${Math.floor(process.pid / 100) % 250}`;
    const bridge = `lis${process.pid}`;
    await manager.run(
      ...['network', 'create', bridge, `ipv4.address=${network}.1/24`],
      ...['ipv4.nat=true', 'ipv6.address=none', 'dns.domain=example.org'],
    );
    await manager.run(
      'profile',
      'device',
      'add',
      'default',
      'eth0',
      'nic',
      `network=${bridge}`,
      'name=eth0',
    );
    const imported = new Map<DebianSuite, Promise<unknown>>();
    const importImage = async (suite: DebianSuite) => {
      const { metadata, root } = await debianImage(suite);
      await manager.run('image', 'import', metadata, root, '--alias', suite);
    };
    return {
      manager,
      gateway: `${network}.1`,
      launch: async (name, suite = 'trixie') => {
        const image = imported.get(suite) ?? importImage(suite);
        imported.set(suite, image);
        await image;
        return await launch(manager, { name, suite, gateway: `${network}.1` });
      },
      close: manager.close,
    };
  } catch (error) {
    await manager.close();
    throw error;
  }
}

async function launch(
  manager: Manager,
  { name, suite, gateway }: { name: string; suite: DebianSuite; gateway: string },
): Promise<DebianHost> {
  await manager.run('launch', suite, name);
  const runOutcome = (line: string) =>
    outcome(
      'timeout',
      [String(patienceSeconds), 'lxc', 'exec', name, '-T', '--', 'sh', '-c', line],
      { env: manager.env },
    );
  const runLine = async (line: string) => {
    const { code, stdout, stderr } = await runOutcome(line);
    if (code === 0) return stdout;
    throw new Error(`${name}: ${line} ended with ${code}:\n${stdout}${stderr}`);
  };
  const isUp = async () => {
    await runLine(`timeout 120 sh -c '
      until systemctl is-active --quiet multi-user.target; do sleep 0.2; done
      until ip -4 -o address show dev eth0 | grep -q inet; do sleep 0.2; done'`);
  };
  const start = async () => {
    await manager.run('start', name);
    await isUp();
  };
  await isUp();
  await runLine(`echo 'nameserver ${gateway}' > /etc/resolv.conf`);
  const address = (await runLine('hostname --all-ip-addresses')).trim().split(' ')[0] ?? '';
  return {
    name,
    address,
    run: runLine,
    outcome: runOutcome,
    push: async (path, target = `/root/${basename(path)}`) => {
      await manager.run('file', 'push', '--quiet', path, `${name}${target}`);
    },
    stop: async () => void (await manager.run('stop', '--force', name)),
    start,
  };
}
