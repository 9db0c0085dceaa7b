/**
 * The part of the LXD and Incus REST API that an image server needs, over HTTP. Clients upload to it, and manage what
 * is there; what the tree has, anyone may read. Formats: LXD's doc/rest-api.md.
 */
import type { IncomingMessage } from 'node:http';
import { type ErrorCode, ServerError } from '../../errors.js';
import type { Logger } from '../../log.js';
import { loggedPath } from '../request-path.js';
import type { HttpService, Upgrade, Visit } from '../service.js';
import { createAnswering, sendError, sendProblem, statusOf } from './answers.js';
import type { Callers, Library } from './contract.js';
import { createEvents, type EventsLimits } from './events.js';
import type { Answer, Route } from './exchange.js';
import type { OperationsStore } from './operations.js';
import { aliasRoutes } from './routes/aliases.js';
import { imageRoutes } from './routes/images.js';
import { operationRoutes } from './routes/operations.js';
import { type ServerFacts, serverRoutes } from './routes/server.js';
import { createRouter, isApiPath, splitTarget } from './routing.js';
import { unexplained } from './user-text.js';
import { callerOf, requireTrust } from './who.js';

export interface LxdApiOptions {
  library: Library;
  callers: Callers;
  /** To be closed before the API is, so that those who listen hear of it. */
  operations: OperationsStore;
  /** What `POST /1.0/images` does, for anyone: it decides who may. */
  uploads: { post: Route };
  about: () => ServerFacts;
  /** Absolute; what the paths of images' files are below. */
  root: string;
  log: Logger;
  limits?: { events?: Partial<EventsLimits> };
}

export interface LxdApi extends HttpService {
  upgrade(upgrade: Upgrade): boolean;
  /** How many listen to events. */
  listeners(): number;
  /** Aborts the calls under way, and says goodbye to who listens to events. */
  close(): Promise<void>;
}

export function createLxdApi(options: LxdApiOptions): LxdApi {
  const { library, callers, operations, log } = options;
  const events = createEvents({ operations, log, limits: options.limits?.events ?? {} });
  const route = createRouter([
    ...serverRoutes(options),
    ...operationRoutes(operations),
    { method: 'GET', path: '/1.0/events', route: async () => refuseEvents(events.isFull()) },
    ...aliasRoutes(library),
    ...imageRoutes(options),
  ]);
  const sendAnswer = createAnswering();
  const calls = new Set<AbortController>();

  return {
    claims,
    async answer(visit) {
      const controller = new AbortController();
      calls.add(controller);
      visit.response.once('close', () => controller.abort());
      try {
        await run(visit, controller.signal).then((answer) =>
          visit.response.destroyed ? undefined : sendAnswer(visit, answer),
        );
      } catch (error) {
        fail(visit, error, callers);
      } finally {
        calls.delete(controller);
      }
    },
    refuse: ({ request, response }, { status, text }) =>
      sendProblem({ request, response }, { status, text, headers: { Connection: 'close' } }),
    upgrade({ request, socket, head, visitor }) {
      const { path, query } = splitTarget(request.url ?? '');
      if (path !== '/1.0/events' || !isOwnProject(new URLSearchParams(query))) return false;
      const mayListen = () => callerOf(visitor, callers).client !== undefined;
      return mayListen() && events.accept({ request, socket, head, mayListen });
    },
    listeners: () => events.listeners(),
    async close() {
      for (const controller of calls) controller.abort();
      await events.close();
    },
  };

  async function run(visit: Visit, signal: AbortSignal): Promise<Answer> {
    const { request } = visit;
    const { path, query: text } = splitTarget(request.url ?? '');
    const { entry, params } = route(request.method ?? '', path);
    refuseForeignPage(request);
    const query = new URLSearchParams(text);
    if (!isOwnProject(query)) throw noProject();
    const caller = callerOf(visit.visitor, callers);
    if (entry.access !== 'anyone') {
      const { name: client } = requireTrust(caller);
      if (isChange(request)) log.info({ client, method: request.method, path }, 'change asked for');
    }
    visit.bePatient({ upload: entry.upload ?? false });
    return entry.route({
      ...{ caller, params, query, signal, visit },
      headers: request.headers,
      body: request,
    });
  }
}

function isChange({ method }: IncomingMessage): boolean {
  return method !== 'GET' && method !== 'HEAD';
}

/**
 * A page of another site must not have a browser use the certificate that it holds. Browsers alone send this header
 * (Fetch Metadata, W3C).
 */
function refuseForeignPage(request: IncomingMessage): void {
  const from = request.headers['sec-fetch-site'];
  if (!isChange(request) || from === undefined) return;
  if (from === 'same-origin' || from === 'none') return;
  throw new ServerError('FORBIDDEN', 'A page of another site may not change what is here');
}

/** A browser that asks for `/` gets the page. */
function claims({ method, url = '', headers }: IncomingMessage): boolean {
  const { path } = splitTarget(url);
  if (path !== '/' && path !== '') return isApiPath(path);
  const reads = method === 'GET' || method === 'HEAD';
  return reads && !/\btext\/html\b/i.test(headers.accept ?? '');
}

function isOwnProject(query: URLSearchParams): boolean {
  return ['default', '', null].includes(query.get('project'));
}

function noProject(): ServerError {
  return new ServerError('NOT_FOUND', 'This is an image server', {
    hint: 'it has no project but "default"',
  });
}

function refuseEvents(full: boolean): never {
  if (!full) throw new ServerError('USAGE', 'Events are told over a websocket');
  throw new ServerError('BUSY', 'Too many clients listen to events', { hint: 'try again later' });
}

/** What went wrong with this host: its texts have paths in them, which are nothing for strangers. */
const ownFailures: readonly ErrorCode[] = ['IO', 'DENIED', 'DISK_FULL', 'CONFIG', 'TLS'];

function fail(visit: Visit, error: unknown, callers: Callers): void {
  const { request, response, log } = visit;
  // Who has gone, perhaps in the middle of a body, needs no answer, and is no failure of ours.
  if (response.destroyed || request.socket.destroyed) return;
  const code = error instanceof ServerError ? error.code : 'IO';
  const isStranger = callerOf(visit.visitor, callers).client === undefined;
  const isHidden = isStranger && ownFailures.includes(code);
  const status = statusOf(error);
  if (isHidden || status === 500 || code === 'DISK_FULL') {
    log.error({ path: loggedPath(request), err: error }, 'cannot answer a call');
  }
  if (response.headersSent) response.destroy();
  else if (isHidden) sendProblem(visit, { status, text: unexplained });
  else sendError(visit, error);
}
