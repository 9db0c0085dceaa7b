/**
 * Programs that tests run: found, run to their end with what they said, or refused with the reason.
 */
import { type ChildProcessWithoutNullStreams, type SpawnOptions, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import type { Socket } from 'node:net';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { buffer, text } from 'node:stream/consumers';

export interface CommandOptions {
  /** Variables on top of this process's environment. */
  env?: Record<string, string>;
  /** Folder to run in. Default: that of this process. */
  cwd?: string;
  /** What the program reads from its standard input. Default: nothing. */
  input?: string | Uint8Array;
}

export interface CommandResult {
  /** Exit code; -1 where a signal ended the program. */
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, whatever its exit code. Throws where it cannot be started. */
export async function outcome(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const child = spawn(program, args, { ...spawnOptions(options), stdio: 'pipe' });
  // A program that ends without reading its input is judged by its exit code.
  child.stdin.on('error', () => {});
  child.stdin.end(options.input);
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    exitCode(child),
  ]);
  return { code, stdout, stderr };
}

/** Runs a program and gives its standard output. Throws with all that it said where it fails. */
export async function run(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  const result = await outcome(program, args, options);
  if (result.code === 0) return result.stdout;
  const said = `${result.stdout}${result.stderr}`.trim();
  throw new Error(`${program} ${args.join(' ')} ended with ${result.code}:\n${said}`);
}

/** Sends `input` through a program and gives what comes out. Throws where it fails. */
export async function filter(
  program: string,
  args: readonly string[],
  input: Uint8Array,
): Promise<Buffer> {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin.end(input);
  const [output, code] = await Promise.all([buffer(child.stdout), exitCode(child)]);
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} ended with ${code}`);
  return output;
}

function spawnOptions({ env = {}, cwd }: CommandOptions): SpawnOptions {
  return { env: { ...process.env, ...env }, ...(cwd === undefined ? {} : { cwd }) };
}

function exitCode(child: ReturnType<typeof spawn>): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? -1));
  });
}

/** A server that runs until it is stopped, or until this process has ended in whatever way. */
export interface KeptServer {
  /** What it said until it was ready, on both outputs. */
  said: string;
  /** Waits until the server has ended and gives its exit code; 1 after a signal. */
  wait(): Promise<number>;
  /** Sends it a signal and gives its exit code. Default: SIGTERM. */
  stop(signal?: NodeJS.Signals): Promise<number>;
}

export interface ServerOptions {
  /** Whether it is ready, by all that it has said so far. */
  isReady: (said: string) => boolean;
  env?: Record<string, string>;
  /** Is given each line that it says, also once it is ready. */
  onOutput?: (line: string) => void;
}

/**
 * Starts a server and waits until `isReady` accepts all that it has said, which is asked at each output.
 * Throws with what it said where it ends first. A Ctrl-C in the terminal does not reach it.
 */
export async function startServer(
  [program, ...args]: readonly [string, ...string[]],
  { isReady, env = {}, onOutput }: ServerOptions,
): Promise<KeptServer> {
  const keeper = join(import.meta.dirname, 'keeper.js');
  const child = spawn(process.execPath, [keeper, program, ...args], {
    detached: true,
    env: { ...process.env, ...env },
  });
  const ended = exitCode(child);
  if (onOutput !== undefined) {
    for (const output of [child.stdout, child.stderr]) {
      createInterface({ input: output }).on('line', onOutput);
    }
  }
  const said = await untilReady(child, isReady);
  // A test that has failed and stops nothing can end all the same, and its servers with it.
  const handles = [child, child.stdin as Socket, child.stdout as Socket, child.stderr as Socket];
  for (const handle of handles) handle.unref();
  const wait = () => {
    for (const handle of handles) handle.ref();
    return ended;
  };
  const stop = (signal?: NodeJS.Signals) => {
    child.kill(signal);
    return wait();
  };
  return { said, wait, stop };
}

function untilReady(
  child: ChildProcessWithoutNullStreams,
  isReady: (said: string) => boolean,
): Promise<string> {
  return new Promise((resolve, reject) => {
    let said = '';
    const listen = (chunk: Buffer) => {
      said += chunk;
      if (isReady(said)) resolve(said);
    };
    child.stdout.on('data', listen);
    child.stderr.on('data', listen);
    child.once('close', (code) => reject(new Error(`The server ended with ${code}:\n${said}`)));
  });
}

/** Where `program` is, or `undefined`: looked for as a shell of an administrator does. */
export function findProgram(program: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter).concat('/usr/sbin', '/sbin');
  return folders.map((folder) => join(folder, program)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Why a test that runs these programs must be skipped (for node:test's `skip`), or `false`. */
export function missingPrograms(...programs: readonly string[]): string | false {
  const missing = programs.filter((program) => findProgram(program) === undefined);
  return missing.length > 0 && `not installed: ${missing.join(', ')}`;
}
