/** Logs what runs have done, and of what they held back what is news, and stays so for a while. */
import type { Problem } from '../catalog/tree.js';
import { type Logger, logFirst } from '../log.js';
import type { RunResult } from '../pipeline.js';

export interface Journal {
  /** Takes note of a run. */
  ran(result: RunResult): void;
  close(): void;
}

/** What passes by itself, as uploads do: nothing for anyone to see to. */
const passing = new Set<Problem['code']>(['settling', 'uploading', 'changed', 'gone']);

/** How long something must stand before it is told, in milliseconds: an upload is incomplete until its end. */
const patience = 15_000;

export function createJournal(log: Logger): Journal {
  /** What is held back now, by what it says; since when, and whether that was told. */
  let standing = new Map<string, Standing>();
  let isFirst = true;
  let timer: NodeJS.Timeout | undefined;

  const tell = (until: number) => {
    const due = [...standing.values()].filter(({ since, told }) => !told && since <= until);
    for (const each of due) each.told = true;
    const tellOf = ({ problem: { path, code, reason, cure } }: Standing) =>
      log.warn({ path, reason, cure, code }, 'not published');
    const rest = '… and more; "lxd-image-server status" tells of them';
    logFirst(due, { log, each: tellOf, rest });
  };
  const wait = () => {
    clearTimeout(timer);
    const times = [...standing.values()].flatMap(({ since, told }) => (told ? [] : [since]));
    if (times.length === 0) return;
    const first = times.reduce((a, b) => Math.min(a, b));
    timer = setTimeout(
      () => {
        tell(performance.now() - patience);
        wait();
      },
      Math.max(first + patience - performance.now(), 0) + 1,
    );
  };

  return {
    ran({ problems, published, products, versions, read, ms }) {
      const now = performance.now();
      const took = Math.round(ms.scan + ms.digest + ms.publish);
      const fields = { products, versions, files: read.files, bytes: read.bytes, ms: took };
      if (published.length > 0) log.info(fields, 'published');
      log.debug({ ...fields, held: problems.length }, 'looked');
      const lasting = problems.filter(({ code }) => !passing.has(code));
      const before = standing;
      standing = new Map(
        lasting.map((problem) => {
          const key = keyOf(problem);
          return [key, before.get(key) ?? { problem, since: now, told: false }];
        }),
      );
      // What was there before this process has had its time.
      if (isFirst) tell(now);
      isFirst = false;
      if (standing.size === 0 && [...before.values()].some(({ told }) => told)) {
        log.info('nothing is held back any more');
      }
      wait();
    },
    close: () => clearTimeout(timer),
  };
}

interface Standing {
  problem: Problem;
  /** By `performance.now()`. */
  since: number;
  told: boolean;
}

function keyOf({ path, code, reason }: Problem): string {
  return `${path}\0${code}\0${reason}`;
}
