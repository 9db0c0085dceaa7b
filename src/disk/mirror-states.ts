/**
 * Keeps how far each mirror was, in one file of the state folder: what `mirror list` can tell without a daemon, and
 * since when a mirror lags that a daemon finds lagging at its start. Nothing is decided by it.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import { formatHostPort, type HostPort } from '../units.js';
import { makeFolder, writeError, writeFileAtomically } from './files.js';

/** What is kept of a mirror; times are ISO 8601 in UTC. */
export interface MirrorState {
  /** What this is known of: see {@link placeOf}. */
  place?: string | undefined;
  /** What it had last: SHA-256 of `images.json`. */
  generation?: string | undefined;
  /** When it last had the newest generation. */
  synced?: string | undefined;
  /** Since when there has been a newer one; absent: it had the newest. */
  behind?: string | undefined;
}

export interface MirrorStates {
  /** By name; nothing where there is no file, or one of no use. */
  load(): Promise<Map<string, MirrorState>>;
  /** Keeps this in place of what was kept. A failure is logged: nothing depends on it. */
  save(states: ReadonlyMap<string, MirrorState>): Promise<void>;
}

const stateSchema = v.object({
  place: v.optional(v.string()),
  generation: v.optional(v.string()),
  synced: v.optional(v.pipe(v.string(), v.isoTimestamp())),
  behind: v.optional(v.pipe(v.string(), v.isoTimestamp())),
});
const fileSchema = v.object({ mirrors: v.record(v.string(), stateSchema) });

/** Where a mirror is: one that moves becomes another, whatever it is called. */
export function placeOf({ remote, root }: { remote: HostPort; root: string }): string {
  return `${formatHostPort(remote)} ${root}`;
}

/** `state`, if it is that of a mirror at this place. */
export function ofPlace(
  mirror: Parameters<typeof placeOf>[0],
  state: MirrorState | undefined,
): MirrorState | undefined {
  return state?.place === placeOf(mirror) ? state : undefined;
}

export function createMirrorStates({
  stateDir,
  log,
}: {
  stateDir: string;
  log?: Logger;
}): MirrorStates {
  const file = join(stateDir, 'mirrors.json');
  return {
    async load() {
      try {
        const { mirrors } = v.parse(fileSchema, JSON.parse(await readFile(file, 'utf8')));
        return new Map(Object.entries(mirrors));
      } catch (err) {
        if (systemCode(err) !== 'ENOENT')
          log?.debug({ err }, 'kept states of mirrors are of no use');
        return new Map();
      }
    },
    async save(states) {
      try {
        await makeFolder(stateDir, 0o750);
        const text = JSON.stringify({ mirrors: Object.fromEntries(states) });
        await writeFileAtomically(file, [Buffer.from(`${text}\n`)], { mode: 0o640 });
      } catch (err) {
        const { hint: cure } = writeError(stateDir, err);
        log?.warn({ err, cure }, 'the states of mirrors cannot be kept');
      }
    },
  };
}
