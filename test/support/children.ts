/**
 * Processes of their own for tests: each runs one part of the server until it has ended or is killed.
 * This file is both: what starts them, and what they run.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { acquireLock } from '../../src/disk/lock.js';
import { createPool } from '../../src/disk/pool.js';
import { createPublisher } from '../../src/disk/publish.js';
import { createRecordStore } from '../../src/disk/record-store.js';
import { ServerError } from '../../src/errors.js';
import { look, nothingSeen } from './documents-reader.js';
import { createGenerations, generationOf } from './generations.js';
import { memoryLog } from './memory-log.js';
import { makeRecords } from './records.js';

/** What a reader of documents has seen. */
export interface Sightings {
  /** How many times it looked. */
  looks: number;
  /** SHA-256 of every document that it read, those that came compressed too. */
  documents: string[];
  /** What should never be seen. */
  faults: string[];
}

const parts = {
  /** Publishes one generation after the other; says `publishing` when it begins. */
  async publish(streamsDir: string) {
    const { log } = memoryLog();
    const publisher = createPublisher({ streamsDir, gzip: true, log });
    const generations = createGenerations();
    say('publishing');
    for (let number = nextGeneration(streamsDir); ; number++) {
      await publisher.publish(generations(number));
    }
  },

  /** Reads the documents as fast as it can until it is told to end; then says what it has seen. */
  async read(streamsDir: string) {
    let ended = false;
    process.once('message', () => {
      ended = true;
    });
    const seen = nothingSeen();
    say('reading');
    while (!ended) {
      look(streamsDir, seen);
      await new Promise(setImmediate);
    }
    const sightings: Sightings = {
      looks: seen.looks,
      documents: [...seen.documents],
      faults: [...seen.faults],
    };
    say(sightings);
  },

  /** Saves one set of records after the other: of one product, of two, and so on. */
  async save(stateDir: string) {
    const { log } = memoryLog();
    const store = createRecordStore({ stateDir, imagesDir: '/i', prefix: 'images', log });
    say('saving');
    for (let count = 1; ; count = (count % 50) + 1) await store.save(makeRecords(count));
  },

  /** Takes the lock and keeps it. */
  async hold(root: string) {
    await acquireLock(root);
    say('holding');
    setInterval(() => {}, 60_000);
  },

  /** Adds 1 to the number in `counter` as many times as `turns` says, each time under the lock. */
  async count(root: string, counter: string, turns: string) {
    for (let left = Number(turns); left > 0; ) {
      const lock = await acquireLock(root).catch(busyOnly);
      if (lock === undefined) {
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 10));
        continue;
      }
      const before = Number(readFileSync(counter, 'utf8'));
      await new Promise(setImmediate);
      writeFileSync(counter, String(before + 1));
      await lock.release();
      left -= 1;
    }
  },

  /** Uses a pool, closes it, and has nothing left to do. */
  async pool(imagesDir: string) {
    const pool = createPool();
    const { products } = await pool.listProducts(imagesDir);
    await pool.close();
    say(products.length);
  },

  /** Adds a byte to `file` again and again. */
  async grow(file: string) {
    appendFileSync(file, 'x');
    say('growing');
    setInterval(() => appendFileSync(file, 'x'), 5);
  },
};

type Part = keyof typeof parts;

/** Starts a process that does `part`. The test ends it. */
export function startChild(part: Part, ...args: string[]): ChildProcess {
  return fork(fileURLToPath(import.meta.url), [part, ...args]);
}

/** The next thing that `child` says; throws where it ends first. */
export async function said(child: ChildProcess): Promise<unknown> {
  const ended = new AbortController();
  const ending = once(child, 'exit', { signal: ended.signal }).then(
    ([code]) => {
      throw new Error(`The child process ended with ${code}`);
    },
    () => undefined,
  );
  try {
    const [message] = (await Promise.race([once(child, 'message'), ending])) as [unknown];
    return message;
  } finally {
    ended.abort();
  }
}

/** Kills `child` with SIGKILL and waits until it is gone. */
export async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

function say(message: unknown): void {
  process.send?.(message);
}

function busyOnly(error: unknown): undefined {
  if (!(error instanceof ServerError && error.code === 'BUSY')) throw error;
}

function nextGeneration(streamsDir: string): number {
  try {
    return generationOf(readFileSync(join(streamsDir, 'images.json'), 'utf8')) + 1;
  } catch {
    return 0;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [part, ...args] = process.argv.slice(2);
  await (parts[part as Part] as (...args: string[]) => Promise<void>)(...args);
  // The channel to the test must not keep this process running, nor end before all is said.
  process.channel?.unref();
}
