/** How benchmarks measure: whole processes, round by round in turn with their peer, medians. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';

/** One line of a table of results. */
export interface Row {
  name: string;
  /** What ours took, with its unit. */
  ours: string;
  /** What it is measured against, with its unit; '' for a figure that stands alone. */
  peer: string;
  /** Ours divided by the peer's, or the figure itself. */
  result: string;
  /** '' where none is set for this size. */
  target: string;
  met: boolean;
}

/** A finished process. */
export interface Measured {
  /** Wall-clock time from start to exit. */
  ms: number;
  /** Peak resident memory in MiB; the children of the process do not count. */
  peakMiB: number;
}

/** Runs a program to its end, its output thrown away. @throws where it fails. */
export async function runMeasured(file: string, args: readonly string[]): Promise<Measured> {
  const started = performance.now();
  const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const exited = once(child, 'exit');
  let peakKiB = 0;
  const look = async () => {
    const status = await readFile(`/proc/${child.pid}/status`, 'utf8').catch(() => '');
    peakKiB = Math.max(peakKiB, Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0));
  };
  const timer = setInterval(look, 10);
  const [code] = (await exited) as [number | null];
  const ms = performance.now() - started;
  clearInterval(timer);
  if (code !== 0) throw new Error(`${file} ${args.join(' ')} ended with ${code}`);
  return { ms, peakMiB: peakKiB / 1024 };
}

/** Calls each of `works` in turn, `rounds` times. @returns their results, one list for each. */
export async function inTurn<T>(
  rounds: number,
  works: readonly (() => Promise<T>)[],
): Promise<T[][]> {
  const results: T[][] = works.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [index, work] of works.entries()) results[index]?.push(await work());
  }
  return results;
}

/** The middle of `values`, of an even number the lower one. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN;
}

/** A row for a time that should be at most `target` times that of its peer. Times in milliseconds. */
export function ratioRow(name: string, times: { ours: number; peer: number; target: number }): Row {
  const { ours, peer, target } = times;
  return {
    name,
    ours: shownMs(ours),
    peer: shownMs(peer),
    result: `${(ours / peer).toFixed(2)} ×`,
    target: `≤ ${target} ×`,
    met: ours / peer <= target,
  };
}

/** A row for a figure that should be at most `target`. */
export function limitRow(
  name: string,
  figure: { value: number; target: number; unit: 'ms' | 'MiB' | '' },
): Row {
  const { value, target, unit } = figure;
  const shown = unit === 'ms' ? shownMs(value) : `${value.toFixed(0)} ${unit}`.trim();
  const limit = unit === 'ms' ? shownMs(target) : `${target} ${unit}`.trim();
  return { name, ours: shown, peer: '', result: shown, target: `≤ ${limit}`, met: value <= target };
}

/** `row` as a figure without a target. */
export function withoutTarget(row: Row): Row {
  return { ...row, target: '' };
}

/** `ms` as people read it: `87 ms`, `2.41 s`. */
export function shownMs(ms: number): string {
  return ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

/** `rows` as a Markdown table. */
export function markdown(rows: readonly Row[]): string {
  const lines = rows.map(({ name, ours, peer, result, target, met }) => {
    const verdict = target === '' ? '' : met ? 'yes' : '**no**';
    return `| ${[name, ours, peer, result, target, verdict].map((cell) => cell || '—').join(' | ')} |`;
  });
  return [
    '| what | ours | peer | result | target | met |',
    '| --- | --- | --- | --- | --- | --- |',
    ...lines,
  ].join('\n');
}
