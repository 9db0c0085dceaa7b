/** What `/status.json` and `/status/events` tell, as far as the page shows it; src/daemon/status.ts says what it means. */

export interface Status {
  /** When this was so; times that pass are as of then. */
  at: string;
  version: string;
  pid: number;
  started: string;
  root: string;
  ready: boolean;
  activity: {
    doing: string;
    detail?: string | undefined;
    bytes?: Done | undefined;
    since: string;
  };
  catalogue: { products: number; versions: number; bytes: number };
  publications: Publication[];
  held: Held[];
  heldCount: number;
  watching: { mode: string; folders: number; reason?: string | undefined };
  server: { url: string } | { reason: string };
  jobs: Job[];
  mirrors: Mirror[];
  process: { memory: number; longestPauseMs: number };
}

export interface Done {
  done: number;
  total: number;
}

export interface Publication {
  at: string;
  ms: number;
  products: number;
  versions: number;
  bytes: number;
}

export interface Held {
  path: string;
  reason: string;
  cure: string;
  until?: string | undefined;
}

export interface Job {
  name: string;
  schedule: string;
  state: string;
  next?: string | undefined;
  last?: { at: string; ms: number; failure?: string | undefined } | undefined;
  missed: number;
}

export interface Failure {
  message: string;
  hint?: string | undefined;
}

export interface Mirror {
  name: string;
  url: string;
  remote: string;
  state: string;
  synced?: string | undefined;
  lag: { versions?: number | undefined; seconds: number };
  work?: Work | undefined;
  counts?: { files: number; bytes: number; syncs: number; failures: number } | undefined;
  serving?: Serving | undefined;
  failure?: (Failure & { at: string }) | undefined;
  next?: string | undefined;
}

export interface Serving {
  state: string;
  since: string;
  ms?: number | undefined;
  failure?: Failure | undefined;
  redirected: number;
}

export interface Work {
  stage: string;
  files: Done;
  bytes: Done;
  rate?: number | undefined;
  secondsLeft?: number | undefined;
}

/** The last 24 hours of a mirror, in steps that end with now. */
export interface Day {
  name: string;
  start: string;
  /** Seconds. */
  step: number;
  bytes: number[];
  lag: (number | null)[];
}

/** `status` with the members that have changed; those that are null are gone. */
export function changed(status: Status, members: Record<string, unknown>): Status {
  const all = Object.entries({ ...status, ...members });
  return Object.fromEntries(all.filter(([, value]) => value !== null)) as unknown as Status;
}
