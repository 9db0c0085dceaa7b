/** Questions to a process of the test's own, which answers them in the order in which they come. */
import type { ChildProcess } from 'node:child_process';

/** Asks one thing after the other. @throws when the process has ended. */
export function createAsker<Wish extends object>(
  child: ChildProcess,
): (wish: Wish) => Promise<unknown> {
  const waiting: { resolve: (answer: unknown) => void; reject: (error: Error) => void }[] = [];
  let failure: Error | undefined;
  child.on('message', (answer) => waiting.shift()?.resolve(answer));
  child.once('exit', (code) => {
    failure = new Error(`The reader ended with ${code}`);
    for (const { reject } of waiting.splice(0)) reject(failure);
  });
  return (wish) =>
    new Promise((resolve, reject) => {
      if (failure !== undefined) return reject(failure);
      waiting.push({ resolve, reject });
      child.send(wish);
    });
}
