/** How far the work on a mirror is. */
import type { Stage } from '../catalog/plan.js';

/** What is being done. Each is a value of its own, which does not change any more. */
export interface Progress {
  readonly stage: Stage['do'] | 'look';
  readonly files: { readonly done: number; readonly total: number };
  /** Of the files; those that the mirror had count as well. */
  readonly bytes: { readonly done: number; readonly total: number };
}

export interface ProgressMeter {
  /** A stage begins, with `files` to go through. */
  begin(stage: Progress['stage'], files: readonly { size: number }[]): void;
  /** So many bytes more are done, and so many files. */
  move(bytes: number, files?: number): void;
}

/** Tells `onProgress` of every step. */
export function createMeter(onProgress: (progress: Progress) => void = () => {}): ProgressMeter {
  let stage: Progress['stage'] = 'look';
  let total = { files: 0, bytes: 0 };
  let done = { files: 0, bytes: 0 };
  const tell = () =>
    onProgress({
      stage,
      files: { done: done.files, total: total.files },
      bytes: { done: done.bytes, total: total.bytes },
    });
  return {
    begin(next, files) {
      stage = next;
      const bytes = files.reduce((sum, { size }) => sum + size, 0);
      total = { files: files.length, bytes };
      done = { files: 0, bytes: 0 };
      tell();
    },
    move(bytes, files = 0) {
      done = { files: done.files + files, bytes: done.bytes + bytes };
      tell();
    },
  };
}
