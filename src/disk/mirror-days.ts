/**
 * Keeps the last day of every mirror in a file of the state folder, for the charts after a restart. Nothing is decided
 * by it, and it may be deleted at any time.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import { makeFolder, writeError, writeFileAtomically } from './files.js';

/** A mirror's last day, as far as it is known. */
export interface KeptDay {
  name: string;
  /** The first step, counted from 1970. */
  first: number;
  /** For each step the bytes sent. */
  bytes: number[];
  /** As long as `bytes`: the longest lag in seconds; null: not known. */
  lag: (number | null)[];
}

export interface MirrorDays {
  /** Nothing where there is no file, or one of no use. */
  load(): Promise<KeptDay[]>;
  /** Keeps this in place of what was kept. A failure is logged: nothing depends on it. */
  save(days: readonly KeptDay[]): Promise<void>;
}

const mostSteps = 144;
const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const daySchema = v.pipe(
  v.object({
    name: v.string(),
    first: count,
    bytes: v.pipe(v.array(count), v.maxLength(mostSteps)),
    lag: v.pipe(v.array(v.nullable(count)), v.maxLength(mostSteps)),
  }),
  v.check(({ bytes, lag }) => bytes.length === lag.length),
);
const fileSchema = v.object({ days: v.array(daySchema) });

export function createMirrorDays({ stateDir, log }: { stateDir: string; log: Logger }): MirrorDays {
  const file = join(stateDir, 'mirror-days.json');
  return {
    async load() {
      try {
        return v.parse(fileSchema, JSON.parse(await readFile(file, 'utf8'))).days;
      } catch (err) {
        if (systemCode(err) !== 'ENOENT') log.debug({ err }, 'kept days of mirrors are of no use');
        return [];
      }
    },
    async save(days) {
      try {
        await makeFolder(stateDir, 0o750);
        const text = JSON.stringify({ days });
        await writeFileAtomically(file, [Buffer.from(`${text}\n`)], { mode: 0o640 });
      } catch (err) {
        const { hint: cure } = writeError(stateDir, err);
        log.warn({ err, cure }, 'the last day of mirrors cannot be kept');
      }
    },
  };
}
