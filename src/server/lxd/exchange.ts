/** How the routes of the LXD API are asked, and what they answer; api.ts carries it over HTTP. */
import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import type { TrustedClient } from './contract.js';

/** Who asks. */
export interface Caller {
  /** Absent for whoever may only read what is public. */
  client?: TrustedClient;
  /** Why not, where a certificate was shown: for the user to read. */
  refusal?: string;
  /** DER of the certificate that was shown. */
  certificate?: Uint8Array;
  /** IP address. */
  address: string;
  /** Whether `client` is trusted now, for what takes a while. Where it is absent, it stays so. */
  isTrusted?(): boolean;
}

/** One request. */
export interface Call {
  caller: Caller;
  /** What stands for `:name` in the route, decoded. */
  params: Readonly<Record<string, string>>;
  query: URLSearchParams;
  headers: IncomingHttpHeaders;
  /**
   * The body, of which nothing was read. To destroy it, as leaving a `for await` does, cuts the connection before
   * there is an answer: iterate with `destroyOnReturn: false`. What is left unread is passed over.
   */
  body: Readable;
  /** Aborts when the client goes away before it has its answer, and when the server closes. */
  signal: AbortSignal;
}

/** What a route answers; what it throws becomes an error by its code. */
export type Answer =
  | { kind: 'sync'; metadata: unknown; status?: 200 | 201; location?: string; etag?: string }
  /** What is long and asked for often: `metadata` as JSON. */
  | { kind: 'text'; metadata: string }
  | { kind: 'operation'; operation: Operation }
  /** Sent by the route itself: files. */
  | { kind: 'sent' };

export type Route = (call: Call) => Promise<Answer>;

/** Work that clients follow; see the operations of the API. */
export interface Operation {
  readonly id: string;
  /** As clients see it now. */
  view(): OperationView;
  /** Resolves when it has ended, in whatever way, or `signal` aborts. */
  ended(signal?: AbortSignal): Promise<void>;
}

export interface OperationView {
  id: string;
  class: 'task' | 'token';
  description: string;
  /** ISO 8601. */
  created_at: string;
  updated_at: string;
  status: 'Running' | 'Success' | 'Failure' | 'Cancelled';
  status_code: 103 | 200 | 400 | 401;
  resources: Record<string, string[]> | null;
  metadata: Record<string, unknown> | null;
  may_cancel: boolean;
  /** '' where nothing failed. */
  err: string;
  location: 'none';
}

export interface OperationOptions {
  class?: 'task' | 'token';
  description: string;
  resources?: Record<string, string[]>;
  metadata?: Record<string, unknown>;
  /** Lets whoever has no certificate, but this, wait for it: `?secret=`. */
  secret?: string;
  /**
   * What is to be done; its end is the operation's. What it throws is `err`: a ServerError as message and hint.
   * Absent for a token: it runs until it is ended or cancelled.
   *
   * @returns what is added to `metadata`
   */
  work?: (about: {
    /** Aborts when the operation is cancelled, and when the server closes. */
    signal: AbortSignal;
    /** Replaces fields of `metadata`, and tells whoever listens to events: `{ download_progress: '…' }`. */
    tell: (metadata: Record<string, unknown>) => void;
  }) => Promise<Record<string, unknown> | undefined>;
}

/** All operations: under way, and for a while those that have ended. */
export interface Operations {
  begin(options: OperationOptions): Operation;
  /** Ends one that has no work, a token, with success or as cancelled. */
  end(id: string, how: 'success' | 'cancelled'): void;
  get(id: string): Operation | undefined;
}
