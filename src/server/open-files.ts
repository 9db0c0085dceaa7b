/** How many files may be open for downloads at once, whoever sends them. */
import { ServerError, systemCode } from '../errors.js';
import type { Logger } from '../log.js';
import { onceAMinute } from './once-a-minute.js';

export interface OpenFiles {
  /**
   * Does what needs `files` open, within their number.
   * @throws ServerError BUSY where that is reached, here or in the system; whatever `work` throws
   */
  hold<T>(files: number, work: () => Promise<T>): Promise<T>;
}

const refused = 'Too many downloads at once; new ones are refused';
const outOfFiles = new Set(['EMFILE', 'ENFILE']);

export function createOpenFiles({ most, log }: { most: number; log: Logger }): OpenFiles {
  const reportBusy = onceAMinute((count: number) => log.warn({ open: count }, refused));
  let open = 0;
  return {
    async hold(files, work) {
      if (open + files > most) throw tooMany();
      open += files;
      try {
        return await work();
      } catch (error) {
        throw outOfFiles.has(systemCode(error) ?? '') ? tooMany() : error;
      } finally {
        open -= files;
      }
    },
  };

  function tooMany(): ServerError {
    reportBusy(open);
    return new ServerError('BUSY', 'Too many downloads at once', { hint: 'try again in a minute' });
  }
}
