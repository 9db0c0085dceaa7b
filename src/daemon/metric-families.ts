/** What is told as metrics, family by family: names and units as Prometheus' conventions have them. */
import type { TrafficCounts } from '../server/traffic.js';
import type { JobStatus, MirrorStatus } from './status.js';
import type { UploadCounts } from './upload-counts.js';

/** What the daemon knows at one moment. Nothing in it may cost as much as what is stored to ask for. */
export interface Facts {
  version: string;
  /** Whether the daemon can do its job, as `/healthz` has it. */
  healthy: boolean;
  runs: {
    done: number;
    failed: number;
    published: number;
    /** When something new was published last, in seconds since 1970. */
    last?: number | undefined;
  };
  /** After the last run; absent before the first. */
  stock?: { products: number; versions: number; bytes: number } | undefined;
  /** What is held back, by the code of its problem; with a 0 for what was there once. */
  held: ReadonlyMap<string, number>;
  digested: { files: number; bytes: number };
  backlog: { changed: number; settling: number };
  watchedFolders: number;
  jobs: readonly JobStatus[];
  mirrors: readonly MirrorStatus[];
  /** Requests that were to go to a mirror, and could go to none. */
  unredirected: number;
  /** By listener. */
  traffic: Readonly<Record<string, TrafficCounts>>;
  uploads: UploadCounts;
  operations: { running: number; success: number; failure: number; cancelled: number };
  trustedClients: number;
  /** Clients that listen to events, by protocol. */
  listeners: Readonly<Record<string, number>>;
}

/** A value with what tells it from the others of its family, in the order of the family's labels. */
export type Sample = readonly [value: number, ...labels: string[]];

export interface Family {
  /** Without the prefix. */
  name: string;
  help: string;
  type: 'counter' | 'gauge';
  labels?: readonly string[];
  read: (facts: Facts) => readonly Sample[];
}

export const prefix = 'lxd_image_server_';

/** Besides {@link families}: how long publications took. */
export const publicationDuration = {
  name: `${prefix}publication_duration_seconds`,
  help: 'How long runs took that published something new.',
  /** In seconds: from one version of a small tree to all of a large one. */
  buckets: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800],
};

export const mirrorStates = [
  ...(['unknown', 'synced', 'behind', 'syncing', 'verifying', 'waiting', 'stopped'] as const),
] satisfies MirrorStatus['state'][];

type Read<T> = (value: T) => number | undefined;

const one =
  (read: Read<Facts>): Family['read'] =>
  (facts) => {
    const value = read(facts);
    return value === undefined ? [] : [[value]];
  };

const each =
  <T extends { name: string }>(
    list: (facts: Facts) => readonly T[],
    read: Read<T>,
  ): Family['read'] =>
  (facts) =>
    list(facts).flatMap((item): Sample[] => {
      const value = read(item);
      return value === undefined ? [] : [[value, item.name]];
    });

const ofMirror = (read: Read<MirrorStatus>) => each(({ mirrors }) => mirrors, read);
const ofJob = (read: Read<JobStatus>) => each(({ jobs }) => jobs, read);
const ofListener =
  (read: Read<TrafficCounts>): Family['read'] =>
  ({ traffic }) =>
    Object.entries(traffic).map(([listener, counts]): Sample => [read(counts) ?? 0, listener]);

const mirror = ['mirror'];
const job = ['job'];
const listener = ['listener'];

/** All but what Node and the process tell of themselves. */
export const families: readonly Family[] = [
  {
    name: 'info',
    help: 'Always 1; the label has the version of the program.',
    type: 'gauge',
    labels: ['version'],
    read: ({ version }) => [[1, version]],
  },
  {
    name: 'healthy',
    help: 'Whether the daemon can do its job: 1 where /healthz answers 200.',
    type: 'gauge',
    read: one(({ healthy }) => Number(healthy)),
  },

  {
    name: 'runs_total',
    help: 'Runs over the tree that came to their end.',
    type: 'counter',
    read: one(({ runs }) => runs.done),
  },
  {
    name: 'run_failures_total',
    help: 'Runs over the tree that failed; each is tried again.',
    type: 'counter',
    read: one(({ runs }) => runs.failed),
  },
  {
    name: 'publications_total',
    help: 'Runs that published something new.',
    type: 'counter',
    read: one(({ runs }) => runs.published),
  },
  {
    name: 'last_publication_timestamp_seconds',
    help: 'When something new was published last; absent before the first time.',
    type: 'gauge',
    read: one(({ runs }) => runs.last),
  },
  {
    name: 'published_products',
    help: 'Products that are published; absent until the tree has been looked at.',
    type: 'gauge',
    read: one(({ stock }) => stock?.products),
  },
  {
    name: 'published_versions',
    help: 'Versions that are published.',
    type: 'gauge',
    read: one(({ stock }) => stock?.versions),
  },
  {
    name: 'published_bytes',
    help: 'Size of the published files.',
    type: 'gauge',
    read: one(({ stock }) => stock?.bytes),
  },
  {
    name: 'held_back_versions',
    help: 'What is not published, by the code of the problem; status tells which and why.',
    type: 'gauge',
    labels: ['problem'],
    read: ({ held }) => [...held].map(([problem, count]): Sample => [count, problem]),
  },
  {
    name: 'digested_bytes_total',
    help: 'Bytes of image files that were read for their digests.',
    type: 'counter',
    read: one(({ digested }) => digested.bytes),
  },
  {
    name: 'digested_files_total',
    help: 'Image files that were read for their digests.',
    type: 'counter',
    read: one(({ digested }) => digested.files),
  },
  {
    name: 'changed_folders',
    help: 'Folders in which something has changed that wait for the next run.',
    type: 'gauge',
    read: one(({ backlog }) => backlog.changed),
  },
  {
    name: 'settling_products',
    help: 'Products that are looked at again once they have been left alone for long enough.',
    type: 'gauge',
    read: one(({ backlog }) => backlog.settling),
  },
  {
    name: 'watched_folders',
    help: 'Folders of the tree that are watched for changes.',
    type: 'gauge',
    read: one(({ watchedFolders }) => watchedFolders),
  },

  {
    name: 'job_running',
    help: 'Whether a job of set hours runs.',
    type: 'gauge',
    labels: job,
    read: ofJob(({ state }) => Number(state === 'running')),
  },
  {
    name: 'job_queued',
    help: 'Whether a job of set hours waits for another to end.',
    type: 'gauge',
    labels: job,
    read: ofJob(({ state }) => Number(state === 'queued')),
  },
  {
    name: 'job_missed_total',
    help: 'Hours of a job that came and at which it could not run.',
    type: 'counter',
    labels: job,
    read: ofJob(({ missed }) => missed),
  },
  {
    name: 'job_failures_total',
    help: 'Times that a job failed.',
    type: 'counter',
    labels: job,
    read: ofJob(({ failures = 0 }) => failures),
  },
  {
    name: 'job_last_start_timestamp_seconds',
    help: 'When a job that has ended since was last started; absent before the first time.',
    type: 'gauge',
    labels: job,
    read: ofJob(({ last }) => secondsOf(last?.at)),
  },

  {
    name: 'mirror_state',
    help: 'The state that a mirror is in is 1, the others are 0.',
    type: 'gauge',
    labels: ['mirror', 'state'],
    read: ({ mirrors }) =>
      mirrors.flatMap(({ name, state }) =>
        mirrorStates.map((known): Sample => [Number(known === state), name, known]),
      ),
  },
  {
    name: 'mirror_lag_seconds',
    help: 'For how long there has been something newer than what a mirror has; 0 where it has the newest.',
    type: 'gauge',
    labels: mirror,
    read: ofMirror(({ lag }) => lag.seconds),
  },
  {
    name: 'mirror_lag_versions',
    help: 'Versions that are not whole on a mirror; absent where that is not known.',
    type: 'gauge',
    labels: mirror,
    read: ofMirror(({ lag }) => lag.versions),
  },
  {
    name: 'mirror_last_success_timestamp_seconds',
    help: 'When a mirror last had what was the newest then; absent where it never has.',
    type: 'gauge',
    labels: mirror,
    read: ofMirror(({ synced }) => secondsOf(synced)),
  },
  {
    name: 'mirror_sent_bytes_total',
    help: 'Bytes of files that were sent to a mirror; bytes that had to be sent again count again.',
    type: 'counter',
    labels: mirror,
    read: ofMirror(({ counts }) => counts?.bytes),
  },
  {
    name: 'mirror_sent_files_total',
    help: 'Files that got their names on a mirror.',
    type: 'counter',
    labels: mirror,
    read: ofMirror(({ counts }) => counts?.files),
  },
  {
    name: 'mirror_syncs_total',
    help: 'Times that a mirror was brought up to date.',
    type: 'counter',
    labels: mirror,
    read: ofMirror(({ counts }) => counts?.syncs),
  },
  {
    name: 'mirror_failures_total',
    help: 'Times that bringing a mirror up to date failed.',
    type: 'counter',
    labels: mirror,
    read: ofMirror(({ counts }) => counts?.failures),
  },
  {
    name: 'mirror_serving_healthy',
    help: 'Whether a mirror answers clients; absent where none are sent to it, or it has not been tried yet.',
    type: 'gauge',
    labels: mirror,
    read: ofMirror(({ serving }) =>
      serving === undefined || serving.state === 'unknown'
        ? undefined
        : Number(serving.state === 'healthy'),
    ),
  },
  {
    name: 'mirror_redirected_requests_total',
    help: 'Requests that were sent on to a mirror.',
    type: 'counter',
    labels: mirror,
    read: ofMirror(({ serving }) => serving?.redirected),
  },
  {
    name: 'unredirected_requests_total',
    help: 'Requests that were to be sent on to a mirror while none had the file, or none answered.',
    type: 'counter',
    read: ({ unredirected }) => [[unredirected]],
  },

  {
    name: 'http_requests_total',
    help: 'Requests that were answered or cut, by method and by the class of the answer; none is no answer.',
    type: 'counter',
    labels: ['listener', 'method', 'status'],
    read: ({ traffic }) =>
      Object.entries(traffic).flatMap(([name, { requests }]) =>
        requests.map(({ method, status, count }): Sample => [count, name, method, status]),
      ),
  },
  {
    name: 'http_running_requests',
    help: 'Requests that are being answered.',
    type: 'gauge',
    labels: listener,
    read: ofListener(({ running }) => running),
  },
  {
    name: 'http_connections',
    help: 'Connections that are open.',
    type: 'gauge',
    labels: listener,
    read: ofListener(({ connections }) => connections),
  },
  {
    name: 'http_sent_bytes_total',
    help: 'Bytes that were sent to clients, without what TLS adds.',
    type: 'counter',
    labels: listener,
    read: ofListener(({ sentBytes }) => sentBytes),
  },

  {
    name: 'uploads_total',
    help: 'Uploads that have ended: added, refused for what they were, cancelled, or failed here.',
    type: 'counter',
    labels: ['result'],
    read: ({ uploads }) =>
      Object.entries(uploads.ended).map(([result, count]): Sample => [count, result]),
  },
  {
    name: 'upload_received_bytes_total',
    help: 'Bytes of image files that came with uploads, whatever became of them.',
    type: 'counter',
    read: one(({ uploads }) => uploads.bytes),
  },
  {
    name: 'running_uploads',
    help: 'Uploads under way.',
    type: 'gauge',
    read: one(({ uploads }) => uploads.running),
  },
  {
    name: 'publishing_uploads',
    help: 'Uploads that are whole and wait until they are published.',
    type: 'gauge',
    read: one(({ uploads }) => uploads.publishing),
  },
  {
    name: 'operations_total',
    help: 'Operations of the API that have ended.',
    type: 'counter',
    labels: ['result'],
    read: ({ operations: { running: _running, ...ended } }) =>
      Object.entries(ended).map(([result, count]): Sample => [count, result]),
  },
  {
    name: 'running_operations',
    help: 'Operations of the API that are under way, those that wait for a client included.',
    type: 'gauge',
    read: one(({ operations }) => operations.running),
  },
  {
    name: 'trusted_clients',
    help: 'Clients that may upload.',
    type: 'gauge',
    read: one(({ trustedClients }) => trustedClients),
  },
  {
    name: 'event_listeners',
    help: 'Clients that listen to events.',
    type: 'gauge',
    labels: ['protocol'],
    read: ({ listeners }) =>
      Object.entries(listeners).map(([protocol, count]): Sample => [count, protocol]),
  },
];

/** ISO 8601 as seconds since 1970. */
function secondsOf(time: string | undefined): number | undefined {
  return time === undefined ? undefined : Date.parse(time) / 1000;
}
