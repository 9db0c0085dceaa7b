/** Measures a process from outside while it runs, and judges whether what it holds stays the same. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemCode } from '../../src/errors.js';
import { median } from '../bench/measure.js';

/** What a process holds. */
export interface Holdings {
  /** Resident memory in MiB. */
  memory: number;
  descriptors: number;
  /** inotify watches. */
  watches: number;
}

export interface Sample extends Holdings {
  /** Simulated hours since the start. */
  hour: number;
}

export interface Sampler {
  samples: readonly Sample[];
  stop(): Promise<void>;
}

/** Measures process `pid` every `everyMs` milliseconds; `hour` tells the time of its life. */
export function startSampling(
  pid: number,
  { everyMs, hour }: { everyMs: number; hour: () => number },
): Sampler {
  const samples: Sample[] = [];
  const ending = new AbortController();
  const working = (async () => {
    while (!ending.signal.aborted) {
      samples.push({ hour: hour(), ...(await measure(pid)) });
      await sleep(everyMs, undefined, { signal: ending.signal }).catch(() => undefined);
    }
  })();
  return {
    samples,
    async stop() {
      ending.abort();
      await working;
    },
  };
}

/** What process `pid` holds now. */
export async function measure(pid: number): Promise<Holdings> {
  return { memory: await residentMemory(pid), ...(await openFiles(pid)) };
}

/** What the descriptors of process `pid` are, by kind: `{ socket: 3, … }`. */
export async function descriptorKinds(pid: number): Promise<Record<string, number>> {
  const numbers = await readdir(`/proc/${pid}/fd`);
  const counts: Record<string, number> = {};
  for (const number of numbers) {
    const target = await readlink(`/proc/${pid}/fd/${number}`).catch(ignoreMissing);
    const kind = /^(socket|pipe|anon_inode:[^/]*)/.exec(target)?.[1] ?? target;
    if (kind !== '') counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}

async function residentMemory(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
}

async function openFiles(pid: number): Promise<Pick<Sample, 'descriptors' | 'watches'>> {
  const numbers = await readdir(`/proc/${pid}/fd`);
  let watches = 0;
  for (const number of numbers) {
    const target = await readlink(`/proc/${pid}/fd/${number}`).catch(ignoreMissing);
    if (target !== 'anon_inode:inotify') continue;
    const info = await readFile(`/proc/${pid}/fdinfo/${number}`, 'utf8').catch(ignoreMissing);
    watches += info.split('\n').filter((line) => line.startsWith('inotify ')).length;
  }
  return { descriptors: numbers.length, watches };
}

/** It has been closed since. */
function ignoreMissing(error: unknown): string {
  if (systemCode(error) !== 'ENOENT') throw error;
  return '';
}

export interface Flatness {
  /** Medians in MiB: of the second tenth of the time, and of the last fifth. */
  early: number;
  late: number;
  /** How much it grows from the second tenth on, in MiB an hour: the slope of the straight line that fits best. */
  slope: number;
  /** What that line makes of the rest of the time, as a share of `early`. */
  growth: number;
}

/** How memory goes on after the first tenth of `hours`, in which everything grows. */
export function flatnessOf(samples: readonly Sample[], hours: number): Flatness {
  const between = (from: number, to: number) =>
    samples.filter(({ hour }) => hour >= from * hours && hour < to * hours);
  const memoryOf = (some: readonly Sample[]) => median(some.map(({ memory }) => memory));
  const early = memoryOf(between(0.1, 0.2));
  const late = memoryOf(between(0.8, Infinity));
  const slope = slopeOf(between(0.1, Infinity));
  return { early, late, slope, growth: (slope * hours * 0.9) / early };
}

/** The slope of memory over hours by least squares. */
function slopeOf(samples: readonly Sample[]): number {
  const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
  const x = mean(samples.map(({ hour }) => hour));
  const y = mean(samples.map(({ memory }) => memory));
  let [products, squares] = [0, 0];
  for (const { hour, memory } of samples) {
    products += (hour - x) * (memory - y);
    squares += (hour - x) ** 2;
  }
  return products / squares;
}
