/** What SFTP and SSH report, as errors of ours. Pure. */
import { networkCode, networkText, ServerError } from '../errors.js';

/** Status codes of the SFTP draft, version 3 (draft-ietf-secsh-filexfer-02, section 7). */
export const status = {
  eof: 1,
  noSuchFile: 2,
  permissionDenied: 3,
  failure: 4,
  badMessage: 5,
  unsupported: 8,
} as const;

/** The status that a server answered with; `undefined` for any other error. */
export function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || error instanceof ServerError || !('code' in error)) {
    return undefined;
  }
  return typeof error.code === 'number' ? error.code : undefined;
}

/** What was going on, for the message of an error. */
export interface Deed {
  /** The mirror's name. */
  mirror: string;
  /** `write`, `list` */
  verb: string;
  /** As the far side knows it. */
  path: string;
}

/** What is known of the file system that refused. */
export interface Circumstances {
  /** Bytes and files left; `undefined` where the mirror does not tell. */
  free: number | undefined;
  freeFiles: number | undefined;
  readOnly: boolean;
  /** Content was to be written to a file that is open. */
  writing: boolean;
}

/** Less than this is a full disk: no server takes a larger request. */
const littleSpace = 2 ** 20;

/** A request that a server has refused. @param cause an error with a {@link statusOf} */
export function refused(
  { mirror, verb, path }: Deed,
  { cause, circumstances }: { cause: unknown; circumstances?: Circumstances | undefined },
): ServerError {
  const make = (code: ServerError['code'], why: string, hint: string) =>
    new ServerError(code, `Mirror ${mirror}: cannot ${verb} ${path}: ${why}`, { hint, cause });
  switch (statusOf(cause)) {
    case status.noSuchFile:
      return make(
        'MIRROR_MISSING',
        'no such file or folder',
        'it is put back at the next try; nothing but this server should change the mirror',
      );
    case status.permissionDenied:
      return make(
        'MIRROR_DENIED',
        'permission denied',
        "let the mirror's user own its root and all below it",
      );
    case status.unsupported:
      return make(
        'MIRROR_DENIED',
        'the server does not offer this request',
        'allow all requests of internal-sftp in its sshd_config',
      );
    case status.badMessage:
      return make(
        'MIRROR_DENIED',
        'the server does not accept the name or the request',
        'give the mirror a file system with long file names',
      );
    default:
      return failed(make, circumstances);
  }
}

/** The general failure says nothing; what the file system tells of itself does. */
function failed(
  make: (code: ServerError['code'], why: string, hint: string) => ServerError,
  circumstances: Circumstances | undefined,
): ServerError {
  const { free, freeFiles, readOnly = false, writing = false } = circumstances ?? {};
  if (readOnly) {
    const hint =
      'mount it for writing; the kernel log tells whether an error has made it read-only';
    return make('MIRROR_DENIED', 'the file system is read-only', hint);
  }
  if (free !== undefined && free < littleSpace) {
    return make('MIRROR_FULL', 'no space left on the disk', 'make room on the mirror');
  }
  if (freeFiles === 0) {
    return make('MIRROR_FULL', 'the file system can hold no more files', 'make room on the mirror');
  }
  if (writing) {
    const hint = "raise the quota of the mirror's user, and look for disk errors in its kernel log";
    return make('MIRROR_FULL', 'the server refuses more data: a quota is used up', hint);
  }
  const hint =
    "look at what stands there, at quotas, and for disk errors in the mirror's kernel log";
  return make('MIRROR_DENIED', 'the server fails and does not say why', hint);
}

const networkHints: Record<string, string> = {
  ENOTFOUND: 'check remote and url of the mirror, and the name servers',
  EAI_AGAIN: 'check the name servers',
  ECONNREFUSED: 'check that sshd runs there, and the port in remote',
  EHOSTUNREACH: 'check network and firewall',
  ENETUNREACH: 'check network and firewall',
  ETIMEDOUT: 'check network and firewall',
};

/** A connection that cannot be made or is lost. */
export function down(mirror: string, why: string, cause?: unknown): ServerError {
  const code = networkCode(cause) ?? '';
  const reason = cause === undefined ? '' : networkText(cause);
  return new ServerError(
    'MIRROR_DOWN',
    `Mirror ${mirror}: ${why}${reason === '' ? '' : `: ${reason}`}`,
    {
      hint:
        networkHints[code] ?? 'it is tried again; look at the network and at sshd on the mirror',
      cause,
    },
  );
}
