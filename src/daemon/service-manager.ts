/**
 * What the daemon tells systemd of itself, by the protocol of sd_notify(3).
 *
 * Node has no Unix datagram sockets, and the packages that add them are compiled for each architecture and
 * Node version, which a Debian package for all architectures cannot carry. So `systemd-notify` sends the
 * messages; it is wherever systemd is. They are plain `VAR=VALUE` arguments, which Debian 12 (systemd 252)
 * and 13 (257) take alike; `--reloading` and `--stopping` are missing from the older.
 *
 * For the unit:
 * - `NotifyAccess=all`: the sender counts as the daemon only where it may pose as its parent, as root may.
 *   It lives until the manager has taken the message, or for five seconds, so it is always attributed.
 * - `KillMode=mixed`: else a stop ends a sender under way, and its message may be lost.
 */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';
import type { Logger } from '../log.js';

/** Every method may be called at any time; a failure is logged and goes no further. */
export interface ServiceManager {
  /** The service is up, or has read its configuration again. */
  ready(status: string): void;
  /**
   * One line for `systemctl status`. The same text twice is sent once; of those that come while one is on
   * its way, or within half a second, the last is sent.
   */
  status(text: string): void;
  /** The configuration is being read again; {@link ready} ends that. Resolves when it is sent. */
  reloading(): Promise<void>;
  /** The service is ending; what comes after this is not sent. Resolves when it is sent. */
  stopping(status: string): Promise<void>;
  /** Ends the pings and waits until all is sent. */
  close(): Promise<void>;
}

export interface ServiceManagerOptions {
  /** Holds NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID and PATH. Default: that of this process. */
  env?: NodeJS.ProcessEnv;
  log: Logger;
  /** Asked before each ping for the watchdog; without pings systemd restarts the service. Default: yes. */
  isHealthy?: () => boolean;
  /** After how many milliseconds a `systemd-notify` is killed. Default: 7 seconds. */
  timeout?: number;
}

/** How many milliseconds lie between two status lines. */
const statusInterval = 500;

/** The longest interval that a timer of Node's can have. */
const longestInterval = 2 ** 31 - 1;

/** More than `systemd-notify` itself takes to give up. */
const defaultTimeout = 7000;

/** The way to the service manager that started this process; where there is none, one that does nothing. */
export function createServiceManager(options: ServiceManagerOptions): ServiceManager {
  const { env = process.env, log, isHealthy = () => true, timeout = defaultTimeout } = options;
  const socket = env.NOTIFY_SOCKET;
  if (!socket) return nobody;
  const program = findSender(env.PATH);
  if (program === undefined) {
    log.warn('systemd-notify is not installed; systemd is told nothing of this service');
    return nobody;
  }
  const send = createSender({ program, socket, timeout, log });
  return new Systemd({ send, isHealthy, log, pingInterval: pingInterval(env) });
}

const nobody: ServiceManager = {
  ready() {},
  status() {},
  async reloading() {},
  async stopping() {},
  async close() {},
};

function findSender(path = '/usr/bin:/bin'): string | undefined {
  const folders = path.split(delimiter).filter(isAbsolute);
  return folders.map((folder) => join(folder, 'systemd-notify')).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Half of what the manager waits for, in milliseconds; `undefined` where it expects no pings from us. */
function pingInterval(env: NodeJS.ProcessEnv): number | undefined {
  const microseconds = Number(env.WATCHDOG_USEC);
  const forUs = !env.WATCHDOG_PID || env.WATCHDOG_PID === String(process.pid);
  if (!forUs || !(microseconds > 0)) return undefined;
  return Math.min(Math.max(1, microseconds / 2000), longestInterval);
}

/** Sends the lines of one message; says whether that went well. */
type Send = (lines: string[]) => Promise<boolean>;

interface SenderOptions {
  program: string;
  socket: string;
  timeout: number;
  log: Logger;
}

/** The first failure is a warning; the others would only repeat it. */
function createSender({ program, socket, timeout, log }: SenderOptions): Send {
  const options = {
    cwd: '/',
    env: { NOTIFY_SOCKET: socket },
    timeout,
    killSignal: 'SIGKILL',
  } as const;
  let warned = false;
  return (lines) =>
    new Promise((resolve) => {
      execFile(program, lines, options, (error, _stdout, stderr) => {
        if (error !== null) {
          const reason = error.killed
            ? `no end within ${timeout} ms`
            : stderr.trim() || error.message;
          log[warned ? 'debug' : 'warn']({ program, reason }, 'systemd could not be told');
          warned = true;
        }
        resolve(error === null);
      });
    });
}

interface Message {
  lines: string[];
  /** Called when it is sent, or could not be. */
  done: () => void;
}

/** Sends one message after the other. */
class Systemd implements ServiceManager {
  readonly #send: Send;
  readonly #isHealthy: () => boolean;
  readonly #log: Logger;
  readonly #pings: NodeJS.Timeout | undefined;
  readonly #queue: Message[] = [];
  #pingIsDue = false;
  /** The status that the manager has, or will have when the queue is sent. */
  #told: string | undefined;
  /** The status that it shall have next. */
  #wanted: string | undefined;
  #statusTimer: NodeJS.Timeout | undefined;
  #sending: Promise<void> | undefined;
  #ending = false;

  constructor(options: {
    send: Send;
    isHealthy: () => boolean;
    log: Logger;
    pingInterval: number | undefined;
  }) {
    this.#send = options.send;
    this.#isHealthy = options.isHealthy;
    this.#log = options.log;
    if (options.pingInterval !== undefined) {
      this.#pings = setInterval(() => this.#ping(), options.pingInterval);
    }
  }

  ready(status: string): void {
    if (this.#ending) return;
    this.#wanted = oneLine(status);
    void this.#post('READY=1');
  }

  status(text: string): void {
    if (this.#ending) return;
    const line = oneLine(text);
    this.#wanted = line === this.#told ? undefined : line;
    this.#sendAll();
  }

  reloading(): Promise<void> {
    if (this.#ending) return Promise.resolve();
    // The clock of hrtime is CLOCK_MONOTONIC.
    return this.#post('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  }

  stopping(status: string): Promise<void> {
    if (this.#ending) return Promise.resolve();
    this.#wanted = oneLine(status);
    this.#ending = true;
    return this.#post('STOPPING=1');
  }

  async close(): Promise<void> {
    clearInterval(this.#pings);
    clearTimeout(this.#statusTimer);
    this.#pingIsDue = false;
    this.#ending = true;
    if (this.#wanted !== undefined) void this.#post();
    await this.#sending;
  }

  /** A message with these lines and the status that is still to be sent. */
  #post(...lines: string[]): Promise<void> {
    return new Promise((done) => {
      this.#queue.push({ lines: lines.concat(this.#takeStatus()), done });
      this.#sendAll();
    });
  }

  #takeStatus(): string[] {
    if (this.#wanted === undefined) return [];
    this.#told = this.#wanted;
    this.#wanted = undefined;
    this.#holdStatus();
    return [`STATUS=${this.#told}`];
  }

  /** Lets no status line go out alone for a while. */
  #holdStatus(): void {
    clearTimeout(this.#statusTimer);
    if (this.#ending) return;
    this.#statusTimer = setTimeout(() => {
      this.#statusTimer = undefined;
      this.#sendAll();
    }, statusInterval);
    // What waits for it goes out at the latest in close().
    this.#statusTimer.unref();
  }

  #ping(): void {
    if (this.#pingIsDue) return;
    if (!this.#isHealthy()) {
      this.#log.warn('the service is not well; its watchdog gets no ping');
      return;
    }
    this.#pingIsDue = true;
    this.#sendAll();
  }

  #sendAll(): void {
    this.#sending ??= this.#sendOneByOne();
  }

  async #sendOneByOne(): Promise<void> {
    // What is said in one go is merged first.
    await Promise.resolve();
    for (let message = this.#next(); message !== undefined; message = this.#next()) {
      const sent = await this.#send(message.lines);
      if (!sent) this.#told = undefined;
      message.done();
    }
    this.#sending = undefined;
  }

  #next(): Message | undefined {
    if (this.#pingIsDue) {
      this.#pingIsDue = false;
      return { lines: ['WATCHDOG=1'], done: () => {} };
    }
    const message = this.#queue.shift();
    if (message !== undefined || this.#statusTimer !== undefined) return message;
    const lines = this.#takeStatus();
    return lines.length > 0 ? { lines, done: () => {} } : undefined;
  }
}

/** A message has a line for each variable, and an argument its limits. */
function oneLine(text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ').slice(0, 1000);
}
