/**
 * A mirror reached over SFTP (draft-ietf-secsh-filexfer-02 with the extensions of OpenSSH's PROTOCOL file). What it
 * promises stands in mirror.ts.
 */
import { createHash, randomBytes } from 'node:crypto';
import type { FileEntryWithStats, InputAttributes, SFTPWrapper, Stats } from 'ssh2';
import { ServerError } from '../errors.js';
import type { Logger } from '../log.js';
import type { HostPort } from '../units.js';
import { type Connection, openConnection } from './connection.js';
import { createConnections } from './connections.js';
import { type Credentials, loadCredentials } from './credentials.js';
import {
  describeHostKey,
  type HostKey,
  hostKeyAlgorithms,
  loadHostTrust,
  type TrustOptions,
} from './host-keys.js';
import {
  type EntryKind,
  type HashOptions,
  type ListedEntry,
  type Mirror,
  type MirrorEntry,
  type MirrorOptions,
  type MirrorSpace,
  type PutOptions,
  type PutResult,
  type PutSource,
  type RemoteHash,
  resumeWindow,
} from './mirror.js';
import { besideAs, folderOf, remotePath } from './paths.js';
import { down, refused, status, statusOf } from './problems.js';
import { createRate } from './rate.js';
import { createTransfer } from './transfer.js';

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
/** Sources are read in blocks at multiples of this, so that mirrors can share what was read. */
const blockBytes = 2 ** 20;
/** A resumed upload starts at a block, at most {@link resumeWindow} before the end of what is there. */
const flightBytes = resumeWindow - blockBytes;
/** A channel of OpenSSH takes 2 MiB ahead; a little more hides the way of the acknowledgements. */
const laneBytes = 3 * 2 ** 20;
/** Each connection beside the first has to have so much to do. */
const laneWorth = 4 * 2 ** 20;
/** Small operations at once on one connection: over a long way each takes several round trips. */
const perConnection = 128;
/** Files at once that need more than one block of memory. */
const largeAtOnce = 2;
/** One request to copy keeps the far side busy for no longer than so much takes. */
const copyBytes = 16 * 2 ** 20;

const fileMode = 0o644;
const folderMode = 0o755;

/** The files of one operation, open on one connection. */
interface Lane {
  connection: Connection;
  handle: Buffer;
}

/** A mirror at `options.config`. Nothing is done before it is asked for something. */
export function createSftpMirror(options: SftpMirrorOptions): Mirror {
  const { config, log, stallMs = defaultStallMs, env = process.env } = options;
  const { name, root } = config;
  const rate = createRate(config.bandwidth);
  const parallel = config.connections * perConnection;
  const slots = createSlots(parallel);
  const largeSlots = createSlots(largeAtOnce);
  const connections = createConnections({ open, max: config.connections, log });
  const running = new Set<Promise<unknown>>();
  let credentials: Promise<Credentials> | undefined;
  let closed: ServerError | undefined;

  return {
    parallel,
    capabilities: (given) =>
      run(given, async () => {
        const connection = await connections.take();
        return {
          atomicReplace: offers(connection, 'posix-rename@openssh.com', '1'),
          sync: offers(connection, 'fsync@openssh.com', '1'),
          link: offers(connection, 'hardlink@openssh.com', '1'),
          copy: offers(connection, 'copy-data', '1'),
          software: connection.software,
        };
      }),
    stat: (path, given) => run(given, () => stat(path)),
    list: (path, given) => run(given, (signal) => list(path, signal)),
    read: (path, given) => run(given, (signal) => read(path, { ...given, signal })),
    hash: (path, given) => run(given, (signal) => hash(path, { ...given, signal })),
    put: (source, path, given) => run(given, (signal) => put(source, path, { ...given, signal })),
    write: (path, pieces, given) => run(given, (signal) => write(path, pieces, signal)),
    rename: (from, to, given) => run(given, () => rename(from, to)),
    link: (from, to, given) => run(given, () => link(from, to)),
    copy: (from, to, given) => run(given, (signal) => copy(from, to, signal)),
    remove: (path, given) => run(given, () => remove(path)),
    makeFolder: (path, given) => run(given, (signal) => makeFolder(path, signal)),
    removeFolder: (path, given) => run(given, () => removeFolder(path)),
    sync: (path, given) => run(given, () => sync(path)),
    space: (given) => run(given, async () => space(await connections.take())),
    async close() {
      closed ??= down(name, 'the connection was closed');
      await connections.close(closed);
      await Promise.allSettled(running);
    },
  };

  /** Runs one operation; when its signal aborts it is left to find its own end, which {@link Mirror.close} awaits. */
  async function run<T>(
    given: MirrorOptions | undefined,
    work: (signal: AbortSignal | undefined) => Promise<T>,
  ): Promise<T> {
    const signal = given?.signal;
    signal?.throwIfAborted();
    if (closed !== undefined) throw closed;
    const task = slots(async () => {
      signal?.throwIfAborted();
      return await work(signal);
    });
    running.add(task);
    const finished = () => running.delete(task);
    task.then(finished, finished);
    return await untilAborted(task, signal);
  }

  async function open(signal: AbortSignal): Promise<Connection> {
    credentials ??= loadCredentials({ ...config, env });
    const known = await credentials.catch((error: unknown) => {
      credentials = undefined;
      throw error;
    });
    const trust = await loadHostTrust(config, options);
    const connection = await openConnection({
      ...config,
      stallMs,
      trust,
      credentials: known,
      signal,
      onLost: ({ message }) =>
        log.debug({ reason: message }, 'a connection to the mirror has ended'),
    });
    try {
      await checkRoot(connection);
      return connection;
    } catch (error) {
      await connection.close();
      throw error;
    }
  }

  async function checkRoot(connection: Connection): Promise<void> {
    const found = await connection
      .call<Stats>((sftp, answer) => sftp.stat(root, answer))
      .catch(async (error: unknown) => {
        if (statusOf(error) === status.noSuchFile) throw noRoot(error);
        throw await explain(connection, { verb: 'look at', path: root, error });
      });
    if (!found.isDirectory()) throw noRoot(undefined);
  }

  function noRoot(cause: unknown): ServerError {
    return new ServerError('MIRROR_DENIED', `Mirror ${name}: there is no folder ${root}`, {
      hint: `make it there and let ${config.user} own it, or set root to where the account sees it`,
      cause,
    });
  }

  async function stat(path: string): Promise<MirrorEntry | undefined> {
    const remote = remotePath(root, path);
    const connection = await connections.take();
    return await statOn(connection, remote);
  }

  async function statOn(connection: Connection, remote: string): Promise<MirrorEntry | undefined> {
    const found = await orMissing(
      ask<Stats>(connection, { verb: 'look at', path: remote }, (sftp, answer) =>
        sftp.stat(remote, answer),
      ),
    );
    return found && entryOf(found);
  }

  async function list(path: string, signal?: AbortSignal): Promise<ListedEntry[] | undefined> {
    const remote = remotePath(root, path);
    const connection = await connections.take();
    const handle = await connection
      .call<Buffer>((sftp, answer) => sftp.opendir(remote, answer))
      .catch(async (error: unknown) => {
        // Some servers say of a file that there is no such folder.
        const found = await statOn(connection, remote);
        if (found !== undefined && found.kind !== 'folder') throw inTheWay(remote, 'folder', error);
        if (found === undefined) return undefined;
        throw await explain(connection, { verb: 'list', path: remote, error });
      });
    if (handle === undefined) return undefined;
    return await withHandle({ connection, handle }, () =>
      readEntries({ connection, handle }, { remote, signal }),
    );
  }

  /** Asks for more and more at once, until one request finds the end. */
  async function readEntries(
    { connection, handle }: Lane,
    { remote, signal }: { remote: string; signal: AbortSignal | undefined },
  ): Promise<ListedEntry[]> {
    const entries: ListedEntry[] = [];
    for (let atOnce = 2; ; atOnce = Math.min(atOnce * 2, 32)) {
      signal?.throwIfAborted();
      const asked = Array.from({ length: atOnce }, () =>
        connection
          .call<FileEntryWithStats[]>((sftp, answer) => sftp.readdir(handle, answer))
          .catch(async (error: unknown) => {
            if (statusOf(error) === status.eof) return undefined;
            throw await explain(connection, { verb: 'list', path: remote, error });
          }),
      );
      const answers = await Promise.all(asked);
      for (const { filename, attrs } of answers.flatMap((answer) => answer ?? [])) {
        if (filename !== '.' && filename !== '..')
          entries.push({ name: filename, ...entryOf(attrs) });
      }
      if (answers.includes(undefined)) return entries;
    }
  }

  async function read(
    path: string,
    { maxBytes, signal }: { maxBytes: number; signal: AbortSignal | undefined },
  ): Promise<Buffer | undefined> {
    const pieces: Buffer[] = [];
    const found = await readInOrder(path, {
      signal,
      check: (size) => {
        if (size <= maxBytes) return;
        const text = `Mirror ${name}: ${remotePath(root, path)} is larger than ${maxBytes} bytes`;
        throw new ServerError('MIRROR_DAMAGED', text, { hint: 'it is not a file of this server' });
      },
      use: (bytes) => pieces.push(bytes),
    });
    return found === undefined ? undefined : Buffer.concat(pieces);
  }

  async function hash(path: string, options: HashOptions): Promise<RemoteHash | undefined> {
    const digest = createHash('sha256');
    const size = await readInOrder(path, {
      signal: options.signal,
      use: (bytes) => {
        digest.update(bytes);
        options.onBytes?.(bytes.length);
      },
    });
    return size === undefined ? undefined : { size, sha256: digest.digest('hex') };
  }

  interface ReadInOrder {
    signal: AbortSignal | undefined;
    /** Is told the size before anything is read. */
    check?: (size: number) => void;
    use: (bytes: Buffer) => void;
  }

  /** Gives a file's content to `use`, in order. @returns its size, or `undefined` where there is no such file */
  async function readInOrder(
    path: string,
    { signal, check, use }: ReadInOrder,
  ): Promise<number | undefined> {
    const remote = remotePath(root, path);
    const connection = await connections.take();
    const lane = await orMissing(openLane(connection, { remote, flags: 'r', verb: 'read' }));
    if (lane === undefined) return undefined;
    return await withHandle(lane, async () => {
      const found = await ask<Stats>(connection, { verb: 'read', path: remote }, (sftp, answer) =>
        sftp.fstat(lane.handle, answer),
      );
      if (!found.isFile()) throw inTheWay(remote, 'file', undefined);
      check?.(found.size);
      const { pieceBytes } = connection;
      const transfer = createTransfer<Lane, undefined, Buffer>({
        start: 0,
        end: found.size,
        pieceEnd: (offset) => Math.min(offset + pieceBytes, found.size),
        window: flightBytes,
        laneBytes,
        prepare: async (_offset, length) => void (await rate.take(length, signal)),
        send: (on, { offset, length }, done) =>
          void readPiece(on, { offset, length, remote }).then(
            (bytes) => done(undefined, bytes),
            (error: Error) => done(error),
          ),
        finish: (_piece, bytes) => use(bytes as Buffer),
        signal,
      });
      const move = () =>
        moveOver(transfer, lane, { remote, flags: 'r', verb: 'read', bytes: found.size });
      await (found.size > blockBytes ? largeSlots(move) : move());
      return found.size;
    });
  }

  /** A server may answer with less than was asked for. */
  async function readPiece(
    { connection, handle }: Lane,
    { offset, length, remote }: { offset: number; length: number; remote: string },
  ): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(length);
    for (let have = 0; have < length; ) {
      const got = await ask<number>(connection, { verb: 'read', path: remote }, (sftp, answer) =>
        sftp.read(handle, bytes, have, length - have, offset + have, answer),
      ).catch((error: unknown) => {
        if (error instanceof ServerError && statusOf(error.cause) === status.eof) return 0;
        throw error;
      });
      if (got === 0) {
        const text = `Mirror ${name}: ${remote} became shorter while it was read`;
        throw new ServerError('MIRROR_DAMAGED', text, {
          hint: 'nothing but this server should change the mirror',
        });
      }
      have += got;
    }
    return bytes;
  }

  interface Move {
    remote: string;
    flags: 'r' | 'r+';
    verb: string;
    bytes: number;
  }

  /** Runs a transfer over `first` and, where there is enough to do, over further connections as they come. */
  async function moveOver(
    transfer: ReturnType<typeof createTransfer<Lane, never, never>>,
    first: Lane,
    { bytes, ...move }: Move,
  ): Promise<void> {
    const others: Promise<Lane | undefined>[] = [];
    let isOver = false;
    transfer.addLane(first);
    connections.more(Math.floor(bytes / laneWorth), {
      first: first.connection,
      use: (connection) => {
        if (isOver) return;
        const lane = openLane(connection, move);
        const added = lane.then(
          (made) => {
            if (!isOver) transfer.addLane(made);
            return made;
          },
          // One lane less; what is wrong with the file the first one tells.
          () => undefined,
        );
        others.push(added);
      },
    });
    try {
      await transfer.run();
    } finally {
      isOver = true;
      for (const lane of await Promise.all(others)) if (lane !== undefined) closeLane(lane);
    }
  }

  async function put(source: PutSource, path: string, options: PutOptions): Promise<PutResult> {
    const remote = remotePath(root, path);
    const connection = await connections.take();
    const start = (options.resume ?? true) ? await startOf(connection, { source, remote }) : 0;
    const flags = start === 0 ? 'w' : 'r+';
    const lane = await openLane(connection, { remote, flags, verb: 'write' });
    const send = source.size <= connection.pieceBytes ? sendWhole : sendInPieces;
    await withHandle(lane, async () => {
      options.onStart?.(start);
      await send(source, { start, lane, remote, options });
    });
    options.signal?.throwIfAborted();
    return { start, sent: source.size - start };
  }

  /** Where to go on with what an earlier try has left. */
  async function startOf(
    connection: Connection,
    { source, remote }: { source: PutSource; remote: string },
  ): Promise<number> {
    if (resumeFrom(source.size) === 0) return 0;
    const { size = 0 } = (await statOn(connection, remote)) ?? {};
    // What is longer than the content is not the beginning of it.
    return size > source.size ? 0 : resumeFrom(size);
  }

  interface Sending {
    start: number;
    lane: Lane;
    remote: string;
    options: PutOptions;
  }

  /** Content for one request: that and all that follows it are sent together. */
  async function sendWhole(source: PutSource, { lane, remote, options }: Sending): Promise<void> {
    const { size } = source;
    const { connection, handle } = lane;
    await rate.take(size, options.signal);
    const bytes = size === 0 ? Buffer.alloc(0) : await source.read(0, size);
    options.signal?.throwIfAborted();
    const deed = { verb: 'write', path: remote, writing: true };
    const written = ask(connection, deed, (sftp, answer) =>
      sftp.write(handle, bytes, 0, size, 0, answer),
    );
    const settled = settle(lane, { remote, sync: options.sync ?? true });
    const results = await Promise.allSettled([written, settled]);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    options.onBytes?.(size);
  }

  async function sendInPieces(source: PutSource, given: Sending): Promise<void> {
    const send = () => sendFrom(source, given);
    await (source.size > blockBytes ? largeSlots(send) : send());
    await settle(given.lane, { remote: given.remote, sync: given.options.sync ?? true });
  }

  async function sendFrom(
    source: PutSource,
    { start, lane, remote, options }: Sending,
  ): Promise<void> {
    const { pieceBytes } = lane.connection;
    const blocks = createBlocks(source, start);
    const blockEnd = (offset: number) => (Math.floor(offset / blockBytes) + 1) * blockBytes;
    const transfer = createTransfer<Lane, Buffer, void>({
      start,
      end: source.size,
      pieceEnd: (offset) => Math.min(offset + pieceBytes, blockEnd(offset), source.size),
      window: flightBytes,
      laneBytes,
      prepare: async (offset, length) => {
        await rate.take(length, options.signal);
        return await blocks.take(offset, length);
      },
      send: ({ connection, handle }, { offset, item }, done) =>
        connection.begin<void>(
          (sftp, answer) => sftp.write(handle, item, 0, item.length, offset, answer),
          (error) => {
            if (error === undefined || error instanceof ServerError) return done(error);
            void explain(connection, { verb: 'write', path: remote, error, writing: true }).then(
              done,
            );
          },
        ),
      finish: ({ length }) => options.onBytes?.(length),
      signal: options.signal,
    });
    const bytes = source.size - start;
    await moveOver(transfer, lane, { remote, flags: 'r+', verb: 'write', bytes });
  }

  /** Has what was written to a file readable by all and on the disk. */
  async function settle(
    { connection, handle }: Lane,
    { remote, sync: wanted }: { remote: string; sync: boolean },
  ): Promise<void> {
    const deed = { verb: 'write', path: remote, writing: true };
    // The umask there may be narrower than the web server needs. An account that may not say so has its reasons.
    const readable = connection
      .call((sftp, answer) => sftp.fchmod(handle, fileMode, answer))
      .catch((error: unknown) => {
        if (statusOf(error) === undefined) throw error;
      });
    const synced =
      wanted && offers(connection, 'fsync@openssh.com', '1')
        ? ask(connection, deed, (sftp, answer) => sftp.ext_openssh_fsync(handle, answer), {
            slow: true,
          })
        : undefined;
    await Promise.all([readable, synced]);
  }

  async function write(
    path: string,
    pieces: readonly Uint8Array[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    remotePath(root, path);
    const temporary = besideAs(path, randomBytes(3).toString('hex'));
    const content = Buffer.concat(pieces);
    const source: PutSource = {
      size: content.length,
      read: async (offset, length) => content.subarray(offset, offset + length),
    };
    try {
      await put(source, temporary, { resume: false, signal });
      await rename(temporary, path);
    } catch (error) {
      // The first error is the one to tell; a name that ends in .tmp is cleared away by whoever lists the folder.
      await remove(temporary).catch(() => {});
      throw error;
    }
    await sync(folderOf(path));
  }

  async function rename(from: string, to: string): Promise<void> {
    const [old, next] = [remotePath(root, from), remotePath(root, to)];
    const connection = await connections.take();
    const deed = { verb: 'rename', path: `${old} to ${next}` };
    if (offers(connection, 'posix-rename@openssh.com', '1')) {
      return await ask(connection, deed, (sftp, answer) =>
        sftp.ext_openssh_rename(old, next, answer),
      );
    }
    const aside = remotePath(root, besideAs(to, 'replaced'));
    const quietly = (error: unknown) => {
      if (statusOf(error) === undefined) throw error;
    };
    // Sent together, and done by the server one after the other.
    const cleared = connection.call((sftp, answer) => sftp.unlink(aside, answer)).catch(quietly);
    const moved = connection
      .call((sftp, answer) => sftp.rename(next, aside, answer))
      .then(() => true, quietly);
    const renamed = ask(connection, deed, (sftp, answer) => sftp.rename(old, next, answer));
    const results = await Promise.allSettled([renamed, moved, cleared]);
    const wasMoved = results[1].status === 'fulfilled' && results[1].value === true;
    if (results[0].status === 'rejected') {
      if (wasMoved) {
        await connection.call((sftp, answer) => sftp.rename(aside, next, answer)).catch(quietly);
      }
      throw results[0].reason;
    }
    if (wasMoved)
      await connection.call((sftp, answer) => sftp.unlink(aside, answer)).catch(quietly);
  }

  async function link(from: string, to: string): Promise<boolean> {
    const [old, next] = [remotePath(root, from), remotePath(root, to)];
    const connection = await connections.take();
    if (!offers(connection, 'hardlink@openssh.com', '1')) return false;
    const noLinks: number[] = [status.failure, status.permissionDenied, status.unsupported];
    try {
      await connection.call((sftp, answer) => sftp.ext_openssh_hardlink(old, next, answer));
      return true;
    } catch (error) {
      if (noLinks.includes(statusOf(error) ?? -1)) return false;
      throw await explain(connection, { verb: 'link', path: `${old} to ${next}`, error });
    }
  }

  async function copy(from: string, to: string, signal: AbortSignal | undefined): Promise<boolean> {
    const [old, next] = [remotePath(root, from), remotePath(root, to)];
    const connection = await connections.take();
    if (!offers(connection, 'copy-data', '1')) return false;
    const source = await openLane(connection, { remote: old, flags: 'r', verb: 'read' });
    await withHandle(source, async () => {
      const target = await openLane(connection, { remote: next, flags: 'w', verb: 'write' });
      await withHandle(target, async () => {
        await copyContent({ source: source.handle, target, remote: next, signal });
        await settle(target, { remote: next, sync: true });
      });
    });
    return true;
  }

  async function copyContent(given: {
    source: Buffer;
    target: Lane;
    remote: string;
    signal: AbortSignal | undefined;
  }): Promise<void> {
    const { source, remote, signal } = given;
    const { connection, handle } = given.target;
    const deed = { verb: 'write', path: remote, writing: true };
    const { size } = await ask<Stats>(connection, deed, (sftp, answer) =>
      sftp.fstat(source, answer),
    );
    for (let offset = 0; offset < size; offset += copyBytes) {
      signal?.throwIfAborted();
      const length = Math.min(copyBytes, size - offset);
      await ask(
        connection,
        deed,
        (sftp, answer) => sftp.ext_copy_data(source, offset, length, handle, offset, answer),
        { slow: true },
      );
    }
  }

  async function remove(path: string): Promise<void> {
    const remote = remotePath(root, path);
    const connection = await connections.take();
    await orMissing(
      ask(connection, { verb: 'remove', path: remote }, (sftp, answer) =>
        sftp.unlink(remote, answer),
      ),
    );
  }

  async function makeFolder(path: string, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    const remote = remotePath(root, path);
    const connection = await connections.take();
    if (path === '') return await checkRoot(connection);
    try {
      await connection.call((sftp, answer) => sftp.mkdir(remote, { mode: folderMode }, answer));
    } catch (error) {
      if (statusOf(error) === status.noSuchFile) {
        await makeFolder(folderOf(path), signal);
        return await makeLast(connection, remote);
      }
      return await acceptFolder(connection, { remote, error });
    }
    await openToAll(connection, remote);
  }

  /** Makes a folder in one that is there. */
  async function makeLast(connection: Connection, remote: string): Promise<void> {
    try {
      await connection.call((sftp, answer) => sftp.mkdir(remote, { mode: folderMode }, answer));
    } catch (error) {
      return await acceptFolder(connection, { remote, error });
    }
    await openToAll(connection, remote);
  }

  /** A folder that could not be made may be there. */
  async function acceptFolder(
    connection: Connection,
    { remote, error }: { remote: string; error: unknown },
  ): Promise<void> {
    if (statusOf(error) === undefined) throw error;
    const found = await statOn(connection, remote);
    if (found?.kind === 'folder') return;
    if (found !== undefined) throw inTheWay(remote, 'folder', error);
    throw await explain(connection, { verb: 'make the folder', path: remote, error });
  }

  async function openToAll(connection: Connection, remote: string): Promise<void> {
    const attributes: InputAttributes = { mode: folderMode };
    await connection
      .call((sftp, answer) => sftp.setstat(remote, attributes, answer))
      .catch((error: unknown) => {
        // As with files: an account that may not say so has its reasons.
        if (statusOf(error) === undefined) throw error;
      });
  }

  async function removeFolder(path: string): Promise<boolean> {
    const remote = remotePath(root, path);
    const connection = await connections.take();
    try {
      await connection.call((sftp, answer) => sftp.rmdir(remote, answer));
      return true;
    } catch (error) {
      if (statusOf(error) === status.noSuchFile) {
        if ((await statOn(connection, remote)) === undefined) return true;
        throw inTheWay(remote, 'folder', error);
      }
      if (statusOf(error) === status.failure && (await list(path))?.length !== 0) return false;
      throw await explain(connection, { verb: 'remove', path: remote, error });
    }
  }

  async function sync(path: string): Promise<void> {
    const remote = remotePath(root, path);
    const connection = await connections.take();
    if (!offers(connection, 'fsync@openssh.com', '1')) return;
    // OpenSSH opens folders, too; a server that does not cannot sync them.
    const lane = await openLane(connection, { remote, flags: 'r', verb: 'sync' });
    const deed = { verb: 'sync', path: remote };
    await withHandle(lane, () =>
      ask(connection, deed, (sftp, answer) => sftp.ext_openssh_fsync(lane.handle, answer), {
        slow: true,
      }),
    );
  }

  async function space(connection: Connection): Promise<MirrorSpace | undefined> {
    if (!offers(connection, 'statvfs@openssh.com', '2')) return undefined;
    const found = await ask<StatVfs>(connection, { verb: 'look at', path: root }, (sftp, answer) =>
      sftp.ext_openssh_statvfs(root, answer),
    );
    return {
      free: found.f_bavail * found.f_frsize,
      freeFiles: found.f_files === 0 ? undefined : found.f_favail,
      readOnly: (found.f_flag & 1) !== 0,
    };
  }

  async function openLane(
    connection: Connection,
    { remote, flags, verb }: { remote: string; flags: 'r' | 'r+' | 'w'; verb: string },
  ): Promise<Lane> {
    const handle = await connection
      .call<Buffer>((sftp, answer) => sftp.open(remote, flags, fileMode, answer))
      .catch(async (error: unknown) => {
        if (
          statusOf(error) === status.failure &&
          (await statOn(connection, remote))?.kind === 'folder'
        ) {
          throw inTheWay(remote, 'file', error);
        }
        throw await explain(connection, { verb, path: remote, error });
      });
    return { connection, handle };
  }

  /** Sends a request whose refusal is told as an error of ours. */
  async function ask<T = void>(
    connection: Connection,
    deed: { verb: string; path: string; writing?: boolean },
    request: (sftp: SFTPWrapper, answer: (error?: Error | null, value?: T) => void) => void,
    options: { slow?: boolean } = {},
  ): Promise<T> {
    try {
      return await connection.call<T>(request, options);
    } catch (error) {
      throw await explain(connection, { ...deed, error });
    }
  }

  /** The error of ours for what a request met with; asks the far side where that does not say enough. */
  async function explain(
    connection: Connection,
    given: { verb: string; path: string; error: unknown; writing?: boolean },
  ): Promise<Error> {
    const { verb, path, error: cause, writing = false } = given;
    const code = statusOf(cause);
    if (code === undefined) return cause as Error;
    const deed = { mirror: name, verb, path };
    if (code !== status.failure) return refused(deed, { cause });
    try {
      const found = await space(connection);
      const { free, freeFiles, readOnly = false } = found ?? {};
      return refused(deed, { cause, circumstances: { free, freeFiles, readOnly, writing } });
    } catch (error) {
      return error as Error;
    }
  }

  function inTheWay(remote: string, wanted: 'file' | 'folder', cause: unknown): ServerError {
    const text = `Mirror ${name}: ${remote} is not a ${wanted}`;
    return new ServerError('MIRROR_DAMAGED', text, { hint: 'remove what stands there', cause });
  }

  async function withHandle<T>(lane: Lane, use: () => Promise<T>): Promise<T> {
    try {
      return await use();
    } finally {
      closeLane(lane);
    }
  }

  /** Nothing waits for it: what matters was answered before. It ends with its connection at the latest. */
  function closeLane({ connection, handle }: Lane): void {
    connection.begin(
      (sftp, answer) => sftp.close(handle, answer),
      () => {},
    );
  }
}

/** What the server of a mirror shows as its host key; nothing is asked of it beyond that. */
export async function seenHostKey(
  config: Pick<SftpMirrorConfig, 'name' | 'remote' | 'user'>,
  options: { stallMs?: number; signal?: AbortSignal } = {},
): Promise<HostKey> {
  const { stallMs = defaultStallMs, signal } = options;
  let seen: HostKey | undefined;
  const trust = {
    attempts: [hostKeyAlgorithms],
    judge: (key: Buffer) => {
      seen = describeHostKey(key);
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

interface StatVfs {
  f_bavail: number;
  f_frsize: number;
  f_files: number;
  f_favail: number;
  f_flag: number;
}

function offers({ extensions }: Connection, extension: string, version: string): boolean {
  return extensions[extension] === version;
}

function entryOf(stats: Stats): MirrorEntry {
  return { kind: kindOf(stats), size: stats.size ?? 0, mtime: stats.mtime ?? 0 };
}

function kindOf(stats: Stats): EntryKind {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'folder';
  return stats.isSymbolicLink() ? 'link' : 'other';
}

/** Where to go on with a file of which `size` bytes are there: what lies before has no holes. */
function resumeFrom(size: number): number {
  return Math.floor(Math.max(0, size - flightBytes) / blockBytes) * blockBytes;
}

/** `undefined` in place of MIRROR_MISSING. */
async function orMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof ServerError && error.code === 'MIRROR_MISSING') return undefined;
    throw error;
  }
}

/** Reads a source block by block, a little ahead of what is taken. */
function createBlocks(source: PutSource, start: number) {
  const ahead = 2;
  /** The blocks that have been asked for and not used up, by offset. */
  const asked = new Map<number, Promise<Buffer>>();
  let next = start;
  return {
    async take(offset: number, length: number): Promise<Buffer> {
      const first = Math.floor(offset / blockBytes) * blockBytes;
      while (next < source.size && next <= first + ahead * blockBytes) {
        const block = source.read(next, Math.min(blockBytes, source.size - next));
        // It is told when its turn comes, if it comes.
        block.catch(() => {});
        asked.set(next, block);
        next += blockBytes;
      }
      const block = (await asked.get(first)) as Buffer;
      if (offset + length === first + block.length) asked.delete(first);
      return block.subarray(offset - first, offset - first + length);
    },
  };
}

/** Lets `count` tasks run at once; others wait, in order. */
function createSlots(count: number) {
  const waiting: (() => void)[] = [];
  let free = count;
  return async <T>(task: () => Promise<T>): Promise<T> => {
    if (free > 0) free -= 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free += 1;
      else next();
    }
  };
}

/** `task`, or a rejection with the signal's reason where that comes first. */
function untilAborted<T>(task: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return task;
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    task.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
