/**
 * Folders of their own for tests, gone when the test is over.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { outcome } from './command.js';

/** An empty folder, without symbolic links in its path, that is removed after the test. */
export async function temporaryFolder(t: Pick<TestContext, 'after'>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'folder-'));
  t.after(() => removeFolder(folder));
  return folder;
}

/** Gives `use` an empty folder, and removes it afterwards. For the many runs of a property. */
export async function inTemporaryFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'folder-'));
  try {
    return await use(folder);
  } finally {
    await removeFolder(folder);
  }
}

async function removeFolder(folder: string): Promise<void> {
  try {
    // A daemon that is ended only after this may write there until it has lost its root.
    await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 20 });
  } catch {
    // A test has taken away rights that only root can do without.
    await outcome('chmod', ['-R', 'u+rwX', folder]);
    await rm(folder, { recursive: true, force: true });
  }
}
