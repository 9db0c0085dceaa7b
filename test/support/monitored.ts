/** What is told of a server, with what a test wants told; and a client of server-sent events. */
import { request as requestPlain } from 'node:http';
import { request as requestTls } from 'node:https';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { createLocalServer } from '../../src/server/local.js';
import type { Health, Monitored } from '../../src/server/monitor/contract.js';
import type { EventsLimits } from '../../src/server/monitor/events.js';
import { createMonitorService, type MonitorService } from '../../src/server/monitor/service.js';
import { createImageServer } from '../../src/server/server.js';
import { type LogEvent, memoryLog } from './memory-log.js';
import { temporaryFolder } from './temporary.js';
import { createTestCertificate } from './tls.js';

export interface MonitoredSite {
  service: MonitorService;
  /** Of the HTTPS server; and the path of the socket for nginx. */
  port: number;
  socket: string;
  /** The file of the page, which is not there. */
  page: string;
  /** What is told, to be changed. */
  told: { live: object; health: Health; statusFrom: string[] };
  trusted: Set<string>;
  /** What was logged, from `info` up. */
  events: LogEvent[];
  close(): Promise<void>;
}

/** Serves a status over HTTPS and at a socket until the test is over. */
export async function serveMonitored(
  t: Pick<TestContext, 'after'>,
  {
    limits = {},
    monitored = {},
  }: { limits?: Partial<EventsLimits>; monitored?: Partial<Monitored> } = {},
): Promise<MonitoredSite> {
  const folder = await temporaryFolder(t);
  const { log, events } = memoryLog('info');
  const told: MonitoredSite['told'] = {
    live: { ready: true },
    health: { ok: true },
    statusFrom: ['127.0.0.0/8'],
  };
  const trusted = new Set<string>();
  const page = join(folder, 'status.html');
  const service = createMonitorService({
    monitored: {
      status: () => ({ ...told.live, days: [] }),
      live: () => told.live,
      metrics: async () => ({ contentType: 'text/plain; version=0.0.4', text: 'up 1\n' }),
      health: () => told.health,
      ...monitored,
    },
    statusFrom: () => told.statusFrom,
    isTrusted: (certificate) => trusted.has(Buffer.from(certificate).toString('base64')),
    ...{ page, log, limits },
  });
  const certificate = await createTestCertificate();
  const server = await createImageServer({
    ...{ listen: '127.0.0.1:0', root: folder, certificate, log, services: [service] },
    ...{ imagesDir: join(folder, 'images'), streamsDir: join(folder, 'streams/v1') },
  });
  const local = await createLocalServer({ runDir: folder, services: [service], log });
  const close = async () => {
    service.close();
    await Promise.all([server.close(), local.close()]);
  };
  t.after(close);
  const { port } = server.address;
  return { service, port, socket: local.path, page, told, trusted, events, close };
}

export interface SentEvent {
  event: string;
  data: unknown;
}

export interface Listening {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** All that has come so far. */
  text(): string;
  /** Waits for the next event. @returns `undefined` where the answer ends, or was cut, before one comes */
  next(): Promise<SentEvent | undefined>;
  /** Resolves when nothing more will come: `end`, or `cut`. */
  ended: Promise<'end' | 'cut'>;
  /** Takes nothing any more from now on. */
  pause(): void;
  cut(): void;
}

/** Listens to server-sent events at a port over TLS, or at a socket. */
export function listenTo(
  place: number | string,
  {
    path = '/status/events',
    headers = {},
  }: { path?: string; headers?: Record<string, string> } = {},
): Promise<Listening> {
  const where = typeof place === 'number' ? { port: place } : { socketPath: place };
  const start = typeof place === 'number' ? requestTls : requestPlain;
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', ...where, path, headers, agent: false };
    const request = start({ ...options, rejectUnauthorized: false }, (response) => {
      let text = '';
      let read = 0;
      let over: 'end' | 'cut' | undefined;
      let wake = () => {};
      const take = (): SentEvent | undefined => {
        for (;;) {
          const end = text.indexOf('\n\n', read);
          if (end < 0) return undefined;
          const lines = text.slice(read, end).split('\n');
          read = end + 2;
          const field = (name: string) =>
            lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
          const [event, data] = [field('event'), field('data')];
          if (event !== undefined) return { event, data: JSON.parse(data ?? 'null') };
        }
      };
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
        wake();
      });
      const ended = new Promise<'end' | 'cut'>((done) => {
        response.on('error', () => {});
        response.once('close', () => {
          over = response.complete ? 'end' : 'cut';
          done(over);
          wake();
        });
      });
      resolve({
        status: response.statusCode ?? 0,
        headers: response.headers,
        text: () => text,
        async next() {
          for (;;) {
            const found = take();
            if (found !== undefined || over !== undefined) return found;
            await new Promise<void>((resume) => {
              wake = resume;
            });
          }
        },
        ended,
        pause: () => void response.pause(),
        cut: () => void request.destroy(),
      });
    });
    request.once('error', reject);
    request.end();
  });
}
