/**
 * The one logger: events with a fixed message and variable fields, made in main.ts and passed down.
 * As JSON for machines and journals, as one readable line an event on a terminal.
 */
import picocolors from 'picocolors';
import { type DestinationStream, type Logger as PinoLogger, pino } from 'pino';
import { ServerError, systemText } from './errors.js';

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

/** A pino logger that writes in the form asked for. @throws ServerError DENIED where the file cannot be written. */
export function createLogger(options: LoggerOptions): PinoLogger {
  const out = options.destination ?? openDestination(options.file);
  const target =
    options.format === 'json'
      ? out
      : { write: (line: string) => out.write(textLine(line, options.colour ?? false)) };
  const serializers = { err: messageOf };
  return pino(
    { level: options.level, base: null, serializers, timestamp: pino.stdTimeFunctions.isoTime },
    target,
  );
}

function openDestination(file: string | undefined): DestinationStream {
  try {
    return pino.destination({ dest: file ?? 2, mkdir: file !== undefined, sync: true });
  } catch (cause) {
    throw new ServerError('DENIED', `Cannot write the log ${file}: ${systemText(cause)}`, {
      hint: 'set logging.file to a file that this user may write, or to ""',
      cause,
    });
  }
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
  const parts = [msg, path, reason, errorText(err)].filter(
    (part) => part !== undefined && part !== '',
  );
  const sentence = [parts.join(': '), cure].filter((part) => part !== undefined).join('; ');
  const rest = Object.entries(fields).map(([key, value]) => `${key}=${shown(value)}`);
  return `${name}: ${sentence}${rest.length > 0 ? ` (${rest.join(' ')})` : ''}\n`;
}

/** An error as its message: what led to it is part of that already, and a stack helps nobody at night. */
function messageOf(err: unknown): { message: string } {
  return { message: err instanceof Error ? err.message : String(err) };
}

function errorText(err: unknown): string {
  if (typeof err !== 'object' || err === null) return '';
  const { message } = err as { message?: unknown };
  return typeof message === 'string' ? message : '';
}

function shown(value: unknown): string {
  return typeof value === 'string' && /^[\w./:@+~-]+$/.test(value) ? value : JSON.stringify(value);
}
