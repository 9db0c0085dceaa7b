/** Failures as a status tells of them. */
import { ServerError } from '../errors.js';

/** A fault of ours is tried again as well: as seldom as what is hardly ever mended soon. */
export function asServerError(error: unknown): ServerError {
  if (error instanceof ServerError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new ServerError('MIRROR_DENIED', `Unexpected: ${message}`, {
    hint: 'please report it, with the log',
    cause: error,
  });
}

export function tellingOf({ message, hint }: ServerError): { message: string; hint?: string } {
  return { message, ...(hint !== undefined && { hint }) };
}
