/** The status in words. No DOM. */
import { counted, formatCount, formatSize } from '../figures.js';
import type { Job, Mirror, Serving, Status, Work } from './status.js';

/** How something fares: what it looks like follows from it. */
export type Mood = 'good' | 'warn' | 'bad' | 'plain';

const spans: [seconds: number, name: string][] = [
  [86_400, 'd'],
  [3600, 'h'],
  [60, 'min'],
  [1, 's'],
];

/** A span of time in its largest unit, and below ten of these the next: `45 s`, `12 min`, `2 h 5 min`. */
export function formatSpan(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const at = spans.findIndex(([each]) => whole >= each);
  const [size, name] = spans[at] ?? [1, 's'];
  const count = Math.floor(whole / size);
  const [smaller, smallerName] = spans[at + 1] ?? [];
  if (count >= 10 || smaller === undefined || size === 60) return `${count} ${name}`;
  const rest = Math.floor((whole % size) / smaller);
  return rest === 0 ? `${count} ${name}` : `${count} ${name} ${rest} ${smallerName}`;
}

/** How long something took: `850 ms`, `12.3 s`, `4 min`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : formatSpan(ms / 1000);
}

/** When `time` is, seen from `now` in milliseconds: `3 min ago`, `in 2 h`, `just now`. */
export function formatAge(time: string, now: number): string {
  const seconds = (now - Date.parse(time)) / 1000;
  if (Number.isNaN(seconds)) return 'at an unknown time';
  if (Math.abs(seconds) < 5) return 'just now';
  return seconds > 0 ? `${formatSpan(seconds)} ago` : `in ${formatSpan(-seconds)}`;
}

/** A moment in full: `2026-07-16 12:05:30 UTC`. */
export function formatTime(time: string | number): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return String(time);
  return `${date.toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

/** A moment of a day: `12:05`. */
export function formatClock(time: number): string {
  return new Date(time).toISOString().slice(11, 16);
}

const activities: Record<string, [text: string, mood: Mood]> = {
  starting: ['Starting', 'plain'],
  idle: ['Idle', 'good'],
  scan: ['Looking at the tree', 'plain'],
  digest: ['Reading files', 'plain'],
  publish: ['Publishing', 'plain'],
  waiting: ['Cannot publish', 'bad'],
};

/** What the daemon does now. */
export function activityOf({ activity: { doing }, ready }: Status): { text: string; mood: Mood } {
  const [text, mood] = activities[doing] ?? [doing, 'plain'];
  return doing === 'idle' && !ready ? { text: 'Starting', mood: 'plain' } : { text, mood };
}

const states: Record<string, [text: string, mood: Mood]> = {
  unknown: ['Not known yet', 'plain'],
  synced: ['In sync', 'good'],
  behind: ['Behind', 'warn'],
  syncing: ['Syncing', 'plain'],
  verifying: ['Verifying', 'plain'],
  waiting: ['Failing', 'bad'],
  stopped: ['Stopped', 'bad'],
};

/** How a mirror is. */
export function stateOf({ state }: Pick<Mirror, 'state'>): { text: string; mood: Mood } {
  const [text, mood] = states[state] ?? [state, 'plain'];
  return { text, mood };
}

/** Whether somebody should look at a mirror; one that is tried again fails until that has gone well. */
export function isFailing({
  state,
  failure,
  serving,
}: Pick<Mirror, 'state' | 'failure' | 'serving'>): boolean {
  if (failure !== undefined || serving?.state === 'failing') return true;
  return state === 'waiting' || state === 'stopped';
}

/** How far a mirror is behind; '' where it is not. `at` is when the status was so, both in milliseconds. */
export function lagText({ lag }: Pick<Mirror, 'lag'>, { at, now }: Times): string {
  const { versions = 0, seconds } = lag;
  const passed = seconds > 0 ? Math.max(0, (now - at) / 1000) : 0;
  const parts = [
    versions > 0 && counted(versions, 'version'),
    seconds > 0 && formatSpan(seconds + passed),
  ];
  return parts.filter(Boolean).join(', ');
}

export interface Times {
  at: number;
  now: number;
}

const stages: Record<string, string> = {
  look: 'Looking',
  check: 'Checking',
  retract: 'Taking documents back',
  withdraw: 'Taking documents back',
  send: 'Sending',
  publish: 'Publishing',
  record: 'Keeping record',
  remove: 'Removing',
  verify: 'Reading back',
};

export function stageText({ stage }: Pick<Work, 'stage'>): string {
  return stages[stage] ?? stage;
}

/** `12 of 40 files, 93.1 MiB/s, 12 s left` */
export function workText({ files, bytes, rate = 0, secondsLeft = 0 }: Work): string {
  const parts = [
    files.total > 0 && `${formatCount(files.done)} of ${counted(files.total, 'file')}`,
    bytes.total > 0 && `${formatSize(bytes.done)} of ${formatSize(bytes.total)}`,
    rate > 0 && `${formatSize(rate)}/s`,
    secondsLeft > 0 && `${formatSpan(secondsLeft)} left`,
  ];
  return parts.filter(Boolean).join(', ');
}

/** How a mirror answers clients. */
export function servingOf({ state, ms, redirected }: Serving): { text: string; mood: Mood } {
  const sent = `${counted(redirected, 'request')} sent there`;
  if (state === 'failing')
    return { text: `Gets no clients: it does not answer them; ${sent}`, mood: 'bad' };
  if (state !== 'healthy')
    return { text: 'Not tried yet whether it answers clients', mood: 'plain' };
  const after = ms === undefined ? '' : ` within ${formatDuration(ms)}`;
  return { text: `Answers clients${after}; ${sent}`, mood: 'good' };
}

export function jobText({ schedule, state, next, last, missed }: Job, now: number): string {
  const parts = [
    state === 'running' && 'running now',
    state === 'queued' && 'waits for its turn',
    schedule === '' && 'never',
    schedule !== '' && next !== undefined && `next ${formatAge(next, now)}`,
    last && `last ${formatAge(last.at, now)}, took ${formatDuration(last.ms)}`,
    missed > 0 && `missed ${missed === 1 ? 'once' : `${formatCount(missed)} times`}`,
  ];
  return parts.filter(Boolean).join('; ');
}

/** How all is, in one sentence. */
export function verdictOf(status: Status): { text: string; mood: Mood } {
  const { activity, ready, mirrors, heldCount } = status;
  if (activity.doing === 'waiting') return { text: 'New images cannot be published.', mood: 'bad' };
  if (!ready)
    return { text: 'The daemon is looking at the tree for the first time.', mood: 'plain' };
  const failing = mirrors.filter(isFailing).length;
  const failed = status.jobs.filter(({ last }) => last?.failure !== undefined).length;
  const parts = [
    failing > 0 &&
      (failing === mirrors.length
        ? `${failing === 1 ? 'the mirror fails' : 'all mirrors fail'}`
        : `${failing} of ${counted(mirrors.length, 'mirror')} ${failing === 1 ? 'fails' : 'fail'}`),
    heldCount > 0 && `${formatCount(heldCount)} held back`,
    failed > 0 && `${counted(failed, 'job')} failed`,
  ].filter(Boolean);
  if (parts.length === 0) return { text: 'All is well.', mood: 'good' };
  const text = parts.join('; ');
  return {
    text: `${text.charAt(0).toUpperCase()}${text.slice(1)}.`,
    mood: failing > 0 ? 'bad' : 'warn',
  };
}
