/** `serve`: the embedded HTTPS server alone. */
import { once } from 'node:events';
import { exitCodes } from '../errors.js';
import { readCertificate } from '../server/certificate.js';
import { createImageServer } from '../server/server.js';
import type { Command } from './command.js';

export interface ServeOptions {
  /** Address and port, in place of `server.listen`. */
  listen?: string;
}

/** Serves until the command is told to end. */
export async function serve(
  { config, log, signal }: Command,
  options: ServeOptions,
): Promise<number> {
  const { paths, server } = config;
  const certificate = await readCertificate({ certFile: server.tlsCert, keyFile: server.tlsKey });
  const running = await createImageServer({
    listen: options.listen ?? server.listen,
    root: paths.root,
    imagesDir: paths.images,
    streamsDir: paths.streams,
    certificate,
    log,
  });
  log.info({ url: running.url }, 'serving');
  if (!signal.aborted) await once(signal, 'abort');
  await running.close();
  log.info('ended');
  return exitCodes.done;
}
