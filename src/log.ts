/**
 * The one logger: events with a fixed message and variable fields, made in main.ts and passed down.
 * As JSON for machines and journals, as one readable line an event on a terminal.
 */
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import picocolors from 'picocolors';
import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino';
import { ServerError, systemCode, systemText } from './errors.js';

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof logLevels)[number];

/** The part of pino that the project uses. */
export type Logger = Pick<
  PinoLogger,
  'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'level'
>;

export interface LoggerOptions {
  level: LogLevel;
  /** `json`: one JSON object a line. `text`: one readable line an event. */
  format: 'json' | 'text';
  /** Whether `text` lines may use colour. Default: no. */
  colour?: boolean;
  /** Where the lines go, absolute; made, with its folder, where it is missing. Default: standard error. */
  file?: string;
  /** In place of a file, for tests. */
  destination?: DestinationStream;
}

/** A logger whose form and place can change while it is in use. */
export interface FollowingLogger {
  log: PinoLogger;
  /**
   * Goes on with these options; a file is opened again also where it is the same, for the old one may have
   * been moved away. @throws ServerError DENIED as {@link createLogger}; then all stays as it was.
   */
  follow(options: LoggerOptions): void;
}

/** A pino logger that writes in the form asked for. @throws ServerError DENIED where the file cannot be written. */
export function createLogger(options: LoggerOptions): PinoLogger {
  return createFollowingLogger(options).log;
}

/** {@link createLogger}, with what it takes to change it later. */
export function createFollowingLogger(options: LoggerOptions): FollowingLogger {
  let output = openOutput(options);
  const log = pino(
    {
      level: options.level,
      base: null,
      serializers: { err: messageOf },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    { write: (line) => output.write(line) },
  );
  return {
    log,
    follow(next) {
      const following = openOutput(next);
      output.close();
      output = following;
      log.level = next.level;
    },
  };
}

interface Output {
  write(line: string): void;
  close(): void;
}

function openOutput({ format, colour = false, file, destination }: LoggerOptions): Output {
  const shape =
    format === 'json' ? (line: string) => line : (line: string) => textLine(line, colour);
  if (destination === undefined) return openFile(file, shape);
  return { write: (line) => destination.write(shape(line)), close: () => {} };
}

const standardError = 2;

/**
 * A file, or standard error, that gets lines in the form that `shape` gives them. What cannot be written is
 * lost, for no service may end, nor wait long, because its disk is full or nobody reads its log; the next line
 * that can be written is preceded by one that tells how many.
 */
function openFile(file: string | undefined, shape: (line: string) => string): Output {
  const fd = file === undefined ? standardError : openLog(file);
  let lost = 0;
  let torn = '';
  const write = (line: string, tries: number) => {
    const text = Buffer.from(torn + shape(line));
    const written = writeSome(fd, text, tries);
    if (written > 0) torn = written < text.length ? '\n' : '';
    return written === text.length;
  };
  return {
    write(line) {
      if (lost > 0 && write(lostLine(lost), 0)) lost = 0;
      if (lost > 0 || !write(line, mostTries)) lost += 1;
    },
    close: () => {
      if (fd !== standardError) closeSync(fd);
    },
  };
}

function openLog(file: string): number {
  try {
    mkdirSync(dirname(file), { recursive: true });
    return openSync(file, 'a', 0o640);
  } catch (cause) {
    throw new ServerError('DENIED', `Cannot write the log ${file}: ${systemText(cause)}`, {
      hint: 'set logging.file to a file that this user may write, or to ""',
      cause,
    });
  }
}

function lostLine(count: number): string {
  const time = new Date().toISOString();
  return `${JSON.stringify({ level: 40, time, msg: 'lines of this log were lost', count })}\n`;
}

/** How often to try again where a pipe is full, and how many milliseconds apart. */
const mostTries = 10;
const pauseMs = 10;

/** Writes as much of `text` as there is room for, and gives how many bytes that was. */
function writeSome(fd: number, text: Buffer, tries: number): number {
  let written = 0;
  for (let left = tries; written < text.length; ) {
    try {
      written += writeSync(fd, text, written);
    } catch (error) {
      if (systemCode(error) !== 'EAGAIN' || left === 0) break;
      left -= 1;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs);
    }
  }
  return written;
}

/** How many lines of one kind are logged at once: all that anyone reads, and no flood for a journal. */
const mostLines = 100;

/** Logs the first of `items` with `each`, and how many more there are in one line, which says `rest`. */
export function logFirst<T>(
  items: readonly T[],
  { log, each, rest }: { log: Logger; each: (item: T) => void; rest: string },
): void {
  for (const item of items.slice(0, mostLines)) each(item);
  const count = items.length - mostLines;
  if (count > 0) log.warn({ count }, rest);
}

type Colour = 'gray' | 'green' | 'yellow' | 'red';

const labels: Record<number, { name: string; colour: Colour }> = {
  10: { name: 'trace', colour: 'gray' },
  20: { name: 'debug', colour: 'gray' },
  30: { name: 'info', colour: 'green' },
  40: { name: 'warning', colour: 'yellow' },
  50: { name: 'error', colour: 'red' },
  60: { name: 'fatal', colour: 'red' },
};

/**
 * One pino line (JSON) as text: `warning: message: reason; cure (field=value …)`.
 * `path`, `reason`, `cure` and `err` become part of the sentence, all else stands in brackets.
 */
export function textLine(json: string, colour: boolean): string {
  const {
    level,
    time: _time,
    msg,
    path,
    reason,
    cure,
    err,
    ...fields
  } = JSON.parse(json) as Record<string, unknown>;
  const label = labels[Number(level)] ?? { name: String(level), colour: 'gray' };
  const name = picocolors.createColors(colour)[label.colour](label.name);
  const parts = [msg, path, reason, textOf(err, 'message')].filter(
    (part) => part !== undefined && part !== '',
  );
  const sentence = [parts.join(': '), cure ?? textOf(err, 'hint')]
    .filter((part) => part !== undefined && part !== '')
    .join('; ');
  const rest = Object.entries(fields).map(([key, value]) => `${key}=${shown(value)}`);
  return `${name}: ${sentence}${rest.length > 0 ? ` (${rest.join(' ')})` : ''}\n`;
}

/** An error as its message and its cure: what led to it is part of that already, and a stack helps nobody at night. */
function messageOf(err: unknown): { message: string; hint?: string; stack?: string } {
  if (!(err instanceof Error)) return { message: String(err) };
  const { message } = err;
  if (err instanceof ServerError)
    return err.hint === undefined ? { message } : { message, hint: err.hint };
  // Neither a user nor the system can have caused it: it is a fault of ours, and where it is helps to mend it.
  return systemCode(err) === undefined && err.stack !== undefined
    ? { message, stack: err.stack }
    : { message };
}

function textOf(err: unknown, part: 'message' | 'hint'): string {
  if (typeof err !== 'object' || err === null) return '';
  const text = (err as Record<string, unknown>)[part];
  return typeof text === 'string' ? text : '';
}

function shown(value: unknown): string {
  return typeof value === 'string' && /^[\w./:@+~-]+$/.test(value) ? value : JSON.stringify(value);
}
