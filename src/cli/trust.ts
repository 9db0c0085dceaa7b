/** `trust`: who may upload over HTTPS. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import picocolors from 'picocolors';
import { openTrusting, type Trusting } from '../daemon/trusting.js';
import { acquireLock, type Lock } from '../disk/lock.js';
import { exitCodes, ServerError, systemText } from '../errors.js';
import { certificateIn } from '../trust/certificate.js';
import { utcText } from '../trust/refusals.js';
import type { Invitation, Removed, TrustList } from '../trust/trust.js';
import type { StoredClient } from '../trust/trust-file.js';
import type { Command } from './command.js';
import { callDaemonOrSelf } from './daemon.js';
import { counted, formatAge, formatTable } from './format.js';

export interface TrustOptions {
  /** What stands on the command line after the verb: a name, where one is asked for. */
  args: string[];
}

export interface TrustAddOptions extends TrustOptions {
  /** For how long the token is good, in milliseconds. Default: a day. */
  expires?: number;
  /** File with the client's certificate; then there is no token. */
  certificate?: string;
  /** Where the client reaches this server, in place of what the configuration says. */
  address?: string[];
}

const day = 86_400_000;
/** How long to wait for the lock, and how often to look, in milliseconds: others hold it for a moment. */
const patience = { forMs: 5000, everyMs: 100 };

/** Makes a token for a client, or trusts its certificate at once. */
export async function add(command: Command, options: TrustAddOptions): Promise<number> {
  const { certificate, expires, address } = options;
  if (certificate === undefined) return await invite(command, options);
  if (expires === undefined && address === undefined) {
    return await addCertificate(command, { ...options, file: certificate });
  }
  throw new ServerError('USAGE', '--expires and --address say what a token is like', {
    hint: 'leave them out with --certificate: no token is made',
  });
}

async function invite(
  command: Command,
  { args: [name = ''], expires: lifetime = day, address: addresses = [] }: TrustAddOptions,
): Promise<number> {
  const made = await change<Invitation>(command, {
    command: 'trust-invite',
    args: { name, lifetime, addresses },
    self: (trust) => trust.invite({ name, lifetime, addresses }),
  });
  command.print(command.json ? JSON.stringify(made) : invitationText(made));
  return exitCodes.done;
}

function invitationText({ name, token, addresses, expires }: Invitation): string {
  return [
    token,
    '',
    `It has one client trusted, as "${name}", until ${utcText(Date.parse(expires))}, and names this server as`,
    `${addresses.join(', ')}. On the client, paste one of:`,
    '',
    `    lxc remote add hub ${token}`,
    `    incus remote add hub ${token}`,
  ].join('\n');
}

async function addCertificate(
  command: Command,
  { args: [name = ''], file }: TrustOptions & { file: string },
): Promise<number> {
  const certificate = await readClientCertificate(file);
  const client = await change<StoredClient>(command, {
    command: 'trust-add',
    args: { name, certificate: certificate.toString('base64') },
    self: (trust) => trust.add({ name, certificate }),
  });
  const text = `"${name}" is trusted from now on, with the certificate ${client.fingerprint}`;
  command.print(command.json ? JSON.stringify(client) : text);
  return exitCodes.done;
}

/** The DER in a file. @throws ServerError USAGE */
async function readClientCertificate(file: string): Promise<Buffer> {
  const content = await readFile(file).catch((cause: unknown) => {
    throw new ServerError('USAGE', `Cannot read ${file}: ${systemText(cause)}`, {
      hint: 'name the client.crt of the client',
      cause,
    });
  });
  const der = certificateIn(content);
  if (der !== undefined) return der;
  throw new ServerError('USAGE', `${file} holds no certificate`, {
    hint: 'name the client.crt of the client, from its ~/.config/lxc or ~/.config/incus',
  });
}

/** Prints who is trusted, and which tokens wait for their client. */
export async function list(command: Command): Promise<number> {
  const { config, json, print, colour } = command;
  const trusted = await callDaemonOrSelf<TrustList>(command, {
    command: 'trust-list',
    args: { state: config.paths.state },
    // Only reads: nobody need hold still.
    self: () => withTrust(command, (trust) => trust.list()),
  });
  const colors = picocolors.createColors(colour);
  print(json ? JSON.stringify(trusted) : listText(trusted, { now: Date.now(), colors }));
  return exitCodes.done;
}

/** Who is trusted, as a table. */
export function listText(
  { clients, tokens }: TrustList,
  { now, colors }: { now: number; colors: ReturnType<typeof picocolors.createColors> },
): string {
  if (clients.length + tokens.length === 0) return 'nobody is trusted, so nobody can upload';
  const rows = [
    ...clients.map(({ name, fingerprint, added, used, expires }) => [
      name,
      fingerprint.slice(0, 12),
      formatAge(added, now),
      used === undefined ? 'never' : formatAge(used, now),
      formatAge(expires, now),
    ]),
    ...tokens.map(({ name, added, expires }) => [
      name,
      'token',
      formatAge(added, now),
      'not yet',
      formatAge(expires, now),
    ]),
  ];
  const head = ['NAME', 'FINGERPRINT', 'ADDED', 'LAST USED', 'EXPIRES'];
  const [heading = '', ...lines] = formatTable([head, ...rows]).split('\n');
  return [colors.bold(heading), ...lines].join('\n');
}

/** Trusts a client no more, nor its tokens. */
export async function remove(
  command: Command,
  { args: [name = ''] }: TrustOptions,
): Promise<number> {
  const removed = await change<Removed>(command, {
    command: 'trust-remove',
    args: { name },
    self: (trust) => trust.remove(name),
  });
  const parts = [
    removed.clients.length > 0 && counted(removed.clients.length, 'certificate'),
    removed.tokens > 0 && counted(removed.tokens, 'token'),
  ].filter((part) => part !== false);
  const text = `"${name}" is not trusted any more: ${parts.join(' and ')} removed`;
  command.print(command.json ? JSON.stringify(removed) : text);
  return exitCodes.done;
}

/** Has the daemon of this state folder change who is trusted, or does it here, under the lock of the root. */
async function change<T>(
  command: Command,
  work: { command: string; args: object; self: (trust: Trusting) => Promise<T> },
): Promise<T> {
  const { root, state } = command.config.paths;
  return await callDaemonOrSelf<T>(command, {
    command: work.command,
    args: { ...work.args, state },
    self: async () => {
      const lock = await lockSoon(root, command.signal);
      try {
        return await withTrust(command, work.self);
      } finally {
        await lock.release();
      }
    },
  });
}

async function withTrust<T>(
  { config, log }: Command,
  work: (trust: Trusting) => Promise<T>,
): Promise<T> {
  const trust = await openTrusting({ paths: config.paths, server: () => config.server, log });
  return await work(trust);
}

/** Takes the lock, of which another such command may be in the way for a moment. */
async function lockSoon(root: string, signal: AbortSignal): Promise<Lock> {
  const end = performance.now() + patience.forMs;
  for (;;) {
    try {
      return await acquireLock(root);
    } catch (error) {
      const isBusy = error instanceof ServerError && error.code === 'BUSY';
      if (!isBusy || performance.now() > end) throw error;
    }
    await sleep(patience.everyMs, undefined, { signal }).catch((cause: unknown) => {
      throw new ServerError('INTERRUPTED', 'Interrupted', { cause });
    });
  }
}
