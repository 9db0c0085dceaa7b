/**
 * `GET /1.0/events`: tells clients over a websocket how operations go. Without it copies hang in the client.
 */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { WebSocket, WebSocketServer } from 'ws';
import type { Logger } from '../../log.js';
import { onceAMinute } from '../once-a-minute.js';
import type { Upgrade } from '../service.js';
import type { OperationView } from './exchange.js';
import type { OperationsStore } from './operations.js';
import { splitTarget } from './routing.js';

export interface EventsLimits {
  /** Listeners at once. Default: 256. */
  listeners: number;
  /** Bytes that a listener may leave waiting before it is dropped. Default: 1 MiB. */
  unsentBytes: number;
  /** Between two pings, in milliseconds; who has not answered one by the next but one is dropped. Default: 5000. */
  pingMs: number;
}

export interface EventsOptions {
  operations: Pick<OperationsStore, 'listen'>;
  log: Logger;
  limits?: Partial<EventsLimits>;
}

export interface Events {
  /** Whether no more can listen. */
  isFull(): boolean;
  /** How many listen. */
  listeners(): number;
  /**
   * Takes over the connection of a client that is allowed to listen.
   * @returns whether the request is for a websocket, and there is room
   */
  accept(
    upgrade: Pick<Upgrade, 'request' | 'socket' | 'head'> & {
      /** Asked again as long as the client listens: once it may not, it is dropped. Default: it always may. */
      mayListen?: () => boolean;
    },
  ): boolean;
  /** Says goodbye to all, and cuts whoever does not answer. */
  close(): Promise<void>;
}

interface Listener {
  socket: WebSocket;
  /** Whether it asked for events of other kinds alone. */
  deaf: boolean;
  /** Pings without an answer. */
  unanswered: number;
  mayListen: () => boolean;
  /** When that was asked, by the clock of `performance`. */
  askedAt: number;
}

/** For how long a listener that may listen is not asked about again, in milliseconds: it costs a look into a certificate. */
const askAgainMs = 1000;

const longestGoodbyeMs = 1000;

/** Makes what listeners connect to; it holds a timer while there are any. */
export function createEvents({ operations, log, limits: given }: EventsOptions): Events {
  const limits = { listeners: 256, unsentBytes: 1024 * 1024, pingMs: 5000, ...given };
  const listeners = new Set<Listener>();
  const upgrader = new WebSocketServer({
    ...{ noServer: true, clientTracking: false, perMessageDeflate: false },
    // Listeners have nothing to say.
    maxPayload: 4096,
  });
  const reportFull = onceAMinute(() =>
    log.warn({ listeners: limits.listeners }, 'too many listen to events; new ones are refused'),
  );
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  const stopListening = operations.listen((view) => {
    if (listeners.size > 0) send(frameOf(view));
  });

  return {
    isFull,
    listeners: () => listeners.size,
    accept({ request, socket, head, mayListen = () => true }) {
      if (!isWebsocketRequest(request) || isFull()) return false;
      upgrader.handleUpgrade(request, socket, head, (websocket) => {
        add(websocket, { deaf: !wantsOperations(request), mayListen });
      });
      return true;
    },
    async close() {
      closed = true;
      stopListening();
      clearInterval(timer);
      await Promise.all([...listeners].map(({ socket }) => sayGoodbye(socket)));
    },
  };

  function isFull(): boolean {
    if (closed) return true;
    if (listeners.size < limits.listeners) return false;
    reportFull();
    return true;
  }

  function add(socket: WebSocket, about: Pick<Listener, 'deaf' | 'mayListen'>): void {
    const listener: Listener = { socket, unanswered: 0, askedAt: performance.now(), ...about };
    listeners.add(listener);
    socket.on('error', () => socket.terminate());
    timer ??= setInterval(ping, limits.pingMs);
    socket.on('pong', () => {
      listener.unanswered = 0;
    });
    socket.on('close', () => {
      listeners.delete(listener);
      if (listeners.size > 0) return;
      clearInterval(timer);
      timer = undefined;
    });
  }

  function send(frame: string): void {
    for (const listener of listeners) {
      const { socket, deaf } = listener;
      if (deaf || socket.readyState !== WebSocket.OPEN) continue;
      if (socket.bufferedAmount > limits.unsentBytes) drop(socket, 'it takes none');
      else if (isUnwelcome(listener)) drop(socket, 'it is trusted no more');
      else socket.send(frame);
    }
  }

  function ping(): void {
    for (const listener of listeners) {
      if (listener.unanswered >= 2) drop(listener.socket, 'it does not answer');
      else if (isUnwelcome(listener)) drop(listener.socket, 'it is trusted no more');
      else if (listener.socket.readyState === WebSocket.OPEN) listener.socket.ping();
      listener.unanswered += 1;
    }
  }

  function isUnwelcome(listener: Listener): boolean {
    const now = performance.now();
    if (now - listener.askedAt < askAgainMs) return false;
    listener.askedAt = now;
    return !listener.mayListen();
  }

  function drop(socket: WebSocket, why: string): void {
    log.info({ why }, 'a client that listened to events was dropped');
    socket.terminate();
  }
}

/** What `ws` would refuse is left to the API, which says why in its own form. */
function isWebsocketRequest({ method, headers }: IncomingMessage): boolean {
  const isKey = /^[+/0-9A-Za-z]{22}==$/.test(headers['sec-websocket-key'] ?? '');
  const isKnown = ['8', '13'].includes(headers['sec-websocket-version'] ?? '');
  const offersNothing = headers['sec-websocket-protocol'] === undefined;
  const upgrade = headers.upgrade?.toLowerCase();
  return method === 'GET' && upgrade === 'websocket' && isKey && isKnown && offersNothing;
}

function wantsOperations({ url = '' }: IncomingMessage): boolean {
  const types = new URLSearchParams(splitTarget(url).query).get('type');
  return types === null || types === '' || types.split(',').includes('operation');
}

function frameOf(metadata: OperationView): string {
  const timestamp = new Date().toISOString();
  const where = { project: 'default', location: 'none' };
  return JSON.stringify({ type: 'operation', timestamp, metadata, ...where });
}

async function sayGoodbye(socket: WebSocket): Promise<void> {
  const closed = once(socket, 'close');
  const timer = setTimeout(() => socket.terminate(), longestGoodbyeMs);
  socket.close(1001, 'The server ends');
  await closed;
  clearTimeout(timer);
}
