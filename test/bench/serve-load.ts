/**
 * Load for a server on this machine: `wrk` for many small requests, `curl` for large files.
 * Both are written in C, so that the server and not its client is what gets measured.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface RequestLoad {
  url: string;
  /** Connections at once. */
  connections: number;
  /** Whether every request has a connection, and so a TLS handshake, of its own. */
  fresh: boolean;
  /** Whether the client takes gzip. */
  gzip: boolean;
  /** How long to go on, in seconds. */
  seconds: number;
}

/**
 * Asks for one URL again and again.
 *
 * @returns answers in a second
 * @throws if any answer was not 2xx, or the connection failed
 */
export async function requestsPerSecond(load: RequestLoad): Promise<number> {
  const headers = [
    ...(load.fresh ? ['-H', 'Connection: close'] : []),
    ...(load.gzip ? ['-H', 'Accept-Encoding: gzip'] : []),
  ];
  const args = ['-t1', `-c${load.connections}`, `-d${load.seconds}`, ...headers, load.url];
  const { stdout } = await run('wrk', args);
  const rate = Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
  if (!(rate > 0) || /Non-2xx|Socket errors/.test(stdout)) throw new Error(`wrk: ${stdout}`);
  return rate;
}

/**
 * Downloads one URL with several clients at once, over HTTP/1.1 as LXD and Incus do, or HTTP/2.
 *
 * @returns MiB in a second, over all clients
 */
export async function mebibytesPerSecond(
  url: string,
  { clients, http = '1.1' }: { clients: number; http?: '1.1' | '2' },
): Promise<number> {
  const args = ['-sSfk', `--http${http}`, '-o', '/dev/null', '-w', '%{size_download}', url];
  const started = performance.now();
  const outputs = await Promise.all(Array.from({ length: clients }, () => run('curl', args)));
  const seconds = (performance.now() - started) / 1000;
  const bytes = outputs.reduce((sum, { stdout }) => sum + Number(stdout), 0);
  return bytes / 1024 / 1024 / seconds;
}
