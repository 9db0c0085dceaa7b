/** A logger whose events a test can look at. */
import { createLogger, type Logger, type LogLevel } from '../../src/log.js';

export interface LogEvent {
  level: number;
  msg: string;
  [field: string]: unknown;
}

/** A logger, and the list to which it adds all that it is told, by default from warnings up. */
export function memoryLog(level: LogLevel = 'warn'): { log: Logger; events: LogEvent[] } {
  const events: LogEvent[] = [];
  const write = (line: string) => void events.push(JSON.parse(line) as LogEvent);
  return { log: createLogger({ level, format: 'json', destination: { write } }), events };
}
