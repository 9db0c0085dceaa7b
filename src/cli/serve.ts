/** `serve`: the embedded HTTPS server alone. */
import { once } from 'node:events';
import type { Config } from '../config.js';
import { exitCodes, ServerError } from '../errors.js';
import { createServing } from '../server/following.js';
import type { Command } from './command.js';

export interface ServeOptions {
  /** Address and port, in place of `server.listen`. */
  listen?: string;
}

/** Serves until the command is told to end; follows the configuration at SIGHUP. */
export async function serve(
  { config, log, signal, reload, onHangup }: Command,
  { listen }: ServeOptions,
): Promise<number> {
  const serving = createServing({ log });
  const apply = (next: Config) => serving.apply(withListen(next, listen));
  await apply(config);
  let following = Promise.resolve();
  onHangup(() => {
    following = following
      .then(async () => {
        await reload(apply);
        log.info('configuration read again');
      })
      .catch((err: unknown) => log.error({ err }, 'configuration refused; the old one stays'));
  });
  if (!signal.aborted) await once(signal, 'abort');
  await following;
  await serving.close();
  log.info('ended');
  return exitCodes.done;
}

/** `config` with the address of the command line. @throws ServerError CONFIG where there is none at all */
function withListen({ paths, server }: Config, listen = server.listen) {
  if (listen !== '') return { paths, server: { ...server, listen } };
  throw new ServerError('CONFIG', 'There is no address to serve on: server.listen is ""', {
    hint: 'set it in the configuration, or name an address with --listen',
  });
}
