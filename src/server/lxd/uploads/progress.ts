/** What users see while an image is pulled: `rootfs: 42% (1.00MB/s)`. */
import type { UploadPart } from '../contract.js';

export interface Progress {
  /** Told of each chunk. */
  add(part: UploadPart, bytes: number): void;
}

/** How often the user is told, in milliseconds. */
const interval = 1000;
const units = ['B', 'kB', 'MB', 'GB', 'TB'] as const;

/**
 * @param total in bytes, of all parts together; 0 where it is not known
 * @param now a clock, in milliseconds
 */
export function createProgress({
  total,
  tell,
  now = () => performance.now(),
}: {
  total: number;
  tell: (metadata: { download_progress: string }) => void;
  now?: () => number;
}): Progress {
  const started = now();
  let told = Number.NEGATIVE_INFINITY;
  let bytes = 0;
  return {
    add: (part, count) => {
      bytes += count;
      const time = now();
      if (time - told < interval && bytes !== total) return;
      told = time;
      const rate = bytes / Math.max((time - started) / 1000, 0.001);
      tell({ download_progress: `${part}: ${amount(bytes, total)} (${size(rate)}/s)` });
    },
  };
}

function amount(bytes: number, total: number): string {
  if (total === 0) return size(bytes);
  return `${Math.min(100, Math.floor((bytes / total) * 100))}%`;
}

function size(bytes: number): string {
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), units.length - 1);
  return `${(bytes / 1000 ** power).toFixed(2)}${units[power]}`;
}
