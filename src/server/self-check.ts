/** Recognises requests that this server has sent to itself: at an address of a mirror's that leads back here. */
import { randomBytes } from 'node:crypto';
import { sendText } from './responses.js';
import type { HttpService } from './service.js';

export interface SelfCheck {
  /** What requests carry that are to be recognised. */
  word: string;
  /** Comes before all others. */
  service: HttpService;
}

/** @param header its name in lower-case letters */
export function createSelfCheck(header: string): SelfCheck {
  const word = randomBytes(16).toString('hex');
  // Misdirected Request (RFC 9110, section 15.5.20).
  const refuse = { status: 421, text: 'This is the server that asks.' };
  const headers = { [header]: word, 'Cache-Control': 'no-store' };
  const service: HttpService = {
    claims: (request) => request.headers[header] === word,
    answer: async (visit) => sendText(visit, { ...refuse, headers }),
    refuse: (exchange, { status, text }) => sendText(exchange, { status, text }),
  };
  return { word, service };
}
