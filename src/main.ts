#!/usr/bin/env -S node --max-semi-space-size=4
/**
 * The executable: arguments, configuration, logger, verb, exit code.
 * The only place that prints, and that ends the process.
 *
 * Buffers of what passes through live until the young generation is collected, which by itself grows to 16 MiB and
 * has several times that of them wait: memory of the daemon that nobody needs.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { CommanderError } from 'commander';
import { assets } from './assets.js';
import type { Command, Verb } from './cli/command.js';
import { createProgram, type GlobalOptions, type PathOptions, withDashes } from './cli/program.js';
import type { Config } from './config.js';
import { exitCodeFor, exitCodes, ServerError } from './errors.js';
import type { LoggerOptions } from './log.js';

process.exitCode = await main(process.argv.slice(2));

async function main(argv: string[]): Promise<number> {
  for (const output of [process.stdout, process.stderr]) output.on('error', onOutputError);
  let exitCode: number = exitCodes.done;
  const program = createProgram({
    version: version(),
    execute: async (load, options) => {
      exitCode = await run(load, options);
    },
  });
  try {
    await program.parseAsync(withDashes(argv), { from: 'user' });
    return exitCode;
  } catch (error) {
    // Its text has been printed already; a wrong usage has an exit code of its own.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitCodes.usage;
    return fail(error);
  }
}

async function run<Options extends object>(
  load: () => Promise<Verb<Options>>,
  options: Options & GlobalOptions & PathOptions,
): Promise<number> {
  const onHangup = options.service === true ? hangups() : () => {};
  const [verb, { loadConfig, standInConfig, withPaths }, { createFollowingLogger, logLevels }] =
    await Promise.all([load(), import('./config.js'), import('./log.js')]);
  const { stdin, stderr, stdout, env } = process;
  const plain = env.NO_COLOR !== undefined && env.NO_COLOR !== '';

  /** The configuration with what the command line says instead. */
  async function read(): Promise<{ config: Config; warnings: string[]; logging: LoggerOptions }> {
    const loaded = await loadConfig({ file: options.config }).catch(async (error: unknown) => {
      const mayDo = options.anyConfig === true && exitCodeFor(error) === exitCodes.usage;
      if (!mayDo) throw error;
      return { config: await standInConfig({ file: options.config }), warnings: [] };
    });
    const config = withPaths(loaded.config, {
      root: options.rootDir,
      images: options.imgDir,
      streams: options.streamsDir,
      ssl: options.sslDir,
    });
    const named = options.verbose === true ? 'debug' : options.logLevel;
    const level = logLevels.find((known) => known === (named ?? config.logging.level));
    if (level === undefined) {
      throw new ServerError('USAGE', `There is no log level "${named}"`, {
        hint: `take one of ${logLevels.join(', ')}`,
      });
    }
    const target = logTarget(options, config.logging.file);
    const colour = stderr.isTTY === true && !plain;
    return { config, warnings: loaded.warnings, logging: { level, ...target, colour } };
  }

  const { config, warnings, logging } = await read();
  const { log, follow } = createFollowingLogger(logging);
  for (const warning of warnings) log.warn(warning);

  let inForce = logging;
  const reload: Command['reload'] = async (accept = async () => {}) => {
    const next = await read();
    follow(next.logging);
    try {
      await accept(next.config);
    } catch (error) {
      follow(inForce);
      throw error;
    }
    inForce = next.logging;
    for (const warning of next.warnings) log.warn(warning);
    return next.config;
  };

  const signal = interruption();
  return verb(
    {
      version: version(),
      config,
      pagesDir: assets.pages,
      log,
      json: options.json === true,
      print: (text) => stdout.write(`${text}\n`),
      terminal: stderr.isTTY && options.json !== true ? stderr : undefined,
      screen,
      colour: stdout.isTTY === true && !plain,
      ask: stdin.isTTY && stderr.isTTY && options.json !== true ? asker(signal) : undefined,
      signal,
      reload,
      onHangup,
    },
    options,
  );
}

/** A terminal that does not tell its size is as large as terminals were. */
function screen(): ReturnType<Command['screen']> {
  const { isTTY, columns, rows } = process.stdout;
  if (!isTTY || process.env.TERM === 'dumb') return undefined;
  return { columns: columns || 80, rows: rows || 24 };
}

/** Asks on standard error, for the results on standard output may go elsewhere. */
function asker(signal: AbortSignal): (question: string) => Promise<string> {
  return async (question) => {
    const terminal = createInterface({ input: process.stdin, output: process.stderr });
    // At the end of the input there is no answer, and no error either.
    const over = once(terminal, 'close').then(() => undefined);
    const left = () => new ServerError('INTERRUPTED', 'Interrupted');
    try {
      const answer = await Promise.race([terminal.question(question, { signal }), over]);
      if (answer === undefined) throw left();
      return answer;
    } catch (error) {
      // Ctrl-C and Ctrl-D come as keys, not as signals.
      throw error instanceof Error && error.name === 'AbortError' ? left() : error;
    } finally {
      terminal.close();
    }
  };
}

/** Keeps SIGHUP from ending the process, and gives what names its listener; one that came before waits for it. */
function hangups(): Command['onHangup'] {
  let listener: (() => void) | undefined;
  let missed = false;
  process.on('SIGHUP', () => {
    missed = listener === undefined;
    listener?.();
  });
  return (next) => {
    listener = next;
    if (missed) setImmediate(next);
    missed = false;
  };
}

/** Servers log as JSON, to the file that is configured, but readably to a terminal; commands to whoever runs them. */
function logTarget(
  { service }: GlobalOptions,
  file: string,
): Pick<LoggerOptions, 'format' | 'file'> {
  if (service !== true) return { format: 'text' };
  if (file !== '') return { format: 'json', file };
  return { format: process.stderr.isTTY ? 'text' : 'json' };
}

/** A signal that aborts at SIGINT or SIGTERM; a second one ends the process at once. */
function interruption(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(exitCodes.interrupted);
      controller.abort();
    });
  }
  return controller.signal;
}

function fail(error: unknown): number {
  if (error instanceof ServerError) {
    const hint = error.hint === undefined ? '' : `; ${error.hint}`;
    process.stderr.write(`error: ${error.message}${hint}\n`);
  } else {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`error: unexpected, please report it: ${text}\n`);
  }
  return exitCodeFor(error);
}

/**
 * The reader of our output may go before its end, as in `lxd-image-server list | head`, and so may the terminal
 * of a service. What we write from then on is lost; the command does its work all the same, and ends with its
 * own exit code.
 */
function onOutputError(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error;
}

function version(): string {
  return (JSON.parse(readFileSync(assets.package, 'utf8')) as { version: string }).version;
}
