/** `reload`: has the running daemon read its configuration again. */
import { exitCodes, ServerError } from '../errors.js';
import { callDaemon } from '../server/control-client.js';
import type { Command } from './command.js';

/** What the daemon answers: the keys of the configuration that have another value now. */
interface Reloaded {
  changed: string[];
}

/** Prints what changed. @throws ServerError IO where no daemon runs; that of the daemon where it refuses */
export async function reload({ config, json, print, signal }: Command): Promise<number> {
  const runDir = config.paths.run;
  const answer = await callDaemon<Reloaded>({ runDir, command: 'reload', signal }).catch(refused);
  if (answer === undefined) {
    throw new ServerError('IO', `No daemon listens in ${runDir}: nothing to reload`, {
      hint: 'start it with "systemctl start lxd-image-server" or "lxd-image-server watch", or name its configuration with --config',
    });
  }
  const { changed } = answer.result;
  const text = changed.length > 0 ? `changed: ${changed.join(', ')}` : 'nothing changed';
  print(json ? JSON.stringify(answer.result) : text);
  return exitCodes.done;
}

/** Says of a refused configuration that the daemon has not taken it. */
function refused(error: unknown): never {
  if (!(error instanceof ServerError) || error.code !== 'CONFIG') throw error;
  const goesOn = 'the daemon goes on with the configuration that it had';
  const hint = error.hint === undefined ? goesOn : `${error.hint}; ${goesOn}`;
  throw new ServerError(error.code, error.message, { hint, cause: error });
}
