/** What a client prints for its user, word for word, when something failed. */
import { ServerError } from '../../errors.js';

/** Message and hint of a ServerError in one sentence; nothing of our own bugs. */
export function userText(error: unknown): string {
  if (!(error instanceof ServerError)) return 'The server failed: its log says why';
  return error.hint === undefined ? error.message : `${error.message}: ${error.hint}`;
}
