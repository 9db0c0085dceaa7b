/** Progress on a terminal: how far, how fast and how long still; nothing where there is no terminal. */
import { formatBytes } from './format.js';

export interface Progress {
  /** Begins a stage that has `total` bytes to read; without bytes only its name is shown. */
  stage(name: string, total: number): void;
  /** Clears the line. */
  stop(): void;
}

export interface ProgressOptions {
  terminal: NodeJS.WriteStream | undefined;
  /** How many bytes have been read so far. */
  bytesRead: () => number;
}

const intervalMs = 200;

/** Shows progress on `options.terminal` until it is stopped. */
export async function createProgress({ terminal, bytesRead }: ProgressOptions): Promise<Progress> {
  if (terminal === undefined) return { stage: () => {}, stop: () => {} };
  const { default: cliProgress } = await import('cli-progress');
  const bar = new cliProgress.SingleBar({
    ...cliProgress.Presets.shades_classic,
    stream: terminal,
    clearOnComplete: true,
    hideCursor: true,
    format: '{name} {bar} {percentage}%  {done} of {all}  {rate}/s  {eta_formatted} left',
  });
  let base = 0;
  let started = 0;
  const timer = setInterval(() => {
    const done = bytesRead() - base;
    const rate = done / Math.max(0.001, (performance.now() - started) / 1000);
    bar.update(done, { done: formatBytes(done), rate: formatBytes(Math.round(rate)) });
  }, intervalMs).unref();
  return {
    stage(name, total) {
      bar.stop();
      base = bytesRead();
      started = performance.now();
      if (total > 0)
        bar.start(total, 0, { name, done: '0 B', all: formatBytes(total), rate: '0 B' });
    },
    stop() {
      clearInterval(timer);
      bar.stop();
    },
  };
}
