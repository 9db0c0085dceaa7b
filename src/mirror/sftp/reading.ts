/** Reads files back from an SFTP mirror. */
import { createHash } from 'node:crypto';
import type { Stats } from 'ssh2';
import { ServerError } from '../../errors.js';
import type { HashOptions, Mirror, ReadOptions, RemoteHash } from '../mirror.js';
import { status, statusOf } from '../problems.js';
import type { Rate } from '../rate.js';
import type { createMover } from './lanes.js';
import { type OpenFile, orMissing, type Session, withFile } from './session.js';

export interface ReadingOptions {
  session: Session;
  move: ReturnType<typeof createMover>;
  rate: Rate;
}

export function createReading({ session, move, rate }: ReadingOptions) {
  return { read, hash } satisfies Partial<Mirror>;

  async function read(path: string, options: ReadOptions): Promise<Buffer | undefined> {
    const { maxBytes, signal } = options;
    const pieces: Buffer[] = [];
    const found = await readInOrder(path, {
      signal,
      ahead: maxBytes,
      check: (size) => {
        if (size <= maxBytes) return;
        throw session.damaged(`${session.at(path)} is larger than ${maxBytes} bytes`, {
          hint: 'it is not a file of this server',
        });
      },
      use: (bytes) => pieces.push(bytes),
    });
    return found === undefined ? undefined : Buffer.concat(pieces);
  }

  async function hash(path: string, options: HashOptions = {}): Promise<RemoteHash | undefined> {
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
    /** Asks for up to so many bytes before the size is known: a small file is read one round trip sooner. */
    ahead?: number;
    /** Is told the size before anything is read. */
    check?: (size: number) => void;
    use: (bytes: Buffer) => void;
  }

  /** Gives a file's content to `use`, in order. @returns its size, or `undefined` where there is no such file */
  async function readInOrder(path: string, options: ReadInOrder): Promise<number | undefined> {
    const { signal, ahead = 0, check, use } = options;
    const remote = session.at(path);
    const connection = await session.take(signal);
    const how = { remote, flags: 'r', verb: 'read' } as const;
    const file = await orMissing(session.openFile(connection, how));
    if (file === undefined) return undefined;
    return await withFile(file, async () => {
      const [sizing, beginning] = await Promise.allSettled([
        sizeOf(file, remote),
        readAhead(file, { remote, length: Math.min(ahead, connection.pieceBytes), signal }),
      ]);
      if (sizing.status === 'rejected') throw sizing.reason;
      if (beginning.status === 'rejected') throw beginning.reason;
      const size = sizing.value;
      check?.(size);
      const first = beginning.value.subarray(0, size);
      if (first.length > 0) use(first);
      await move<undefined, Buffer>({
        ...how,
        first: file,
        start: first.length,
        end: size,
        pieceEnd: (offset) => Math.min(offset + connection.pieceBytes, size),
        prepare: async (_offset, length) => void (await rate.take(length, signal)),
        send: (on, { offset, length }, done) =>
          void readPiece(on, { offset, length, remote }).then(
            (bytes) => done(undefined, bytes),
            (error: Error) => done(error),
          ),
        finish: (_piece, bytes) => use(bytes as Buffer),
        signal,
      });
      return size;
    });
  }

  /** What one request gives of the beginning. */
  async function readAhead(
    { connection, handle }: OpenFile,
    { remote, length, signal }: { remote: string; length: number; signal: AbortSignal | undefined },
  ): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(length);
    if (length === 0) return bytes;
    const deed = { verb: 'read', path: remote };
    const got = await session
      .ask<number>(
        connection,
        (sftp, answer) => sftp.read(handle, bytes, 0, length, 0, answer),
        deed,
      )
      .catch(zeroAtEnd);
    await rate.take(got, signal);
    return bytes.subarray(0, got);
  }

  async function sizeOf({ connection, handle }: OpenFile, remote: string): Promise<number> {
    const deed = { verb: 'read', path: remote };
    const found = await session.ask<Stats>(
      connection,
      (sftp, answer) => sftp.fstat(handle, answer),
      deed,
    );
    if (!found.isFile()) throw session.inTheWay(remote, 'file', undefined);
    return found.size;
  }

  /** A server may answer with less than was asked for. */
  async function readPiece(
    { connection, handle }: OpenFile,
    { offset, length, remote }: { offset: number; length: number; remote: string },
  ): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(length);
    const deed = { verb: 'read', path: remote };
    for (let have = 0; have < length; ) {
      const got = await session
        .ask<number>(
          connection,
          (sftp, answer) => sftp.read(handle, bytes, have, length - have, offset + have, answer),
          deed,
        )
        .catch(zeroAtEnd);
      if (got === 0) {
        throw session.damaged(`${remote} became shorter while it was read`, {
          hint: 'nothing but this server should change the mirror',
        });
      }
      have += got;
    }
    return bytes;
  }
}

function zeroAtEnd(error: unknown): 0 {
  if (error instanceof ServerError && statusOf(error.cause) === status.eof) return 0;
  throw error;
}
