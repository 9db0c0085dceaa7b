/**
 * A mirror reached over SFTP (draft-ietf-secsh-filexfer-02 with the extensions of OpenSSH's PROTOCOL file). What it
 * promises stands in mirror.ts.
 */
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { HostPort } from '../units.js';
import type { Connection, LoginOptions } from './connection.js';
import { createConnections } from './connections.js';
import type { Credentials } from './credentials.js';
import {
  describeHostKey,
  type HostKey,
  type HostTrust,
  hostKeyAlgorithms,
  loadHostTrust,
  type TrustOptions,
} from './host-keys.js';
import type { Mirror, MirrorCapabilities, MirrorEntry, MirrorOptions } from './mirror.js';
import { down } from './problems.js';
import { createRate } from './rate.js';
import { createFolders } from './sftp/folders.js';
import { createMover } from './sftp/lanes.js';
import { createNaming } from './sftp/naming.js';
import { createReading } from './sftp/reading.js';
import { createWrite } from './sftp/replace.js';
import { createSending } from './sftp/sending.js';
import { createSession, offers } from './sftp/session.js';
import { createSyncing } from './sftp/syncing.js';
import { createSlots } from './slots.js';
import { untilAborted } from './together.js';

/** The part of a mirror's configuration that says where it is and how to get in. */
export interface SftpMirrorConfig {
  name: string;
  user: string;
  remote: HostPort;
  keyPath: string;
  hostKey?: string;
  knownHosts?: string;
  /** Absolute, as the account sees it. */
  root: string;
  connections: number;
  /** Bytes a second; `undefined` is no limit. */
  bandwidth: number | undefined;
}

export interface SftpMirrorOptions extends TrustOptions {
  config: SftpMirrorConfig;
  log: Pick<Logger, 'debug'>;
  /** Milliseconds without any answer after which the mirror counts as gone. Default: 60 s. */
  stallMs?: number;
  /** Default: the environment of this process. */
  env?: NodeJS.ProcessEnv;
}

const defaultStallMs = 60_000;
/** Small operations at once on one connection: over a long way each takes several round trips. */
const perConnection = 128;

/** A mirror at `options.config`. Nothing is done before it is asked for something. */
export function createSftpMirror(options: SftpMirrorOptions): Mirror {
  const { config, log } = options;
  const connections = createConnections({ open, max: config.connections, log });
  const session = createSession({ ...config, connections });
  const login = createLogin(options);
  const rate = createRate(config.bandwidth);
  const move = createMover(session);
  const { read, hash } = createReading({ session, move, rate });
  const { put, settle } = createSending({ session, move, rate });
  const syncing = createSyncing(session);
  const naming = createNaming({ session, settle, syncing });
  const { rename, renameInOrder, link, copy, remove } = naming;
  const { list, makeFolder, removeFolder } = createFolders(session);
  const write = createWrite({ session, put, naming });
  const parallel = config.connections * perConnection;
  const { run, close } = createRunner({ name: config.name, parallel });

  return {
    parallel,
    capabilities: (given) => run(given, capabilities),
    stat: (path, given) => run(given, () => stat(path)),
    list: (path, given) => run(given, () => list(path, given)),
    read: (path, given) => run(given, () => read(path, given)),
    hash: (path, given) => run(given, () => hash(path, given)),
    put: (source, path, given) => run(given, () => put(source, path, given)),
    write: (path, pieces, given) => run(given, () => write(path, pieces, given)),
    rename: (from, to, given) => run(given, () => rename(from, to, given)),
    renameInOrder: (steps, given) => run(given, () => renameInOrder(steps, given)),
    link: (from, to, given) => run(given, () => link(from, to, given)),
    copy: (from, to, given) => run(given, () => copy(from, to, given)),
    remove: (path, given) => run(given, () => remove(path, given)),
    makeFolder: (path, given) => run(given, () => makeFolder(path, given)),
    removeFolder: (path, given) => run(given, () => removeFolder(path, given)),
    sync: (path, given) => run(given, () => syncing.sync(path, given)),
    space: (given) => run(given, async () => session.space(await session.take())),
    close: () => close(connections.close),
  };

  async function stat(path: string): Promise<MirrorEntry | undefined> {
    const remote = session.at(path);
    const connection = await session.take();
    const found = session.lookAt(connection, remote);
    if (path === '') await Promise.all([session.needRoot(connection), found]);
    return await found;
  }

  async function capabilities(): Promise<MirrorCapabilities> {
    const connection = await session.take();
    await session.needRoot(connection);
    return capabilitiesOf(connection);
  }

  async function open(signal: AbortSignal): Promise<Connection> {
    const connection = await login(signal);
    // Its answer comes before that to any later request, so nothing has to wait for it; it tells the way as well.
    session.needRoot(connection).catch(() => {});
    return connection;
  }
}

/** SSH is a large part of the program, which who has no mirrors does not load. */
async function openConnection(options: LoginOptions): Promise<Connection> {
  return await (await import('./connection.js')).openConnection(options);
}

/** @returns what opens one more connection; the key is read once */
function createLogin(options: SftpMirrorOptions): (signal: AbortSignal) => Promise<Connection> {
  const { config, log, stallMs = defaultStallMs, env = process.env } = options;
  let loaded: Promise<Credentials> | undefined;
  return async (signal) => {
    loaded ??= import('./credentials.js').then((ssh) => ssh.loadCredentials({ ...config, env }));
    const credentials = await loaded.catch((error: unknown) => {
      loaded = undefined;
      throw error;
    });
    const trust = await loadHostTrust(config, options);
    const onLost = ({ message }: ServerError) =>
      log.debug({ reason: message }, 'a connection to the mirror has ended');
    return await openConnection({ ...config, stallMs, trust, credentials, signal, onLost });
  };
}

function capabilitiesOf(connection: Connection): MirrorCapabilities {
  return {
    atomicReplace: offers(connection, 'posix-rename@openssh.com', '1'),
    sync: offers(connection, 'fsync@openssh.com', '1'),
    link: offers(connection, 'hardlink@openssh.com', '1'),
    copy: offers(connection, 'copy-data', '1'),
    software: connection.software,
  };
}

/** Runs operations, at most `parallel` at once, until it is closed. */
function createRunner({ name, parallel }: { name: string; parallel: number }) {
  const slots = createSlots(parallel);
  const running = new Set<Promise<unknown>>();
  let closed: ServerError | undefined;
  return { run, close };

  /** One operation; when its signal aborts it is left to find its own end, which {@link Mirror.close} awaits. */
  async function run<T>(given: MirrorOptions | undefined, work: () => Promise<T>): Promise<T> {
    const signal = given?.signal;
    signal?.throwIfAborted();
    if (closed !== undefined) throw closed;
    const task = slots(async () => {
      signal?.throwIfAborted();
      return await work();
    });
    running.add(task);
    const finished = () => running.delete(task);
    task.then(finished, finished);
    return await untilAborted(task, signal);
  }

  async function close(end: (reason: Error) => Promise<void>): Promise<void> {
    closed ??= down(name, 'the connection was closed');
    await end(closed);
    await Promise.allSettled(running);
  }
}

export interface SeenOptions {
  /** Asks as a login would, which a server may have keys of several kinds for; gives one that is accepted. */
  trust?: HostTrust;
  stallMs?: number;
  signal?: AbortSignal | undefined;
}

/** What the server of a mirror shows as its host key; nothing is asked of it beyond that. */
export async function seenHostKey(
  config: Pick<SftpMirrorConfig, 'name' | 'remote' | 'user'>,
  options: SeenOptions = {},
): Promise<HostKey> {
  const { stallMs = defaultStallMs, signal, trust: wanted } = options;
  let seen: HostKey | undefined;
  let isAccepted = false;
  const trust = {
    attempts: wanted?.attempts ?? [hostKeyAlgorithms],
    judge: (key: Buffer) => {
      if (!isAccepted) {
        isAccepted = wanted !== undefined && wanted.judge(key) === undefined;
        if (isAccepted) seen = describeHostKey(key);
        else seen ??= describeHostKey(key);
      }
      return new ServerError('MIRROR_AUTH', 'Only the host key was asked for');
    },
  };
  try {
    const connection = await openConnection({
      ...config,
      stallMs,
      trust,
      credentials: undefined,
      signal,
    });
    await connection.close();
  } catch (error) {
    if (seen === undefined) throw error;
  }
  if (seen === undefined) throw new Error('A login without a host key');
  return seen;
}
