/** What is said to whom is not let in: what is wrong, and what to do. */
import { ServerError } from '../errors.js';
import type { StoredToken } from './trust-file.js';

const makeToken = 'on the server, "lxd-image-server trust add NAME" prints a token';
const newCertificate =
  'remove client.crt and client.key from ~/.config/lxc (of incus: ~/.config/incus), whereupon the client makes new ones';

/** A moment to the minute: `2026-03-01 12:00 UTC`. */
export function utcText(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 16).replace('T', ' ')} UTC`;
}

/** For clients: why nobody is trusted. */
export const unreadable = {
  message: 'This server cannot read whom it trusts',
  hint: 'its log says why; tell whoever looks after it',
} as const;

export function notTrusted(fingerprint: string): string {
  return `This server does not trust your client certificate (${shortened(fingerprint)}); ${makeToken}, which "lxc remote add" or "incus remote add" takes here`;
}

/** @param wrong as `wrongDates` says it */
export function notValid(name: string, wrong: string): string {
  const cure = wrong.startsWith('is not valid')
    ? 'see that the clocks of both hosts are right'
    : `${newCertificate}, and have that one trusted: on the server, "lxd-image-server trust remove ${name}", then "lxd-image-server trust add ${name}"`;
  return `Your client certificate ${wrong}; ${cure}`;
}

/** For a certificate that comes with a token. */
export function uselessCertificate(wrong: string): ServerError {
  const hint = wrong.startsWith('is not valid')
    ? 'see that the clocks of both hosts are right, then try again'
    : `${newCertificate}, then try again`;
  return new ServerError('FORBIDDEN', `Your client certificate ${wrong}`, { hint });
}

export function notAToken(): ServerError {
  return new ServerError('FORBIDDEN', 'This is no token, or only a part of one', {
    hint: `take all of the long line that "lxd-image-server trust add NAME" prints on the server`,
  });
}

/** For a token that was one once, or somewhere else. */
export function uselessToken(message: string): ServerError {
  return new ServerError('FORBIDDEN', message, { hint: `get another: ${makeToken}` });
}

/** @param of fingerprint in the token. @param own this server's */
export function foreignToken(of: string, own: string): ServerError {
  const which = `its certificate is ${shortened(of)}, the one here ${shortened(own)}`;
  return uselessToken(`This token is of another server: ${which}`);
}

export function tooManyTokens(address: string, waitMs: number): ServerError {
  const minutes = Math.ceil(waitMs / 60_000);
  return new ServerError('FORBIDDEN', `Too many wrong tokens have come from ${address}`, {
    hint: `try again in ${minutes} min; ${makeToken}`,
  });
}

/** For the administrator, who wants somebody to be called `name`. */
export function badName(name: string): ServerError {
  return new ServerError('USAGE', `A client cannot be called ${JSON.stringify(name)}`, {
    hint: 'take up to 64 letters, digits and . _ + @ -, a letter or digit first',
  });
}

export function badLifetime(): ServerError {
  return new ServerError('USAGE', 'A token cannot be good for that long', {
    hint: 'take a time of up to a year, such as "24h" or "7d"',
  });
}

export function nameTaken(name: string): ServerError {
  return new ServerError('USAGE', `A client called "${name}" is trusted already`, {
    hint: `take another name, or first: lxd-image-server trust remove ${name}`,
  });
}

export function sameCertificate(name: string): ServerError {
  return new ServerError('USAGE', `This certificate is trusted already, as "${name}"`, {
    hint: `to call it something else, first: lxd-image-server trust remove ${name}`,
  });
}

export function hasToken({ name, expires }: StoredToken): ServerError {
  const until = utcText(Date.parse(expires));
  return new ServerError('USAGE', `There is a token for "${name}" already, good until ${until}`, {
    hint: `use that one, or take it back first: lxd-image-server trust remove ${name}`,
  });
}

export function uselessFile(wrong: string): ServerError {
  return new ServerError('USAGE', `The certificate ${wrong}`, {
    hint: 'take the client.crt of the client, from its ~/.config/lxc or ~/.config/incus',
  });
}

export function nobody(name: string): ServerError {
  return new ServerError('USAGE', `Nobody called ${JSON.stringify(name)} is trusted`, {
    hint: '"lxd-image-server trust list" shows the names',
  });
}

function shortened(fingerprint: string): string {
  return fingerprint.slice(0, 12);
}
