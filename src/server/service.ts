/** What a listener answers beside the published tree: the LXD API, and whatever else comes. */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { OpenFiles } from './open-files.js';
import type { Exchange } from './responses.js';

/** Who asks, as far as the connection tells. */
export interface Visitor {
  /** IP address; '' where it is not known. */
  address: string;
  /**
   * The address is a proxy's, for somebody who is not known: it says nothing of how near whoever asks is. Also where
   * the request only looks like that of a proxy.
   */
  forwarded?: true;
  /** DER of the client certificate that was shown; whether it is worth anything is not said. */
  certificate?: Uint8Array | 'unreadable';
}

export interface Visit extends Exchange {
  visitor: Visitor;
  files: OpenFiles;
  /**
   * Waits as long as the work on this request takes; by default a connection on which nothing moves is cut.
   * With `upload` the body may take as long as it will too, as long as it goes on.
   */
  bePatient(options?: { upload?: boolean }): void;
}

export interface Upgrade {
  request: IncomingMessage;
  socket: Duplex;
  /** What came after the head of the request. */
  head: Buffer;
  visitor: Visitor;
}

export interface HttpService {
  /** Whether the request is for it. */
  claims(request: IncomingMessage): boolean;
  /** Answers it; never rejects. */
  answer(visit: Visit): Promise<void>;
  /** Says in its own form what the listener found wrong with a request. */
  refuse(
    exchange: Pick<Exchange, 'request' | 'response'>,
    problem: { status: number; text: string },
  ): void;
  /** Takes the connection over for another protocol; `false` where the request is to have an answer instead. */
  upgrade?(upgrade: Upgrade): boolean;
}
