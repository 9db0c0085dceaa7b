/** What `/status.json` and `/status/events` tell: types of the daemon's, and nothing else of it. */
import type {
  HeldBack,
  JobStatus,
  LiveStatus,
  MirrorDay,
  MirrorServing,
  MirrorStatus,
  MirrorWork,
} from '../../daemon/status.js';

export type { Publication } from '../../daemon/status.js';
export type Status = LiveStatus;
export type Held = HeldBack;
export type Job = JobStatus;
export type Mirror = MirrorStatus;
export type Serving = MirrorServing;
export type Work = MirrorWork;
export type Day = MirrorDay;
export type Done = MirrorWork['bytes'];
export type Failure = NonNullable<MirrorServing['failure']>;

/** `status` with the members that have changed; those that are null are gone. */
export function changed(status: Status, members: Record<string, unknown>): Status {
  const all = Object.entries({ ...status, ...members });
  return Object.fromEntries(all.filter(([, value]) => value !== null)) as unknown as Status;
}
