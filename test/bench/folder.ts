/** Folders for benchmarks, on tmpfs, so that the disk does not count. */
import { mkdtempSync, rmSync } from 'node:fs';

/** Calls `use` with a folder that is gone afterwards. */
export async function withFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync('/dev/shm/lxd-image-server-bench-');
  try {
    return await use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
