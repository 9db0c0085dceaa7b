/** Brings one file's content to the staging folder of a mirror: whole, and with the SHA-256 that it must have. */
import { createHash } from 'node:crypto';
import type { Sending } from '../catalog/plan.js';
import { ServerError } from '../errors.js';
import type { Mirror, PutOptions, PutSource } from './mirror.js';
import { stagingPath } from './names.js';

/** A file of the master, open. */
export interface Source extends PutSource {
  close(): Promise<void>;
}

/**
 * Opens a file of the master by its path below the root. @throws ServerError SOURCE_CHANGED where it cannot be
 * read; reading it throws the same where it changes.
 */
export type OpenSource = (path: string) => Promise<Source>;

export interface SendOptions {
  openSource: OpenSource;
  signal?: AbortSignal;
  /** Bytes that earlier work has left in the staging folder for it. */
  staged?: number | undefined;
  /** Called where the file that the content was to be taken from is not what it was. */
  onLost?(path: string): void;
  /** Called with the number of bytes that need not be sent any more. */
  onBytes(count: number): void;
  /** Called with the number of bytes that have gone over the line; those that go again count again. */
  onSent?(bytes: number): void;
}

/**
 * @returns the number of bytes sent; 0 where the mirror had the content.
 * @throws ServerError SOURCE_CHANGED where the file on the master is not what it was published as; whatever the
 *   mirror throws.
 */
export async function bringContent(
  mirror: Mirror,
  file: Sending,
  options: SendOptions,
): Promise<number> {
  if (file.from !== undefined && (await takeFrom(mirror, { ...file, from: file.from }, options))) {
    options.onBytes(file.size);
    return 0;
  }
  const source = await options.openSource(file.path);
  try {
    if (source.size !== file.size) throw sourceChanged(file.path);
    const { staged = 0 } = options;
    if (staged >= file.size && staged > 0 && (await isWhole(mirror, file, options))) return 0;
    return (
      (await sendOnce(mirror, file, { ...options, source, resume: true })) ??
      (await sendOnce(mirror, file, { ...options, source, resume: false })) ??
      (await Promise.reject(sourceChanged(file.path)))
    );
  } finally {
    await source.close();
  }
}

/** Has the mirror link or copy the content. @returns false where it cannot, or what is there is not it. */
async function takeFrom(
  mirror: Mirror,
  { from, size, sha256 }: Sending & { from: string },
  { signal, onLost = () => {} }: SendOptions,
): Promise<boolean> {
  const settings = signal === undefined ? {} : { signal };
  const staged = stagingPath(sha256);
  try {
    const found = await mirror.stat(from, settings);
    if (found?.kind !== 'file' || found.size !== size) {
      onLost(from);
      return false;
    }
    await mirror.remove(staged, settings);
    return (
      (await mirror.link(from, staged, settings)) || (await mirror.copy(from, staged, settings))
    );
  } catch (error) {
    if (error instanceof ServerError && error.code === 'MIRROR_MISSING') return false;
    throw error;
  }
}

/**
 * Whether what is in the staging folder is the content. Otherwise it is removed: what is as long as that may be a
 * second name of a file that is published, and must not be written to.
 */
async function isWhole(
  mirror: Mirror,
  { size, sha256 }: Sending,
  { signal, onBytes }: SendOptions,
): Promise<boolean> {
  const path = stagingPath(sha256);
  const there = await mirror.hash(path, settingsOf(signal));
  const isRight = there?.size === size && there.sha256 === sha256;
  if (isRight) {
    await mirror.sync(path, settingsOf(signal));
    onBytes(size);
  } else await mirror.remove(path, settingsOf(signal));
  return isRight;
}

/** @returns the number of bytes sent; `undefined` where what was continued was other content. */
async function sendOnce(
  mirror: Mirror,
  { path, sha256 }: Sending,
  options: SendOptions & { source: Source; resume: boolean },
): Promise<number | undefined> {
  const { source, resume, signal, onBytes, onSent = () => {} } = options;
  const staged = stagingPath(sha256);
  const { read, digest } = hashing(source);
  let counted = 0;
  const count = (bytes: number) => {
    counted += bytes;
    onBytes(bytes);
  };
  const settings: PutOptions = {
    resume,
    onStart: count,
    onBytes(bytes) {
      count(bytes);
      // What is less than nothing is what will be sent again.
      if (bytes > 0) onSent(bytes);
    },
  };
  if (signal !== undefined) settings.signal = signal;
  const { start, sent } = await mirror.put({ size: source.size, read }, staged, settings);
  // What was sent whole has been hashed on its way; for what was continued only the mirror can tell.
  const there =
    (start === 0 ? await digest() : undefined) ?? (await mirror.hash(staged, settingsOf(signal)));
  if (typeof there === 'string' ? there === sha256 : there?.sha256 === sha256) return sent;
  onBytes(-counted);
  if (start === 0) throw sourceChanged(path);
  return undefined;
}

function settingsOf(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}

/**
 * `source`, and the SHA-256 of what was read from it; `undefined` where that was not all of it, in order. It is never
 * taken from records: a disk of the master's that spoils a file must not spoil the mirrors.
 */
function hashing(source: PutSource): {
  read: PutSource['read'];
  digest(): Promise<string | undefined>;
} {
  const hash = createHash('sha256');
  let asked = 0;
  let inOrder = true;
  let hashed: Promise<unknown> = Promise.resolve();
  return {
    read(offset, length) {
      const reading = source.read(offset, length);
      inOrder &&= offset === asked;
      asked = offset + length;
      if (inOrder) {
        hashed = Promise.all([reading, hashed]).then(([bytes]) => hash.update(bytes));
        // Whoever asked for the bytes is told.
        hashed.catch(() => {});
      }
      return reading;
    },
    async digest() {
      await hashed;
      return inOrder && asked === source.size ? hash.digest('hex') : undefined;
    },
  };
}

export function sourceChanged(path: string, cause?: unknown): ServerError {
  return new ServerError('SOURCE_CHANGED', `${path} is not what was published any more`, {
    hint: 'it is sent when the next update has read it',
    cause,
  });
}
