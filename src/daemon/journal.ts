/** Logs what runs have done, and of what they held back only what is news. */
import type { Problem } from '../catalog/tree.js';
import type { Logger } from '../log.js';
import type { RunResult } from '../pipeline.js';

/** What passes by itself, as uploads do: nothing for anyone to see to. */
const passing = new Set<Problem['code']>(['settling', 'uploading', 'changed', 'gone']);

/** How many problems of one run are logged, each on a line of its own. */
const mostLines = 100;

/** A function that logs each run it is given. */
export function createJournal(log: Logger): (result: RunResult) => void {
  let told = new Set<string>();
  return ({ problems, published, products, versions, read, ms }) => {
    if (published.length > 0) {
      const took = Math.round(ms.scan + ms.digest + ms.publish);
      log.info({ products, versions, files: read.files, bytes: read.bytes, ms: took }, 'published');
    }
    const lasting = problems.filter(({ code }) => !passing.has(code));
    const news = lasting.filter((problem) => !told.has(keyOf(problem)));
    for (const { path, code, reason, cure } of news.slice(0, mostLines)) {
      log.warn({ path, reason, cure, code }, 'not published');
    }
    const more = news.length - mostLines;
    if (more > 0) log.warn({ count: more }, '… and more; "lxd-image-server status" tells of them');
    if (told.size > 0 && lasting.length === 0) log.info('nothing is held back any more');
    told = new Set(lasting.map(keyOf));
  };
}

function keyOf({ path, code, reason }: Problem): string {
  return `${path}\0${code}\0${reason}`;
}
