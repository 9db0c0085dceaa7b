/**
 * `/status/events`: tells whoever listens what has changed, as server-sent events (HTML, section 9.2). A listener gets
 * an event `status` with all members at once, and then `change` with those that are others now; null: it is gone.
 */
import type { ServerResponse } from 'node:http';
import type { Logger } from '../../log.js';
import { onceAMinute } from '../once-a-minute.js';

export interface EventsLimits {
  /** Listeners at once. Default: 64. */
  listeners: number;
  /** Bytes that a listener may leave waiting before it is dropped. Default: 1 MiB. */
  unsentBytes: number;
  /** How often it is looked whether something has changed, in milliseconds. Default: 1000. */
  lookMs: number;
  /** Between two comments that show that the connection stands, in milliseconds. Default: 15,000. */
  heartbeatMs: number;
  /** After how many milliseconds browsers that were cut come again. Default: 3000. */
  retryMs: number;
}

export interface StatusEventsOptions {
  /** What there is to tell; the same object where nothing has changed. */
  live: () => unknown;
  log: Logger;
  limits?: Partial<EventsLimits>;
}

export interface StatusEvents {
  /** How many listen. */
  count(): number;
  /** Whether no more can. */
  isFull(): boolean;
  /** Tells a listener whose head is written; asks now and then whether it may still listen. */
  add(response: ServerResponse, mayListen: () => boolean): void;
  /** Ends all answers: what has not been sent by now is not sent. */
  close(): void;
}

interface Listener {
  response: ServerResponse;
  mayListen: () => boolean;
}

/** The members of what was told last, each as JSON. */
type Told = ReadonlyMap<string, string>;

/** Makes what listeners are told by; it holds timers while there are any. */
export function createStatusEvents({
  live,
  log,
  limits: given,
}: StatusEventsOptions): StatusEvents {
  const times = { lookMs: 1000, heartbeatMs: 15_000, retryMs: 3000 };
  const limits = { listeners: 64, unsentBytes: 1024 * 1024, ...times, ...given };
  const listeners = new Set<Listener>();
  const reportFull = onceAMinute(() =>
    log.warn(
      { listeners: limits.listeners },
      'too many listen to the status; new ones are refused',
    ),
  );
  const reportFailure = onceAMinute((err: unknown) =>
    log.error({ err }, 'cannot tell those who listen to the status'),
  );
  let timers: NodeJS.Timeout[] = [];
  let told: Told = new Map();
  let seen: unknown;
  let isClosed = false;

  return {
    count: () => listeners.size,
    isFull() {
      if (isClosed) return true;
      if (listeners.size < limits.listeners) return false;
      reportFull();
      return true;
    },
    add(response, mayListen) {
      const listener = { response, mayListen };
      // Those who are here hear of it as well: all are told the same from now on.
      look();
      listeners.add(listener);
      response.once('close', () => remove(listener));
      response.write(`retry: ${limits.retryMs}\n\n${eventOf('status', told)}`);
      if (timers.length > 0) return;
      timers = [setInterval(look, limits.lookMs), setInterval(beat, limits.heartbeatMs)];
    },
    close() {
      isClosed = true;
      for (const listener of listeners) {
        const { response } = listener;
        remove(listener);
        if (response.writableLength > 0) response.destroy();
        else response.end();
      }
    },
  };

  function remove(listener: Listener): void {
    listeners.delete(listener);
    if (listeners.size > 0) return;
    for (const timer of timers) clearInterval(timer);
    timers = [];
  }

  function look(): void {
    try {
      const now = live();
      if (now === seen) return;
      const next = membersOf(now);
      const changed = changesOf(told, next);
      seen = now;
      told = next;
      if (changed.size > 0) send(eventOf('change', changed));
    } catch (error) {
      reportFailure(error);
    }
  }

  function send(text: string): void {
    const bytes = Buffer.from(text);
    for (const { response } of listeners) {
      if (response.writableLength <= limits.unsentBytes) response.write(bytes);
      else drop(response, 'it takes none');
    }
  }

  function beat(): void {
    for (const { response, mayListen } of listeners) {
      if (!mayListen()) drop(response, 'it may see the status no more');
      // One that takes nothing is left to the limit for connections on which nothing moves.
      else if (response.writableLength === 0) response.write(':\n\n');
    }
  }

  function drop(response: ServerResponse, why: string): void {
    log.info({ why }, 'a client that listened to the status was dropped');
    response.destroy();
  }
}

function membersOf(value: unknown): Told {
  const members = Object.entries(value as object).filter(([, member]) => member !== undefined);
  return new Map(members.map(([name, member]) => [name, JSON.stringify(member)]));
}

function changesOf(before: Told, now: Told): Told {
  const gone = [...before.keys()].filter((name) => !now.has(name));
  const other = [...now].filter(([name, text]) => before.get(name) !== text);
  return new Map([...other, ...gone.map((name) => [name, 'null'] as const)]);
}

/** JSON has its line ends escaped, so that it is one line of an event. */
function eventOf(name: string, members: Told): string {
  const texts = [...members].map(([member, text]) => `${JSON.stringify(member)}:${text}`);
  return `event: ${name}\ndata: {${texts.join(',')}}\n\n`;
}
