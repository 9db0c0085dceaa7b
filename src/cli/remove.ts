/** `remove` and `prune`: take versions out of what is published; their files go after the grace time. */
import { exitCodes } from '../errors.js';
import type { Command } from './command.js';
import { callDaemonOrSelf } from './daemon.js';
import { counted, formatDuration } from './format.js';
import { withLibrary } from './library-work.js';

export interface RemoveOptions {
  /** Products, versions and fingerprints. */
  args: string[];
}

export interface PruneOptions {
  /** Tells what would go, and leaves it. */
  dryRun?: boolean;
}

interface TakenOut {
  /** `env/release/arch/type/version` */
  versions: string[];
}

/** Takes out what is named, all of it or nothing. */
export async function remove(command: Command, { args }: RemoveOptions): Promise<number> {
  const { images } = command.config.paths;
  const names = args.map((name) => placeOf(name, images));
  const { versions } = await callDaemonOrSelf<TakenOut>(command, {
    command: 'remove',
    args: { ...treeOf(command), names },
    self: () =>
      withLibrary(command, async (library) => ({ versions: await library.takeOut(names) })),
  });
  tell(command, { versions });
  return exitCodes.done;
}

/** Takes out what the rules of retention do not keep. */
export async function prune(command: Command, { dryRun = false }: PruneOptions): Promise<number> {
  const { retention } = command.config;
  const { versions } = await callDaemonOrSelf<TakenOut>(command, {
    command: 'prune',
    args: { ...treeOf(command), dryRun },
    self: () =>
      withLibrary(command, async (library) => ({
        versions: await library.prune(retention, { dryRun }),
      })),
  });
  tell(command, { versions, dryRun });
  return exitCodes.done;
}

function treeOf({ config: { paths } }: Command) {
  return { root: paths.root, images: paths.images };
}

/** What was completed by a shell, in the images folder or beside it, as a place in the tree. */
function placeOf(name: string, images: string): string {
  const text = name.replace(/\/+$/, '');
  if (text.startsWith(`${images}/`)) return text.slice(images.length + 1);
  return text.replace(/^(?:\.\/)?images\//, '');
}

function tell(
  { config, json, print }: Command,
  { versions, dryRun = false }: TakenOut & { dryRun?: boolean },
): void {
  if (json) {
    print(JSON.stringify({ versions, ...(dryRun && { dryRun }) }));
    return;
  }
  const count = versions.length === 0 ? 'nothing' : counted(versions.length, 'version');
  const { removalGrace } = config.publish;
  const when = removalGrace === 0 ? 'at once' : `after ${formatDuration(removalGrace)}`;
  const said = dryRun ? `${count} to take out` : `${count} taken out`;
  const rest = dryRun || versions.length === 0 ? '' : `; the files go ${when}`;
  print([...versions, `${said}${rest}`].join('\n'));
}
