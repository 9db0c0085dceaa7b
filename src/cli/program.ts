/** The command line: every verb with its options, each loaded only when it is called. */
import { InvalidArgumentError, Command as Program } from 'commander';
import { parseDuration, parseHostPort } from '../units.js';
import type { Verb } from './command.js';
import { descriptions } from './descriptions.js';
import type { ImportOptions } from './import.js';
import type { InitOptions } from './init.js';
import type { TrustOptions as HostKeyOptions, MirrorOptions, SyncOptions } from './mirror.js';
import type { PruneOptions, RemoveOptions } from './remove.js';
import type { ServeOptions } from './serve.js';
import type { StatusOptions } from './status.js';
import type { TrustAddOptions, TrustOptions } from './trust.js';
import type { UpdateOptions } from './update.js';
import type { VerifyCommandOptions } from './verify.js';

/** Options that stand before or after the verb. */
export interface GlobalOptions {
  config?: string;
  logLevel?: string;
  verbose?: boolean;
  json?: boolean;
  /** Whether the verb runs until it is told to end; set by the verb, not on the command line. */
  service?: boolean;
  /** Whether the verb is run also where the configuration is broken, with a stand-in; set by the verb. */
  anyConfig?: boolean;
}

/** Folders on the command line. */
export interface PathOptions {
  rootDir?: string;
  imgDir?: string;
  streamsDir?: string;
  sslDir?: string;
}

/** What {@link createProgram} calls when a verb is chosen. */
export type Execute = <Options extends object>(
  load: () => Promise<Verb<Options>>,
  options: Options & GlobalOptions & PathOptions,
) => Promise<void>;

export interface ProgramOptions {
  version: string;
  execute: Execute;
}

/** The parser for the whole command line. */
export function createProgram({ version, execute }: ProgramOptions): Program {
  const program = new Program('lxd-image-server')
    .description('Mirrored simplestreams image server for LXD and Incus')
    .version(version)
    .exitOverride()
    .showSuggestionAfterError()
    .helpCommand(false);
  addGlobalOptions(program);

  const verb = <Options extends object>(
    name: string,
    summary: string,
    load: () => Promise<Verb<Options>>,
    { service = false, anyConfig = false, parent = program } = {},
  ): Program => {
    const command = parent.command(name).summary(summary).exitOverride();
    command.description(plainDescription(nameOf(command)));
    addGlobalOptions(command);
    command
      .option('--root-dir <folder>', 'folder that holds images and streams', parsePath)
      .option('--img-dir <folder>', 'folder of the images', parsePath)
      .option('--streams-dir <folder>', 'folder of the documents, streams/v1', parsePath);
    return command.action(() => {
      const options = command.optsWithGlobals<Options>();
      return execute(load, { ...options, args: command.args, service, anyConfig });
    });
  };

  verb<InitOptions>(
    'init',
    'make the folders, TLS key and certificate, and nginx site; publish what is there',
    async () => (await import('./init.js')).init,
  )
    .option('--ssl-dir <folder>', 'folder of nginx.key and nginx.crt', parsePath)
    .option('--ssl-skip', 'make no TLS key and certificate')
    .option('--nginx-skip', 'install no nginx site')
    .option('--publish-skip', 'make no folders, and publish nothing')
    .option('--nginx-dir <folder>', 'configuration of nginx', parsePath, '/etc/nginx');
  verb<UpdateOptions>(
    'update',
    'bring streams/v1 up to date with the tree now',
    async () => (await import('./update.js')).update,
  ).option('--rebuild', 'forget what is remembered of files, and read them all again');
  verb<object>(
    'watch',
    'watch the tree and publish what changes; the daemon',
    async () => (await import('./watch.js')).watch,
    { service: true },
  ).option('--ssl-dir <folder>', 'folder of nginx.key and nginx.crt', parsePath);
  verb<ServeOptions>(
    'serve',
    'serve images and documents over HTTPS',
    async () => (await import('./serve.js')).serve,
    { service: true },
  )
    .option('--listen <address>', 'address and port, as in the configuration')
    .option('--ssl-dir <folder>', 'folder of nginx.key and nginx.crt', parsePath);
  verb<object>('list', 'list published products and versions', async () => {
    return (await import('./list.js')).list;
  });
  verb<StatusOptions>(
    'status',
    'what the daemon does, what is published, what is held back',
    async () => (await import('./status.js')).status,
  ).option(
    '--watch [seconds]',
    'show it until Ctrl+C, anew every 2 seconds or so many',
    parseEvery,
  );
  verb<object>(
    'reload',
    'have the running daemon read its configuration again',
    async () => (await import('./reload.js')).reload,
    { anyConfig: true },
  );
  verb<VerifyCommandOptions>(
    'verify',
    'read every published file again and check it',
    async () => (await import('./verify.js')).verify,
  )
    .option('--repair', 'set damaged files aside, and publish what is whole')
    .option('--mirror <name>', 'read back what a mirror has; --repair sends what it lacks');
  verb<ImportOptions>(
    'import <file> [rootfs]',
    'put image files into the tree: metadata and root file system, or one with both',
    async () => (await import('./import.js')).importFiles,
  )
    .option('--alias <name>', 'a further name; may be given several times', addText)
    .option(
      '--property <key=value>',
      'in place of what the metadata says; may be given several times',
      addProperty,
    );
  verb<RemoveOptions>(
    'remove <what...>',
    'take versions or products out; their files go after the grace time',
    async () => (await import('./remove.js')).remove,
  );
  verb<PruneOptions>(
    'prune',
    'take out the versions that the rules of retention do not keep',
    async () => (await import('./remove.js')).prune,
  ).option('--dry-run', 'only show which');
  const mirror = program
    .command('mirror')
    .description('how the mirrors are, bringing them up to date, trusting their host keys')
    .exitOverride()
    .helpCommand(false);
  verb<MirrorOptions>(
    'list',
    'how the mirrors are, and what they lack',
    async () => (await import('./mirror.js')).list,
    { parent: mirror },
  );
  verb<SyncOptions>(
    'sync [name...]',
    'bring mirrors up to date now; without a name, all of them',
    async () => (await import('./mirror.js')).sync,
    { parent: mirror },
  ).option('--take-over', 'also where a mirror belongs to another master');
  verb<HostKeyOptions>(
    'trust <name>',
    "show a mirror's host key, and trust it if it is the right one",
    async () => (await import('./mirror.js')).trust,
    { parent: mirror },
  ).option('--fingerprint <key>', 'the right one, SHA256:…, for scripts: nothing is asked');
  const trust = program
    .command('trust')
    .description('who may upload over HTTPS')
    .exitOverride()
    .helpCommand(false);
  verb<TrustAddOptions>(
    'add <name>',
    'print a token that has one client trusted',
    async () => (await import('./trust.js')).add,
    { parent: trust },
  )
    .option('--expires <time>', 'how long the token is good; 24h unless told otherwise', parseTime)
    .option('--certificate <file>', 'trust this certificate, and make no token', parsePath)
    .option(
      '--address <host:port>',
      'where the client reaches this server; may be given several times',
      addAddress,
    );
  verb<TrustOptions>(
    'list',
    'who is trusted, and which tokens have not been used',
    async () => (await import('./trust.js')).list,
    { parent: trust },
  );
  verb<TrustOptions>(
    'remove <name>',
    'trust a client no more, nor a token made for it',
    async () => (await import('./trust.js')).remove,
    { parent: trust },
  );
  return program;
}

/** The whole name of a verb: `mirror sync`. */
export function nameOf(command: Program): string {
  const parent = command.parent;
  return parent?.parent ? `${parent.name()} ${command.name()}` : command.name();
}

/** @throws Error for a verb without a description */
function plainDescription(name: string): string {
  const text = (descriptions as Record<string, string>)[name];
  if (text === undefined) throw new Error(`${name} is not described`);
  return text.replaceAll('`', '').replaceAll(/\s+/g, ' ');
}

function addGlobalOptions(program: Program): void {
  program
    .option('--config <file>', 'configuration file', parsePath)
    .option('--log-level <level>', 'trace, debug, info, warn, error, fatal or silent')
    .option('--verbose', 'the same as --log-level debug')
    .option('--json', 'print results as JSON');
}

/** A path as it is; an empty one, as of a shell variable that is not set, would be the working directory. */
function parsePath(path: string): string {
  if (path === '') throw new InvalidArgumentError('Name a path, or leave the option out.');
  return path;
}

function parseTime(text: string): number {
  const time = parseDuration(text);
  if (time === undefined) throw new InvalidArgumentError('Give a time such as "24h" or "7d".');
  return time;
}

/** In seconds. */
function parseEvery(text: string): number {
  const seconds = Number(text);
  if (seconds >= 0.1 && seconds <= 86_400) return seconds;
  throw new InvalidArgumentError('Give seconds, from 0.1 to 86400.');
}

function addAddress(text: string, before: string[] = []): string[] {
  if (parseHostPort(text, { port: 443 }) !== undefined) return [...before, text];
  throw new InvalidArgumentError('Give a host, or host and port: "images.example.org:8443".');
}

function addText(text: string, before: string[] = []): string[] {
  return [...before, text];
}

/** Of several values of a key the last counts. */
export function addProperty(
  text: string,
  before: Readonly<Record<string, string>> = {},
): Record<string, string> {
  const [, key, value] = /^([^=]+)=(.+)$/s.exec(text) ?? [];
  if (key !== undefined && value !== undefined) return { ...before, [key]: value };
  throw new InvalidArgumentError('Give a key and a value: "os=ubuntu".');
}

/** `argv` with the older server's spelling of options, `--img_dir`, in ours, `--img-dir`. */
export function withDashes(argv: readonly string[]): string[] {
  return argv.map((word) =>
    word.replace(/^--[a-z]+(?:_[a-z]+)+(?==|$)/, (option) => option.replaceAll('_', '-')),
  );
}
