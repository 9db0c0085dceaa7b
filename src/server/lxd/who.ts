/** Who asks, and who may do more than read. */
import { ServerError } from '../../errors.js';
import type { Visitor } from '../service.js';
import type { Callers, TrustedClient } from './contract.js';
import type { Caller } from './exchange.js';

/** What the certificate of a visitor is worth. */
export function callerOf({ address, certificate }: Visitor, callers: Callers): Caller {
  if (certificate === undefined) return { address };
  if (certificate === 'unreadable') return { address, refusal: unreadable };
  const isTrusted = () => 'client' in callers.judge(certificate);
  return { address, certificate, ...callers.judge(certificate), isTrusted };
}

const unreadable =
  'The client certificate cannot be read: make a new one, and add this server with a token';

/**
 * To be called before what was asked for some time ago takes effect.
 *
 * @throws ServerError FORBIDDEN where whoever asked is trusted no more
 */
export function requireTrustStill({ isTrusted }: Caller): void {
  if (isTrusted?.() === false) {
    throw forbidden('This server trusts the client that asked for it no more');
  }
}

/** @throws ServerError FORBIDDEN, with how to get trusted */
export function requireTrust({ client, refusal }: Caller): TrustedClient {
  if (client !== undefined) return client;
  if (refusal !== undefined) throw new ServerError('FORBIDDEN', refusal);
  throw forbidden('Only clients that this server trusts may do this');
}

function forbidden(message: string): ServerError {
  return new ServerError('FORBIDDEN', message, {
    hint: 'have its administrator run "lxd-image-server trust add NAME", and add the server with that token',
  });
}
