/**
 * Who is trusted, as it stands in `trust.json`. It cannot be made anew, so a file that makes no sense is never
 * written over.
 */
import { readFile, stat } from 'node:fs/promises';
import * as v from 'valibot';
import { ServerError, systemCode, systemText } from '../errors.js';

/** Times are ISO 8601 in UTC. */
export interface StoredClient {
  name: string;
  /** Of its certificate: SHA-256 of the DER, lower-case hexadecimal. */
  fingerprint: string;
  added: string;
  /** When it was last seen, give or take some minutes. */
  used?: string | undefined;
  /** When its certificate ends. */
  expires: string;
}

export interface StoredToken {
  name: string;
  /** SHA-256 of the secret, lower-case hexadecimal. */
  hash: string;
  added: string;
  expires: string;
  /** When it was used up; it is remembered until it expires, to tell who brings it again. */
  used?: string | undefined;
}

export interface Trusted {
  clients: readonly StoredClient[];
  tokens: readonly StoredToken[];
}

/** What may be called by: the name of a client. */
export const namePattern = /^[A-Za-z0-9][A-Za-z0-9._+@-]{0,63}$/;

/** Of {@link Trusted}, in case it changes. */
const format = 1;

const name = v.pipe(v.string(), v.regex(namePattern));
const digest = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
const time = v.pipe(
  v.string(),
  v.isoTimestamp(),
  v.check((text) => !Number.isNaN(Date.parse(text)), 'Invalid date'),
);
const fileSchema = v.strictObject({
  format: v.literal(format),
  clients: v.array(
    v.strictObject({
      name,
      fingerprint: digest,
      added: time,
      used: v.optional(time),
      expires: time,
    }),
  ),
  tokens: v.array(
    v.strictObject({ name, hash: digest, added: time, expires: time, used: v.optional(time) }),
  ),
});

const newerSchema = v.object({ format: v.pipe(v.number(), v.gtValue(format)) });

/** The text of the file, for people to read and mend. */
export function formatTrusted({ clients, tokens }: Trusted): string {
  return `${JSON.stringify({ format, clients, tokens }, undefined, 2)}\n`;
}

/** @throws ServerError DAMAGED. @param file what errors call it */
export function parseTrusted(text: string, file: string): Trusted {
  const json = parseJson(text, file);
  if (v.is(newerSchema, json)) throw newer(file);
  const { success, output, issues } = v.safeParse(fileSchema, json);
  if (success) return { clients: output.clients, tokens: output.tokens };
  const [{ message }] = issues;
  const path = v.getDotPath(issues[0]);
  throw damaged(file, path === null ? message : `${path}: ${message}`);
}

/**
 * Reads the file; nobody is trusted where there is none.
 *
 * @throws ServerError DAMAGED for one that makes no sense; DENIED for one that others may write to or that cannot
 *   be read; IO
 */
export async function readTrusted(file: string): Promise<Trusted> {
  try {
    const { mode } = await stat(file);
    if ((mode & 0o022) !== 0) throw openToOthers(file);
    return parseTrusted(await readFile(file, 'utf8'), file);
  } catch (cause) {
    if (cause instanceof ServerError) throw cause;
    if (systemCode(cause) === 'ENOENT') return { clients: [], tokens: [] };
    if (systemCode(cause) === undefined) throw cause;
    const isDenied = ['EACCES', 'EPERM'].includes(systemCode(cause) ?? '');
    throw new ServerError(isDenied ? 'DENIED' : 'IO', `Cannot read ${file}: ${systemText(cause)}`, {
      hint: isDenied ? 'run the command as the user who owns it, or as root' : 'see to the disk',
      cause,
    });
  }
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    // The reason that the parser gives would show some of the content.
    throw damaged(file, 'it is not JSON', cause);
  }
}

function damaged(file: string, reason: string, cause?: unknown): ServerError {
  return new ServerError('DAMAGED', `${file}, which says who is trusted, is damaged: ${reason}`, {
    hint: 'put a copy of it back, or move it away and let every client in anew; nothing is written to it until then',
    cause,
  });
}

function newer(file: string): ServerError {
  return new ServerError('DAMAGED', `${file}, which says who is trusted, is of a newer version`, {
    hint: 'install that version of lxd-image-server again; nothing is written to the file until then',
  });
}

function openToOthers(file: string): ServerError {
  return new ServerError('DENIED', `${file} says who is trusted, and other users may write to it`, {
    hint: `see that only who you know is in "lxd-image-server trust list", after chmod 600 ${file}`,
  });
}
