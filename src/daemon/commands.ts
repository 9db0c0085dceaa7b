/** What the daemon does when it is told to over its control socket. */
import * as v from 'valibot';
import type { Config } from '../config.js';
import { ServerError } from '../errors.js';
import type { ControlCommand } from '../server/control.js';
import type { Progress, Reporter } from './report.js';
import type { Runner } from './runner.js';

export interface CommandsOptions {
  paths: Config['paths'];
  reporter: Reporter;
  runner: Runner;
  reload: () => Promise<string[]>;
}

/** How often a caller is told how far the work is, in milliseconds. */
const progressMs = 200;

/** The commands by name. */
export function createCommands(options: CommandsOptions): Record<string, ControlCommand> {
  const { paths, reporter, runner, reload } = options;
  return {
    status: async () => reporter.status(),
    reload: async () => ({ changed: await reload() }),
    async update({ args, signal, report }) {
      const { rebuild, ...tree } = read(updateArgs, args);
      refuseOther(paths, tree);
      return await withProgress(reporter, report, () => runner.update({ rebuild, signal }));
    },
  };
}

/** The folders that a command line has in mind. */
const tree = {
  root: v.string(),
  images: v.optional(v.string()),
  streams: v.optional(v.string()),
};

const updateArgs = v.object({ ...tree, rebuild: v.optional(v.boolean(), false) });

/** @throws ServerError USAGE where `args` are not what the command takes. */
function read<T>(schema: v.GenericSchema<unknown, T>, args: unknown): T {
  const { success, output, issues } = v.safeParse(schema, args);
  if (success) return output;
  throw new ServerError('USAGE', `The daemon does not understand this: ${issues[0].message}`, {
    hint: 'restart the daemon: it is of another version than this command',
  });
}

/** @throws ServerError BUSY where another tree is meant than that of this daemon. */
function refuseOther(
  paths: Config['paths'],
  {
    root,
    images = paths.images,
    streams = paths.streams,
  }: Pick<Config['paths'], 'root'> & {
    images?: string | undefined;
    streams?: string | undefined;
  },
): void {
  if (root === paths.root && images === paths.images && streams === paths.streams) return;
  throw new ServerError('BUSY', `The daemon works on another tree: ${paths.root}`);
}

/** Does `work`, and reports now and then how far the daemon is. */
async function withProgress<T>(
  reporter: Reporter,
  report: (progress: Progress) => void,
  work: () => Promise<T>,
): Promise<T> {
  const timer = setInterval(() => report(reporter.progress()), progressMs);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}
