/** What a client prints for its user, word for word, when something failed. */
import { ServerError } from '../../errors.js';

/** Where the reason is not for whoever asks. */
export const unexplained = 'The server failed: its log says why';

/** Message and hint of a ServerError in one sentence; nothing of our own bugs. */
export function userText(error: unknown): string {
  if (!(error instanceof ServerError)) return unexplained;
  return error.hint === undefined ? error.message : `${error.message}: ${error.hint}`;
}
