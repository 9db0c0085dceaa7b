/**
 * What is told of the server over HTTP: `/status` for people, `/status.json` and `/status/events` for programs,
 * `/metrics` for Prometheus, `/healthz` for load balancers.
 */
import { readFile } from 'node:fs/promises';
import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import { followNetworks } from '../../catalog/networks.js';
import { systemCode } from '../../errors.js';
import type { Logger } from '../../log.js';
import { failed, sendSource, sendText } from '../responses.js';
import type { HttpService, Visit, Visitor } from '../service.js';
import { memorySource } from '../transfer.js';
import type { Monitored } from './contract.js';
import { createStatusEvents, type EventsLimits } from './events.js';

export interface MonitorServiceOptions {
  monitored: Monitored;
  /** Networks (CIDR) whose callers may see the status, as of now. */
  statusFrom: () => readonly string[];
  /** Whether a client certificate (DER) is trusted. */
  isTrusted: (certificate: Uint8Array) => boolean;
  /** The file of the page, absolute. */
  page: string;
  log: Logger;
  limits?: Partial<EventsLimits>;
}

export interface MonitorService extends HttpService {
  /** Ends what those who listen are told; nobody can listen from now on. */
  close(): void;
  /** How many listen to the status. */
  listeners(): number;
}

const paths = ['/status', '/status.json', '/status/events', '/metrics', '/healthz'] as const;
type Path = (typeof paths)[number];

/** Of every answer: what it tells is of this moment, for whoever asked, and stands in no frame. */
const always = {
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
  'Content-Security-Policy': "frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
};

export function createMonitorService(options: MonitorServiceOptions): MonitorService {
  const { monitored, isTrusted, log } = options;
  const events = createStatusEvents({ live: monitored.live, log, limits: options.limits ?? {} });
  const page = createPage(options.page);
  const networks = followNetworks(options.statusFrom);
  const maySee = ({ address, certificate, forwarded }: Visitor) => {
    // Whom a proxy asks for that is not believed is nobody's neighbour.
    if (!forwarded && networks.has(address)) return true;
    return certificate instanceof Uint8Array && isTrusted(certificate);
  };
  const routes: Record<Path, (visit: Visit) => unknown> = {
    '/status': async (visit) => {
      const html = await page();
      if (html === undefined) return say(visit, { status: 404, text: noPage });
      await send(visit, html, 'text/html; charset=utf-8');
    },
    '/status.json': (visit) => {
      const text = `${JSON.stringify(monitored.status())}\n`;
      return send(visit, Buffer.from(text), 'application/json');
    },
    '/status/events': listen,
    '/metrics': async (visit) => {
      const { contentType, text } = await monitored.metrics();
      await send(visit, Buffer.from(text), contentType);
    },
    '/healthz': sayHealth,
  };

  return {
    claims: (request) => pathOf(request) !== undefined,
    async answer(visit) {
      const path = pathOf(visit.request) as Path;
      try {
        if (!isReading(visit.request)) refuseMethod(visit);
        else if (path !== '/healthz' && !maySee(visit.visitor)) refuseStranger(visit);
        else await routes[path](visit);
      } catch (error) {
        failed(visit, error);
      }
    },
    refuse: (exchange, { status, text }) =>
      say(exchange, { status, text, headers: { Connection: 'close' } }),
    close: events.close,
    listeners: events.count,
  };

  function listen(visit: Visit): void {
    const { request, response, visitor } = visit;
    if (events.isFull()) {
      const text = 'Too many listen to the status already. Try again later.';
      say(visit, { status: 503, text, headers: { 'Retry-After': '30' } });
      return;
    }
    visit.bePatient();
    response.writeHead(200, {
      ...always,
      'Content-Type': 'text/event-stream',
      // nginx passes on each event as it comes.
      'X-Accel-Buffering': 'no',
    });
    if (request.method === 'HEAD') response.end();
    else events.add(response, () => maySee(visitor));
  }

  function sayHealth(visit: Visit): void {
    const { ok, reason = 'it cannot do its work', detail } = monitored.health();
    const more = detail !== undefined && maySee(visit.visitor) ? `: ${detail}` : '';
    say(visit, ok ? { status: 200, text: 'ok' } : { status: 503, text: `${reason}${more}` });
  }
}

const noPage = 'The page is not installed here. /status.json has the same for programs.';

function pathOf({ url = '' }: IncomingMessage): Path | undefined {
  const path = url.replace(/^https?:\/\/[^/?#]*/i, '').replace(/[?#].*$/s, '');
  return paths.find((known) => known === path);
}

function isReading({ method }: IncomingMessage): boolean {
  return method === 'GET' || method === 'HEAD';
}

type Text = { status: number; text: string; headers?: OutgoingHttpHeaders };

function say(exchange: Pick<Visit, 'request' | 'response'>, { status, text, headers }: Text): void {
  sendText(exchange, { status, text, headers: { ...always, ...headers } });
}

async function send(visit: Visit, bytes: Buffer, type: string): Promise<void> {
  const source = { ...memorySource(bytes), size: bytes.length };
  await sendSource(visit, source, { ...always, 'Content-Type': type });
}

function refuseMethod(visit: Visit): void {
  const headers = { Allow: 'GET, HEAD', Connection: 'close' };
  say(visit, { status: 405, text: 'This is read only: use GET or HEAD.', headers });
}

function refuseStranger(visit: Visit): void {
  const { address, forwarded } = visit.visitor;
  const from = address === '' ? 'an address that is not known' : address;
  const by = !forwarded ? '' : ', by way of a proxy that server.trusted_proxies does not name';
  say(visit, {
    status: 403,
    text: `The status is for the networks in server.status_from of the configuration, and for clients that are trusted. You ask from ${from}${by}.`,
  });
}

/** Reads the page the first time that it is asked for; `undefined` where there is none. */
function createPage(file: string): () => Promise<Buffer | undefined> {
  let read: Promise<Buffer | undefined> | undefined;
  return async () => {
    read ??= readFile(file);
    try {
      return await read;
    } catch (error) {
      // It may be there the next time.
      read = undefined;
      if (systemCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  };
}
