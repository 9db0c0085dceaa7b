/**
 * `POST /1.0/images`, in each of the forms that LXD and Incus have for it: a server is asked to fetch an image
 * (pull), is told that one will come (push), and is given one (import, relay, and the second half of a push).
 * Whatever goes wrong, of an image that is not published nothing is left.
 */
import type { Readable } from 'node:stream';
import { ServerError } from '../../../errors.js';
import type { Logger } from '../../../log.js';
import type { Library, LibraryImage, TrustedClient, Upload, UploadFacts } from '../contract.js';
import type { Answer, Call, Caller, Operation, Operations, Route } from '../exchange.js';
import { newSecret } from '../secrets.js';
import { userText } from '../user-text.js';
import { requireTrust, requireTrustStill } from '../who.js';
import { isHere } from './addresses.js';
import { chunksOf, drain, textOf, tooLarge } from './body.js';
import { alreadyExists, existingImage, isExisting } from './existing.js';
import { pull } from './pull.js';
import { createPushes, type PushLimits } from './pushes.js';
import { receive } from './receive.js';
import { parseImageRequest, readUploadHeaders } from './request.js';
import { createSlots } from './slots.js';
import type { Self, SourceLimits } from './source.js';

export interface UploadLimits extends SourceLimits {
  /** Uploads and pulls at once: of all clients, and of each. Default: 64, and 16. */
  all: number;
  each: number;
  /** Default: 256, and 32 of one client, good for an hour. */
  pushes: PushLimits;
  /**
   * What is read of a body that is not wanted before the answer is sent; the rest is read afterwards, for a client
   * whose connection is cut before it has sent all may miss the answer. Default: 1 GiB in 20 s.
   */
  drain: { bytes: number; ms: number };
}

/** Time-outs: 10 s for a connection, 30 s for an answer, 60 s between two bytes of a body in either direction. */
const defaults: UploadLimits = {
  all: 64,
  each: 16,
  connectMs: 10_000,
  headersMs: 30_000,
  stallMs: 60_000,
  pushes: { all: 256, each: 32, expireMs: 3_600_000 },
  drain: { bytes: 1024 ** 3, ms: 20_000 },
};

export interface UploadsOptions {
  library: Library;
  operations: Operations;
  log: Logger;
  /** Asked at each pull, for addresses and certificates change. */
  self: () => Self;
  /** For all files of an image together, in bytes; asked at each. Default: no limit but the library's. */
  maxSize?: () => number;
  limits?: Partial<UploadLimits>;
}

export interface Uploads {
  /** `POST /1.0/images` */
  post: Route;
  /** Forgets announced pushes, and closes the connections whose bodies nobody wanted. */
  close(): Promise<void>;
}

/** A JSON request has an image's properties, at most. */
const mostJson = 1024 * 1024;

interface Context extends UploadsOptions {
  maxSize: () => number;
  limits: UploadLimits;
}

export function createUploads(options: UploadsOptions): Uploads {
  const limits = { ...defaults, ...options.limits };
  const { maxSize = () => Number.POSITIVE_INFINITY } = options;
  const context = { ...options, limits, maxSize };
  const pushes = createPushes(options.operations, limits.pushes);
  const slots = createSlots('uploads', limits);
  const unwanted = new Set<Readable>();

  async function answer(call: Call): Promise<Operation> {
    if (isJson(call)) return answerJson(call, requireTrust(call.caller));
    const { facts, secret } = readUploadHeaders(call.headers);
    const fingerprint = facts.fingerprint ?? '';
    const push = secret === '' ? undefined : pushes.redeem({ fingerprint, secret });
    const client = push?.client ?? requireTrust(call.caller);
    const caller = push?.caller ?? call.caller;
    requireTrustStill(caller);
    const free = slots.take(client.fingerprint);
    const all = { ...facts, ...push?.facts };
    return take(context, { call, caller, client, free, facts: all, push: !!push });
  }

  async function answerJson(call: Call, client: TrustedClient): Promise<Operation> {
    const body = incoming(call, context);
    const request = parseImageRequest(await textOf(body, { most: mostJson, what: 'The request' }));
    if (request.mode === 'pull') {
      return beginPull(context, { call, client, request, free: slots.take(client.fingerprint) });
    }
    const { facts } = request;
    // Told now, for the server that brings it would tell nobody.
    if (await existingImage(options.library, facts.fingerprint)) throw alreadyExists();
    return pushes.announce({ client, caller: call.caller, facts });
  }

  async function post(call: Call): Promise<Answer> {
    try {
      return { kind: 'operation', operation: await answer(call) };
    } catch (error) {
      if (call.signal.aborted) throw cutOff(error);
      await discardRest(call.body, error);
      throw error;
    }
  }

  /** Whoever has stopped sending would not hear an answer any sooner for being waited for. */
  async function discardRest(body: Readable, error: unknown): Promise<void> {
    unwanted.add(body);
    body.once('close', () => unwanted.delete(body));
    if (body.destroyed) unwanted.delete(body);
    const stalled = error instanceof ServerError && error.code === 'INTERRUPTED';
    if (!stalled) await drain(body, limits.drain);
  }

  return {
    post,
    close: async () => {
      for (const body of unwanted) body.destroy();
      await pushes.close();
    },
  };
}

function isJson({ headers }: Call): boolean {
  return /^application\/json\s*(?:;|$)/i.test(headers['content-type'] ?? '');
}

function incoming({ body, signal }: Call, { limits }: Context): AsyncIterable<Buffer> {
  return chunksOf(body, { stallMs: limits.stallMs, signal, sender: 'The client' });
}

function cutOff(cause: unknown): ServerError {
  return new ServerError('INTERRUPTED', 'The upload was cut off', {
    hint: 'try again',
    cause,
  });
}

interface Taking {
  call: Call;
  /** Who has asked for it; of a push, who has announced it. */
  caller: Caller;
  client: TrustedClient;
  free: () => void;
  facts: UploadFacts;
  /** Whether a server brings it that nobody knows, and that needs a secret to wait for the end. */
  push: boolean;
}

/** Takes the bytes of an image; what then remains to be done is the operation. */
async function take(context: Context, taking: Taking): Promise<Operation> {
  const { call, free } = taking;
  const controller = new AbortController();
  const onGone = () => controller.abort(call.signal.reason);
  call.signal.addEventListener('abort', onGone);
  let upload: Upload | undefined;
  try {
    call.signal.throwIfAborted();
    const maxSize = context.maxSize();
    refuseLarge(call, maxSize);
    upload = await context.library.begin({ signal: controller.signal });
    const filename = await receive(upload, {
      contentType: call.headers['content-type'] ?? '',
      body: incoming(call, context),
      maxSize,
    });
    call.signal.throwIfAborted();
    const facts = { filename, ...taking.facts };
    return beginFinish(context, { ...taking, facts, upload, controller });
  } catch (error) {
    await upload?.discard();
    free();
    const { name, fingerprint } = taking.client;
    const reason = call.signal.aborted ? 'the client went away' : userText(error);
    context.log.warn({ client: name, certificate: fingerprint, reason }, 'image not taken');
    throw error;
  } finally {
    call.signal.removeEventListener('abort', onGone);
  }
}

/** The whole body is a little more than the image. */
function refuseLarge({ headers }: Call, maxSize: number): void {
  if (Number(headers['content-length'] ?? 0) > maxSize) throw tooLarge(maxSize);
}

interface Finishing extends Taking {
  upload: Upload;
  controller: AbortController;
}

function beginFinish(context: Context, finishing: Finishing): Operation {
  const { upload, controller, facts, free, push, caller, client } = finishing;
  const secret = push ? newSecret() : undefined;
  return context.operations.begin({
    description: 'Adding an image',
    ...(secret === undefined ? {} : { secret, metadata: { secret } }),
    work: async ({ signal }) => {
      const onAbort = () => controller.abort(signal.reason);
      signal.addEventListener('abort', onAbort);
      try {
        signal.throwIfAborted();
        requireTrustStill(caller);
        return added(
          context,
          { client, how: push ? 'push' : 'import' },
          await upload.finish(facts),
        );
      } catch (error) {
        throw isExisting(error) ? alreadyExists(error) : error;
      } finally {
        signal.removeEventListener('abort', onAbort);
        await upload.discard();
        free();
      }
    },
  });
}

interface Pulling {
  call: Call;
  client: TrustedClient;
  request: ReturnType<typeof parseImageRequest> & { mode: 'pull' };
  free: () => void;
}

function beginPull(context: Context, { call, client, request, free }: Pulling): Operation {
  const { library, operations, maxSize, limits, self } = context;
  const { source, facts } = request;
  const here = isHere(call.caller.address);
  try {
    return operations.begin({
      description: 'Downloading an image',
      work: async ({ signal, tell }) => {
        try {
          const options = {
            library,
            source,
            facts,
            self: self(),
            here,
            maxSize: maxSize(),
            limits,
            signal,
            tell,
            confirm: () => requireTrustStill(call.caller),
          };
          const { image, known } = await pull(options);
          return known ? told(image) : added(context, { client, how: 'pull' }, image);
        } finally {
          free();
        }
      },
    });
  } catch (error) {
    free();
    throw error;
  }
}

function added(
  { log }: Context,
  { client, how }: { client: TrustedClient; how: string },
  image: LibraryImage,
): Record<string, unknown> {
  const { fingerprint, product, version } = image;
  log.info({ client: client.name, how, fingerprint, product, version }, 'image added');
  return told(image);
}

/** What the operation tells at its end; clients take the size for a text. */
function told({ fingerprint, size }: LibraryImage): Record<string, unknown> {
  return { fingerprint, size: String(size) };
}
