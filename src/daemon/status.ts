/** What the daemon tells of itself over its control socket and over HTTP; times are ISO 8601 in UTC. */
import type { Problem } from '../catalog/tree.js';
import type { Health } from '../server/monitor/contract.js';

export interface DaemonStatus {
  /** Of the program. */
  version: string;
  pid: number;
  started: string;
  /** The root that it works on, absolute. */
  root: string;
  /** Whether the whole tree has been looked at since the start, and published. */
  ready: boolean;
  activity: Activity;
  /** Whether it can do its job, as `/healthz` has it; not known in the first moments. */
  health?: Health;
  /** What is published. */
  catalogue: { products: number; versions: number; bytes: number };
  /** The last publications of this daemon, newest first: at most {@link mostPublications}. */
  publications: Publication[];
  /** What is not published, and why: the first {@link mostHeld} of `heldCount`. */
  held: HeldBack[];
  heldCount: number;
  watching: Watching;
  /** The embedded server: where it listens, or why it does not. */
  server: { url: string } | { reason: string };
  jobs: JobStatus[];
  mirrors: MirrorStatus[];
  process: {
    /** Resident memory in bytes. */
    memory: number;
    /** The longest time for which nothing else was answered, in milliseconds, since the start. */
    longestPauseMs: number;
  };
}

/** What `/status/events` sends: times that pass are as of `at`. */
export interface LiveStatus extends DaemonStatus {
  /** When this was so. */
  at: string;
}

/** `/status.json` */
export interface FullStatus extends LiveStatus {
  days: MirrorDay[];
}

/** How many held back versions a status names. */
export const mostHeld = 1000;

/** How many publications a status names. */
export const mostPublications = 20;

/** A run that changed something. */
export interface Publication {
  at: string;
  /** How long the run took. */
  ms: number;
  /** What was published after it. */
  products: number;
  versions: number;
  /** What was read for it. */
  bytes: number;
}

export interface Activity {
  /** `waiting`: it cannot work now, and `detail` says why; it goes on by itself. */
  doing: 'starting' | 'idle' | 'scan' | 'digest' | 'publish' | 'waiting';
  detail?: string;
  /** For `digest`: how far it is. */
  bytes?: { done: number; total: number };
  since: string;
}

export interface HeldBack extends Problem {
  /** When it will be looked at again by itself. */
  until?: string;
}

export interface Watching {
  /** `timer`: not every folder could be watched, for `reason`, and the whole tree is looked at now and then. */
  mode: 'events' | 'timer';
  /** How many folders are watched. */
  folders: number;
  reason?: string;
}

export interface JobStatus {
  name: string;
  /** A cron expression; '' is never. */
  schedule: string;
  state: 'idle' | 'queued' | 'running';
  next?: string;
  last?: { at: string; ms: number; failure?: string };
  /** How many times its hour came and it could not run, since the start. */
  missed: number;
  /** How many times it ran and failed, since the start; absent where an older daemon answers. */
  failures?: number;
}

export interface MirrorStatus {
  name: string;
  /** Where clients reach it. */
  url: string;
  /** Where it is written to: `user@host:port`. */
  remote: string;
  /** A cron expression; '' is at once. */
  schedule: string;
  /**
   * `unknown`: nobody has looked yet. `behind`: it waits for its hour. `waiting`: it could not be brought up to date,
   * and is tried again at `next`. `stopped`: the same, but only a change of the configuration, or a hand, can help.
   */
  state: 'unknown' | 'synced' | 'behind' | 'syncing' | 'verifying' | 'waiting' | 'stopped';
  /** What it has: SHA-256 of `images.json`. */
  generation?: string | undefined;
  /** When it last had what was the newest then. */
  synced?: string | undefined;
  lag: {
    /** Versions that are not whole there; absent: not known. */
    versions?: number;
    /** For how long there has been something newer; 0 where it has the newest. */
    seconds: number;
  };
  work?: MirrorWork;
  /** What has been done since the daemon started; absent without a daemon. */
  counts?: MirrorCounts;
  /** Whether clients are sent there; absent where none are sent anywhere (`server.redirect`). */
  serving?: MirrorServing;
  failure?: { at: string; message: string; hint?: string };
  /** When it is tried again, or its hour comes. */
  next?: string;
}

export interface MirrorCounts {
  /** Files that got their names. */
  files: number;
  /** Bytes of files sent. */
  bytes: number;
  /** Syncs that ended well. */
  syncs: number;
  failures: number;
}

/** How a mirror answers clients. */
export interface MirrorServing {
  /** `unknown`: it has not been tried yet. */
  state: 'unknown' | 'healthy' | 'failing';
  since: string;
  /** How long the last answer took, in milliseconds. */
  ms?: number;
  failure?: { message: string; hint?: string };
  /** Requests that were sent there since the daemon started. */
  redirected: number;
}

/** The last 24 hours of a mirror, in steps that end with now: `/status.json` alone has it. */
export interface MirrorDay {
  name: string;
  /** When the first step began. */
  start: string;
  /** Length of a step in seconds. */
  step: number;
  /** Bytes sent in each step. */
  bytes: number[];
  /** The longest time in each step for which the mirror had not the newest, in seconds; null: not known. */
  lag: (number | null)[];
}

/** What a mirror is at. */
export type MirrorActivity = Pick<MirrorStatus, 'name' | 'state' | 'work'>;

/** What is under way. */
export interface MirrorWork {
  stage: string;
  files: { done: number; total: number };
  bytes: { done: number; total: number };
  /** Bytes a second. */
  rate?: number;
  secondsLeft?: number;
}
