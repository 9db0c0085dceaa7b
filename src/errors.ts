/**
 * The one error type that callers tell apart, and what each kind means to the shell.
 * Everything that a user, a file or the network can cause is a ServerError; our own bugs stay plain Error.
 */

/** Kinds of failure; each decides the exit code of a command. */
export const errorCodes = [
  'USAGE',
  'CONFIG',
  'NOT_INITIALISED',
  'BUSY',
  'IO',
  'DISK_FULL',
  'DENIED',
  'DAMAGED',
  'TLS',
  'INTERRUPTED',
  // What can be wrong with a mirror; mirror/mirror.ts says when each is tried again.
  'MIRROR_AUTH',
  'MIRROR_DOWN',
  'MIRROR_FULL',
  'MIRROR_DENIED',
  'MIRROR_MISSING',
  'MIRROR_DAMAGED',
  'MIRROR_TAKEN',
  'SOURCE_CHANGED',
  // What can be wrong with an upload, or with what is asked of the images.
  'FORBIDDEN',
  'IMAGE_EXISTS',
  'IMAGE_INVALID',
  'IMAGE_MISSING',
  'ALIAS_EXISTS',
  'ALIAS_MISSING',
  'TOO_LARGE',
  'UPLOADS_OFF',
  // Nothing of that name is here, or it is not as the caller saw it.
  'NOT_FOUND',
  'CHANGED',
] as const;
export type ErrorCode = (typeof errorCodes)[number];

/** What a command's exit code says (design, section 3). */
export const exitCodes = {
  done: 0,
  unexpected: 1,
  usage: 2,
  partial: 3,
  notInitialised: 4,
  damaged: 5,
  interrupted: 130,
} as const;

const exitCodeOf: Partial<Record<ErrorCode, number>> = {
  USAGE: exitCodes.usage,
  CONFIG: exitCodes.usage,
  NOT_INITIALISED: exitCodes.notInitialised,
  DAMAGED: exitCodes.damaged,
  INTERRUPTED: exitCodes.interrupted,
};

export interface ServerErrorOptions {
  /** How to mend it: one sentence, or the command to run. */
  hint?: string;
  /** The error that led here. */
  cause?: unknown;
}

/** A failure with a known kind, told to the user as `message`, then `hint`; never with a stack trace. */
export class ServerError extends Error {
  override readonly name = 'ServerError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  constructor(code: ErrorCode, message: string, options: ServerErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
  }
}

/** The exit code that stands for `error`: {@link exitCodes.unexpected} for whatever is not ours. */
export function exitCodeFor(error: unknown): number {
  if (!(error instanceof ServerError)) return exitCodes.unexpected;
  return exitCodeOf[error.code] ?? exitCodes.unexpected;
}

/** The `code` of a Node system error (`ENOENT`, `EACCES`, …), or `undefined` for any other value. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

const systemTexts: Record<string, string> = {
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  ENOENT: 'no such file or folder',
  ENOTDIR: 'not a folder',
  EISDIR: 'is a folder',
  ELOOP: 'symbolic links lead in a circle',
  ENOSPC: 'no space left on the disk',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EIO: 'the disk reports a read or write error',
  EMFILE: 'too many open files',
  ENAMETOOLONG: 'the name is too long',
  EADDRINUSE: 'the address is already in use',
};

/** What a system error says in plain words, without path and call: `permission denied`. */
export function systemText(error: unknown): string {
  const code = systemCode(error);
  if (code !== undefined) return systemTexts[code] ?? code;
  return error instanceof Error ? error.message : String(error);
}

const networkTexts: Record<string, string> = {
  ENOTFOUND: 'no such host',
  EAI_AGAIN: 'the name servers do not answer',
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'the connection was cut',
  EPIPE: 'the connection was cut',
  EHOSTUNREACH: 'no route to the host',
  ENETUNREACH: 'no route to the network',
  ETIMEDOUT: 'no answer',
};

/** What an error of a connection says in plain words: `connection refused`. */
export function networkText(error: unknown): string {
  const first = firstOf(error);
  return networkTexts[systemCode(first) ?? ''] ?? systemText(first);
}

/** The {@link systemCode} of an error of a connection. */
export function networkCode(error: unknown): string | undefined {
  return systemCode(firstOf(error));
}

/** Of several addresses of one host that were tried, the first tells. */
function firstOf(error: unknown): unknown {
  return error instanceof AggregateError ? (error.errors[0] ?? error) : error;
}
