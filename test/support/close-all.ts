/**
 * The end of a test that has several servers: all are closed, whatever becomes of the others.
 */

interface Closable {
  close(): Promise<unknown>;
}

/**
 * Closes in the order given and passes over what was never opened. Throws the first failure, at the end:
 * what stayed open would keep the test's process alive.
 */
export async function closeAll(...things: readonly (Closable | undefined)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const thing of things) {
    await thing?.close().catch((error: unknown) => failures.push(error));
  }
  if (failures.length > 0) throw failures[0];
}
