/**
 * Runs a server for a test, and ends it as soon as standard input does: when the test closes it, and
 * when the test itself has ended in whatever way. Signals are passed on; the exit code is the server's.
 *
 * Run as `node keeper.js PROGRAM ARGUMENT…`.
 */
import { spawn } from 'node:child_process';

const [program, ...args] = process.argv.slice(2);
if (program === undefined) throw new Error('usage: keeper.js PROGRAM ARGUMENT…');

const server = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'] });
process.stdin.resume().once('close', () => server.kill('SIGTERM'));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => server.kill(signal));
}
server.once('exit', (code) => {
  process.exitCode = code ?? 1;
  process.stdin.destroy();
});
