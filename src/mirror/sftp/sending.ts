/** Sends content to an SFTP mirror: large files in pieces, small ones in as few round trips as there can be. */
import type { Connection } from '../connection.js';
import type { PutOptions, PutResult, PutSource } from '../mirror.js';
import type { Rate } from '../rate.js';
import { createBlocks } from './blocks.js';
import { blockBytes, type createMover, flightBytes } from './lanes.js';
import {
  fileMode,
  type OpenFile,
  offers,
  type Session,
  unlessRefused,
  withFile,
} from './session.js';

export interface SendingOptions {
  session: Session;
  move: ReturnType<typeof createMover>;
  rate: Rate;
}

/** One upload. */
interface Sending {
  source: PutSource;
  start: number;
  file: OpenFile;
  /** Nothing was there before. */
  isNew: boolean;
  remote: string;
  options: PutOptions;
}

export function createSending({ session, move, rate }: SendingOptions) {
  return { put, settle };

  async function put(
    source: PutSource,
    path: string,
    options: PutOptions = {},
  ): Promise<PutResult> {
    const { resume = true, signal } = options;
    const remote = session.at(path);
    const connection = await session.take(signal);
    const start = resume ? await startOf() : 0;
    const { file, isNew } = await openAt(connection, { remote, start });
    const send = source.size <= connection.pieceBytes ? sendWhole : sendInPieces;
    await withFile(file, async () => {
      options.onStart?.(start);
      await send({ source, start, file, isNew, remote, options });
    });
    signal?.throwIfAborted();
    return { start, sent: source.size - start };

    /** Where to go on with what an earlier try has left. */
    async function startOf(): Promise<number> {
      if (resumeFrom(source.size) === 0) return 0;
      const { size = 0 } = (await session.lookAt(connection, remote)) ?? {};
      // What is longer than the content is not the beginning of it.
      return size > source.size ? 0 : resumeFrom(size);
    }
  }

  /** A file to go on with at `start`. One that is new has the mode that it was made with. */
  async function openAt(
    connection: Connection,
    { remote, start }: { remote: string; start: number },
  ): Promise<{ file: OpenFile; isNew: boolean }> {
    const how = { remote, verb: 'write' };
    if (start === 0 && session.modes.areKept) {
      const handle = await connection
        .call<Buffer>((sftp, answer) => sftp.open(remote, 'wx', fileMode, answer))
        .catch(unlessRefused);
      if (handle !== undefined) return { file: { connection, handle }, isNew: true };
    }
    const flags = start === 0 ? 'w' : 'r+';
    return { file: await session.openFile(connection, { ...how, flags }), isNew: false };
  }

  /** Content for one request: that and all that follows it are sent together. */
  async function sendWhole({ source, file, isNew, remote, options }: Sending): Promise<void> {
    const { size } = source;
    const { connection, handle } = file;
    await rate.take(size, options.signal);
    const bytes = size === 0 ? Buffer.alloc(0) : await source.read(0, size);
    options.signal?.throwIfAborted();
    const deed = { verb: 'write', path: remote, writing: true };
    const written = session.ask(
      connection,
      (sftp, answer) => sftp.write(handle, bytes, 0, size, 0, answer),
      deed,
    );
    const settled = settle(file, { remote, isNew, sync: options.sync ?? true });
    const results = await Promise.allSettled([written, settled]);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    options.onBytes?.(size);
  }

  async function sendInPieces(sending: Sending): Promise<void> {
    const { source, start, file, isNew, remote, options } = sending;
    const { signal } = options;
    // Alike in size, so that no block ends with a tiny one.
    const pieceBytes = Math.ceil(blockBytes / Math.ceil(blockBytes / file.connection.pieceBytes));
    const blocks = createBlocks(source, { start, blockBytes });
    const blockEnd = (offset: number) => (Math.floor(offset / blockBytes) + 1) * blockBytes;
    await move<Buffer, void>({
      first: file,
      remote,
      flags: 'r+',
      verb: 'write',
      start,
      end: source.size,
      pieceEnd: (offset) => Math.min(offset + pieceBytes, blockEnd(offset), source.size),
      prepare: async (offset, length) => {
        await rate.take(length, signal);
        return await blocks.take(offset, length);
      },
      send: (on, { offset, item }, done) => writePiece(on, { offset, bytes: item, remote }, done),
      finish: ({ length }) => options.onBytes?.(length),
      signal,
    });
    await settle(file, { remote, isNew, sync: options.sync ?? true });
  }

  /** Without a promise for each: there are thousands. */
  function writePiece(
    { connection, handle }: OpenFile,
    { offset, bytes, remote }: { offset: number; bytes: Buffer; remote: string },
    done: (error: Error | undefined) => void,
  ): void {
    connection.begin<void>(
      (sftp, answer) => sftp.write(handle, bytes, 0, bytes.length, offset, answer),
      (error) => {
        if (error === undefined) return done(undefined);
        const deed = { verb: 'write', path: remote, writing: true };
        void session.explain(connection, error, deed).then(done);
      },
    );
  }

  /** Has what was written to a file readable by all and on the disk. */
  async function settle(
    { connection, handle }: OpenFile,
    { remote, isNew = false, sync }: { remote: string; isNew?: boolean; sync: boolean },
  ): Promise<void> {
    const deed = { verb: 'write', path: remote, writing: true, slow: true };
    // The umask there may be narrower than the web server needs. An account that may not say so has its reasons.
    const readable = isNew
      ? undefined
      : connection
          .call((sftp, answer) => sftp.fchmod(handle, fileMode, answer))
          .catch(unlessRefused);
    const synced =
      sync && offers(connection, 'fsync@openssh.com', '1')
        ? session.ask(connection, (sftp, answer) => sftp.ext_openssh_fsync(handle, answer), deed)
        : undefined;
    await Promise.all([readable, synced]);
  }
}

/** Where to go on with a file of which `size` bytes are there: what lies before has no holes. */
function resumeFrom(size: number): number {
  return Math.floor(Math.max(0, size - flightBytes) / blockBytes) * blockBytes;
}
