/**
 * cli/ has one verb a file, each thin: it says what to do and how to tell it.
 * This file is what every verb receives.
 */
import type { Config } from '../config.js';
import type { Logger } from '../log.js';

/** What a verb works with. */
export interface Command {
  /** Of the program. */
  version: string;
  config: Config;
  /** Where the program has its pages, absolute. */
  pagesDir: string;
  log: Logger;
  /** Whether results are for a machine. */
  json: boolean;
  /** Writes a result, text without its last newline, to standard output. */
  print: (text: string) => void;
  /** The terminal to show progress on; `undefined` where standard error is none. */
  terminal: NodeJS.WriteStream | undefined;
  /** The size of the terminal that results go to, as it is now; `undefined` where they go elsewhere. */
  screen: () => { columns: number; rows: number } | undefined;
  /** Whether results may have colour. */
  colour: boolean;
  /** Asks whoever sits at the terminal; `undefined` where nobody does. */
  ask: ((question: string) => Promise<string>) | undefined;
  /** Aborts when the command is told to end. */
  signal: AbortSignal;
  /**
   * Reads the configuration again, with the same command line, and has the log follow it: its level, and its
   * file, which is opened anew. The old one stays in force where this throws, or `accept` does.
   *
   * @throws ServerError CONFIG, USAGE or DENIED, or what `accept` throws.
   */
  reload: (accept?: (config: Config) => Promise<void>) => Promise<Config>;
  /** Has `listener` called at SIGHUP, in place of an earlier one. Only for services: others end at SIGHUP. */
  onHangup: (listener: () => void) => void;
}

/** A verb. @returns the exit code; see `errors.ts`. */
export type Verb<Options> = (command: Command, options: Options) => Promise<number>;
